"""Group commit: what arrives while a commit is in flight forms the next batch, all streams together.

One task does all writing. A submitted command costs a callback, not a task. A batch is decided in order inside one
store transaction; only when that is durable are followers woken and writers told. A failed commit fails its whole batch
as "outcome unknown", and from then on the store refuses to write: nothing is retried, nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from unbroken.engine.clock import Clock
from unbroken.engine.expiry import Expiry
from unbroken.engine.upload import Queued, Tell, Upload, is_large, tell_nobody
from unbroken.engine.usage import Usage
from unbroken.errors import Draining, OutcomeUnknown, Overloaded, StorageFull, StoreError, Unavailable, UnbrokenError
from unbroken.measures import SECONDS, SIZES, Histogram, Metric
from unbroken.protocol.commands import Append, Appended, Command, Create, Outcome, Reclaim, Release
from unbroken.protocol.lifetime import Instant
from unbroken.protocol.stream import Decision, Deletion, Record, Reference, Situation, decide
from unbroken.store.base import Change, Store, Transaction

_log = logging.getLogger("unbroken.engine")

__all__ = ["BATCH_BYTES_MAX", "QUEUE_MAX", "CommitMeasures", "Committer", "NotDecided"]

NotDecided = Unavailable | StoreError
"""The outcomes that are no decision: something is wrong with the server."""

BATCH_BYTES_MAX = 2 * 1024 * 1024
BATCH_COMMANDS_MAX = 512
QUEUE_MAX = 65_536
# Looked at for every command; to ask for their union takes three times as long.
_BRINGING = (Append, Create)
_IDLE_MAINTENANCE_S = 0.5
_CATCH_UP_S = 0.005
_PIECE_BYTES_PER_S_BEHIND = 10 * 1024 * 1024
_COMPANY_S = 0.1
"""For how long after somebody's write others are expected."""


class CommitMeasures:
    """What is counted of commits.

    Attributes:
        commit_seconds: how long each took, from deciding to durable.
        batch_writes: how many writes were in each.
    """

    def __init__(self) -> None:
        self.commit_seconds = Histogram(SECONDS)
        self.batch_writes = Histogram(SIZES)


