"""An engine at work with large bodies, small ones beside them and readers; and at every operation on its files the
power is cut, the process is killed, or the operation fails.

Each writer's bytes tell where they begin and end, and without a crash the same ones come in the same order each time.
So what is left of a stream must be the beginning of it, cut between two appends, and not before what a client was told
or a reader was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from tests.store.conftest import tmp_path
from tests.store.inline import run_inline
from tests.store.sizes import OVERLAY_BYTES_MAX, miniature
from unbroken.engine import Engine, commit, engine, upload
from unbroken.errors import OutcomeUnknown, StorageFull, StoreError, StoreReadOnly, UnbrokenError
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing import ManualClock
from unbroken.testing.faults import Fault, FaultyDisk, Operation
from unbroken.testing.medium import Medium
from unbroken.testing.store_bench import read_stream

__all__ = ["tmp_path"]

PATHS = ("/a", "/b")
CREATED_LARGE = "/c"
TURNS = 3

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with (
        miniature(),
        patch.multiple(upload, _LARGE_BYTES=300, _PIECE_BYTES=100, _PIECE_BYTES_BESIDE=50, _DATED_BYTES=150),
        patch.object(commit, "_IDLE_MAINTENANCE_S", 3600.0),
        patch.object(engine, "_SWEEP_INTERVAL_S", 3600.0),
    ):
        yield


class Work:
    """The work to be done, and how far people know it to be done.

    Attributes:
        known_bytes: how much of each stream somebody was told of, or given.
        ends: where appends ended, as told.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.engine = Engine(store, clock=ManualClock())
        self.known_bytes: dict[str, int] = defaultdict(int)
        self.given: dict[str, bytes] = defaultdict(bytes)
        self.ends: dict[str, set[int]] = defaultdict(lambda: {0})
        self.failures: list[BaseException] = []

    async def do(self) -> None:
        """All of it, to the first failure."""
        readers: list[asyncio.Task[None]] = []
        async with self.engine:
            with contextlib.suppress(UnbrokenError):
                for path in PATHS:
                    await self.engine.create(path)
                readers += [asyncio.create_task(self._read(path)) for path in PATHS]
                writers = [self._write("/a", 0), self._write("/b", 1), self._write("/a", 2)]
                await asyncio.gather(*writers, self._create_large())
                for path in PATHS:
                    await self._tell(path, (await self.engine.close(path)).next_offset.position)
                await asyncio.gather(*readers)
            await self._after_a_failure()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, *readers, return_exceptions=True)

    async def _write(self, path: str, writer: int) -> None:
        for turn in range(8):
            size_bytes = 700 if turn % 4 == 2 - writer else 9
            data = b"<%d-%d%s>" % (writer, turn, b"." * size_bytes)
            for _ in range(1 + turn % 2):  # now and then a client asks twice
                stamp = ProducerStamp(f"writer-{writer}", 0, turn)
                await self._tell(path, (await self.engine.append(path, data, producer=stamp)).next_offset.position)

    async def _create_large(self) -> None:
        data = b"<%s>" % (b"." * 700)
        self.given[CREATED_LARGE] = data
        await self.engine.create(CREATED_LARGE, data=data)
        await self._tell(CREATED_LARGE, len(data))

    async def _tell(self, path: str, end: int) -> None:
        self.known_bytes[path] = max(self.known_bytes[path], end)
        self.ends[path].add(end)

    async def _read(self, path: str) -> None:
        async for page in self.engine.follow(path):
            self.given[path] += page.data
            self.known_bytes[path] = max(self.known_bytes[path], len(self.given[path]))

    async def _after_a_failure(self) -> None:
        failure = self.engine.store.failure
        if failure is None:
            return
        self.failures.append(failure)
        assert isinstance(failure, StoreReadOnly | StorageFull)
        with pytest.raises((StoreReadOnly, StorageFull)):
            await self.engine.create("/late")
        for path, known_bytes in list(self.known_bytes.items()):  # a commit that was under way may still succeed
            data = await read_stream(self.engine.store, self.engine.head(path))
            assert len(data) >= known_bytes
            assert self.given[path].startswith(data) or data.startswith(self.given[path])


