"""The SQLite store: journal first, tables later.

A commit writes one journal row, whatever the number of streams in it, and one fsync makes it durable. Its records then
lie in the `Overlay`, in memory, until they are folded into the tables a little with later commits (`folding`). A large
body would be written twice that way, so its stream is folded in the very commit that brings it, past the journal.

Threads: short statements run on the event loop's thread; only COMMIT, with its fsync, runs in a worker, and until it
returns nobody touches the writing connection. Readers have connections of their own.

Errors: a failed commit may or may not be durable, so it is reported as such, nothing of it becomes visible, and the
store takes no more writes until it is opened again. Reads go on.
"""

from __future__ import annotations

import bisect
import errno
import heapq
import itertools
import logging
import os
import time
from asyncio import Future
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import apsw
import msgspec

from unbroken.errors import OutcomeUnknown, StorageFull, StoreError, StoreReadOnly, Unavailable, UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Addition, Creation, Deletion, Reference, StreamState
from unbroken.store.base import Change, Due, DueKind, Hold, Totals
from unbroken.store.sqlite.checkpoint import Checkpointer
from unbroken.store.sqlite.folding import choose, empty_trash, fold, return_space, trim_journal
from unbroken.store.sqlite.litestream import LeftToLitestream, make_durable
from unbroken.store.sqlite.metrics import Counts, collect
from unbroken.store.sqlite.overlay import Overlay, Pending
from unbroken.store.sqlite.producers import ProducerCounts
from unbroken.store.sqlite.reading import Reader
from unbroken.store.sqlite.records import JournalSize, pack, write_journal
from unbroken.store.sqlite.replay import replay
from unbroken.store.sqlite.schema import (
    DATABASE_NAME,
    DirectoryLock,
    empty_log,
    open_checkpointer,
    open_reader,
    open_writer,
    refuse_unfinished,
)
from unbroken.store.sqlite.space import RESERVE_BYTES, DiskSpace
from unbroken.store.sqlite.staging import Staging
from unbroken.store.sqlite.totals import count
from unbroken.store.sqlite.worker import Worker
from unbroken.store.staged import StagedTransaction

__all__ = ["SqliteStore"]

_log = logging.getLogger("unbroken.store")

OVERLAY_BYTES_MAX = 128 * 1024 * 1024
OVERLAY_STREAMS_MAX = 50_000
LARGE_BYTES = 256 * 1024

_FOLD_BYTES_PER_COMMIT = 1024 * 1024
_FOLD_STREAMS_PER_COMMIT = 64
_FOLD_AGE_MS = 10_000
_COMMITS_PER_CHORE = 16
_FOLD_STREAMS_PER_CHORE = 4
_CLOSE_S = 2.0
_STATES_CACHED_MAX = 100_000


