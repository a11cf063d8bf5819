"""Bodies that tell by themselves who sent them, in which order, and whether they are whole."""

from __future__ import annotations

import re
import zlib
from random import Random
from typing import NamedTuple

__all__ = ["Payload", "make_payload", "parse_payloads"]

_HEAD = re.compile(rb"<([a-z0-9-]+) (\d+) (\d+) ([0-9a-f]{8})\|")


class Payload(NamedTuple):
    """One body as found in a stream.

    Args:
        writer: who sent it.
        serial: which of the writer's it is.
        start: its first byte's position.
        end: the position after its last.
    """

    writer: str
    serial: int
    start: int
    end: int


def make_payload(chance: Random, writer: str, count: int) -> bytes:
    """A body; now and then a large one, rarely a very large one."""
    size_bytes = chance.choice([0, 1, 20, 200, 200, 3000])
    if chance.random() < 0.01:
        size_bytes = chance.choice([300_000, 1_500_000]) if chance.random() < 0.1 else 20_000
    filling = chance.choice(b"abcdefghijklmnopqrstuvwxyz").to_bytes() * size_bytes
    return b"<%b %d %d %08x|%b>" % (writer.encode(), count, size_bytes, zlib.crc32(filling), filling)


def parse_payloads(data: bytes) -> list[Payload]:
    """The bodies that make up a stream, all of it. Nothing may be half, nor anything between them."""
    found: list[Payload] = []
    position = 0
    while position < len(data):
        head = _HEAD.match(data, position)
        assert head is not None, f"no body begins at {position}: {data[position : position + 80]!r}"
        filling = data[head.end() : head.end() + int(head[3])]
        end = head.end() + int(head[3]) + 1
        assert data[end - 1 : end] == b">", f"the body at {position} is cut: {head[0]!r}"
        assert zlib.crc32(filling) == int(head[4], 16), f"the body at {position} is damaged: {head[0]!r}"
        found.append(Payload(head[1].decode(), int(head[2]), position, end))
        position = end
    return found
