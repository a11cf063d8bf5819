"""The database file: its tables, and how connections to it are opened.

meta       identity of the store; the greatest creation number used
journal    one row per commit: its records, packed (`records`)
streams    one row per stream: its state as of journal row ``applied``
chunks     the bytes of streams, contiguous, up to 256 KiB each
producers  the last (epoch, seq) per stream and producer
staging    bodies that are being written piece by piece: chunks from ``start`` on are not part of the stream yet
trash      deleted streams whose chunks are still to be deleted, or which still hold the source they forked from
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Any

import apsw

from unbroken.errors import StoreError

__all__ = [
    "APPLICATION_ID",
    "DATABASE_NAME",
    "FORMAT_VERSION",
    "PAGE_BYTES",
    "RESTORING_NAME",
    "DirectoryLock",
    "empty_log",
    "open_checkpointer",
    "open_reader",
    "open_writer",
    "refuse_unfinished",
    "rows",
    "sync",
]

DATABASE_NAME = "unbroken.db"
RESTORING_NAME = ".restoring"
APPLICATION_ID = 0x556E6272  # "Unbr"
FORMAT_VERSION = 1

# SQLite takes a shorter file for an empty one, and would write over it.
_PAGE_BYTES_MIN = 512
_BUSY_TIMEOUT_MS = 10_000
_LOG_BYTES_KEPT = 64 * 1024 * 1024
_WRITER_CACHE_KIB = 32 * 1024
_READER_CACHE_KIB = 8 * 1024

# Measured beside 4 and 16 KiB: as quick to commit and to fold as either, and reads a third faster than 4 KiB.
PAGE_BYTES = 8192

_TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    records BLOB NOT NULL
) STRICT;
CREATE TABLE streams (
    number INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    ttl_s INTEGER,
    expires_at_ms INTEGER,
    tail INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    closed_by TEXT,
    stream_seq TEXT,
    lineage TEXT NOT NULL,
    origin TEXT,
    forks INTEGER NOT NULL,
    gone INTEGER NOT NULL,
    former TEXT NOT NULL,
    applied INTEGER NOT NULL
) STRICT;
CREATE INDEX streams_by_ttl ON streams (ttl_s, number) WHERE ttl_s IS NOT NULL;
CREATE INDEX streams_by_expiry ON streams (expires_at_ms, number) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    start INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    times BLOB,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunks_by_start ON chunks (stream, start);
CREATE TABLE producers (
    stream INTEGER NOT NULL,
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (stream, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE staging (
    stream INTEGER PRIMARY KEY,
    start INTEGER NOT NULL
) STRICT;
CREATE TABLE trash (
    number INTEGER PRIMARY KEY,
    source_number INTEGER,
    source_path TEXT
) STRICT;
CREATE INDEX trash_by_hold ON trash (number) WHERE source_path IS NOT NULL;
"""