class SqliteStore:
    """Streams in one SQLite database. See `unbroken.store.base.Store`.

    Args:
        directory: where the database is; one process at a time may have it open.
        overlay_bytes_max: unfolded bytes kept in memory before folding sets in.
        vfs: name of a registered SQLite VFS to go through, for fault injection.
        litestream: leave checkpoints to Litestream.
        reserve_bytes: of the disk, to be left free: nothing but deletes is taken once no more is.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        overlay_bytes_max: int = OVERLAY_BYTES_MAX,
        vfs: str | None = None,
        litestream: bool = False,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.directory = Path(directory)
        self.identity = ""
        self._vfs = vfs
        self._litestream = litestream
        self._overlay_bytes_max = overlay_bytes_max
        self._lock = DirectoryLock(self.directory)
        self._space = DiskSpace(self.directory, reserve_bytes)
        self._forget()

    def _forget(self) -> None:
        self._counts = Counts()
        self._failure: UnbrokenError | None = None
        self._overlay = Overlay()
        self._staging = Staging()
        self._producer_counts = ProducerCounts()
        self._journal = JournalSize()
        self._hidden: dict[str, StreamState | None] = {}
        self._due: dict[DueKind, list[Due]] = {}
        self._states: OrderedDict[str, StreamState] = OrderedDict()
        self._journal_id = 0
        self._last_number = 0
        self._saved_number = 0
        self._log_pages = 0
        self._over_budget = False
        self._trash = True
        self._untrimmed = True

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._forget()
        self._resources = ExitStack()
        try:
            self._acquire(self._resources)
            self._recover()
        except BaseException as error:
            self._resources.close()
            if isinstance(error, apsw.Error | msgspec.DecodeError | OSError | Unavailable):
                raise StoreError(f"cannot open the database in {self.directory}: {error}") from error
            raise

    def _acquire(self, resources: ExitStack) -> None:
        """Take everything that is to be let go of, in the opposite order, at the end."""
        self._lock.acquire()
        resources.callback(self._lock.release)
        refuse_unfinished(self.directory)
        # To be closed after all connections: SQLite's locks on the file go with any descriptor of it.
        file = os.open(self.directory / DATABASE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        resources.callback(os.close, file)
        self._writer = open_writer(self.directory, vfs=self._vfs)
        resources.callback(_close, self._writer)
        # Before anything is read: whatever is shown is durable.
        if self._litestream:
            make_durable(self._writer, self.directory)
        else:
            empty_log(self._writer)
        self._writer.set_wal_hook(self._on_commit)
        self._reader = Reader(lambda: open_reader(self.directory, vfs=self._vfs))
        resources.callback(self._reader.close)
        self._committer = Worker("unbroken-commit")
        resources.callback(self._committer.close)
        if self._litestream:
            self._checkpointer: Checkpointer | LeftToLitestream = LeftToLitestream()
            return
        checkpoint_db = open_checkpointer(self.directory, vfs=self._vfs)
        resources.callback(_close, checkpoint_db)
        thread = resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="unbroken-checkpoint"))
        self._checkpointer = Checkpointer(checkpoint_db, file, thread, self._fail)

    def _recover(self) -> None:
        """Replay the journal into the overlay."""
        self._staging.recover(self._writer)
        self.identity = str(self._reader.meta("identity"))
        self._saved_number = self._reader.meta("last_number")
        self._journal_id, self._last_number = replay(self._reader, self._overlay)
        self._due = _due_by_kind(self._overlay)

    async def close(self) -> None:
        end_s = time.monotonic() + _CLOSE_S
        try:
            while self._failure is None and self._overlay.streams and time.monotonic() < end_s:
                if not await self._housekeep(streams=1_000, cost_bytes=8 * 1024 * 1024):
                    break
        except OutcomeUnknown as error:
            _log.warning("the journal could not be folded, which the next start will do: %s", error)
        finally:
            await self._checkpointer.stop()
            self._resources.close()

    # --- lookups -----------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> UnbrokenError | None:
        return self._failure

    @property
    def behind(self) -> bool:
        return self._checkpointer.behind

    @property
    def full(self) -> bool:
        return self._space.full(self._checkpointer.left_bytes)

    @property
    def last_number(self) -> int:
        return self._last_number

    def state(self, path: str) -> StreamState | None:
        if path in self._hidden:
            return self._hidden[path]
        if self._overlay.covers(path):
            return self._overlay.state(path)
        state = self._states.get(path)
        if state is not None:
            self._counts.states_cached += 1
        else:
            self._counts.states_read += 1
            with self._reading():
                state = self._reader.state(path)
            if state is not None:
                self._remember(path, state)
        return state

    def states(self, prefix: str, after: str, limit: int) -> Sequence[StreamState]:
        with self._reading():
            folded = (
                state
                for found in self._reader.states(prefix, after)
                if not self._overlay.covers(found.path) and (state := self._hidden.get(found.path, found)) is not None
            )
            unfolded = self._overlay.states(prefix, after, limit)
            return list(itertools.islice(heapq.merge(folded, unfolded, key=lambda state: state.path), limit))

    def producer(self, number: int, producer_id: str) -> Producer | None:
        pending = self._overlay.streams.get(number)
        if pending is not None and (producer := pending.producers.get(producer_id)) is not None:
            return producer
        with self._reading():
            return self._reader.producer(number, producer_id)

    def producers(self, number: int) -> int:
        pending = self._overlay.streams.get(number)
        with self._reading():
            return self._producer_counts.of(number, () if pending is None else pending.producers, self._reader)

    def is_held(self, fork: int) -> bool:
        return fork in self._overlay.holds

    def holds(self, limit: int) -> Sequence[Hold]:
        return list(self._overlay.holds.values())[:limit]

    def due(self, kind: DueKind, after: tuple[int, int], until: int, limit: int) -> Sequence[Due]:
        # Those that are folded meanwhile come twice, which does no harm.
        start = bisect.bisect_right(self._due[kind], after, key=lambda due: (due.key, due.number))
        unfolded = itertools.takewhile(lambda due: due.key <= until, itertools.islice(self._due[kind], start, None))
        with self._reading():
            folded = self._reader.due(kind, after, until, limit)
            return list(itertools.islice(heapq.merge(folded, unfolded), limit))

    def read_cached(self, number: int, start: int, end: int) -> bytes | None:
        pending = self._overlay.streams.get(number)
        if pending is None or start < pending.base:
            return None
        self._counts.reads_cached += 1
        return pending.read(start, end)

    async def read(self, number: int, start: int, end: int) -> bytes:
        self._counts.reads += 1
        # What lies above the base is taken before the wait: by its end it may have been folded.
        pending = self._overlay.streams.get(number)
        base = end if pending is None or pending.state is None else min(end, pending.base)
        tail = b"" if pending is None or base == end else pending.read(max(start, base), end)
        if start >= base:
            return tail
        with self._reading():
            return await self._reader.read(number, start, base) + tail

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        pending = self._overlay.streams.get(number)
        if pending is not None and (found := pending.find_time(end, time_ms)) is not None:
            return found
        with self._reading():
            return await self._reader.find_time(number, end, time_ms)

    def _remember(self, path: str, state: StreamState) -> None:
        if len(self._states) >= _STATES_CACHED_MAX:
            self._states.popitem(last=False)
        self._states[path] = state

    def totals(self, below: Sequence[Prefixes] = ()) -> Future[Totals]:
        with self._reading():
            return count(lambda: open_reader(self.directory, vfs=self._vfs), self._overlay, self._resources, below)

    # --- writing -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, paths: Sequence[str]) -> AsyncIterator[StagedTransaction]:
        if self._failure is not None:
            raise self._failure
        transaction = StagedTransaction(self)
        yield transaction
        self._staging.abandon(transaction.unstaged)
        if transaction.changes:
            await self._commit(transaction)
        elif transaction.pieces or transaction.dated:
            await self._stage(transaction)
        self._last_number = transaction.next_number() - 1

    async def _stage(self, transaction: StagedTransaction) -> None:
        """Write pieces of large bodies, and nothing else: the journal has no row of it."""
        new_bytes = sum(len(piece.data) for piece in transaction.pieces)
        self._space.check(new_bytes, self._checkpointer.left_bytes, large=True)
        with self._writing():
            self._begin()
            folded = self._write_pieces(transaction)
            await self._finish(folded, self._journal_id, transaction.next_number() - 1)
        self._drop(folded)
        await self._checkpointer.after_commit(self._log_pages, large=True)

    async def _commit(self, transaction: StagedTransaction) -> None:
        changes = transaction.changes
        direct = _with_large_body(changes) if transaction.largest_bytes >= LARGE_BYTES else set()
        written_ahead = self._staging.has(changes)
        new_bytes = sum(len(piece.data) for piece in transaction.pieces)
        new_bytes += 0 if written_ahead else transaction.size_bytes
        frees = not transaction.pieces and _frees(changes)
        self._space.check(new_bytes, self._checkpointer.left_bytes, frees=frees, large=bool(transaction.pieces))
        journal_id = self._journal_id + 1
        with self._writing():
            self._begin()
            folded = self._write_pieces(transaction)
            if direct:
                folded += self._fold_large(changes, direct, journal_id)
            packed = pack([change.record for change in changes if change.record.number not in direct])
            write_journal(self._writer, journal_id, packed)
            self._journal.grow(journal_id, len(packed))
            folded += self._fold_some(journal_id, changes, len(packed), {pending.number for pending in folded})
            await self._finish(folded, journal_id, transaction.next_number() - 1)
        self._hidden.clear()
        self._journal_id = journal_id
        self._drop(folded)
        self._producer_counts.grow(transaction.newcomers)
        for change in changes:
            record, after = change.record, change.after
            if isinstance(record, Deletion):
                self._overlay.hold(record, change.before)
            if after is not None and record.number in direct:
                self._remember(change.path, after)
            else:
                self._overlay.add(change.path, record, after, journal_id)
        await self._checkpointer.after_commit(self._log_pages, large=bool(transaction.pieces))

    async def fold_everything(self) -> bool:
        """Bring all that is unfolded into the tables, and discard bodies that were never completed.

        Returns:
            Whether it is done; it is not if the disk is almost full.
        """
        while self._failure is None and (self._overlay.streams or self._staging.has_discarded):
            if not await self._housekeep(streams=1_000, cost_bytes=8 * 1024 * 1024):
                return False
        return self._failure is None

    def _begin(self) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        self._staging.clear(self._writer)

    def _write_pieces(self, transaction: StagedTransaction) -> list[Pending]:
        """Write pieces of large bodies, each after what its stream has in the overlay."""
        folded: list[Pending] = []
        for dating in transaction.dated:
            self._staging.date(self._writer, dating)
        for piece in transaction.pieces:
            pending = self._overlay.streams.get(piece.number)
            if pending is not None:
                folded += self._fold([*self._overlay.predecessors(pending), pending])
            self._staging.write(self._writer, piece)
        return folded

    def _hide(self, changes: list[Change]) -> None:
        """Show these streams as they were until the commit is known to be durable, and for good if it fails.

        The tables would show them as soon as SQLite has committed, before the rest of the commit can be seen: the bytes
        that a fork shares, say.
        """
        for change in changes:
            self._hidden.setdefault(change.path, change.before)

    def _fold_large(self, changes: list[Change], direct: set[int], journal_id: int) -> list[Pending]:
        """Fold the streams of this commit that got a large body, this commit's records included."""
        folded: list[Pending] = []
        for number in direct:
            own = [change for change in changes if change.record.number == number]
            pending = self._overlay.streams.get(number)
            if pending is not None:
                whole = pending.copy()
            else:
                before = own[0].before
                base = 0 if before is None else before.tail
                whole = Pending(number, own[0].path, base, journal_id, own[0].record.time_ms)
            folded += self._fold(self._overlay.predecessors(whole))
            if pending is not None:
                folded.append(pending)
            records = (
                [self._staging.complete(self._writer, own[0].record)]
                if self._staging.has(own)
                else [change.record for change in own]
            )
            for record, change in zip(records, own, strict=True):
                whole.add(record, change.after)
            fold(self._writer, whole, journal_id, self._overlay)
            self._hide(own)
        return folded

    def _fold_some(self, journal_id: int, changes: list[Change], inflow_bytes: int, but: set[int]) -> list[Pending]:
        """Fold a share with this commit while the overlay is over its budget: more than comes in."""
        overlay = self._overlay
        size = max(
            overlay.cost_bytes / self._overlay_bytes_max,
            len(overlay.streams) / OVERLAY_STREAMS_MAX,
            # What is deleted, or went straight to the tables, leaves the overlay before it leaves the journal.
            self._journal.size_bytes / (2 * self._overlay_bytes_max),
        )
        self._over_budget = size > (0.5 if self._over_budget else 1.0)
        if not self._over_budget:
            return self._fold(overlay.grown(but)) if journal_id % _COMMITS_PER_CHORE else self._tidy(but)
        cost_bytes = max(_FOLD_BYTES_PER_COMMIT, 2 * inflow_bytes)
        grown = {change.record.number for change in changes}
        streams = max(_FOLD_STREAMS_PER_COMMIT, 5 * len(grown) // 4)
        return self._fold(choose(overlay, cost_bytes=cost_bytes, streams=streams, young_ms=None, but=but))

    def _tidy(self, but: set[int]) -> list[Pending]:
        """What would never be done if it waited for an idle moment: return the space of deleted streams, and let go of
        old journal rows, which one quiet stream is enough to hold.
        """
        chosen = self._overlay.deleted(_FOLD_STREAMS_PER_COMMIT, but)
        if not chosen:
            self._trash = self._trash and (empty_trash(self._writer) or return_space(self._writer, idle=False))
            cost_bytes, streams = _FOLD_BYTES_PER_COMMIT, _FOLD_STREAMS_PER_CHORE
            chosen = choose(self._overlay, cost_bytes=cost_bytes, streams=streams, young_ms=_young_ms(), but=but)
        return self._fold(chosen)

    def _fold(self, chosen: list[Pending]) -> list[Pending]:
        for pending in chosen:
            fold(self._writer, pending, self._journal_id, self._overlay)
        return chosen

    async def maintain(self) -> bool:
        """Fold what has lain for a while, and delete some of what was deleted."""
        if self._failure is not None:
            return False
        return await self._housekeep(
            streams=_FOLD_STREAMS_PER_COMMIT, cost_bytes=_FOLD_BYTES_PER_COMMIT, young_ms=_young_ms()
        )

    async def _housekeep(self, *, streams: int, cost_bytes: int, young_ms: tuple[int, int] | None = None) -> bool:
        chosen = self._overlay.deleted(streams, ()) or choose(
            self._overlay, cost_bytes=cost_bytes, streams=streams, young_ms=young_ms, but=()
        )
        todo = chosen or self._trash or self._untrimmed or self._staging.has_discarded
        # This is what the reserve is for: it frees space, in small steps.
        if not todo or not self._space.allows_housekeeping:
            self._checkpointer.start_if_needed()
            return False
        with self._writing():
            self._begin()
            self._fold(chosen)
            if not chosen:
                self._trash = empty_trash(self._writer) or return_space(self._writer, idle=True)
            await self._finish(chosen, self._journal_id, self._last_number)
        self._drop(chosen)
        await self._checkpointer.after_commit(self._log_pages)
        return True

    async def _finish(self, folded: list[Pending], journal_id: int, last_number: int) -> None:
        """End the transaction under way, durably.

        The newest journal row always stays: it says which id was used last.
        """
        if last_number > self._saved_number:
            self._writer.execute("UPDATE meta SET value = ? WHERE key = 'last_number'", (last_number,))
            self._saved_number = last_number
        if folded or self._untrimmed:
            first_id = self._overlay.first_id({pending.number for pending in folded}, journal_id)
            self._untrimmed = trim_journal(self._writer, first_id)
            self._journal.begins_at(first_id)
        await self._committer.run(self._end)

    def _end(self) -> None:
        begun_s = time.perf_counter()
        self._writer.execute("COMMIT")
        self._counts.sync_seconds.observe(time.perf_counter() - begun_s)

    def _drop(self, folded: list[Pending]) -> None:
        for pending in folded:
            state = self._overlay.state(pending.path)
            self._trash |= pending.state is None or bool(pending.released)
            if not self._overlay.drop(pending):
                continue
            if state is None:
                self._states.pop(pending.path, None)
            else:
                self._remember(pending.path, state)

    def _on_commit(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def metrics(self) -> Sequence[Metric]:
        return collect(
            self._counts, self.directory, self._overlay, self._journal, self._space, self._checkpointer.left_bytes
        )

    # --- errors ------------------------------------------------------------------------------------------------------

    def _writing(self) -> _FailOn:
        return _FailOn(self, writing=True)

    def _reading(self) -> _FailOn:
        return _FailOn(self, writing=False)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            full = isinstance(error, apsw.FullError) or getattr(error, "errno", None) == errno.ENOSPC
            kind = StorageFull if full else StoreReadOnly
            self._failure = kind(f"an I/O error made the store read-only until the server is restarted: {error}")


def _close(db: apsw.Connection) -> None:
    try:
        db.close()
    except apsw.Error as error:
        _log.warning("the database did not close cleanly, which loses nothing: %s", error)


def _young_ms() -> tuple[int, int]:
    now_ms = time.time_ns() // 1_000_000
    return now_ms - _FOLD_AGE_MS, now_ms


def _due_by_kind(overlay: Overlay) -> dict[DueKind, list[Due]]:
    """The unfolded streams that have a lifetime, in order."""
    found: dict[DueKind, list[Due]] = {"ttl_s": [], "expires_at_ms": []}
    for pending in overlay.oldest():
        if (state := pending.state) is not None and not state.gone:
            if (ttl_s := state.lifetime.ttl_s) is not None:
                found["ttl_s"].append(Due(ttl_s, state.number, state.path))
            if (expires_at_ms := state.lifetime.expires_at_ms) is not None:
                found["expires_at_ms"].append(Due(expires_at_ms, state.number, state.path))
    return {kind: sorted(due) for kind, due in found.items()}


def _frees(changes: list[Change]) -> bool:
    """Whether all that is to be written brings no bytes and no streams, and makes some go."""
    return all(isinstance(change.record, Deletion | Reference) for change in changes)


def _with_large_body(changes: list[Change]) -> set[int]:
    """Streams to fold with this very commit: they got a large body, and nothing but bytes.

    Not one that takes the path of another here, nor one that is deleted or whose fork is released: those records bear
    on other streams, whose own are still in the journal, and are replayed together with them.
    """
    numbers_at: dict[str, set[int]] = {}
    large: dict[int, str] = {}
    others: set[int] = set()
    for change in changes:
        path, record = change.path, change.record
        numbers_at.setdefault(path, set()).add(record.number)
        if not isinstance(record, Addition | Creation):
            others.add(record.number)
        elif len(record.data) >= LARGE_BYTES:
            large[record.number] = path
    return {number for number, path in large.items() if number not in others and len(numbers_at[path]) == 1}


class _FailOn:
    """Turns SQLite's errors into ours. After one that says the storage cannot be trusted, nothing is written."""

    def __init__(self, store: SqliteStore, *, writing: bool) -> None:
        self._store = store
        self._writing = writing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if self._writing:
            self._store._fail(error)
            raise OutcomeUnknown(f"the commit failed: {error}") from error
        if isinstance(error, apsw.Error):
            self._store._fail(error)
            raise StoreError(f"reading failed: {error}") from error
