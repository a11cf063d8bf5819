"""When the bytes of a chunk were committed: part of the on-disk format.

A chunk holds what many commits brought. Its bytes fall into runs, each of one commit time. `chunks.time_ms` is the
least of these times; `chunks.times` is NULL if there is one run, else a MessagePack array of two integers a run: its
size in bytes, and its time less that of the run before it (of the first run: less `time_ms`), in milliseconds. Most
runs of a busy stream take two bytes that way. The clock may have been set back: differences may be negative.
"""

from __future__ import annotations

import msgspec

from unbroken.store.runs import Runs

__all__ = ["pack_times", "unpack_times"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[int])


def pack_times(runs: Runs) -> tuple[int, bytes | None]:
    """The columns ``time_ms`` and ``times`` of a chunk with these runs."""
    least_ms = before_ms = min(time_ms for _, time_ms in runs)
    if len(runs) == 1:
        return least_ms, None
    flat: list[int] = []
    for size_bytes, time_ms in runs:
        flat += (size_bytes, time_ms - before_ms)
        before_ms = time_ms
    return least_ms, _encoder.encode(flat)


def unpack_times(time_ms: int, times: bytes | None, size_bytes: int) -> Runs:
    """The runs of a chunk.

    Args:
        time_ms: the column.
        times: the column.
        size_bytes: of the chunk's data.

    Raises:
        msgspec.DecodeError: the columns are damaged.
    """
    if times is None:
        return [(size_bytes, time_ms)]
    flat = _decoder.decode(times)
    if len(flat) % 2 or sum(flat[::2]) != size_bytes or min(flat[::2], default=0) <= 0:
        raise msgspec.DecodeError("the commit times do not cover the chunk")
    runs: Runs = []
    for index in range(0, len(flat), 2):
        time_ms += flat[index + 1]
        runs.append((flat[index], time_ms))
    return runs
