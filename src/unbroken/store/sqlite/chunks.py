"""Chunks: the bytes of streams in the tables, contiguous, up to 256 KiB each.

Small chunks are merged geometrically: a chunk is rewritten only together with at least as many new bytes, so a stream
that grows by tiny appends costs a logarithmic number of rewrites and ends up in large chunks.

Chunks lie in the order in which they were written, so those that many streams get in one commit share pages; an index
finds them by stream and position. Bytes are read with SQLite's incremental I/O straight into one buffer: beside
SELECT of the same blobs it took a seventh of the processor time, most of that saved in page faults of large
allocations made by worker threads.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import apsw

from unbroken.store.runs import Runs, append_run, end_of_runs_before, split_runs
from unbroken.store.sqlite.schema import rows
from unbroken.store.sqlite.times import pack_times, unpack_times

__all__ = ["CHUNK_BYTES_MAX", "find_time", "read_chunks", "write_chunks"]

CHUNK_BYTES_MAX = 256 * 1024
_RUNS_MAX = 4096

_INSERT = "INSERT INTO chunks (stream, start, checksum, time_ms, times, data) VALUES (?, ?, ?, ?, ?, ?)"
# Each merge at least doubles the size, so no more than these can take part.
_TRAILING = """
SELECT id, start, time_ms, times, length(data) FROM chunks WHERE stream = ? ORDER BY start DESC LIMIT 20
"""
_COVERING = """
SELECT id, start, length(data) FROM chunks
WHERE stream = ?1 AND start < ?3
    AND start >= coalesce((SELECT max(start) FROM chunks WHERE stream = ?1 AND start <= ?2), ?2)
ORDER BY start
"""
_LAST_BEFORE = """
SELECT start, time_ms, times, length(data) FROM chunks
WHERE stream = ? AND start < ? AND time_ms < ? ORDER BY start DESC LIMIT 1
"""


class _Chunk(NamedTuple):
    id: int
    start: int
    time_ms: int
    times: bytes | None
    size_bytes: int


def write_chunks(db: apsw.Connection, number: int, start: int, data: bytes, runs: Runs, *, grown: bool) -> None:
    """Write a stream's bytes that follow those it has in the tables.

    Args:
        db: in a transaction.
        number: the stream.
        start: position of the first byte.
        data: the bytes, at least one.
        runs: when they were committed.
        grown: whether there may be chunks before these, to merge with.
    """
    taken = _mergeable(db, number, len(data), len(runs)) if grown else []
    if taken:
        start = taken[0].start
        old: Runs = []
        for chunk in taken:
            old += unpack_times(chunk.time_ms, chunk.times, chunk.size_bytes)
        size_bytes, time_ms = runs[0]
        append_run(old, size_bytes, time_ms)
        runs = old + runs[1:]
        parts = rows(db, "SELECT data FROM chunks WHERE stream = ? AND start >= ? ORDER BY start", number, start)
        db.execute("DELETE FROM chunks WHERE stream = ? AND start >= ?", (number, start))
        data = b"".join((*(part for (part,) in parts), data))
    position = 0
    for size_bytes, piece_runs in split_runs(runs, CHUNK_BYTES_MAX, _RUNS_MAX):
        piece = data[position : position + size_bytes]
        time_ms, times = pack_times(piece_runs)
        db.execute(_INSERT, (number, start + position, zlib.crc32(piece), time_ms, times, piece))
        position += size_bytes


def _mergeable(db: apsw.Connection, number: int, size_bytes: int, runs: int) -> list[_Chunk]:
    """Trailing chunks, the first one first, each no larger than what follows it."""
    found: list[_Chunk] = []
    for row in rows(db, _TRAILING, number):
        chunk = _Chunk(*row)
        runs += 1 if chunk.times is None else len(chunk.times) // 2
        if chunk.size_bytes > size_bytes or chunk.size_bytes + size_bytes > CHUNK_BYTES_MAX or runs > _RUNS_MAX:
            break
        size_bytes += chunk.size_bytes
        found.append(chunk)
    return found[::-1]


def read_chunks(db: apsw.Connection, number: int, start: int, buffer: memoryview) -> int:
    """Fill a buffer with a stream's bytes.

    Args:
        db: a connection that only reads, in no transaction.
        number: the stream.
        start: position of the first byte.
        buffer: what to fill.

    Returns:
        How many bytes there were: fewer than asked for if the stream was deleted meanwhile.
    """
    position, end = start, start + len(buffer)
    blob: apsw.Blob | None = None
    # While it is open, what is read is of one moment.
    chunks = db.execute(_COVERING, (number, start, end))
    try:
        for chunk_id, chunk_start, size_bytes in chunks:
            skipped = position - chunk_start
            if not 0 <= skipped < size_bytes:
                break
            if blob is None:
                blob = db.blob_open("main", "chunks", "data", chunk_id, False)
            else:
                blob.reopen(chunk_id)
            blob.seek(skipped)
            length = min(size_bytes - skipped, end - position)
            blob.read_into(buffer, position - start, length)
            position += length
    finally:
        # An I/O error is what the caller must hear of, not that closing failed as well.
        if blob is not None:
            blob.close(force=True)
        chunks.close(force=True)
    return position - start


def find_time(db: apsw.Connection, number: int, end: int, time_ms: int) -> int | None:
    """The position after the last byte below ``end`` that was committed before a time; None if there is none."""
    while found := rows(db, _LAST_BEFORE, number, end, time_ms):
        start: int = found[0][0]
        _, least_ms, times, size_bytes = found[0]
        passed_bytes = end_of_runs_before(unpack_times(least_ms, times, size_bytes), time_ms, end - start)
        if passed_bytes is not None:
            return start + passed_bytes
        end = start  # the byte that makes it so early lies beyond the end
    return None
