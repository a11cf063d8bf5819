"""Reading the tables: short lookups on the event loop's own connection, bytes in worker threads.

No cursor is ever left open: it would pin the write-ahead log.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import apsw

from unbroken.errors import StoreError
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Due, Hold
from unbroken.store.sqlite.records import STREAM_COLUMNS, state_from_row
from unbroken.store.sqlite.schema import DATABASE_NAME, rows

__all__ = ["Reader"]

_THREADS = 4

_BY_PATH = f"SELECT {STREAM_COLUMNS} FROM streams WHERE path = ?"  # noqa: S608
_BY_NUMBER = f"SELECT {STREAM_COLUMNS}, applied FROM streams WHERE number = ?"  # noqa: S608
_CHUNKS = """
SELECT start, data FROM chunks
WHERE stream = ?1 AND start < ?3
    AND start >= coalesce((SELECT max(start) FROM chunks WHERE stream = ?1 AND start <= ?2), ?2)
ORDER BY start
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
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="unbroken-read")
        self._local = threading.local()
        self._opened: list[apsw.Connection] = []

    def close(self) -> None:
        """Let go of all connections."""
        self._pool.shutdown()
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

    def producer(self, number: int, producer_id: str) -> Producer | None:
        """The folded state of a producer."""
        row = self._one("SELECT epoch, seq FROM producers WHERE stream = ? AND id = ?", number, producer_id)
        return None if row is None else Producer(*row)

    def meta(self, key: str) -> Any:
        """A value of the meta table.

        Raises:
            StoreError: it is missing.
        """
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        if row is None:
            raise StoreError(f"{DATABASE_NAME} is damaged: it does not say its {key}")
        return row[0]

    def journal(self) -> Sequence[tuple[int, bytes]]:
        """All journal rows, oldest first."""
        return [(row[0], row[1]) for row in rows(self._db, "SELECT id, records FROM journal ORDER BY id")]

    def holds(self) -> list[Hold]:
        """Deleted forks that still hold their source, as far as folded."""
        query = "SELECT number, source_number, source_path FROM trash WHERE source_path IS NOT NULL"
        return [Hold(*row) for row in rows(self._db, query)]

    def due(
        self, kind: Literal["ttl_s", "expires_at_ms"], after: tuple[int, int], until: int, limit: int
    ) -> Sequence[Due]:
        """See `unbroken.store.base.Store.due`."""
        key, number = after
        return [Due(*row) for row in rows(self._db, _DUE.format(kind=kind), until, key, key, number, limit)]

    async def read(self, number: int, start: int, end: int) -> bytes:
        """Folded bytes ``[start, end)`` of a stream; fewer if it was deleted meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, number, start, end)

    def _read(self, number: int, start: int, end: int) -> bytes:
        db = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            self._opened.append(db)
        parts: list[bytes] = []
        position = start
        for chunk_start, data in rows(db, _CHUNKS, number, start, end):
            if chunk_start > position:
                break
            part = data if chunk_start == position and chunk_start + len(data) <= end else None
            parts.append(data[position - chunk_start : end - chunk_start] if part is None else part)
            position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _one(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()