class Committer:
    """The one writer.

    Args:
        store: where to.
        clock: decides "now".
        expiry: tells which streams' lifetimes are over.
        publish: called with the changes of a batch once they are durable.
        usage: knows what would be too much.
        measures: counts commits.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        expiry: Expiry,
        publish: Callable[[list[Change]], None],
        usage: Usage,
        measures: CommitMeasures,
    ) -> None:
        self._store = store
        self._clock = clock
        self._expiry = expiry
        self._publish = publish
        self._usage = usage
        self._measures = measures
        self._queue: deque[Queued] = deque()
        self._upload: Upload | None = None
        self._abandoned: list[int] = []
        self._next_piece_s = 0.0
        self._company_s = float("-inf")
        self._committing = False
        self._giving_way: deque[asyncio.Future[None]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="unbroken-committer")

    async def stop(self) -> None:
        """Finish what is queued, then end."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def metrics(self) -> Iterator[Metric]:
        """What it tells of itself."""
        yield Metric("queued_writes", "gauge", "Writes that wait to be decided.", self.queued)
        text = "Time of a commit, from deciding its writes to durable."
        yield Metric("commit_seconds", "histogram", text, self._measures.commit_seconds)
        yield Metric("batch_writes", "histogram", "Writes in one commit.", self._measures.batch_writes)

    @property
    def queued(self) -> int:
        """How many writes wait to be decided."""
        return len(self._queue) + (0 if self._upload is None else len(self._upload.held))

    def submit(self, command: Command, tell: Tell) -> None:
        """Queue a command.

        Args:
            command: what to decide.
            tell: called later, once, with what the client is told: when that is durable, or when it turned out that
                the server could not decide it (`NotDecided`).

        Raises:
            Draining, Overloaded, StoreReadOnly, StorageFull: not even queued.
        """
        if self._store.failure is not None:
            raise self._store.failure
        if self._closing:
            raise Draining
        if self._store.full and isinstance(command, _BRINGING):
            raise StorageFull("the disk is almost full; nothing was written")
        if self.queued >= QUEUE_MAX:
            raise Overloaded("too many writes are waiting")
        self._queue.append(Queued(command, tell))
        self._wake.set()

    async def _run(self) -> None:
        busy = False
        while True:
            self._let_pass(every=not self._queue)
            if not (self._queue or self._upload or self._abandoned or self._closing):
                # Housekeeping waits for a quiet moment, unless the last step left some to do.
                busy = await self._idle(0.0 if busy else _IDLE_MAINTENANCE_S)
            elif not self._queue and self._upload and self._is_early(self._upload):
                await self._wait(_CATCH_UP_S)
            elif self._queue or self._upload or self._abandoned:
                self._wake.clear()
                self._committing = True
                await self._commit(self._take())
                self._committing = False
            else:
                return

    async def give_way(self) -> None:
        """Let those go first whose writes are being committed, if there are any; see `Engine.give_way`."""
        if self._committing and self._in_company():
            waiter = asyncio.get_running_loop().create_future()
            self._giving_way.append(waiter)
            await waiter

    def _let_pass(self, *, every: bool) -> None:
        """Let go on who gave way: the first with each commit, all when none is to follow."""
        while self._giving_way:
            waiter = self._giving_way.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not every:
                    return

    def _in_company(self) -> bool:
        """Whether there were small writes lately."""
        return asyncio.get_running_loop().time() - self._company_s < _COMPANY_S

    async def _wait(self, delay_s: float) -> None:
        """Wait for a command, or the end."""
        self._wake.clear()
        # A third of the cost of asyncio.timeout, and this runs between any two appends of a single client.
        timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _idle(self, delay_s: float) -> bool:
        await self._wait(delay_s)
        if self._queue or self._closing:
            return False
        if self._store.failure is not None:
            return False
        try:
            return await self._store.maintain()
        except Exception:
            # The one writer must outlive whatever goes wrong in the background.
            _log.exception("housekeeping failed")
            return False

    def _take(self) -> list[Queued]:
        batch: list[Queued] = []
        size_bytes = 0
        if self._upload is not None and self._upload.ready:
            return batch  # its record comes alone
        while self._queue and size_bytes < BATCH_BYTES_MAX and len(batch) < BATCH_COMMANDS_MAX:
            queued = self._queue.popleft()
            if self._upload is not None and self._upload.holds(queued):
                continue
            if is_large(queued.command):
                if batch:
                    # Its pieces lie at the tail that is there before this batch, which may be about to move.
                    self._queue.appendleft(queued)
                    break
                self._upload = Upload(queued)
                continue
            batch.append(queued)
            if isinstance(queued.command, _BRINGING):
                size_bytes += len(queued.command.content.data)
        return batch

    async def _commit(self, batch: list[Queued]) -> None:
        changes: list[Change] = []
        outcomes: list[Outcome] = []
        upload = self._upload
        if batch:
            self._company_s = asyncio.get_running_loop().time()
        self._usage.mark()
        begun_s = time.perf_counter()
        try:
            if self._store.failure is not None:
                raise self._store.failure
            now = self._clock.now()  # a batch is decided at one moment
            async with self._store.transaction(_paths(batch, upload)) as transaction:
                for number in self._abandoned:
                    transaction.unstage(number)
                if upload is not None and (completed := self._go_on(upload, transaction, now)) is not None:
                    batch.append(completed)
                    now = upload.moment(now)
                outcomes.extend(self._carry_out(queued, transaction, now, changes) for queued in batch)
            self._abandoned.clear()
        except Exception as error:
            self._usage.roll_back()
            self._fail(batch, upload, error)
            return
        if batch or upload is not None:
            self._measures.commit_seconds.observe(time.perf_counter() - begun_s)
            self._measures.batch_writes.observe(len(batch))
        if upload is not None and upload is not self._upload and upload.number not in _numbers(changes):
            self._abandoned.append(upload.number)  # refused in the end
        try:
            self._publish(changes)
        except Exception:
            # It is durable all the same, and its writers are waiting.
            _log.exception("followers could not be told")
        self._answer(batch, outcomes)

    def _carry_out(self, queued: Queued, transaction: Transaction, now: Instant, changes: list[Change]) -> Outcome:
        decision = self._decide(queued.command, transaction, now, queued.number)
        if not decision.records:
            self._renew_unchanged(queued.command, decision.outcome, transaction)
        for record in decision.records:
            change = transaction.write(_path_of(queued.command, record), record)
            self._usage.count(change)
            changes.append(change)
        return decision.outcome

    def _renew_unchanged(self, command: Command, outcome: Outcome, transaction: Transaction) -> None:
        """Nothing is to be written, but a writer was here."""
        if isinstance(outcome, Appended) and (state := transaction.state(command.path)) is not None:
            self._expiry.renew(state)

    def _answer(self, batch: Iterable[Queued], outcomes: Iterable[Outcome]) -> None:
        for queued, outcome in zip(batch, outcomes, strict=False):
            try:
                queued.tell(outcome)
            except Exception:
                # The others are waiting.
                _log.exception("a writer could not be told")

    def _fail(self, batch: list[Queued], upload: Upload | None, error: Exception) -> None:
        no_room = isinstance(error, StorageFull) and self._store.failure is None
        if upload is not None:
            self._abandoned.append(upload.number)
        if upload is not None and upload is self._upload:
            self._let_go(upload)
            if no_room:
                # Nothing was written, and without the large body there may be room for the others.
                self._queue.extendleft(reversed(batch))
                batch = []
            batch.append(upload.queued)
        elif no_room:
            batch = self._put_back_deletes(batch)
        if self._store.failure is not None:
            self._abandoned.clear()  # the next start discards them
        failure = error if isinstance(error, UnbrokenError) else OutcomeUnknown(f"the commit failed: {error}")
        self._answer(batch, itertools.repeat(failure))

    def _put_back_deletes(self, batch: list[Queued]) -> list[Queued]:
        """Without those that bring something there may be room for those that free some.

        Returns:
            What failed for good.
        """
        bringing = [queued for queued in batch if isinstance(queued.command, _BRINGING)]
        if not bringing:
            return batch
        self._queue.extendleft(queued for queued in reversed(batch) if not isinstance(queued.command, _BRINGING))
        return bringing

    def _go_on(self, upload: Upload, transaction: Transaction, now: Instant) -> Queued | None:
        """Write the next piece of a large body, or prepare those that are written for its record.

        Args:
            upload: the body.
            transaction: the one under way.
            now: its time.

        Returns:
            Its command, to be decided like any other, if there is nothing to do (any more); or another one that has to
            come first, where something has expired at its path.
        """
        command = upload.queued.command
        if not upload.begun:
            records = self._decide(command, transaction, now).records
            if records and isinstance(expired := records[0], Deletion):
                return Queued(Reclaim(command.path, expired.number), tell_nobody)
            upload.begin(records, transaction)
        state = transaction.state(command.path)
        fits = upload.fits(state)
        if fits and not upload.ready:
            if upload.written:
                upload.date_pieces(transaction, now.wall_ms)
            elif not self._is_early(upload):
                size_bytes = upload.write_piece(transaction, now.wall_ms, alone=not self._in_company())
                self._next_piece_s = asyncio.get_running_loop().time() + size_bytes / _PIECE_BYTES_PER_S_BEHIND
                if state is not None:
                    self._expiry.renew(state)
            return None
        self._let_go(upload)
        if fits:
            return upload.complete()
        transaction.unstage(upload.number)
        return upload.queued

    def _is_early(self, upload: Upload) -> bool:
        """Whether the next piece of a large body had better wait: the store is behind, and there was one lately."""
        now_s = asyncio.get_running_loop().time()
        return not upload.written and self._store.behind and now_s < self._next_piece_s

    def _let_go(self, upload: Upload) -> None:
        """What waited for a large body goes on."""
        self._queue.extendleft(reversed(upload.held))
        self._upload = None

    def _decide(self, command: Command, transaction: Transaction, now: Instant, number: int | None = None) -> Decision:
        """What the rules say, and the limits; with the number of a stream that is to be created, if that is fixed."""
        decision = self._judge(command, transaction, now, number)
        too_much = self._usage.refusal(command.path, decision.records, transaction)
        return decision if too_much is None else Decision(too_much)

    def _judge(self, command: Command, transaction: Transaction, now: Instant, number: int | None) -> Decision:
        target = self._expiry.view(transaction.state(command.path), now)
        if isinstance(command, Append):
            stamp, state = command.producer, target.state
            producer = None if stamp is None or state is None else transaction.producer(state.number, stamp.id)
            decision = decide(command, Situation(now, target, producer=producer))
            if stamp is not None and producer is None and state is not None and decision.records:
                too_many = self._usage.refusal_of_producer(state.number, transaction)
                return decision if too_many is None else Decision(too_many)
            return decision
        if isinstance(command, Create):
            situation = Situation(now, target, next_number=number or transaction.next_number())
            if command.fork is not None:
                source = self._expiry.view(transaction.state(command.fork.source_path), now)
                situation = replace(situation, source=source)
            return decide(command, situation)
        held = isinstance(command, Release) and transaction.is_held(command.fork)
        return decide(command, Situation(now, target, held=held))


def _paths(batch: list[Queued], upload: Upload | None) -> list[str]:
    paths = {queued.command.path for queued in batch}
    if upload is not None:
        paths.add(upload.queued.command.path)
    for queued in batch:
        if isinstance(queued.command, Create) and queued.command.fork is not None:
            paths.add(queued.command.fork.source_path)
    return list(paths)


def _numbers(changes: list[Change]) -> set[int]:
    return {change.record.number for change in changes}


def _path_of(command: Command, record: Record) -> str:
    """A fork's creation also writes to its source; everything else stays at the command's path."""
    if isinstance(command, Create) and command.fork is not None and isinstance(record, Reference):
        return command.fork.source_path
    return command.path
