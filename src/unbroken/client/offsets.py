"""Where consumers have got to, kept across restarts.

A store keeps one position per key, as text. Any object with these two methods is one; in the asynchronous client they
may be coroutine functions too.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from unbroken.client.positions import Position

__all__ = ["AsyncOffsetStore", "FileOffsets", "OffsetStore", "SqliteOffsets"]


class OffsetStore(Protocol):
    """Keeps positions."""

    def load(self, key: str) -> str | None:
        """The position that was saved last under a key, None if there is none."""

    def save(self, key: str, position: str) -> None:
        """Keep a position, in place of the one before: durably, and in one step, when this returns."""


class AsyncOffsetStore(Protocol):
    """Keeps positions, for instance in a database with an asynchronous client."""

    async def load(self, key: str) -> str | None:
        """See `OffsetStore.load`."""

    async def save(self, key: str, position: str) -> None:
        """See `OffsetStore.save`."""


class FileOffsets:
    """Keeps positions in a file, a JSON object, which is replaced as a whole each time. It belongs to one process.

    Args:
        path: of the file. It need not exist yet; its directory must.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._positions: dict[str, str] | None = None

    def load(self, key: str) -> str | None:
        """See `OffsetStore.load`.

        Raises:
            ValueError: the file is something else.
        """
        with self._lock:
            return self._loaded().get(key)

    def save(self, key: str, position: str) -> None:
        """See `OffsetStore.save`."""
        with self._lock:
            positions = {**self._loaded(), key: position}
            new = self._path.with_name(self._path.name + ".new")
            with new.open("w", encoding="utf-8") as file:
                json.dump(positions, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            _sync_directory(self._path.parent)
            self._positions = positions

    def _loaded(self) -> dict[str, str]:
        if self._positions is None:
            positions = json.loads(self._path.read_bytes()) if self._path.exists() else {}
            if not isinstance(positions, dict):
                raise ValueError(f"{self._path} is not a file of positions")
            self._positions = positions
        return self._positions


def _sync_directory(directory: Path) -> None:
    """Make a new name in it durable, where directories can be opened."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_TABLE = "CREATE TABLE IF NOT EXISTS unbroken_offsets (key TEXT PRIMARY KEY, position TEXT NOT NULL)"
_SAVE = "INSERT INTO unbroken_offsets VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET position = excluded.position"


class SqliteOffsets:
    """Keeps positions in a table, ``unbroken_offsets``, of a SQLite database: best one that also gets what the consumer
    writes. What is written in a `transaction` is there exactly once, whatever happens.

        with offsets.transaction("chats", message.position) as db:
            db.execute("INSERT INTO answers VALUES (?)", (message.value,))

    Args:
        database: a path; or a connection, which stays open, and is used by one thread at a time.
    """

    def __init__(self, database: Path | str | sqlite3.Connection) -> None:
        self._lock = threading.RLock()
        self._own = not isinstance(database, sqlite3.Connection)
        self._db = (
            database
            if isinstance(database, sqlite3.Connection)
            else sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        )
        with self._lock:
            self._db.execute(_TABLE)

    def load(self, key: str) -> str | None:
        """See `OffsetStore.load`."""
        with self._lock:
            row = self._db.execute("SELECT position FROM unbroken_offsets WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def save(self, key: str, position: str) -> None:
        """See `OffsetStore.save`."""
        with self.transaction(key, position):
            pass

    @contextmanager
    def transaction(self, key: str, position: Position | str) -> Iterator[sqlite3.Connection]:
        """A transaction that saves a position together with whatever is written in the block: all of it, or, after an
        error, nothing.

        Args:
            key: of the position.
            position: where to go on when this is done.

        Raises:
            sqlite3.Error: the database failed, or is in a transaction already.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute(_SAVE, (key, str(position)))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @staticmethod
    def save_in(connection: Any, key: str, position: Position | str) -> None:
        """Save a position in a transaction that is open on another connection to the same database.

        Args:
            connection: anything whose ``execute`` takes SQL and parameters, of any SQLite module.
            key: of the position.
            position: where to go on when this is done.
        """
        connection.execute(_SAVE, (key, str(position)))

    def close(self) -> None:
        """Close the database, if it was opened here."""
        if self._own:
            self._db.close()
