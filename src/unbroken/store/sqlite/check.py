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
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import msgspec

from unbroken.errors import StoreError
from unbroken.protocol.content import SEPARATOR
from unbroken.protocol.producers import PRODUCER_INTEGER_MAX
from unbroken.protocol.stream import Addition, Creation, Deletion, Lineage, Record, Reference, StreamState, apply
from unbroken.store.base import Hold
from unbroken.store.sqlite.chunks import CHUNK_BYTES_MAX
from unbroken.store.sqlite.records import STREAM_COLUMNS, state_from_row, unpack
from unbroken.store.sqlite.schema import (
    APPLICATION_ID,
    DATABASE_NAME,
    FORMAT_VERSION,
    DirectoryLock,
    open_reader,
)
from unbroken.store.sqlite.times import unpack_times

__all__ = ["check"]

_COMPLAINTS_MAX = 100

_BYTE_BEFORE = """
SELECT substr(data, ?2 - start, 1) FROM chunks WHERE stream = ?1 AND start < ?2 ORDER BY start DESC LIMIT 1
"""


def check(directory: Path | str) -> list[str]:
    """Check the database of a store that nobody has open. Changes nothing.

    Args:
        directory: the store's data directory.

    Returns:
        What is wrong, a line each, at most 100; empty if all is well.

    Raises:
        StoreError: there is no database, or a process has it open.
    """
    directory = Path(directory)
    if not (directory / DATABASE_NAME).is_file():
        raise StoreError(f"there is no {DATABASE_NAME} in {directory}")
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        with closing(_open(directory)) as db:
            found = _Database(db).complaints()
            return [complaint for complaint, _ in zip(found, range(_COMPLAINTS_MAX), strict=False)]
    except apsw.Error as error:
        return [f"the database cannot be read: {error}"]
    finally:
        lock.release()


def _open(directory: Path) -> apsw.Connection:
    """A connection that leaves no file behind: without a log it needs no shared memory either."""
    file = directory / DATABASE_NAME
    if file.with_name(f"{DATABASE_NAME}-wal").exists():
        return open_reader(directory)
    uri = f"file:{quote(str(file.resolve()))}?immutable=1"
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


