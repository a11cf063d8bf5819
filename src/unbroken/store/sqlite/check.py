"""Checking a database: every invariant of the tables, as a list of what is wrong.

Two layers are checked. The tables as they lie: what has been folded must fit together by itself. And the streams as
they are: the tables with the unfolded journal records replayed over them, by the rules' own `apply` and nothing of the
store's recovery, so that a fault there shows.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from unbroken.protocol.content import SEPARATOR
from unbroken.protocol.producers import PRODUCER_INTEGER_MAX
from unbroken.protocol.stream import Addition, Creation, Deletion, Lineage, Record, Reference, StreamState, apply
from unbroken.store.base import Hold
from unbroken.store.sqlite.chunks import CHUNK_BYTES_MAX
from unbroken.store.sqlite.records import STREAM_COLUMNS, state_from_row, unpack
from unbroken.store.sqlite.schema import APPLICATION_ID, DATABASE_NAME, FORMAT_VERSION, DirectoryLock
from unbroken.store.sqlite.snapshot import find_database, open_still
from unbroken.store.sqlite.times import unpack_times

__all__ = ["FAULTS_MAX", "Report", "check", "examine"]

FAULTS_MAX = 100

_BYTE_BEFORE = """
SELECT substr(data, ?2 - start, 1) FROM chunks WHERE stream = ?1 AND start < ?2 ORDER BY start DESC LIMIT 1
"""


_STATES_CACHED_MAX = 1_000

_REMEMBERED = """
CREATE TEMP TABLE extents (number INTEGER PRIMARY KEY, owner INTEGER, start INTEGER, end INTEGER, json INTEGER);
CREATE TEMP TABLE forks (source INTEGER);
"""
_EXTEND = "INSERT OR IGNORE INTO extents VALUES (?, ?, ?, ?, ?)"
_STRANGERS = """
SELECT DISTINCT stream FROM producers
WHERE stream NOT IN (SELECT number FROM streams) AND stream NOT IN (SELECT number FROM trash)
"""
_MISPLACED = """
SELECT stream, id, epoch, seq FROM producers WHERE NOT (epoch BETWEEN 0 AND ?1 AND seq BETWEEN 0 AND ?1)
"""
_MISCOUNTED = """
SELECT number, forks, has FROM (
    SELECT number, forks, (SELECT count(*) FROM temp.forks WHERE source = number) AS has FROM streams
) WHERE forks <> has
"""


class Report(NamedTuple):
    """What a check found.

    Args:
        faults: what is wrong, a line each, at most 100; empty if all is well.
        streams: how many streams were looked at.
        chunks: how many chunks of their bytes.
        chunk_bytes: how many bytes these hold.
        journal_rows: how many rows of the journal.
    """

    faults: list[str]
    streams: int
    chunks: int
    chunk_bytes: int
    journal_rows: int


def check(target: Path | str) -> list[str]:
    """What `examine` finds wrong."""
    return examine(target).faults


def examine(target: Path | str) -> Report:
    """Check a database that nobody has open. Changes nothing.

    Args:
        target: a store's data directory, or a database file such as a backup.

    Raises:
        StoreError: there is no database, or a process has it open.
    """
    file = find_database(target)
    lock = DirectoryLock(file.parent)
    is_store = file.name == DATABASE_NAME and (Path(target).is_dir() or (file.parent / "lock").exists())
    if is_store:
        lock.acquire()
    try:
        with closing(open_still(file)) as db:
            database = _Database(db)
            found = database.complaints()
            faults = [complaint for complaint, _ in zip(found, range(FAULTS_MAX), strict=False)]
            return Report(faults, database.streams, database.chunks, database.chunk_bytes, database.journal_rows)
    except apsw.Error as error:
        return Report([f"the database cannot be read: {error}"], 0, 0, 0, 0)
    finally:
        lock.release()


class _Database:
    """One database under examination; the methods are run in the order in which they stand.

    There may be millions of streams: what has to be remembered of each lies in temporary tables. In memory are the
    states of those that the journal has something about.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self.streams = self.chunks = self.chunk_bytes = self.journal_rows = 0
        self._last_number = 0
        self._journal_id = 0
        self._staging: dict[int, int] = {}
        # What the journal has something about, as it is now: None what it deletes.
        self._replayed: dict[int, StreamState | None] = {}
        self._applied: dict[int, int] = {}
        self._holds: dict[int, Hold] = {}
        self._misused: dict[int, str] = {}
        self._find = lru_cache(_STATES_CACHED_MAX)(self._look_up)

    def complaints(self) -> Iterator[str]:
        damage = [row[0] for row in self._query("PRAGMA integrity_check") if row[0] != "ok"]
        yield from (f"SQLite: {line}" for line in damage)
        if damage:
            return  # nothing that is read can be relied on
        self._query(_REMEMBERED).fetchall()
        self._query("BEGIN").fetchall()
        yield from self._file()
        yield from self._meta()
        yield from self._folded()
        yield from self._staged()
        yield from self._trashed()
        yield from self._chunks()
        yield from self._producers()
        yield from self._journal()
        yield from self._numbers()
        for number, state in self._states():
            self.streams += 1
            yield from self._stream(number, state)
        yield from self._references()
        yield from self._paths()

    def _query(self, query: str, *values: object) -> apsw.Cursor:
        return self._db.execute(query, values)

    def _one(self, query: str, *values: Any) -> Any:
        return self._query(query, *values).fetchone()

    def _use(self, number: int, where: str) -> None:
        if not 0 < number <= self._last_number and len(self._misused) < FAULTS_MAX:
            self._misused.setdefault(number, where)

    # --- the tables as they lie ------------------------------------------------------------------------------------

    def _file(self) -> Iterator[str]:
        if self._db.pragma("application_id") != APPLICATION_ID:
            yield "the application id is not Unbroken's"
        if self._db.pragma("user_version") != FORMAT_VERSION:
            yield f"the format is not {FORMAT_VERSION}"

    def _meta(self) -> Iterator[str]:
        meta: dict[str, Any] = {row[0]: row[1] for row in self._query("SELECT key, value FROM meta")}
        if not isinstance(meta.get("identity"), str) or not meta["identity"]:
            yield "meta: the identity is missing"
        if isinstance(meta.get("last_number"), int):
            self._last_number = meta["last_number"]
        else:
            yield "meta: last_number is missing"
        self._journal_id = self._one("SELECT coalesce(max(id), 0) FROM journal")[0]

    def _folded(self) -> Iterator[str]:
        for row in self._query(f"SELECT {STREAM_COLUMNS}, applied FROM streams ORDER BY number"):  # noqa: S608
            number, applied = row[0], row[-1]
            self._use(number, "streams")
            try:
                state = state_from_row(row[:-1])
            except msgspec.DecodeError as error:
                yield f"stream {number}: the row cannot be decoded: {error}"
                continue
            yield from self._extend(number, number, state.own_start, state.tail, state)
            if applied > self._journal_id:
                yield f"stream {number}: folded up to journal row {applied}, but the newest is {self._journal_id}"
            if not state.own_start <= state.tail:
                yield f"stream {number}: its own bytes begin at {state.own_start}, beyond its tail {state.tail}"
            if any(end > after for (_, end), (_, after) in pairwise(state.lineage)):
                yield f"stream {number}: its lineage {state.lineage} goes backwards"
            if (state.lifetime.ttl_s is not None) and (state.lifetime.expires_at_ms is not None):
                yield f"stream {number}: both a TTL and an expiry time"
            if state.closed_by is not None and not state.closed:
                yield f"stream {number}: closed by a producer, yet open"
            yield from self._formers(state)

    def _formers(self, state: StreamState) -> Iterator[str]:
        ranges = _ranges(state.lineage)
        for former in state.former:
            self._use(former, "streams")
            if former not in ranges:
                yield f"stream {state.number}: it was stream {former}, which none of its bytes are from"
            else:
                yield from self._extend(former, state.number, *ranges[former], state)

    def _extend(self, number: int, owner: int, start: int, end: int, state: StreamState) -> Iterator[str]:
        """Remember which positions lie under a number, and whose they are."""
        self._query(_EXTEND, number, owner, start, end, state.json)
        if not self._db.changes():
            yield f"stream {owner}: it was stream {number}, and so is another"

    def _staged(self) -> Iterator[str]:
        for number, start in self._query("SELECT stream, start FROM staging"):
            self._use(number, "staging")
            self._staging[number] = start
            tail = self._one("SELECT tail FROM streams WHERE number = ?", number)
            if tail is not None and tail[0] != start:
                yield f"stream {number}: a body is being written at {start}, its tail is {tail[0]}"

    def _trashed(self) -> Iterator[str]:
        for number, source_number, source_path in self._query("SELECT * FROM trash ORDER BY number"):
            self._use(number, "trash")
            if self._has_extent(number):
                yield f"stream {number}: both there and in the trash"
            if (source_number is None) != (source_path is None):
                yield f"trash {number}: half a hold"
            elif source_path is not None:
                self._use(source_number, "trash")
                self._holds[number] = Hold(number, source_number, source_path)

    def _has_extent(self, number: int) -> bool:
        return self._one("SELECT 1 FROM extents WHERE number = ?", number) is not None

    def _is_trash(self, number: int) -> bool:
        return self._one("SELECT 1 FROM trash WHERE number = ?", number) is not None

    def _chunks(self) -> Iterator[str]:
        extents = self._query("SELECT number, owner, start, end, json FROM extents ORDER BY number")
        extent: _Extent | None = _next_extent(extents)
        rows = self._query("SELECT stream, start, checksum, time_ms, times, data FROM chunks ORDER BY stream, start")
        for number, chunks in groupby(rows, key=lambda row: row[0]):
            self._use(number, "chunks")
            while extent is not None and extent.number < number:
                yield from self._ends(extent, extent.start, b"")
                extent = _next_extent(extents)
            if extent is not None and extent.number == number:
                yield from self._contiguous(extent, chunks)
                extent = _next_extent(extents)
            else:
                yield from self._ownerless(number, chunks)
        while extent is not None:
            yield from self._ends(extent, extent.start, b"")
            extent = _next_extent(extents)

    def _contiguous(self, extent: _Extent, chunks: Iterator[tuple[Any, ...]]) -> Iterator[str]:
        """The chunks of a stream follow one another, and cover what it has."""
        number, end, last = extent.number, extent.start, b""
        staged = self._staging.get(number)
        for _, start, *columns in chunks:
            yield from self._chunk(number, start, columns)
            if staged is not None and start >= staged:
                continue  # not part of the stream yet
            if start != end:
                yield f"stream {number}: a chunk begins at {start} where {end} was expected"
            end, last = start + len(columns[-1]), columns[-1][-1:]
        yield from self._ends(extent, end, last)

    def _ends(self, extent: _Extent, end: int, last: bytes) -> Iterator[str]:
        number, owner = extent.number, extent.owner
        if end != extent.end and number == owner:
            yield f"stream {number}: its chunks end at {end}, its tail is {extent.end}"
        elif end != extent.end:
            yield f"stream {owner}: its chunks under its former number {number} end at {end} instead of {extent.end}"
        elif extent.json and last not in (SEPARATOR, b""):
            yield f"stream {number}: its messages do not end with a separator"

    def _ownerless(self, number: int, chunks: Iterator[tuple[Any, ...]]) -> Iterator[str]:
        """Chunks of what was deleted, to be deleted in time; or of a new stream, whose first body is on its way."""
        known = self._is_trash(number) or number in self._staging
        for _, start, *columns in chunks:
            yield from self._chunk(number, start, columns)
            if not known:
                yield f"stream {number}: chunks of a stream that is neither there nor in the trash"
                known = True

    def _chunk(self, number: int, start: int, columns: list[Any]) -> Iterator[str]:
        self.chunks += 1
        self.chunk_bytes += len(columns[-1])
        yield from (f"stream {number}: the chunk at {start} {fault}" for fault in _chunk_faults(*columns))

    def _separator_before(self, number: int, position: int) -> bool:
        """Whether the byte before a position, if the tables have it, ends a message."""
        row = self._one(_BYTE_BEFORE, number, position)
        return row is None or row[0] in (SEPARATOR, b"")

    def _producers(self) -> Iterator[str]:
        for (number,) in self._query(_STRANGERS):
            self._use(number, "producers")
            yield f"stream {number}: producers of a stream that is neither there nor in the trash"
        for number, producer_id, epoch, seq in self._query(_MISPLACED, PRODUCER_INTEGER_MAX):
            yield f"stream {number}: producer {producer_id!r} is at ({epoch!r}, {seq!r})"

    # --- the journal over them -------------------------------------------------------------------------------------

    def _journal(self) -> Iterator[str]:
        faults: dict[int, list[str]] = defaultdict(list)
        for journal_id, checksum, packed in self._query("SELECT id, checksum, records FROM journal ORDER BY id"):
            self.journal_rows += 1
            if zlib.crc32(packed) != checksum:
                yield f"journal row {journal_id} does not match its checksum"
            try:
                records = unpack(packed)
            except (msgspec.DecodeError, TypeError) as error:
                yield f"journal row {journal_id} cannot be decoded: {error}"
                continue
            for record in records:
                self._use(record.number, f"journal row {journal_id}")
                if fault := self._replay(journal_id, record):
                    faults[record.number].append(f"stream {record.number}: journal row {journal_id} {fault}")
        self._find.cache_clear()
        # A stream whose deletion is folded may be replayed, in part: only faults of those that are there count.
        for number, found in faults.items():
            if self._find(number) is not None:
                yield from found

    def _replay(self, journal_id: int, record: Record) -> str | None:
        """Apply a record if it is unfolded; what is wrong with it, if anything is."""
        number = record.number
        if isinstance(record, Reference) and record.delta < 0:
            self._use(record.fork, f"journal row {journal_id}")
            self._holds.pop(record.fork, None)
        if number not in self._applied:
            found = self._one("SELECT applied FROM streams WHERE number = ?", number)
            self._applied[number] = found[0] if found else 0
        before = self._look_up(number)
        if journal_id <= self._applied[number] or (before is None and not isinstance(record, Creation)):
            return None
        fault = self._misfit(before, record)
        after = self._replayed[number] = apply(before, record)
        if after is None and before is not None and before.origin is not None:
            self._holds[number] = Hold(number, before.origin.source_number, before.origin.source_path)
        return fault

    def _misfit(self, before: StreamState | None, record: Record) -> str | None:
        if isinstance(record, Creation):
            start = record.lineage[-1][1] if record.lineage else 0
            if before is not None:
                return "creates it a second time"
            return None if record.position == start else f"begins it at {record.position} instead of {start}"
        assert before is not None
        if isinstance(record, Addition):
            if record.position != before.tail:
                return f"appends at {record.position}, the tail is {before.tail}"
            if before.closed:
                return "appends to it, and it is closed"
            if before.json and record.data and not record.data.endswith(SEPARATOR):
                return "appends messages without a separator at the end"
        if isinstance(record, Deletion) and record.keep != (before.forks > 0):
            return f"deletes it {'for good' if not record.keep else 'softly'}, and it has {before.forks} forks"
        return None

    def _numbers(self) -> Iterator[str]:
        for number, where in sorted(self._misused.items()):
            yield f"{where}: number {number} is used, but the last number is {self._last_number}"

    # --- the streams as they are -----------------------------------------------------------------------------------

    def _look_up(self, number: int) -> StreamState | None:
        """A stream as it is, journal included; None too if its row cannot be decoded, which was said."""
        if number in self._replayed:
            return self._replayed[number]
        row = self._one(f"SELECT {STREAM_COLUMNS} FROM streams WHERE number = ?", number)  # noqa: S608
        return None if row is None else _decoded(row)

    def _states(self) -> Iterator[tuple[int, StreamState]]:
        """All streams as they are."""
        for row in self._query(f"SELECT {STREAM_COLUMNS} FROM streams ORDER BY number"):  # noqa: S608
            if row[0] not in self._replayed and (state := _decoded(row)) is not None:
                yield state.number, state
        for number, replayed in self._replayed.items():
            if replayed is not None:
                yield number, replayed

    def _stream(self, number: int, state: StreamState) -> Iterator[str]:
        if number in self._replayed and self._is_trash(number) and not self._has_extent(number):
            yield f"stream {number}: deleted, and back from the journal"
        if state.gone and state.forks <= 0:
            yield f"stream {number}: kept for forks, and has {state.forks}"
        if state.forks < 0:
            yield f"stream {number}: it has {state.forks} forks"
        if state.origin is None:
            if len(state.lineage) != len(state.former):
                yield f"stream {number}: it inherits bytes, but is no fork"
            return
        self._query("INSERT INTO forks VALUES (?)", state.origin.source_number)
        if (source := self._find(state.origin.source_number)) is None:
            yield f"stream {number}: forked from stream {state.origin.source_number}, which is not there"
        else:
            yield from self._fork(number, state, source)

    def _fork(self, number: int, state: StreamState, source: StreamState) -> Iterator[str]:
        if state.origin is not None and source.path != state.origin.source_path:
            yield f"stream {number}: its source is at {source.path}, not at {state.origin.source_path}"
        if source.json != state.json:
            yield f"stream {number}: it is {'' if state.json else 'not '}JSON, unlike its source"
        inherited = tuple(piece for piece in state.lineage if piece[0] not in state.former)
        point = inherited[-1][1] if inherited else 0
        if point > source.tail:
            yield f"stream {number}: forked at {point}, beyond its source's tail {source.tail}"
        elif not _is_inherited(inherited, source, point):
            yield f"stream {number}: its lineage {state.lineage} is not that of its source"
        elif state.json and state.own_start and not self._separator_before(*_owner(state)):
            yield f"stream {number}: it was forked inside a message"

    def _references(self) -> Iterator[str]:
        for hold in self._holds.values():
            self._query("INSERT INTO forks VALUES (?)", hold.source_number)
            source = self._find(hold.source_number)
            if source is None or source.path != hold.source_path:
                yield f"trash {hold.fork}: it holds stream {hold.source_number} at {hold.source_path}, not there"
        self._query("CREATE INDEX temp.forks_by_source ON forks (source)").fetchall()
        for number, forks, count in self._query(_MISCOUNTED):
            if number not in self._replayed:
                yield f"stream {number}: it counts {forks} forks, and has {count}"
        for number, state in self._replayed.items():
            ((count,),) = self._query("SELECT count(*) FROM forks WHERE source = ?", number).fetchall()
            if state is not None and state.forks != count:
                yield f"stream {number}: it counts {state.forks} forks, and has {count}"

    def _paths(self) -> Iterator[str]:
        """The table itself has each path once."""
        paths = Counter(state.path for state in self._replayed.values() if state is not None)
        for path, replayed in paths.items():
            found = self._one("SELECT number FROM streams WHERE path = ?", path)
            count = replayed + (found is not None and found[0] not in self._replayed)
            if count > 1:
                yield f"{count} streams at {path}"


