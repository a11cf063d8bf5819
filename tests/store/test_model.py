"""The SQLite store against the memory store: whatever is done to both, and however the former is treated in between,
they hold the same.

Commands are drawn in outline and filled in when they are carried out, so that they mostly make sense: forks branch off
where their source has bytes, producers send what is expected of them, or nearly.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store.conftest import room
from tests.store.looking import contents
from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from unbroken.protocol.commands import Append, Command, Create, Delete, ForkRequest, Reclaim, Release
from unbroken.protocol.content import DEFAULT_CONTENT_TYPE, SEPARATOR, Content
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Transaction
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing.faults import FaultyDisk
from unbroken.testing.store_suite import NOW, settle, write

PATHS = ("/a", "/b", "/c", "/d", "/e")
PRODUCERS = ("p", "q")


class Outline(NamedTuple):
    """A command before it meets a store.

    Args:
        kind: what to do.
        path: where.
        other: the fork's source, or the number of a hold.
        size_bytes: of the body.
        json: make it a stream of messages.
        close: close with it, or create closed.
        lifetime: of a new stream.
        fraction: where a fork branches off, of its source's length.
        producer: who sends it, and how far epoch and sequence are from what is expected.
        stream_seq: a Stream-Seq.
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
outlines = st.one_of(
    st.builds(
        Outline, st.just("create"), paths, size_bytes=sizes, json=st.booleans(), close=rarely, lifetime=lifetimes
    ),
    st.builds(
        Outline,
        st.just("append"),
        paths,
        size_bytes=sizes,
        close=rarely,
        producer=producers,
        stream_seq=st.none() | st.sampled_from("12345"),
    ),
    st.builds(Outline, st.just("append"), paths, size_bytes=sizes),
    st.builds(
        Outline,
        st.just("fork"),
        paths,
        st.integers(0, len(PATHS) - 1),
        size_bytes=sizes,
        fraction=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0, 1.0]),
        lifetime=lifetimes,
    ),
    st.builds(Outline, st.sampled_from(["delete", "delete", "reclaim"]), paths),
    st.builds(Outline, st.just("release"), paths, st.integers(0, 3)),
)


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

    @rule(drawn=st.lists(outlines, min_size=1, max_size=5), give_up=rarely)
    def transact(self, drawn: list[Outline], give_up: bool) -> None:
        """Some commands in one transaction, which may be given up at its end."""

        async def both() -> None:
            async with self.model.transaction(PATHS) as expected, self.store.transaction(PATHS) as found:
                for outline in drawn:
                    command = self.fill_in(outline, expected)
                    note(repr(command)[:300])
                    told = write(expected, command, self.now, self.renewed_ms)
                    assert repr(write(found, command, self.now, self.renewed_ms)) == repr(told)
                if give_up:
                    raise ZeroDivisionError

        try:
            self.run(both())
        except ZeroDivisionError:
            assert give_up

    @rule(steps=st.integers(1, 4))
    def keep_house(self, steps: int) -> None:
        for _ in range(steps):
            self.run(self.store.maintain())

    @rule()
    def keep_house_to_the_end(self) -> None:
        self.run(settle(self.store))

    @rule(passed_ms=st.sampled_from([1, 700, 2000, 100_000]), renew=st.booleans())
    def let_time_pass(self, passed_ms: int, renew: bool) -> None:
        self.now = Instant(self.now.wall_ms + passed_ms, self.now.monotonic_ms + passed_ms)
        if renew:
            self.renewed_ms = self.now.monotonic_ms

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        assert check(self.store.directory) == []
        self.start(self.store.directory)

    @rule(seed=st.none() | st.integers(0, 2**16))
    def crash(self, seed: int | None) -> None:
        """The process is killed, or with a seed the power is cut; the store goes on with what that leaves."""
        before = self.store
        self.lives += 1
        directory = self.root / str(self.lives)
        self.disk.leave(before.directory, directory, chance=None if seed is None else Random(seed))
        self.run(before.close())
        assert check(before.directory) == []
        assert check(directory) == []
        shutil.rmtree(before.directory)
        self.start(directory)

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def both_hold_the_same(self) -> None:
        if self.subject is not None:
            assert self.subject.failure is None
            expected = self.run(contents(self.model, PATHS, PRODUCERS))
            assert self.run(contents(self.subject, PATHS, PRODUCERS)) == expected

    # --- filling in ------------------------------------------------------------------------------------------------

    def fill_in(self, outline: Outline, transaction: Transaction) -> Command:
        state = transaction.state(outline.path)
        match outline.kind:
            case "create":
                content_type = "application/json" if outline.json else DEFAULT_CONTENT_TYPE
                content = self.content(outline.size_bytes, json=outline.json)
                return Create(outline.path, content_type, outline.lifetime, outline.close, content)
            case "append":
                return self.filled_append(outline, state, transaction)
            case "fork":
                return self.filled_fork(outline, transaction.state(PATHS[outline.other]))
            case "delete":
                return Delete(outline.path)
            case "reclaim":
                return Reclaim(outline.path, 0 if state is None else state.number)
        holds = sorted(self.model.holds(100))
        if outline.other < len(holds):
            hold = holds[outline.other]
            return Release(hold.source_path, hold.source_number, hold.fork)
        return Release(outline.path, 0 if state is None else state.number, 1)

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

    def filled_fork(self, outline: Outline, source: StreamState | None) -> Create:
        source_path = PATHS[outline.other]
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
        data, _ = self.run_now(contents(self.model, [source.path]))
        return data.rfind(SEPARATOR, 0, min(point, known.tail)) + 1

    def run_now(self, looking: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine that never waits returns; the memory store's do not."""
        try:
            looking.send(None)
        except StopIteration as done:
            ((state, data),) = done.value.streams.values()
            return data, state
        raise AssertionError("it waited")

    def content(self, size_bytes: int, *, json: bool) -> Content:
        """A body like no other."""
        self.bodies += 1
        body = b"%d," % self.bodies * (size_bytes // 2 + 1)
        if not json:
            return Content(body[:size_bytes])
        messages = [b'"%b"' % body[:size_bytes], b"%d" % self.bodies][: 1 + size_bytes % 2]
        return Content(b"".join(message + SEPARATOR for message in messages) if size_bytes else b"", json=True)


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class TestModel(StoreMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = profile(60, 25)


@pytest.mark.full
@pytest.mark.timeout(3600)
class TestModelInFull(StoreMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = profile(2500, 50)