class _Database:
    """One database under examination; the methods are run in the order in which they stand."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._last_number = 0
        self._journal_id = 0
        self._folded: dict[int, StreamState] = {}
        self._applied: dict[int, int] = {}
        self._trash: set[int] = set()
        self._staging: dict[int, int] = {}
        # Where the bytes lie that a restored stream has under an earlier number, and which stream that is.
        self._former: dict[int, tuple[int, int, int]] = {}
        # The streams as they are, journal included.
        self._states: dict[int, StreamState] = {}
        self._holds: dict[int, Hold] = {}
        self._numbers_used: dict[int, str] = {}

    def complaints(self) -> Iterator[str]:
        damage = [row[0] for row in self._query("PRAGMA integrity_check") if row[0] != "ok"]
        yield from (f"SQLite: {line}" for line in damage)
        if damage:
            return  # nothing that is read can be relied on
        yield from self._file()
        yield from self._meta()
        yield from self._streams()
        yield from self._trashed()
        yield from self._staged()
        yield from self._chunks()
        yield from self._producers()
        yield from self._journal()
        yield from self._numbers()
        for number, state in sorted(self._states.items()):
            yield from self._stream(number, state)
        yield from self._references()

    def _query(self, query: str, *values: Any) -> apsw.Cursor:
        return self._db.execute(query, values)

    def _one(self, query: str, *values: Any) -> Any:
        return self._query(query, *values).fetchone()

    def _use(self, number: int, where: str) -> None:
        self._numbers_used.setdefault(number, where)

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

    def _streams(self) -> Iterator[str]:
        for row in self._query(f"SELECT {STREAM_COLUMNS}, applied FROM streams ORDER BY number"):  # noqa: S608
            number, applied = row[0], row[-1]
            self._use(number, "streams")
            try:
                state = state_from_row(row[:-1])
            except msgspec.DecodeError as error:
                yield f"stream {number}: the row cannot be decoded: {error}"
                continue
            self._folded[number] = self._states[number] = state
            self._applied[number] = applied
            if applied > self._journal_id:
                yield f"stream {number}: folded up to journal row {applied}, but the newest is {self._journal_id}"
            if not state.own_start <= state.tail:
                yield f"stream {number}: its own bytes begin at {state.own_start}, beyond its tail {state.tail}"
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
            elif former in self._former or former in self._folded:
                yield f"stream {state.number}: it was stream {former}, and so is another"
            else:
                self._former[former] = (state.number, *ranges[former])

    def _staged(self) -> Iterator[str]:
        for number, start in self._query("SELECT stream, start FROM staging"):
            self._use(number, "staging")
            self._staging[number] = start
            state = self._folded.get(number)
            if state is not None and state.tail != start:
                yield f"stream {number}: a body is being written at {start}, its tail is {state.tail}"

    def _trashed(self) -> Iterator[str]:
        for number, source_number, source_path in self._query("SELECT * FROM trash ORDER BY number"):
            self._use(number, "trash")
            self._trash.add(number)
            if number in self._folded:
                yield f"stream {number}: both there and in the trash"
            if (source_number is None) != (source_path is None):
                yield f"trash {number}: half a hold"
            elif source_path is not None:
                self._use(source_number, "trash")
                self._holds[number] = Hold(number, source_number, source_path)

    def _chunks(self) -> Iterator[str]:
        ends: dict[int, int] = {}
        for number, start, *columns in self._query(
            "SELECT stream, start, checksum, time_ms, times, data FROM chunks ORDER BY stream, start"
        ):
            self._use(number, "chunks")
            size_bytes = len(columns[-1])
            yield from (f"stream {number}: the chunk at {start} {fault}" for fault in _chunk_faults(*columns))
            expected = ends.get(number, self._first(number))
            ends[number] = start + size_bytes
            if start >= self._staging.get(number, start + 1):
                ends[number] = self._staging[number]  # what follows is not part of the stream
            elif expected is None:
                yield f"stream {number}: chunks of a stream that is neither there nor in the trash"
            elif number not in self._trash and start != expected:
                yield f"stream {number}: a chunk begins at {start} where {expected} was expected"
        for number, (owner, start, end) in self._former.items():
            if (found := ends.get(number, start)) != end:
                yield f"stream {owner}: its chunks under its former number {number} end at {found} instead of {end}"
        for number, state in self._folded.items():
            end = ends.get(number, state.own_start)
            if end != state.tail:
                yield f"stream {number}: its chunks end at {end}, its tail is {state.tail}"
            elif state.json and number in ends and not self._separator_before(number, end):
                yield f"stream {number}: its messages do not end with a separator"

    def _first(self, number: int) -> int | None:
        """Where the chunks of a number begin."""
        if (state := self._folded.get(number)) is not None:
            return state.own_start
        if number in self._former:
            return self._former[number][1]
        return 0 if number in self._trash else None

    def _separator_before(self, number: int, position: int) -> bool:
        """Whether the byte before a position, if the tables have it, ends a message."""
        row = self._one(_BYTE_BEFORE, number, position)
        return row is None or row[0] in (SEPARATOR, b"")

    def _producers(self) -> Iterator[str]:
        strangers: set[int] = set()
        for number, producer_id, epoch, seq in self._query("SELECT stream, id, epoch, seq FROM producers"):
            self._use(number, "producers")
            if number not in self._folded and number not in self._trash and number not in strangers:
                strangers.add(number)
                yield f"stream {number}: producers of a stream that is neither there nor in the trash"
            for value in (epoch, seq):
                if not isinstance(value, int) or not 0 <= value <= PRODUCER_INTEGER_MAX:
                    yield f"stream {number}: producer {producer_id!r} is at ({epoch!r}, {seq!r})"

    # --- the journal over them -------------------------------------------------------------------------------------

    def _journal(self) -> Iterator[str]:
        faults: dict[int, list[str]] = defaultdict(list)
        for journal_id, checksum, packed in self._query("SELECT id, checksum, records FROM journal ORDER BY id"):
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
        # A stream whose deletion is folded may be replayed, in part: only faults of those that are there count.
        for number, found in faults.items():
            if number in self._states:
                yield from found

    def _replay(self, journal_id: int, record: Record) -> str | None:
        """Apply a record if it is unfolded; what is wrong with it, if anything is."""
        number = record.number
        if isinstance(record, Reference) and record.delta < 0:
            self._use(record.fork, f"journal row {journal_id}")
            self._holds.pop(record.fork, None)
        before = self._states.get(number)
        if journal_id <= self._applied.get(number, 0) or (before is None and not isinstance(record, Creation)):
            return None
        fault = self._misfit(before, record)
        after = apply(before, record)
        if after is not None:
            self._states[number] = after
            return fault
        del self._states[number]
        if before is not None and before.origin is not None:
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
        for number, where in sorted(self._numbers_used.items()):
            if not 0 < number <= self._last_number:
                yield f"{where}: number {number} is used, but the last number is {self._last_number}"

    # --- the streams as they are -----------------------------------------------------------------------------------

    def _stream(self, number: int, state: StreamState) -> Iterator[str]:
        if number in self._trash and number not in self._folded:
            yield f"stream {number}: deleted, and back from the journal"
        if state.gone and state.forks <= 0:
            yield f"stream {number}: kept for forks, and has {state.forks}"
        if state.forks < 0:
            yield f"stream {number}: it has {state.forks} forks"
        if state.origin is None:
            if len(state.lineage) != len(state.former):
                yield f"stream {number}: it inherits bytes, but is no fork"
        elif (source := self._states.get(state.origin.source_number)) is None:
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
        forks = Counter(state.origin.source_number for state in self._states.values() if state.origin is not None)
        for hold in self._holds.values():
            forks[hold.source_number] += 1
            source = self._states.get(hold.source_number)
            if source is None or source.path != hold.source_path:
                yield f"trash {hold.fork}: it holds stream {hold.source_number} at {hold.source_path}, not there"
        for number, state in self._states.items():
            if state.forks != forks[number]:
                yield f"stream {number}: it counts {state.forks} forks, and has {forks[number]}"
        paths = Counter(state.path for state in self._states.values())
        for path, count in paths.items():
            if count > 1:
                yield f"{count} streams at {path}"


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
