"""When bytes were committed: runs of bytes that have one commit time."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

__all__ = ["PackedRuns", "Runs", "add_run", "append_run", "end_of_runs_before", "split_runs", "unpack_runs"]

Runs = list[tuple[int, int]]
"""(size in bytes, commit time in Unix milliseconds), in the order of the bytes."""

PackedRuns = bytearray
"""The same in 16 bytes a run, which a garbage collector need not look through."""

_run = Struct("<qq")


def append_run(runs: Runs, size_bytes: int, time_ms: int) -> None:
    """Add bytes at the end."""
    if runs and runs[-1][1] == time_ms:
        size_bytes += runs.pop()[0]
    runs.append((size_bytes, time_ms))


def split_runs(runs: Runs, size_bytes_max: int, runs_max: int) -> Iterator[tuple[int, Runs]]:
    """Cut runs into pieces of at most so many bytes, and at most so many runs, each.

    Yields:
        The size in bytes of a piece, and its runs.
    """
    piece: Runs = []
    room = size_bytes_max
    for size_bytes, time_ms in runs:
        left_bytes = size_bytes
        while left_bytes:
            if not room or len(piece) == runs_max:
                yield size_bytes_max - room, piece
                piece, room = [], size_bytes_max
            taken = min(left_bytes, room)
            piece.append((taken, time_ms))
            room -= taken
            left_bytes -= taken
    if piece:
        yield size_bytes_max - room, piece


def add_run(packed: PackedRuns, size_bytes: int, time_ms: int) -> None:
    """Add bytes at the end of packed runs."""
    if packed:
        last_bytes, last_ms = _run.unpack_from(packed, len(packed) - _run.size)
        if last_ms == time_ms:
            _run.pack_into(packed, len(packed) - _run.size, last_bytes + size_bytes, time_ms)
            return
    packed += _run.pack(size_bytes, time_ms)


def unpack_runs(packed: PackedRuns) -> Runs:
    """Runs as tuples."""
    return list(_run.iter_unpack(packed))


def end_of_runs_before(runs: Runs, time_ms: int, limit_bytes: int) -> int | None:
    """Bytes up to the end of the last that was committed before a time, of the first so many; None if there is none."""
    found = None
    position = 0
    for size_bytes, run_ms in runs:
        if position >= limit_bytes:
            break
        position += size_bytes
        if run_ms < time_ms:
            found = min(position, limit_bytes)
    return found
