"""Disks that fail, processes that are killed, power that is cut: what was acknowledged stays, what was not is whole or
not there at all, and nobody ever saw it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.store.looking import Contents, contents
from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, full_disk, miniature
from tests.store.workload import Workload, look, workload
from unbroken.engine import Engine, commit
from unbroken.errors import OutcomeUnknown, StorageFull, StoreError, StoreReadOnly, UnbrokenError
from unbroken.protocol.commands import Delete
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing import ManualClock
from unbroken.testing.faults import Fault, FaultyDisk, Operation, OperationKind
from unbroken.testing.store_bench import append, create, execute, fork, read_stream, settle

FAILURES = {Fault.ERROR: StoreReadOnly, Fault.SHORT: StoreReadOnly, Fault.FULL: StorageFull}


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with FaultyDisk() as disk:
        yield disk


def make(directory: Path, disk: FaultyDisk | None = None, *, overlay_bytes: int = OVERLAY_BYTES_MAX) -> SqliteStore:
    return SqliteStore(directory, overlay_bytes_max=overlay_bytes, vfs=None if disk is None else disk.name)


@contextlib.asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def found_in(directory: Path) -> Contents:
    """What a store finds in a directory. It must be sound, before recovery and after it; and the same must be found if
    the disk is full, so that nothing can be folded.
    """
    assert check(directory) == []
    with full_disk():
        async with opened(make(directory)) as store:
            unfolded = await look(store)
    async with opened(make(directory)) as store:
        found = await look(store)
    assert check(directory) == []
    assert unfolded == found
    return found


# --- one fault ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"two", b"2" * LARGE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["sync", "write"])
@pytest.mark.parametrize("fault", Fault)
async def test_a_failed_commit_is_unknown_and_unseen(
    tmp_path: Path, disk: FaultyDisk, fault: Fault, kind: OperationKind, body: bytes
) -> None:
    store = make(tmp_path / "data", disk)
    async with opened(store):
        await execute(store, create("/a", b"one"))
        before = store.state("/a")
        assert before is not None
        disk.fail(fault, kind, file="log")
        with pytest.raises(OutcomeUnknown):
            await execute(store, append("/a", body), create("/b"))
        assert type(store.failure) is FAILURES[fault]
        assert store.state("/a") == before
        assert store.state("/b") is None
        assert await read_stream(store, before) == b"one"
        assert await store.read(before.number, 0, 99) == b"one"
        disk.leave(tmp_path / "data", tmp_path / "killed")
    for directory in (tmp_path / "data", tmp_path / "killed"):
        assert check(directory) == []
        async with opened(make(directory)) as again:
            state = again.state("/a")
            assert state is not None
            assert (again.state("/b") is not None) == (state.tail > 3)
            assert await read_stream(again, state) in (b"one", b"one" + body)


async def test_a_failed_fsync_is_fatal_and_never_retried(tmp_path: Path, disk: FaultyDisk) -> None:
    """After a failed fsync the kernel may drop what it could not write and report success the next time."""
    store = make(tmp_path / "data", disk)
    async with opened(store):
        await execute(store, create("/a", b"one"))
        disk.fail(Fault.ERROR, "sync", file="log")
        with pytest.raises(OutcomeUnknown):
            await execute(store, append("/a", b"two"))
        done = {kind: disk.counts[kind] for kind in ("write", "sync", "truncate")}
        for command in (append("/a", b"three"), create("/b")):
            with pytest.raises((StoreReadOnly, OutcomeUnknown)):
                await execute(store, command)
        assert not await store.maintain()
        assert {kind: disk.counts[kind] for kind in ("write", "sync", "truncate")} == done
        assert store.state("/b") is None


@pytest.mark.parametrize("fault", Fault)
async def test_a_first_start_whose_directory_cannot_be_synced_says_so(
    tmp_path: Path, disk: FaultyDisk, fault: Fault
) -> None:
    disk.fail(fault, "sync", file="directory")
    with pytest.raises(StoreError, match="on purpose"):
        await make(tmp_path / "data", disk).open()
    await assert_free(tmp_path / "data")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_failed_read_says_why(tmp_path: Path, disk: FaultyDisk) -> None:
    """And not what failed after it, in letting go."""
    async with opened(make(tmp_path / "data", disk)) as store:
        await execute(store, create("/a", b"x" * 100_000))
    for passes in range(8):
        async with opened(make(tmp_path / "data", disk)) as store:
            state = store.state("/a")
            assert state is not None
            disk.fail(Fault.ERROR, "read", file="database", after=passes, lasting=True)
            with contextlib.suppress(StoreError):
                await store.read(state.number, 0, state.tail)
            assert store.failure is None or "on purpose" in str(store.failure)
            assert passes > 2 or store.failure is not None
            disk.heal()


async def test_writes_are_refused_at_once_after_a_failure(tmp_path: Path, disk: FaultyDisk) -> None:
    """By the store too, not only by the engine: nothing is begun on a connection whose last commit failed."""
    async with opened(make(tmp_path / "data", disk)) as store:
        await execute(store, create("/a", b"one"))
        disk.fail(Fault.FULL, "write", file="log")
        with pytest.raises(OutcomeUnknown):
            await execute(store, append("/a", b"two"))
        disk.heal()
        with pytest.raises(StorageFull):
            await execute(store, append("/a", b"three"))


async def test_a_failed_commit_fails_its_whole_batch_and_all_that_follow(tmp_path: Path, disk: FaultyDisk) -> None:
    async with Engine(make(tmp_path / "data", disk)) as engine, asyncio.timeout(20):
        await engine.create("/a", data=b"one")
        disk.fail(Fault.ERROR, "sync", file="log")
        outcomes = await asyncio.gather(
            *(engine.append("/a", b"two") for _ in range(5)), engine.create("/b"), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
        with pytest.raises(StoreReadOnly):
            await engine.append("/a", b"three")
        assert (await engine.read("/a")).data == b"one"
    assert check(tmp_path / "data") == []


async def test_a_failed_checkpoint_loses_nothing(tmp_path: Path, disk: FaultyDisk) -> None:
    plan = await workload()
    async with opened(make(tmp_path / "data", disk)) as store:
        disk.fail(Fault.ERROR, "write", "sync", file="database")
        acknowledged = 0
        while store.failure is None and acknowledged < len(plan.transactions):
            await execute(store, *plan.transactions[acknowledged])
            acknowledged += 1
        assert isinstance(store.failure, StoreReadOnly)
        assert await look(store) == plan.expected[acknowledged]
        disk.leave(tmp_path / "data", tmp_path / "killed")
    assert await found_in(tmp_path / "data") == plan.expected[acknowledged]
    assert await found_in(tmp_path / "killed") == plan.expected[acknowledged]


# --- a fault anywhere ----------------------------------------------------------------------------------------------


async def run(store: SqliteStore, plan: Workload) -> tuple[int, bool]:
    """Run a workload with housekeeping between its steps, until something fails.

    Returns:
        How many transactions were acknowledged, and whether another one was tried.
    """
    for index, commands in enumerate(plan.transactions):
        try:
            await execute(store, *commands)
        except OutcomeUnknown:
            return index, True
        if store.failure is not None:
            return index + 1, False
        with contextlib.suppress(OutcomeUnknown):
            await store.maintain()
        if store.failure is not None:
            return index + 1, False
    return len(plan.transactions), False


async def count_operations(directory: Path) -> int:
    plan = await workload()
    with FaultyDisk() as disk:
        async with opened(make(directory, disk)) as store:
            before = sum(disk.counts[kind] for kind in ("write", "sync", "truncate"))
            await run(store, plan)
            return sum(disk.counts[kind] for kind in ("write", "sync", "truncate")) - before


async def fail_at(directory: Path, index: int, fault: Fault) -> None:
    plan = await workload()
    with FaultyDisk() as disk:
        store = make(directory / "data", disk)
        async with opened(store):
            disk.fail(fault, "write", "sync", "truncate", after=index)
            acknowledged, tried = await run(store, plan)
            disk.heal()
            assert await look(store) == plan.expected[acknowledged]
            if store.failure is not None:
                assert type(store.failure) is FAILURES[fault]
            disk.leave(directory / "data", directory / "killed")
    possible = plan.expected[acknowledged : acknowledged + 1 + tried]
    for left in ("data", "killed"):
        assert await found_in(directory / left) in possible


@pytest.mark.parametrize("fault", Fault)
async def test_whatever_fails_what_was_acknowledged_is_there(tmp_path: Path, fault: Fault) -> None:
    operations = await count_operations(tmp_path / "count")
    for index in range(Random(fault.name).randrange(24), operations, 24):
        await fail_at(tmp_path / str(index), index, fault)


@pytest.mark.full
@pytest.mark.parametrize("fault", Fault)
async def test_whatever_fails_what_was_acknowledged_is_there_in_full(tmp_path: Path, fault: Fault) -> None:
    operations = await count_operations(tmp_path / "count")
    for index in range(operations):
        await fail_at(tmp_path / str(index), index, fault)


# --- killed, or the power cut, at any moment -------------------------------------------------------------------------


class Camera:
    """Takes pictures of what a crash would leave, before each operation of a disk that ``wanted`` picks."""

    def __init__(self, disk: FaultyDisk, directory: Path, target: Path, *, every: int, chance: Random | None) -> None:
        self.pictures: list[tuple[Path, int]] = []
        self.acknowledged = 0
        self._disk = disk
        self._directory = directory
        self._target = target
        self._every = every
        self._chance = chance
        self._seen = 0
        self._lock = threading.Lock()
        disk.watch = self._watch

    def _watch(self, operation: Operation) -> None:
        if operation.kind in ("read", "open"):
            return
        with self._lock:
            self._seen += 1
            if self._seen % self._every:
                return
            picture = self._target / str(self._seen)
            self._disk.leave(self._directory, picture, chance=self._chance)
            self.pictures.append((picture, self.acknowledged))


async def crash_anywhere(directory: Path, *, every: int, chance: Random | None) -> int:
    """Run a workload and look into what crashes at many of its moments would have left.

    Returns:
        At how many.
    """
    plan = await workload()
    with FaultyDisk() as disk:
        async with opened(make(directory / "data", disk)) as store:
            camera = Camera(disk, directory / "data", directory / "left", every=every, chance=chance)
            for commands in plan.transactions:
                await execute(store, *commands)
                camera.acknowledged += 1
                await store.maintain()
            disk.watch = None
    for picture, acknowledged in camera.pictures:
        assert await found_in(picture) in plan.expected[acknowledged : acknowledged + 2], picture
    return len(camera.pictures)


async def test_killed_at_any_moment(tmp_path: Path) -> None:
    assert await crash_anywhere(tmp_path, every=5, chance=None) > 40


@pytest.mark.parametrize("seed", range(3))
async def test_power_cut_at_any_moment(tmp_path: Path, seed: int) -> None:
    """What was not synced is there, or not, or in part: a torn tail is never kept."""
    assert await crash_anywhere(tmp_path, every=9, chance=Random(seed)) > 20


@pytest.mark.full
@pytest.mark.parametrize("seed", range(40))
async def test_power_cut_at_any_moment_in_full(tmp_path: Path, seed: int) -> None:
    await crash_anywhere(tmp_path, every=1 + seed % 4, chance=Random(seed))


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_crashed_at_any_moment_of_the_first_start(tmp_path: Path, seed: int | None) -> None:
    with FaultyDisk() as disk:
        chance = None if seed is None else Random(seed)
        camera = Camera(disk, tmp_path / "data", tmp_path / "left", every=1, chance=chance)
        async with opened(make(tmp_path / "data", disk)):
            disk.watch = None
    assert len(camera.pictures) > 10
    for picture, _ in camera.pictures:
        async with opened(make(picture)) as store:
            await execute(store, create("/a", b"one"))
        assert check(picture) == []


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_crashed_at_any_moment_of_recovery(tmp_path: Path, seed: int | None) -> None:
    """And of the folding that follows; and recovered after that."""
    plan = await workload()
    with FaultyDisk() as disk:
        async with opened(make(tmp_path / "data", disk, overlay_bytes=10**9)) as store:
            for commands in plan.transactions:
                await execute(store, *commands)
            disk.leave(tmp_path / "data", tmp_path / "killed")
        chance = None if seed is None else Random(seed)
        camera = Camera(disk, tmp_path / "killed", tmp_path / "left", every=3, chance=chance)
        async with opened(make(tmp_path / "killed", disk)) as store:
            await settle(store)
            disk.watch = None
            assert await look(store) == plan.expected[-1]
    assert len(camera.pictures) > 10
    for picture, _ in camera.pictures:
        assert await found_in(picture) == plan.expected[-1]


async def test_crashed_before_anything_but_a_large_body_was_folded(tmp_path: Path, disk: FaultyDisk) -> None:
    """The journal still tells the lives of streams whose ends, and whose successors, are in the tables already."""
    paths = ["/old", "/a", "/source", "/fork"]
    async with opened(make(tmp_path / "data", disk, overlay_bytes=10**9)) as store:
        await execute(store, create("/old", b"keeps the journal's rows"), create("/source", b"source"))
        await execute(store, create("/a", b"first"), fork("/fork", "/source", data=b"first"))
        held = store.state("/fork")
        assert held is not None
        await execute(store, append("/a", b"!"), append("/fork", b"!"))
        await execute(store, Delete("/a"), Delete("/fork"))
        await execute(store, create("/a", b"2" * LARGE_BYTES), create("/fork", b"2" * LARGE_BYTES))
        await execute(store, append("/a", b"?"))
        expected = await contents(store, paths)
        assert len(expected.streams) == 4
        disk.leave(tmp_path / "data", tmp_path / "killed")
    with full_disk():
        async with opened(make(tmp_path / "killed")) as store:
            assert await contents(store, paths) == expected
    async with opened(make(tmp_path / "killed")) as store:
        assert await contents(store, paths) == expected
    assert check(tmp_path / "killed") == []


@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_what_a_restart_shows_is_there_after_a_power_cut(
    tmp_path: Path, disk: FaultyDisk, kind: OperationKind
) -> None:
    """The log may hold a commit that never was synced. Before it is shown to anybody, it is, or it is gone."""
    store = make(tmp_path / "data", disk)
    await store.open()
    await execute(store, create("/a", b"one"))
    disk.fail(Fault.ERROR, kind, file=("log", "database"), lasting=True)
    with pytest.raises(OutcomeUnknown):
        await execute(store, append("/a", b"two"))
    await store.close()
    disk.heal()
    async with opened(make(tmp_path / "data", disk)) as again:
        state = again.state("/a")
        assert state is not None
        shown = await read_stream(again, state)
        assert shown in (b"one", b"onetwo")
        disk.leave(tmp_path / "data", tmp_path / "cut", chance=Random(0), keep=0.0)
    async with opened(make(tmp_path / "cut")) as after:
        state = after.state("/a")
        assert state is not None
        assert await read_stream(after, state) == shown


# --- who sees what, when -------------------------------------------------------------------------------------------


class Gate:
    """Holds up the next sync of the log until it is told to go on."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        disk.watch = self._watch

    def _watch(self, operation: Operation) -> None:
        if operation.kind == "sync" and operation.file == "log" and not self.reached.is_set():
            self.reached.set()
            self.go_on.wait(20)

    async def closed(self) -> None:
        """Wait until a sync stands before it."""
        assert await asyncio.to_thread(self.reached.wait, 20)


