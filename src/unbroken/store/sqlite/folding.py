"""Folding: moving unfolded records from the journal's overlay into the tables.

Everything here runs inside a transaction of the writing connection, a few milliseconds at a time. Small chunks are
merged geometrically: a chunk is rewritten only together with at least as many new bytes, so a stream that grows by tiny
appends costs a logarithmic number of rewrites and ends up in large chunks.
"""

from __future__ import annotations

from collections.abc import Container

import apsw

from unbroken.store.sqlite.overlay import Overlay, Pending
from unbroken.store.sqlite.records import STREAM_COLUMNS, state_to_row
from unbroken.store.sqlite.schema import rows

__all__ = ["CHUNK_BYTES_MAX", "choose", "empty_trash", "fold", "trim_journal"]

CHUNK_BYTES_MAX = 256 * 1024

_TRASH_CHUNKS_PER_STEP = 16
_TRASH_PRODUCERS_PER_STEP = 512
_JOURNAL_ROWS_PER_STEP = 512

_UPSERT_STREAM = f"""
INSERT INTO streams ({STREAM_COLUMNS}, applied) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET tail = excluded.tail, closed = excluded.closed, closed_by = excluded.closed_by,
    stream_seq = excluded.stream_seq, forks = excluded.forks, gone = excluded.gone, applied = excluded.applied
"""  # noqa: S608
# Each merge at least doubles the size, so no more than these can take part.
_TRAILING_CHUNKS = "SELECT start, time_ms, length(data) FROM chunks WHERE stream = ? ORDER BY start DESC LIMIT 20"
_UPSERT_PRODUCER = """
INSERT INTO producers (stream, id, epoch, seq) VALUES (?, ?, ?, ?)
ON CONFLICT (stream, id) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
"""


def choose(
    overlay: Overlay, *, cost_bytes: int, streams: int, before_ms: int | None, but: Container[int]
) -> list[Pending]:
    """Streams to fold next, oldest first.

    Args:
        overlay: where to choose from.
        cost_bytes: about how much to fold at most.
        streams: how many at most.
        before_ms: only streams whose oldest unfolded record was committed before this.
        but: numbers to leave out.
    """
    chosen: list[Pending] = []
    for pending in overlay.oldest():
        if len(chosen) == streams or cost_bytes <= 0:
            break
        if before_ms is not None and pending.first_ms >= before_ms:
            break
        if pending.number not in but:
            chosen.append(pending)
            cost_bytes -= pending.cost_bytes
    return chosen


def fold(db: apsw.Connection, pending: Pending, applied: int, overlay: Overlay) -> None:
    """Write one stream's pending changes to the tables.

    Args:
        db: in a transaction.
        pending: what to write.
        applied: the newest journal row whose records are in it.
        overlay: knows which deleted forks still hold their source.
    """
    for fork in pending.released:
        db.execute("UPDATE trash SET source_number = NULL, source_path = NULL WHERE number = ?", (fork,))
    if pending.state is None:
        _fold_deletion(db, pending, overlay)
        return
    if pending.blocks:
        _write_chunks(db, pending, b"".join(pending.blocks))
    db.execute(_UPSERT_STREAM, (*state_to_row(pending.state), applied))
    for producer_id, producer in pending.producers.items():
        db.execute(_UPSERT_PRODUCER, (pending.number, producer_id, producer.epoch, producer.seq))


def _fold_deletion(db: apsw.Connection, pending: Pending, overlay: Overlay) -> None:
    hold = overlay.holds.get(pending.number)
    if pending.born and hold is None:
        return
    source_number, source_path = (None, None) if hold is None else (hold.source_number, hold.source_path)
    db.execute("DELETE FROM streams WHERE number = ?", (pending.number,))
    db.execute("INSERT OR REPLACE INTO trash VALUES (?, ?, ?)", (pending.number, source_number, source_path))


def _write_chunks(db: apsw.Connection, pending: Pending, data: bytes) -> None:
    start, time_ms = pending.base, pending.first_ms
    if not pending.born:
        start, time_ms, data = _merge(db, pending, data)
    for position in range(0, len(data), CHUNK_BYTES_MAX):
        part = data[position : position + CHUNK_BYTES_MAX]
        db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (pending.number, start + position, time_ms, part))


def _merge(db: apsw.Connection, pending: Pending, data: bytes) -> tuple[int, int, bytes]:
    """Take back trailing chunks that are no larger than what follows them."""
    start, time_ms, size_bytes = pending.base, pending.first_ms, len(data)
    merged = 0
    for chunk_start, chunk_ms, chunk_bytes in rows(db, _TRAILING_CHUNKS, pending.number):
        if chunk_bytes > size_bytes or chunk_bytes + size_bytes > CHUNK_BYTES_MAX:
            break
        start, time_ms, size_bytes, merged = chunk_start, chunk_ms, size_bytes + chunk_bytes, merged + 1
    if not merged:
        return start, time_ms, data
    taken = rows(db, "SELECT data FROM chunks WHERE stream = ? AND start >= ? ORDER BY start", pending.number, start)
    db.execute("DELETE FROM chunks WHERE stream = ? AND start >= ?", (pending.number, start))
    return start, time_ms, b"".join((*(row[0] for row in taken), data))


def trim_journal(db: apsw.Connection, first_id: int) -> bool:
    """Delete journal rows below ``first_id``, some at a time.

    Returns:
        Whether there may be more.
    """
    db.execute(
        "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id < ? ORDER BY id LIMIT ?)",
        (first_id, _JOURNAL_ROWS_PER_STEP),
    )
    return db.changes() == _JOURNAL_ROWS_PER_STEP


def empty_trash(db: apsw.Connection) -> bool:
    """Delete some of the data of one deleted stream.

    Returns:
        Whether there was anything to do.
    """
    row = db.execute("SELECT number FROM trash WHERE source_path IS NULL LIMIT 1").fetchone()
    if row is None:
        return False
    number = row[0]
    db.execute(
        "DELETE FROM chunks WHERE stream = ?1 AND start IN (SELECT start FROM chunks WHERE stream = ?1 LIMIT ?2)",
        (number, _TRASH_CHUNKS_PER_STEP),
    )
    if db.changes() < _TRASH_CHUNKS_PER_STEP:
        db.execute(
            "DELETE FROM producers WHERE stream = ?1 AND id IN (SELECT id FROM producers WHERE stream = ?1 LIMIT ?2)",
            (number, _TRASH_PRODUCERS_PER_STEP),
        )
        if db.changes() < _TRASH_PRODUCERS_PER_STEP:
            db.execute("DELETE FROM trash WHERE number = ?", (number,))
    return True
