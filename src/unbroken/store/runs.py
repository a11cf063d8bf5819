"""When bytes were committed: runs of bytes that have one commit time."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Runs", "append_run", "end_of_runs_before", "split_runs"]

Runs = list[tuple[int, int]]
"""(size in bytes, commit time in Unix milliseconds), in the order of the bytes."""


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


def end_of_runs_before(runs: Runs, time_ms: int) -> int | None:
    """Bytes up to the end of the last run that was committed before a time; None if there is none."""
    found = None
    position = 0
    for size_bytes, run_ms in runs:
        position += size_bytes
        if run_ms < time_ms:
            found = position
    return found