class _Extent(NamedTuple):
    """The positions that lie under a number, and the stream whose they are."""

    number: int
    owner: int
    start: int
    end: int
    json: int


def _next_extent(extents: apsw.Cursor) -> _Extent | None:
    row = next(extents, None)
    return None if row is None else _Extent(*row)


def _decoded(row: Any) -> StreamState | None:
    try:
        return state_from_row(row)
    except msgspec.DecodeError:
        return None


def _chunk_faults(checksum: int, time_ms: int, times: bytes | None, data: bytes) -> Iterator[str]:
    if not 0 < len(data) <= CHUNK_BYTES_MAX:
        yield f"has {len(data)} bytes"
    if zlib.crc32(data) != checksum:
        yield "does not match its checksum"
    try:
        runs = unpack_times(time_ms, times, len(data))
        if min(run_ms for _, run_ms in runs) != time_ms:
            yield "has another time than its earliest byte"
    except msgspec.DecodeError as error:
        yield f"has commit times that cannot be decoded: {error}"


def _ranges(lineage: Lineage) -> dict[int, tuple[int, int]]:
    """Which positions each number in a lineage stands for."""
    starts = (0, *(end for _, end in lineage))
    return {number: (start, end) for (number, end), start in zip(lineage, starts, strict=False)}


def _is_inherited(lineage: Lineage, source: StreamState, point: int) -> bool:
    """Whether this is what a fork of this source inherits at this position."""
    expected: list[tuple[int, int]] = []
    start = 0
    for number, end in (*source.lineage, (source.number, source.tail)):
        if start > point:
            break
        expected.append((number, min(end, point)))
        start = end
    # A source that was restored later has gone on under more numbers.
    more = expected[len(lineage) :]
    return tuple(expected[: len(lineage)]) == lineage and (not more or source.former != ())


def _owner(fork: StreamState) -> tuple[int, int]:
    """Whose own byte the last inherited one is, and the position after it."""
    start = 0
    for number, end in fork.lineage:
        if start < fork.own_start <= end:
            return number, fork.own_start
        start = end
    return fork.number, fork.own_start