def make(directory: Path, disk: FaultyDisk | None = None) -> SqliteStore:
    return SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX, vfs=None if disk is None else disk.name)


async def found_in(directory: Path) -> dict[str, bytes]:
    """What a crash left, by path."""
    store = make(directory)
    await store.open()
    states = {path: state for path in (*PATHS, CREATED_LARGE) if (state := store.state(path)) is not None}
    found = {path: await read_stream(store, state) for path, state in states.items()}
    await store.close()
    assert check(directory) == []
    return found


@pytest.fixture
def whole(tmp_path: Path) -> Work:
    """All the work done, without a crash."""
    work = Work(make(tmp_path / "whole"))
    run_inline(work.do(), turns=TURNS)
    assert not work.failures
    assert {path: len(data) for path, data in work.given.items()} == work.known_bytes
    assert {path: len(ends) for path, ends in work.ends.items()} == {"/a": 17, "/b": 9, CREATED_LARGE: 2}
    work.ends[CREATED_LARGE].remove(0)  # it is never there without its bytes
    return work


def assert_possible(found: dict[str, bytes], known_bytes: dict[str, int], whole: Work) -> None:
    assert found.keys() >= known_bytes.keys()
    for path, data in found.items():
        assert whole.given[path].startswith(data)
        assert len(data) in whole.ends[path], "half an append"
        assert len(data) >= known_bytes.get(path, 0), "something is lost"


def test_crashes_at_every_operation(tmp_path: Path, whole: Work) -> None:
    moments: list[tuple[int, dict[str, int]]] = []
    with FaultyDisk() as disk:
        events = disk.events = []
        work = Work(make(tmp_path / "data", disk))

        def watch(operation: Operation) -> None:
            if operation.kind not in ("read", "open"):
                moments.append((len(events), dict(work.known_bytes)))

        disk.watch = watch
        run_inline(work.do(), turns=TURNS)
    assert work.given == whole.given
    medium, done = Medium(), 0
    for count, known_bytes in moments:
        for event in events[done:count]:
            medium.note(event)
        done = count
        chance, keep = (None, None) if count % 3 == 0 else (Random(count), 0.0 if count % 3 == 1 else None)
        left = tmp_path / "left"
        left.mkdir()
        for name, content in medium.left(tmp_path / "data", chance, keep).items():
            (left / name).write_bytes(content)
        try:
            assert_possible(run_inline(found_in(left)), known_bytes, whole)
        except Exception as error:
            error.add_note(f"after {count} events of {len(events)}; known: {known_bytes}")
            raise
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
    assert len(moments) > 300


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.full)])
def test_faults_at_every_operation(tmp_path: Path, whole: Work, stride: int) -> None:
    with FaultyDisk() as disk:
        run_inline(Work(make(tmp_path / "count", disk)).do(), turns=TURNS)
        operations = sum(disk.counts.values())
    noticed = 0
    for index, fault in zip(range(0, operations, stride), itertools.cycle(Fault), strict=False):
        directory = tmp_path / str(index)
        with FaultyDisk() as disk:
            disk.fail(fault, "open", "read", "write", "sync", "truncate", "delete", after=index)
            work = Work(make(directory, disk))
            try:
                with contextlib.suppress(StoreError, OutcomeUnknown):
                    run_inline(work.do(), turns=TURNS)
                noticed += bool(work.failures)
                assert_possible(run_inline(found_in(directory)), work.known_bytes, whole)
            except Exception as error:
                error.add_note(f"at operation {index} of {operations}: {fault}")
                raise
    assert noticed > 10


def test_a_start_that_fails_lets_go_of_the_store(tmp_path: Path) -> None:
    async def start_and_stop(engine: Engine) -> None:
        async with engine:
            pass

    with FaultyDisk() as disk:
        run_inline(start_and_stop(Engine(make(tmp_path, disk))), turns=TURNS)
        operations = sum(disk.counts.values())
    refused = 0
    for index in range(operations):
        with FaultyDisk() as disk:
            disk.fail(Fault.ERROR, "open", "read", after=index)
            try:
                run_inline(start_and_stop(Engine(make(tmp_path, disk))), turns=TURNS)
            except StoreError:
                refused += 1
        assert run_inline(found_in(tmp_path)) == {}
    assert refused > 3
