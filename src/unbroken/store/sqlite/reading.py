"""Reading the tables: short lookups on the event loop's own connection, bytes in worker threads.

No cursor is ever left open: it would pin the write-ahead log.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

from unbroken.errors import StoreError
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Record, StreamState
from unbroken.store.base import Due, DueKind, Hold
from unbroken.store.sqlite.chunks import find_time, read_chunks
from unbroken.store.sqlite.records import STREAM_COLUMNS, read_journal, state_from_row
from unbroken.store.sqlite.schema import DATABASE_NAME, rows
from unbroken.store.sqlite.worker import Worker

__all__ = ["Reader"]

T = TypeVar("T")

_THREADS = 4
_STATES_PER_QUERY = 256

_BY_PATH = f"SELECT {STREAM_COLUMNS} FROM streams WHERE path = ?"  # noqa: S608
_BY_NUMBER = f"SELECT {STREAM_COLUMNS}, applied FROM streams WHERE number = ?"  # noqa: S608
# With both bounds in one statement SQLite would go by the first alone, and pass over all paths up to the second.
_FROM_PATH = f"SELECT {STREAM_COLUMNS} FROM streams WHERE path >= ? ORDER BY path LIMIT ?"  # noqa: S608
_AFTER_PATH = f"SELECT {STREAM_COLUMNS} FROM streams WHERE path > ? ORDER BY path LIMIT ?"  # noqa: S608
_COUNT_PRODUCERS = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM producers WHERE stream = ?1 LIMIT ?3)) + count(*) FROM json_each(?2)
WHERE NOT EXISTS (SELECT 1 FROM producers WHERE stream = ?1 AND id = value)
"""
_DUE = """
SELECT {kind}, number, path FROM streams
WHERE {kind} IS NOT NULL AND {kind} <= ? AND {kind} >= ? AND ({kind} > ? OR number > ?) AND NOT gone
ORDER BY {kind}, number LIMIT ?
"""


class Reader:
    """Reads what is folded.

    Args:
        connect: opens a connection that only reads.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._db = connect()
        self._worker = Worker("unbroken-read", _THREADS)
        self._local = threading.local()
        # Thousands may want to read at once; no more have a page to fill than there are threads.
        self._turn = asyncio.Semaphore(_THREADS)
        self._opened: list[apsw.Connection] = []

    def close(self) -> None:
        """Let go of all connections."""
        self._worker.close()
        for db in (self._db, *self._opened):
            db.close()

    def state(self, path: str) -> StreamState | None:
        """The folded state of the stream at a path."""
        row = self._one(_BY_PATH, path)
        return None if row is None else state_from_row(row)

    def state_by_number(self, number: int) -> tuple[StreamState, int] | None:
        """The folded state of a stream, and the newest journal row that is in it."""
        row = self._one(_BY_NUMBER, number)
        return None if row is None else (state_from_row(row[:-1]), row[-1])

    def states(self, prefix: str, after: str) -> Iterator[StreamState]:
        """The folded states of streams whose path begins with a prefix and comes after another, by path."""
        while True:
            query, start = (_AFTER_PATH, after) if after >= prefix else (_FROM_PATH, prefix)
            found = rows(self._db, query, start, _STATES_PER_QUERY)
            for row in found:
                state = state_from_row(row)
                if not state.path.startswith(prefix):
                    return
                yield state
                after = state.path
            if len(found) < _STATES_PER_QUERY:
                return

    def producer(self, number: int, producer_id: str) -> Producer | None:
        """The folded state of a producer."""
        row = self._one("SELECT epoch, seq FROM producers WHERE stream = ? AND id = ?", number, producer_id)
        return None if row is None else Producer(*row)

    def count_producers(self, number: int, also: Collection[str], limit: int) -> int:
        """How many producers of a stream are folded, ``limit`` at most, and how many of some others are not."""
        count: int = self._one(_COUNT_PRODUCERS, number, msgspec.json.encode(list(also)).decode(), limit)[0]
        return count

    def meta(self, key: str) -> Any:
        """A value of the meta table.

        Raises:
            StoreError: it is missing.
        """
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        if row is None:
            raise StoreError(f"{DATABASE_NAME} is damaged: it does not say its {key}")
        return row[0]

    def journal(self) -> Iterator[tuple[int, list[Record]]]:
        """All journal rows, oldest first.

        Raises:
            msgspec.DecodeError: one is damaged.
        """
        return read_journal(self._db)

    def holds(self) -> list[Hold]:
        """Deleted forks that still hold their source, as far as folded."""
        query = "SELECT number, source_number, source_path FROM trash WHERE source_path IS NOT NULL"
        return [Hold(*row) for row in rows(self._db, query)]

    def due(self, kind: DueKind, after: tuple[int, int], until: int, limit: int) -> Sequence[Due]:
        """See `unbroken.store.base.Store.due`."""
        key, number = after
        return [Due(*row) for row in rows(self._db, _DUE.format(kind=kind), until, key, key, number, limit)]

    async def read(self, number: int, start: int, end: int) -> bytes:
        """Folded bytes ``[start, end)`` of a stream; fewer if it was deleted meanwhile."""
        async with self._turn:
            # Allocated here, where it will be freed. By a worker thread it would go back to the system each time, and
            # to fault its pages in again takes longer than to read them.
            page = io.BytesIO(bytes(end - start))
            return await self._in_thread(lambda db: _fill(page, db, number, start))

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        """The position after the last folded byte below ``end`` that was committed before a time, if there is one."""
        return await self._in_thread(lambda db: find_time(db, number, end, time_ms))

    async def _in_thread(self, act: Callable[[apsw.Connection], T]) -> T:
        return await self._worker.run(lambda: act(self._connection()))

    def _connection(self) -> apsw.Connection:
        """The connection of a worker thread."""
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            self._opened.append(db)
        return db

    def _one(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()


def _fill(page: io.BytesIO, db: apsw.Connection, number: int, start: int) -> bytes:
    """Read into the very block that is returned."""
    with page.getbuffer() as view:
        size_bytes = read_chunks(db, number, start, view)
    page.truncate(size_bytes)
    return page.getvalue()
