"""Offsets: opaque to clients, a stream's creation number and a byte position to us.

``<16 digits>_<16 digits>`` sorts lexicographically in stream order: positions grow within a stream, and the data that a
fork adds carries the fork's own, larger number. The number in an offset is that of the stream which owns the byte
*beginning* at the position, so each position of a stream has exactly one offset that we send; where a fork begins, the
source's spelling of the same position is accepted too.
"""

from __future__ import annotations

import re
from enum import Enum

import msgspec

from unbroken.errors import InvalidOffset

__all__ = ["Anchor", "Offset", "parse_offset"]

_SHAPE = re.compile(r"([0-9]{16})_([0-9]{16})", re.ASCII)


class Anchor(Enum):
    """The positions that a client may name without knowing an offset."""

    BEGINNING = "-1"
    NOW = "now"


class Offset(msgspec.Struct, frozen=True, order=True, gc=False):
    """A position in a stream.

    Args:
        number: creation number of the stream that owns the byte at the position, 1 to 10^16 - 1.
        position: bytes before it in the stream, 0 to 10^16 - 1.
    """

    number: int
    position: int

    def __str__(self) -> str:
        return "%016d_%016d" % (self.number, self.position)  # noqa: UP031 (an f-string takes twice as long)


def parse_offset(text: str) -> Offset | Anchor:
    """Parse an offset token as it came over the wire.

    Raises:
        InvalidOffset: the token is neither ``-1``, ``now`` nor of the shape of ours.
    """
    if text == "-1":
        return Anchor.BEGINNING
    if text == "now":
        return Anchor.NOW
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InvalidOffset("malformed offset")
    number, position = int(match[1]), int(match[2])
    if number == 0:
        if position:
            raise InvalidOffset("malformed offset: no stream has the number 0")
        return Anchor.BEGINNING
    return Offset(number, position)
