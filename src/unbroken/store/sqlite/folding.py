"""Folding: moving unfolded records from the journal's overlay into the tables.

Everything here runs inside a transaction of the writing connection, a few milliseconds at a time.
"""

from __future__ import annotations

from collections.abc import Container

import apsw

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState
from unbroken.store.runs import unpack_runs
from unbroken.store.sqlite.chunks import write_chunks
from unbroken.store.sqlite.overlay import Overlay, Pending
from unbroken.store.sqlite.records import STREAM_COLUMNS, state_to_row, unpack_former
from unbroken.store.sqlite.schema import rows

__all__ = ["choose", "empty_trash", "fold", "return_space", "trim_journal", "write_producer", "write_state"]

_TRASH_CHUNKS_PER_STEP = 128
_TRASH_BYTES_PER_STEP = 4 * 1024 * 1024
_CHUNK_COST_BYTES = 16 * 1024
_TRASH_PRODUCERS_PER_STEP = 512
_JOURNAL_ROWS_PER_STEP = 512
_FREE_PAGES_KEPT = 1024
_FREE_PAGES_PER_STEP = 256

_UPSERT_STREAM = f"""
INSERT INTO streams ({STREAM_COLUMNS}, applied) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET tail = excluded.tail, closed = excluded.closed, closed_by = excluded.closed_by,
    stream_seq = excluded.stream_seq, forks = excluded.forks, gone = excluded.gone, applied = excluded.applied
"""  # noqa: S608
_UPSERT_PRODUCER = """
INSERT INTO producers (stream, id, epoch, seq) VALUES (?, ?, ?, ?)
ON CONFLICT (stream, id) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
"""


def choose(
    overlay: Overlay, *, cost_bytes: int, streams: int, young_ms: tuple[int, int] | None, but: Container[int]
) -> list[Pending]:
    """Streams to fold next, oldest first.

    Args:
        overlay: where to choose from.
        cost_bytes: about how much to fold at most.
        streams: how many at most.
        young_ms: not those whose oldest unfolded record was committed between these times (nor what comes after them);
            one with a time in the future has lain for unknown long.
        but: numbers to leave out.
    """
    chosen: list[Pending] = []
    for pending in overlay.oldest():
        if len(chosen) == streams or cost_bytes <= 0:
            break
        if young_ms is not None and young_ms[0] <= pending.first_ms <= young_ms[1]:
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
    for fork in pending.released or ():
        db.execute("UPDATE trash SET source_number = NULL, source_path = NULL WHERE number = ?", (fork,))
    if pending.state is None:
        _fold_deletion(db, pending, overlay)
        return
    if pending.data:
        runs = unpack_runs(pending.runs)
        write_chunks(db, pending.number, pending.base, bytes(pending.data), runs, grown=not pending.born)
    write_state(db, pending.state, applied)
    # In the order of the table: neighbours are on the same page.
    senders = sorted(pending.producers.items())
    db.executemany(_UPSERT_PRODUCER, ((pending.number, name, last.epoch, last.seq) for name, last in senders))


def write_state(db: apsw.Connection, state: StreamState, applied: int) -> None:
    """Write a stream's row, in which journal rows up to ``applied`` are."""
    db.execute(_UPSERT_STREAM, (*state_to_row(state), applied))


def write_producer(db: apsw.Connection, number: int, producer_id: str, producer: Producer) -> None:
    """Write what was last accepted from a producer."""
    db.execute(_UPSERT_PRODUCER, (number, producer_id, producer.epoch, producer.seq))


def _fold_deletion(db: apsw.Connection, pending: Pending, overlay: Overlay) -> None:
    hold = overlay.holds.get(pending.number)
    if pending.born and hold is None:
        return
    source_number, source_path = (None, None) if hold is None else (hold.source_number, hold.source_path)
    for (former,) in rows(db, "DELETE FROM streams WHERE number = ? RETURNING former", pending.number):
        for number in unpack_former(former):
            db.execute("INSERT INTO trash VALUES (?, NULL, NULL)", (number,))
    db.execute("INSERT OR REPLACE INTO trash VALUES (?, ?, ?)", (pending.number, source_number, source_path))


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
    """Delete some of the data of deleted streams.

    Returns:
        Whether there was anything to do.
    """
    found = rows(db, "SELECT number FROM trash WHERE source_path IS NULL LIMIT ?", _TRASH_CHUNKS_PER_STEP)
    left_bytes = _TRASH_BYTES_PER_STEP
    for (number,) in found:
        left_bytes -= _delete_chunks(db, number, left_bytes)
        if left_bytes <= 0:
            break
        db.execute(
            "DELETE FROM producers WHERE stream = ?1 AND id IN (SELECT id FROM producers WHERE stream = ?1 LIMIT ?2)",
            (number, _TRASH_PRODUCERS_PER_STEP),
        )
        if db.changes() == _TRASH_PRODUCERS_PER_STEP:
            break
        db.execute("DELETE FROM trash WHERE number = ?", (number,))
    return bool(found)


def _delete_chunks(db: apsw.Connection, number: int, limit_bytes: int) -> int:
    """Delete chunks of a stream.

    Returns:
        How much was deleted, less than the limit if nothing is left.
    """
    found = rows(db, "SELECT id, length(data) FROM chunks WHERE stream = ? LIMIT ?", number, _TRASH_CHUNKS_PER_STEP)
    deleted_bytes = 0
    for chunk_id, size_bytes in found:
        db.execute("DELETE FROM chunks WHERE id = ?", (chunk_id,))
        deleted_bytes += size_bytes + _CHUNK_COST_BYTES
        if deleted_bytes >= limit_bytes:
            break
    return limit_bytes if len(found) == _TRASH_CHUNKS_PER_STEP else deleted_bytes


def return_space(db: apsw.Connection, *, idle: bool) -> bool:
    """Give some of the file's free pages back to the disk: all but a few while idle, else only what is far too much.

    Returns:
        Whether there were any to give back.
    """
    ((free_pages, pages),) = rows(db, "SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count")
    if free_pages <= (_FREE_PAGES_KEPT if idle else max(_FREE_PAGES_KEPT, pages // 4)):
        return False
    rows(db, f"PRAGMA incremental_vacuum({_FREE_PAGES_PER_STEP})")
    return True
