"""Read everything back: a server that loses, doubles or reorders data has no figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from benchmarks.http import Streams
from benchmarks.load import MARK_BYTES

__all__ = ["LostData", "check_appends", "check_bytes", "check_messages"]


class LostData(Exception):
    """What was acknowledged is not what is there."""


def check_appends(
    streams: Streams, paths: Iterable[str], size_bytes: int, acknowledged: Sequence[int], skip_bytes: int = 0
) -> None:
    """Check that the streams hold what was acknowledged and nothing else: each append once, each connection's in order.

    Args:
        streams: where to read.
        paths: all streams that were appended to.
        size_bytes: of each append, see `benchmarks.load.AppendLoad`.
        acknowledged: appends of each connection.
        skip_bytes: size of what each stream held before.

    Raises:
        LostData: they do not.
    """
    found: list[set[int]] = [set() for _ in acknowledged]
    for path in paths:
        last = [-1] * len(acknowledged)
        data = b"".join(streams.pages(path))[skip_bytes:]
        if len(data) % size_bytes:
            raise LostData(f"{path} holds {len(data)} bytes, no multiple of {size_bytes}")
        for position in range(0, len(data), size_bytes):
            mark = data[position : position + MARK_BYTES]
            connection, number = int(mark[:8]), int(mark[8:])
            if number <= last[connection]:
                raise LostData(f"{path} holds append {number} of connection {connection} after {last[connection]}")
            last[connection] = number
            if number in found[connection]:
                raise LostData(f"append {number} of connection {connection} is there twice")
            found[connection].add(number)
    for connection, numbers in enumerate(found):
        if numbers != set(range(acknowledged[connection])):
            raise LostData(
                f"connection {connection} had {acknowledged[connection]} appends acknowledged; {len(numbers)} are there"
            )


def check_bytes(streams: Streams, path: str, size_bytes: int) -> None:
    """Check how many bytes a stream holds.

    Raises:
        LostData: another number.
    """
    found = sum(map(len, streams.pages(path)))
    if found != size_bytes:
        raise LostData(f"{path} holds {found} bytes, not {size_bytes}")


def check_messages(streams: Streams, path: str, count: int) -> None:
    """Check that a JSON stream holds the messages ``{"n": 0}`` to ``{"n": count - 1}``.

    Raises:
        LostData: it does not.
    """
    numbers = [message["n"] for page in streams.pages(path) for message in json.loads(page)]
    if numbers != list(range(count)):
        raise LostData(f"{path} holds {len(numbers)} messages, not {count}, or not in order")