class DirectoryLock:
    """One process owns a data directory.

    Args:
        directory: created if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the directory.

        Raises:
            StoreError: it cannot be created or written, or another process has it.
        """
        try:
            places = (self._directory, *self._directory.parents)
            missing = [place for place in places if not place.exists()]
            # Whoever may read it reads all streams.
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            for place in missing:
                sync(place.parent)
            file = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot use the data directory {self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise StoreError(
                f"the data directory {self._directory} is in use by process {owner}; one process owns a data "
                "directory, so run one worker (one event loop serves many thousand readers) or give each its own"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def release(self) -> None:
        """Give the directory free. The lock file stays: deleting it could let two processes in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def refuse_unfinished(directory: Path) -> None:
    """Begin no new database where one was about to be restored.

    Raises:
        StoreError: the restore was interrupted.
    """
    if (directory / RESTORING_NAME).exists() and not (directory / DATABASE_NAME).exists():
        raise StoreError(f"a restore into {directory} was interrupted: run it again, or delete {RESTORING_NAME} there")


def open_writer(directory: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the connection that writes, creating the database if it is not there.

    What is in the write-ahead log may not be durable yet: see `empty_log`.

    Raises:
        StoreError: not our database, of a newer format, or SQLite is too old.
    """
    # Older ones can corrupt a database when a checkpoint races a reset of the write-ahead log.
    if apsw.SQLITE_VERSION_NUMBER < 3_051_003:
        raise StoreError(f"SQLite {apsw.sqlite_lib_version()} can corrupt databases; 3.51.3 or newer is needed")
    file = directory / DATABASE_NAME
    db = apsw.Connection(str(file), vfs=vfs)
    db.set_busy_timeout(_BUSY_TIMEOUT_MS)
    _keep_plans(db)
    is_new = _check_ours(db, file)
    if is_new:
        rows(db, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL")
    # Some answer with a row, and what follows in the same call is done only once that is fetched.
    rows(db, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL")
    if is_new:
        _create(db)
    # Each time: a first start may have been killed just before it came to this.
    sync(directory)
    with contextlib.suppress(PermissionError):  # not every parent may be looked into
        sync(directory.resolve().parent)
    # Only once the tables are known: reading them puts such settings back to their defaults.
    rows(db, "SELECT 1 FROM sqlite_schema")
    rows(db, f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}; PRAGMA cache_spill = OFF")
    rows(db, f"PRAGMA journal_size_limit = {_LOG_BYTES_KEPT}")
    rows(db, "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")
    return db


def empty_log(db: apsw.Connection) -> None:
    """Copy everything in the write-ahead log into the database, and sync it.

    Whatever can be read from now on is durable, even if the log held a commit that was never acknowledged.

    Raises:
        StoreError: somebody else keeps reading from it.
    """
    try:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        raise StoreError(
            "another program is reading the database, so that its write-ahead log cannot be emptied: if that is "
            "Litestream, start with --litestream; if it is a backup or a dump, wait for it"
        ) from None


def open_reader(directory: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that only reads."""
    file = directory / DATABASE_NAME
    db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    db.set_busy_timeout(_BUSY_TIMEOUT_MS)
    _keep_plans(db)
    rows(db, f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
    return db


def open_checkpointer(directory: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that only checkpoints."""
    db = apsw.Connection(str(directory / DATABASE_NAME), vfs=vfs)
    db.set_busy_timeout(_BUSY_TIMEOUT_MS)
    # A connection that has read nothing does not know of the log yet, and its checkpoints silently do nothing.
    rows(db, "SELECT 1 FROM sqlite_schema")
    rows(db, "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")
    return db


def _keep_plans(db: apsw.Connection) -> None:
    """Plan each statement once. Otherwise one that looks for a range is planned anew for every value it is given, which
    takes longer than to carry it out.
    """
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def rows(db: apsw.Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """All rows of a query; its cursor is exhausted, so it pins nothing."""
    return db.execute(query, values).fetchall()


def _check_ours(db: apsw.Connection, file: Path) -> bool:
    """Whether the database is still to be made: its file is new, or a first start did not get that far.

    Raises:
        StoreError: it is somebody else's, or of a newer format.
    """
    if 0 < file.stat().st_size < _PAGE_BYTES_MIN and not file.with_name(f"{file.name}-journal").exists():
        raise StoreError(f"{file} is not a database")
    try:
        application_id, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        is_empty = not rows(db, "SELECT 1 FROM sqlite_schema LIMIT 1")
    except apsw.NotADBError:
        raise StoreError(f"{file} is not a database") from None
    if application_id == 0 and version == 0 and is_empty:
        return True
    if application_id != APPLICATION_ID:
        raise StoreError(f"{file} is not an Unbroken database")
    if version > FORMAT_VERSION:
        raise StoreError(f"{file} has format {version}; this version reads up to {FORMAT_VERSION}")
    return False


def _create(db: apsw.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute(_TABLES)
    db.execute("INSERT INTO meta VALUES ('identity', ?), ('last_number', 0)", (secrets.token_hex(4),))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")


def _pragma(db: apsw.Connection, name: str) -> int:
    value = db.pragma(name)
    assert isinstance(value, int)
    return value


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
