"""Where a reader stands: an offset, and how much after it has been taken already.

A server gives one offset for a whole batch, but a reader may stop in the middle of it. So a position is an offset plus
what to skip from there: messages in JSON streams, bytes in all others. Bytes of a stream never change and never move,
so the same position means the same place for ever.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Self

from unbroken.client.options import rfc3339

__all__ = ["BEGINNING", "NOW", "SINCE", "Position", "position_of"]

BEGINNING = "-1"
NOW = "now"
SINCE = "since:"
"""How the offset of a position begins that was counted from a time: the server has not told the offset there yet."""


class Position(NamedTuple):
    """A place in a stream. ``str(position)`` is what to keep, `Position.parse` reads it again.

    Args:
        offset: an offset that the server gave, ``-1`` (the beginning) or ``now`` (the present end).
        skip: messages (JSON) or bytes (everything else) after it that have been taken already.
    """

    offset: str = BEGINNING
    skip: int = 0

    def __str__(self) -> str:
        return f"{self.offset},{self.skip}" if self.skip else self.offset

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a position, or a bare offset: no offset has a comma in it.

        Raises:
            ValueError: what follows the comma is not a whole number, or there is nothing before it.
        """
        offset, comma, skip = text.partition(",")
        if not offset or (comma and not (skip.isascii() and skip.isdecimal())):
            raise ValueError(f"not a position: {text!r}")
        return cls(offset, int(skip or 0))

    @classmethod
    def since(cls, time: str | datetime) -> Self:
        """Where what was committed at a time, or later, begins. Needs a server that knows ``since``.

        Args:
            time: RFC 3339 text, or a datetime with a time zone.

        Raises:
            ValueError: a datetime without a time zone.
        """
        return cls(SINCE + (time if isinstance(time, str) else rfc3339(time)))

    def after(self, count: int) -> Self:
        """The place so many messages or bytes further."""
        return self._replace(skip=self.skip + count)


def position_of(offset: str | Position, since: datetime | str | None = None) -> Position:
    """Where to begin.

    Raises:
        ValueError: both an offset and a time, or a malformed position.
    """
    if since is not None:
        if offset != BEGINNING:
            raise ValueError("offset and since exclude each other")
        return Position.since(since)
    return Position.parse(offset) if isinstance(offset, str) else offset