@pytest.mark.parametrize("body", [b"two", b"2" * LARGE_BYTES], ids=["small", "large"])
async def test_a_live_reader_is_not_woken_before_the_data_is_durable(
    tmp_path: Path, disk: FaultyDisk, body: bytes
) -> None:
    async with Engine(make(tmp_path / "data", disk)) as engine, asyncio.timeout(20):
        await engine.create("/a", data=b"one")
        with engine.follower("/a", "now") as follower:
            await follower.next(10)
            waiting = asyncio.ensure_future(follower.next(10))
            gate = Gate(disk)
            appending = asyncio.ensure_future(engine.append("/a", body))
            await gate.closed()
            for _ in range(10):
                assert (await engine.read("/a")).data == b"one"
                assert engine.head("/a").tail == 3
            assert not appending.done()
            assert not waiting.done()
            gate.go_on.set()
            assert (await appending).next_offset.position == 3 + len(body)
            page = await waiting
            assert page is not None
            assert page.data == body
    assert check(tmp_path / "data") == []


async def test_a_live_reader_never_sees_what_a_failed_commit_held(tmp_path: Path, disk: FaultyDisk) -> None:
    async with Engine(make(tmp_path / "data", disk)) as engine, asyncio.timeout(20):
        await engine.create("/a", data=b"one")
        with engine.follower("/a", "now") as follower:
            await follower.next(10)
            waiting = asyncio.ensure_future(follower.next(0.5))
            disk.fail(Fault.ERROR, "sync", file="log")
            with pytest.raises(OutcomeUnknown):
                await engine.append("/a", b"two")
            assert await waiting is None
        assert (await engine.read("/a")).data == b"one"


