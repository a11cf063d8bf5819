"""A database as it is at one moment, to be read by tools: also while a server goes on writing to it.

A snapshot is a read transaction, with the unfolded journal replayed over the tables. It disturbs no writer, but as long
as it is open the write-ahead log cannot start over from its beginning, and grows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

import apsw
import msgspec

from unbroken.errors import StoreError
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState
from unbroken.store.runs import unpack_runs
from unbroken.store.sqlite.overlay import Overlay
from unbroken.store.sqlite.reading import Reader
from unbroken.store.sqlite.replay import replay
from unbroken.store.sqlite.schema import APPLICATION_ID, DATABASE_NAME, FORMAT_VERSION, rows
from unbroken.store.sqlite.times import unpack_times

__all__ = ["Run", "Snapshot", "find_database", "open_still", "require_ours"]

_BUSY_TIMEOUT_MS = 10_000

# A number's chunks are contiguous and begin where its bytes do.
_CHUNKS = "SELECT start, time_ms, times, data FROM chunks WHERE stream = ? AND start < ? ORDER BY start"


class Run(NamedTuple):
    """Bytes that were committed at one time.

    Args:
        position: of the first byte in the stream.
        time_ms: when they were committed, in Unix milliseconds.
        data: the bytes as they are stored, at most 256 KiB if they are folded; what one commit brought may take
            several runs.
    """

    position: int
    time_ms: int
    data: bytes


class Snapshot:
    """A database at the moment of opening it. Use it as a context manager.

    Args:
        target: a data directory, or a database file such as a backup.

    Raises:
        StoreError: there is no database of ours, or it cannot be read.
    """

    def __init__(self, target: Path | str) -> None:
        self.file = find_database(target)
        self._overlay = Overlay()
        self._db = open_still(self.file)
        try:
            self._begin()
        except BaseException as error:
            self._db.close()
            if isinstance(error, apsw.Error | msgspec.DecodeError):
                raise StoreError(f"{self.file} cannot be read: {error}") from error
            raise

    def _begin(self) -> None:
        rows(self._db, "BEGIN")
        require_ours(self._db, self.file)
        self._reader = Reader(lambda: self._db)
        self.identity = str(self._reader.meta("identity"))
        self.journal_id, self.last_number = replay(self._reader, self._overlay)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()

    @property
    def unfolded(self) -> int:
        """How many streams have something in the journal that is not in the tables yet.

        Not one that began and ended there: if its rows are still to be trimmed, it is replayed without an effect.
        """
        pending = self._overlay.streams.values()
        return sum(one.state is not None or self._reader.state_by_number(one.number) is not None for one in pending)

    def state(self, path: str) -> StreamState | None:
        """The stream at a path."""
        return self._overlay.state(path) if self._overlay.covers(path) else self._reader.state(path)

    def states(self, prefix: str = "", after: str = "") -> Iterator[StreamState]:
        """Streams whose path begins with a prefix and comes after another, by path; those that are gone included."""
        folded = (state for state in self._reader.states(prefix, after) if not self._overlay.covers(state.path))
        return heapq.merge(
            folded, self._overlay.states(prefix, after, len(self._overlay.streams)), key=lambda state: state.path
        )

    def producers(self, number: int) -> dict[str, Producer]:
        """What is known of a stream's producers, by their ids."""
        found = rows(self._db, "SELECT id, epoch, seq FROM producers WHERE stream = ? ORDER BY id", number)
        producers = {producer_id: Producer(epoch, seq) for producer_id, epoch, seq in found}
        if (pending := self._overlay.streams.get(number)) is not None:
            producers |= pending.producers
        return dict(sorted(producers.items()))

    def runs(self, state: StreamState) -> Iterator[Run]:
        """All bytes of a stream in order, those it inherited included.

        Raises:
            StoreError: some are missing.
        """
        start = 0
        for number, end in (*state.lineage, (state.number, state.tail)):
            position = start
            for run in self._own(number, start, end):
                if run.position != position:
                    break
                position += len(run.data)
                yield run
            if position != end:
                raise StoreError(f"{state.path}: bytes {position} to {end} are missing; see unbroken fsck")
            start = end

    def _own(self, number: int, start: int, end: int) -> Iterator[Run]:
        """Runs of the bytes ``[start, end)`` that lie under a number."""
        pending = self._overlay.streams.get(number)
        base = end if pending is None or not pending.data else min(end, pending.base)
        for first, time_ms, times, data in self._db.execute(_CHUNKS, (number, base)):
            yield from _cut(unpack_times(time_ms, times, len(data)), first, data, start, base)
        if pending is not None and base < end:
            yield from _cut(unpack_runs(pending.runs), pending.base, bytes(pending.data), start, end)


def _cut(runs: list[tuple[int, int]], position: int, data: bytes, start: int, end: int) -> Iterator[Run]:
    """The part ``[start, end)`` of bytes that begin at a position."""
    first = position
    for size_bytes, time_ms in runs:
        low, high = max(position, start), min(position + size_bytes, end)
        if low < high:
            yield Run(low, time_ms, data[low - first : high - first])
        position += size_bytes


def find_database(target: Path | str) -> Path:
    """The database file in a data directory, or the file itself.

    Raises:
        StoreError: there is none.
    """
    target = Path(target)
    if target.is_dir():
        if not (target / DATABASE_NAME).is_file():
            raise StoreError(f"there is no {DATABASE_NAME} in {target}")
        return target / DATABASE_NAME
    if not target.is_file():
        raise StoreError(f"there is no database at {target}")
    return target


def open_still(file: Path) -> apsw.Connection:
    """Open a connection that only reads and leaves no file behind: without a log it needs no shared memory either."""
    if file.with_name(f"{file.name}-wal").exists():
        db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    else:
        uri = f"file:{quote(str(file.resolve()))}?immutable=1"
        db = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    db.set_busy_timeout(_BUSY_TIMEOUT_MS)
    return db


def require_ours(db: apsw.Connection, file: Path) -> None:
    """Make sure that a database is one of ours, in a format that this version reads.

    Raises:
        StoreError: it is not.
    """
    try:
        application_id, version = db.pragma("application_id"), db.pragma("user_version")
    except apsw.NotADBError:
        raise StoreError(f"{file} is not a database") from None
    if application_id != APPLICATION_ID:
        raise StoreError(f"{file} is not an Unbroken database")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreError(f"{file} has format {version}; this version reads up to {FORMAT_VERSION}: use a newer one")
