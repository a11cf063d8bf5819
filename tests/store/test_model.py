"""The SQLite store against the memory store: whatever is done to both, and however the former is treated in between,
they hold the same.

Commands are drawn in outline and filled in when they are carried out, so that they mostly make sense: forks branch off
where their source has bytes, producers send what is expected of them, or nearly.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store.conftest import room
from tests.store.looking import contents
from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, full_disk, miniature
from unbroken.protocol.commands import Append, Command, Create, Delete, ForkRequest, Reclaim, Release
from unbroken.protocol.content import DEFAULT_CONTENT_TYPE, SEPARATOR, Content
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Transaction
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing.faults import FaultyDisk
from unbroken.testing.store_bench import NOW, settle, write

PATHS = ("/a", "/b", "/b/c", "/d/c", "/d/é/f")
BELOW = (Prefixes("/*"), Prefixes("/*/c"), Prefixes("/d/*"))
PRODUCERS = ("p", "q")


class Outline(NamedTuple):
    """A command before it meets a store.

    Args:
        kind: what to do.
        path: where; or the next path where it makes sense, unless ``literal``.
        other: the fork's source, or the number of a hold.
        size_bytes: of the body.
        json: make it a stream of messages.
        close: close with it, or create closed.
        lifetime: of a new stream.
        fraction: where a fork branches off, of its source's length.
        producer: who sends it, and how far epoch and sequence are from what is expected.
        stream_seq: a Stream-Seq.
        literal: do it even where it makes no sense.
    """

    kind: str
    path: str
    other: int = 0
    size_bytes: int = 0
    json: bool = False
    close: bool = False
    lifetime: Lifetime | None = None
    fraction: float = 1.0
    producer: tuple[str, int, int] | None = None
    stream_seq: str | None = None
    literal: bool = False


paths = st.sampled_from(PATHS)
sizes = st.one_of(st.integers(0, 12), st.just(50), st.sampled_from([LARGE_BYTES, 2 * LARGE_BYTES + 7]))
rarely = st.integers(0, 9).map(lambda chance: chance == 0)
lifetimes = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 60]).map(lambda ttl_s: Lifetime(ttl_s=ttl_s)),
    st.sampled_from([-1, 500, 10**9]).map(lambda left_ms: Lifetime(expires_at_ms=NOW.wall_ms + left_ms)),
)
producers = st.none() | st.tuples(
    st.sampled_from(PRODUCERS), st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([0, 0, 0, -1, 1])
)


def outlined(kind: str, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Outline]:
    drawn = st.fixed_dictionaries({"kind": st.just(kind), "path": paths, "literal": rarely, **parts})
    return drawn.map(lambda values: Outline(**values))


creations = outlined("create", size_bytes=sizes, json=rarely, close=rarely, lifetime=st.none() | lifetimes)
appends = outlined(
    "append", size_bytes=sizes, close=rarely, producer=producers, stream_seq=st.none() | st.sampled_from("12345")
)
forks = outlined(
    "fork", other=st.integers(0, len(PATHS) - 1), size_bytes=sizes, fraction=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])
)
deletions = outlined("delete")
releases = outlined("release", other=st.integers(0, 3), size_bytes=sizes)
outlines = st.one_of(
    creations, appends, appends, forks, forks, deletions, deletions, releases, releases, outlined("reclaim")
)


transactions = st.lists(outlines, min_size=1, max_size=5)


def root() -> str | None:
    memory = room()
    return None if memory is None else str(memory)


class StoreMachine(RuleBasedStateMachine):
    """Drives both stores."""

    def __init__(self) -> None:
        super().__init__()
        self.exits = ExitStack()
        self.runner = self.exits.enter_context(asyncio.Runner())
        self.root = Path(self.exits.enter_context(tempfile.TemporaryDirectory(dir=root(), prefix="unbroken-model-")))
        self.exits.enter_context(miniature())
        self.disk = self.exits.enter_context(FaultyDisk())
        self.model = MemoryStore()
        self.now = NOW
        self.renewed_ms = NOW.monotonic_ms
        self.lives = 0
        self.bodies = 0
        self.subject: SqliteStore | None = None

    @property
    def store(self) -> SqliteStore:
        assert self.subject is not None
        return self.subject

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @initialize(overlay_bytes=st.sampled_from([1, 400, OVERLAY_BYTES_MAX, 10**9]))
    def begin(self, overlay_bytes: int) -> None:
        self.overlay_bytes = overlay_bytes
        self.start(self.root / "0")

    def start(self, directory: Path) -> None:
        self.subject = SqliteStore(directory, overlay_bytes_max=self.overlay_bytes, vfs=self.disk.name)
        self.run(self.subject.open())

    def teardown(self) -> None:
        try:
            if self.subject is not None:
                self.run(self.subject.close())
                assert check(self.subject.directory) == []
        finally:
            self.exits.close()

    # --- what is done ----------------------------------------------------------------------------------------------

    @rule(drawn=transactions, ask=st.booleans(), give_up=rarely)
    def transact(self, drawn: list[Outline], give_up: bool, ask: bool = True) -> None:
        """Some commands in one transaction, which may be asked for what it sees, and given up at its end."""

        async def both() -> None:
            async with self.model.transaction(PATHS) as expected, self.store.transaction(PATHS) as found:
                for outline in drawn:
                    for command in self.fill_in(outline, expected):
                        note(repr(command)[:300])
                        told = write(expected, command, self.now, self.renewed_ms)
                        assert repr(write(found, command, self.now, self.renewed_ms)) == repr(told)
                if ask:
                    for state in filter(None, map(expected.state, PATHS)):
                        assert found.producers(state.number) == expected.producers(state.number)
                if give_up:
                    raise ZeroDivisionError

        try:
            self.run(both())
        except ZeroDivisionError:
            assert give_up

    @rule(drawn=transactions)
    def transact_too(self, drawn: list[Outline]) -> None:
        """As likely as everything else together."""
        self.transact(drawn, give_up=False)

    @rule(passed_ms=st.sampled_from([0, 1, 700, 2000, 100_000]), renew=st.booleans(), drawn=transactions)
    def transact_later(self, passed_ms: int, renew: bool, drawn: list[Outline]) -> None:
        self.now = Instant(self.now.wall_ms + passed_ms, self.now.monotonic_ms + passed_ms)
        if renew:
            self.renewed_ms = self.now.monotonic_ms
        self.transact(drawn, give_up=False)

    @rule(steps=st.sampled_from([1, 2, 3, None]))
    def keep_house(self, steps: int | None) -> None:
        if steps is None:
            self.run(settle(self.store))
        for _ in range(steps or 0):
            self.run(self.store.maintain())

    @rule(crash=st.booleans(), seed=st.none() | st.integers(0, 2**16), full=rarely)
    def restart(self, crash: bool, seed: int | None, full: bool) -> None:
        """In an orderly way; or the process is killed; or, with a seed, the power is cut. The disk may be full at the
        start, so that nothing can be folded then.
        """
        before = self.store
        if crash:
            self.lives += 1
            directory = self.root / str(self.lives)
            self.disk.leave(before.directory, directory, chance=None if seed is None else Random(seed))
            assert check(directory) == []
        self.run(before.close())
        assert check(before.directory) == []
        if crash:
            shutil.rmtree(before.directory)
        with full_disk() if full else nullcontext():
            self.start(directory if crash else before.directory)

    @rule(drawn=transactions)
    def count(self, drawn: list[Outline]) -> None:
        """How much there is at one moment, whatever happens before it is known."""

        async def counted() -> None:
            expected, found = self.model.totals(BELOW), self.store.totals(BELOW)
            await self.store.maintain()
            assert await found == await expected

        self.run(counted())
        self.transact(drawn, give_up=False)

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def both_hold_the_same(self) -> None:
        if self.subject is not None:
            assert self.subject.failure is None
            expected = self.run(contents(self.model, PATHS, PRODUCERS))
            assert self.run(contents(self.subject, PATHS, PRODUCERS)) == expected

    # --- filling in ------------------------------------------------------------------------------------------------

    def fill_in(self, outline: Outline, transaction: Transaction) -> list[Command]:
        wants_nothing = outline.kind in ("create", "fork")
        path = outline.path if outline.literal else self.path(outline.path, transaction, taken=not wants_nothing)
        outline = outline._replace(path=path)
        state = transaction.state(path)
        match outline.kind:
            case "create":
                content_type = "application/json" if outline.json else DEFAULT_CONTENT_TYPE
                content = self.content(outline.size_bytes, json=outline.json)
                return [Create(path, content_type, outline.lifetime, outline.close, content)]
            case "append":
                return [self.filled_append(outline, state, transaction)]
            case "fork":
                source_path = PATHS[outline.other]
                if not outline.literal:
                    source_path = self.path(source_path, transaction, taken=True)
                return [self.filled_fork(outline, source_path, transaction.state(source_path))]
            case "delete":
                return [Delete(path)]
            case "release" if holds := sorted(self.model.holds(100)):
                hold = holds[outline.other % len(holds)]
                release = Release(hold.source_path, hold.source_number, hold.fork)
                source = transaction.state(hold.source_path)
                beside = self.filled_append(outline._replace(path=hold.source_path), source, transaction)
                return [release, beside] if outline.size_bytes else [release]
        return [Reclaim(path, 0 if state is None else state.number)]

    def path(self, first: str, transaction: Transaction, *, taken: bool) -> str:
        """The first path, from one on, where there is a stream, or none."""
        start = PATHS.index(first)
        for path in (*PATHS[start:], *PATHS[:start]):
            state = transaction.state(path)
            if (state is not None and not state.gone) == taken and (taken or state is None):
                return path
        return first

    def filled_append(self, outline: Outline, state: StreamState | None, transaction: Transaction) -> Append:
        json = state is not None and state.json
        content_type = "application/json" if json else DEFAULT_CONTENT_TYPE
        stamp = None
        if outline.producer is not None:
            name, epoch_off, seq_off = outline.producer
            known = None if state is None else transaction.producer(state.number, name)
            epoch, seq = (0, 0) if known is None else (known.epoch, known.seq + 1)
            stamp = ProducerStamp(name, max(0, epoch + epoch_off), max(0, 0 if epoch_off == 1 else seq + seq_off))
        content = self.content(outline.size_bytes, json=json)
        return Append(outline.path, content_type, content, outline.close, outline.stream_seq, stamp)

    def filled_fork(self, outline: Outline, source_path: str, source: StreamState | None) -> Create:
        content = self.content(outline.size_bytes, json=source is not None and source.json)
        if source is None:
            return Create(outline.path, None, outline.lifetime, False, content, ForkRequest(source_path))
        point = self.boundary(source, int(source.tail * outline.fraction))
        request = ForkRequest(source_path, point, 0, source.number, point)
        return Create(outline.path, None, outline.lifetime, False, content, request)

    def boundary(self, source: StreamState, point: int) -> int:
        """A position at or before a point where a fork may begin."""
        known = self.model.state(source.path)
        if not source.json or point in (0, source.tail):
            return point
        if known is None or known.number != source.number:
            return 0  # its bytes came with this very transaction
        data = b"".join(self.model.read_cached(number, start, end) for number, start, end in owners(known))
        return data.rfind(SEPARATOR, 0, point) + 1

    def content(self, size_bytes: int, *, json: bool) -> Content:
        """A body like no other."""
        self.bodies += 1
        body = b"%d," % self.bodies * (size_bytes // 2 + 1)
        if not json:
            return Content(body[:size_bytes])
        messages = [b'"%b"' % body[:size_bytes], b"%d" % self.bodies][: 1 + size_bytes % 2]
        return Content(b"".join(message + SEPARATOR for message in messages) if size_bytes else b"", json=True)


def owners(state: StreamState) -> Iterator[tuple[int, int, int]]:
    """Whose own bytes make up a stream: (number, start, end)."""
    start = 0
    for number, end in (*state.lineage, (state.number, state.tail)):
        yield number, start, end
        start = end


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class TestModel(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = profile(90, 30)


@pytest.mark.full
@pytest.mark.timeout(3600)
class TestModelInFull(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = profile(2500, 50)