async def test_an_append_whose_client_has_gone_does_not_hold_up_the_stream(tmp_path: Path, disk: FaultyDisk) -> None:
    """A request that is given up during its commit happens whole; the next one is not in its way."""
    async with Engine(make(tmp_path / "data", disk)) as engine, asyncio.timeout(20):
        await engine.create("/a", data=b"one")
        gate = Gate(disk)
        given_up = asyncio.ensure_future(engine.append("/a", b"two"))
        await gate.closed()
        queued = asyncio.ensure_future(engine.append("/a", b"never"))
        await asyncio.sleep(0)
        given_up.cancel()
        next_one = asyncio.ensure_future(engine.append("/a", b"three"))
        await asyncio.sleep(0)
        queued.cancel()
        gate.go_on.set()
        await next_one
        data = (await engine.read("/a")).data
        assert data.startswith(b"onetwo")
        assert data.endswith(b"three")
        assert engine.head("/a").tail == len(data)
    assert check(tmp_path / "data") == []


# --- letting go -------------------------------------------------------------------------------------------------------


async def assert_free(directory: Path) -> None:
    """Nothing of an earlier store keeps the directory."""
    async with opened(make(directory)) as store:
        assert store.failure is None
    assert check(directory) == []


async def test_a_failed_store_lets_go_of_its_directory(tmp_path: Path, disk: FaultyDisk) -> None:
    store = make(tmp_path / "data", disk)
    await store.open()
    await execute(store, create("/a", b"one"))
    disk.fail(Fault.ERROR, "sync", file="log")
    with pytest.raises(OutcomeUnknown):
        await execute(store, append("/a", b"two"))
    await store.close()
    await assert_free(tmp_path / "data")


async def test_a_store_that_fails_while_it_closes_lets_go_of_its_directory(tmp_path: Path, disk: FaultyDisk) -> None:
    store = make(tmp_path / "data", disk)
    await store.open()
    await execute(store, create("/a", b"one"))
    disk.fail(Fault.ERROR, "sync", file="log")
    with contextlib.suppress(UnbrokenError):
        await store.close()
    await assert_free(tmp_path / "data")


# apsw reports an error once more when the cursor that met it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_store_that_cannot_be_opened_lets_go_of_its_directory(tmp_path: Path, disk: FaultyDisk) -> None:
    plan = await workload()
    async with opened(make(tmp_path / "data", disk)) as store:
        await run(store, plan)
        disk.leave(tmp_path / "data", tmp_path / "left")
    for index in range(12):
        threads = threading.active_count()
        disk.fail(Fault.ERROR, "sync", "write", "open", "read", after=index * 3)
        store = make(tmp_path / "left", disk)
        try:
            await store.open()
        except StoreError:
            assert threading.active_count() == threads
        else:
            with contextlib.suppress(UnbrokenError):
                await store.close()
        disk.heal()
    assert await found_in(tmp_path / "left") == plan.expected[-1]


async def test_an_engine_whose_housekeeping_failed_answers_and_stops(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that came in meanwhile are refused, not left hanging; and stopping lets go of the directory."""
    monkeypatch.setattr(commit, "_IDLE_MAINTENANCE_S", 0.01)
    async with asyncio.timeout(20):
        engine = Engine(make(tmp_path / "data", disk), clock=ManualClock())
        await engine.start()
        await engine.create("/a", data=b"one")
        gate = Gate(disk)
        await gate.closed()  # by housekeeping
        disk.fail(Fault.ERROR, "sync", file="log")
        appending = asyncio.ensure_future(engine.append("/a", b"two"))
        await asyncio.sleep(0)
        gate.go_on.set()
        done, _ = await asyncio.wait([appending], timeout=2)
        with contextlib.suppress(OutcomeUnknown):
            await engine.stop()
        assert done, "the append was never answered"
        assert isinstance(appending.exception(), StoreReadOnly | OutcomeUnknown)
    await assert_free(tmp_path / "data")


async def test_an_engine_whose_sweep_cannot_read_still_stops(tmp_path: Path, disk: FaultyDisk) -> None:
    async with asyncio.timeout(20):
        engine = Engine(make(tmp_path / "data", disk), clock=ManualClock())
        await engine.start()
        await engine.create("/a", data=b"one", ttl_s=3600)
        await settle(engine.store)
        disk.fail(Fault.ERROR, "read", lasting=True)
        while engine.store.failure is None:
            with contextlib.suppress(StoreError, OutcomeUnknown):
                engine.store.due("ttl_s", (0, 0), 10**6, 10)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)  # a sweep later
        disk.heal()
        with contextlib.suppress(StoreError):
            await engine.stop()
    await assert_free(tmp_path / "data")


async def test_a_first_start_syncs_every_directory_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that an earlier one, killed in the midst of it, may not have come to."""
    synced: set[Path] = set()
    monkeypatch.setattr("unbroken.store.sqlite.schema.sync", lambda place: synced.add(place.resolve()))
    directory = tmp_path / "one" / "two" / "data"
    expected = {tmp_path, tmp_path / "one", tmp_path / "one" / "two", directory}
    async with opened(make(directory)):
        assert synced == {place.resolve() for place in expected}
    synced.clear()
    async with opened(make(directory)):
        assert synced == {directory.resolve(), directory.resolve().parent}
