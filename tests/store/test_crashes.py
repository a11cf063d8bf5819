"""A whole journey of a store, and at every single operation on its files: the power is cut, the process is killed, or
the operation fails. What was acknowledged or seen is there afterwards, once; what was under way is whole or absent.

    UNBROKEN_CRASHES=20000 UNBROKEN_CRASHES_FROM=1 pytest -m "" tests/store/test_crashes.py -k chance

runs so many power cuts by chance, the first with that seed. A failure names its seed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.store.conftest import room
from tests.store.inline import run_inline
from tests.store.journey import Journey, journey, look_around, take
from tests.store.looking import Contents
from tests.store.recording import Known, Recording, make, moments, record
from tests.store.sizes import full_disk, miniature
from unbroken.errors import OutcomeUnknown, StorageFull, StoreError, StoreReadOnly, UnbrokenError
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing.faults import Fault, FaultyDisk, FileKind, OperationKind
from unbroken.testing.medium import EventKind, Medium
from unbroken.testing.store_bench import append, create, execute

CRASHES = int(os.environ.get("UNBROKEN_CRASHES", "300"))
CRASHES_FROM = int(os.environ.get("UNBROKEN_CRASHES_FROM", "1"))

# apsw reports an error once more when the cursor that met it is collected.
pytestmark = [pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"), pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    async def recorded(directory: str) -> Recording:
        return await record(Path(directory) / "data", await journey())

    with tempfile.TemporaryDirectory(dir=room(), prefix="unbroken-test-") as directory:
        with miniature():
            made = run_inline(recorded(directory))
        yield made


def put(directory: Path, files: dict[str, bytes]) -> None:
    """Make a directory of these files, and of nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)


async def found_in(
    directory: Path, *, started: bool, thorough: bool = False, disk: FaultyDisk | None = None
) -> Contents:
    """What a store finds in a directory after a crash. It must be sound, before recovery and after it.

    Args:
        directory: what the crash left.
        started: whether there must be a store in it.
        thorough: whether to look also while nothing can be folded, and to write something afterwards.
        disk: to recover through.
    """
    if started:
        assert check(directory) == []
    if thorough:
        with full_disk():
            unfolded = await found_by(make(directory))
    found = await found_by(make(directory, disk))
    assert check(directory) == []
    if thorough:
        assert unfolded == found
        async with contextlib.AsyncExitStack() as stack:
            store = make(directory)
            await store.open()
            stack.push_async_callback(store.close)
            await execute(store, create("/new", b"one"), append("/new", b"two"))
            assert await look_around(store) == found._replace(next_number=found.next_number + 1)
        assert check(directory) == []
    return found


async def found_by(store: SqliteStore) -> Contents:
    await store.open()
    try:
        return await look_around(store)
    finally:
        await store.close()


def assert_possible(plan: Journey, known: Known, found: Contents) -> None:
    possible = plan.expected[known.least : known.most + 1]
    assert found in possible, f"not among what could be there: {known}"


# --- every moment -----------------------------------------------------------------------------------------------------


def test_the_journey_leads_everywhere(recording: Recording) -> None:
    """The recording holds what the tests below are for."""
    done = {(event.kind.value, Path(event.path).suffix) for event in recording.events}
    assert done >= {
        *((kind, suffix) for kind in ("seen", "written", "synced") for suffix in (".db", ".db-wal", ".db-journal")),
        *((kind, suffix) for kind in ("truncated", "deleted") for suffix in (".db-wal",)),
        ("deleted", ".db-journal"),
        ("truncated", ".db"),  # an incremental vacuum, checkpointed
        ("directory_synced", ""),
    }
    restarts = [
        event for event in recording.events if event.path.endswith("-wal") and event.position == 0 and event.data
    ]
    assert len(restarts) > 10, "the log starts over"
    assert recording.known[-1].least == len(recording.plan.steps)


def test_every_power_cut(recording: Recording, tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    """One at each operation."""
    began_s = time.perf_counter()

    async def run() -> None:
        for index, (known, medium) in enumerate(moments(recording)):
            chance = Random(index)
            await power_cut(recording, known, medium, chance, tmp_path / "left", f"moment {index}")

    run_inline(run())
    rate = len(recording.known) / (time.perf_counter() - began_s)
    report_fact(f"power cuts: one at each of {len(recording.known)} moments, {rate:.0f} a second")


async def power_cut(
    recording: Recording, known: Known, medium: Medium, chance: Random, target: Path, where: str
) -> None:
    """Cut the power once, and now and then once more during recovery."""
    put(target, medium.left(recording.directory, chance))
    thorough, again = chance.random() < 0.2, chance.random() < 0.2
    try:
        if again:
            await power_cut_during_recovery(recording.plan, known, chance, target)
            return
        found = await found_in(target, started=known.started, thorough=thorough)
        assert_possible(recording.plan, known, found)
    except Exception as error:
        error.add_note(f"the power was cut at {where}: {known}")
        raise


async def power_cut_during_recovery(plan: Journey, known: Known, chance: Random, target: Path) -> None:
    with FaultyDisk() as disk:
        disk.events = []
        found = await found_in(target, started=known.started, disk=disk)
        assert_possible(plan, known, found)
        medium = Medium()
        known_at_first = next(index for index, event in enumerate(disk.events) if event.kind is not EventKind.SEEN)
        for event in disk.events[: chance.randint(known_at_first, len(disk.events))]:
            medium.note(event)
    put(target, medium.left(target, chance))
    assert_possible(plan, known, await found_in(target, started=known.started))


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.full)])
def test_every_kill(recording: Recording, tmp_path: Path, stride: int) -> None:
    """The process at each operation, of which nothing written is lost. Then the power, once readers have seen what was
    recovered. Or the power at once, and nothing is left but what is certain.
    """

    async def run() -> None:
        for index, (known, medium) in enumerate(moments(recording)):
            try:
                if index % stride == 0:
                    await kill_and_cut_power(recording, known, medium.copy(), index)
                if index % stride == stride // 2:
                    put(tmp_path / "left", medium.left(recording.directory, Random(index), 0.0))
                    assert_possible(recording.plan, known, await found_in(tmp_path / "left", started=known.started))
            except Exception as error:
                error.add_note(f"at moment {index}: {known}")
                raise

    run_inline(run())


async def kill_and_cut_power(recording: Recording, known: Known, medium: Medium, seed: int) -> None:
    """What a restart shows stays, though the killed process may never have synced it."""
    directory = recording.directory
    put(directory, medium.left(directory, None))
    if known.started:
        assert check(directory) == []
    with FaultyDisk(medium) as disk:
        store = make(directory, disk)
        await store.open()
        shown = await look_around(store)
        left = medium.left(directory, Random(seed), 0.0)
        await store.close()
    assert_possible(recording.plan, known, shown)
    put(directory, left)
    assert await found_in(directory, started=True) == shown


@pytest.mark.parametrize("name", ["default", pytest.param("full", marks=pytest.mark.full)])
def test_power_cuts_by_chance(
    recording: Recording, tmp_path: Path, name: str, report_fact: Callable[[str], None]
) -> None:
    count = CRASHES if name == "default" else max(CRASHES, 20_000)
    began_s = time.perf_counter()

    async def run() -> None:
        seeds: defaultdict[int, list[tuple[int, Random]]] = defaultdict(list)
        for seed in range(CRASHES_FROM, CRASHES_FROM + count):
            chance = Random(seed)
            seeds[chance.randrange(len(recording.known))].append((seed, chance))
        for index, (known, medium) in enumerate(moments(recording)):
            for seed, chance in seeds[index]:
                where = f"moment {index}; repeat with UNBROKEN_CRASHES=1 UNBROKEN_CRASHES_FROM={seed}"
                await power_cut(recording, known, medium, chance, tmp_path / "left", where)

    run_inline(run())
    report_fact(f"power cuts by chance: {count}, {count / (time.perf_counter() - began_s):.0f} a second")


# --- every operation fails --------------------------------------------------------------------------------------------

KINDS: tuple[OperationKind, ...] = ("open", "read", "write", "sync", "truncate", "delete")
FILES: tuple[FileKind, ...] = ("database", "log", "journal", "directory")
FAULTS = tuple(Fault)


def count_operations(directory: Path, plan: Journey) -> int:
    async def run() -> int:
        with FaultyDisk() as disk:
            store = make(directory, disk)
            known, error = await go_until_it_fails(store, plan)
            assert (known.least, error) == (len(plan.steps), None)
            await store.close()
            return sum(disk.counts.values())

    return run_inline(run())


async def go_until_it_fails(store: SqliteStore, plan: Journey) -> tuple[Known, UnbrokenError | None]:
    """Make the journey as far as it goes.

    Returns:
        What is known then, and the error that ended it.
    """
    known = Known(0, 0, False)

    def done() -> None:
        nonlocal known
        known = known._replace(least=known.most)

    try:
        await store.open()
        known = known._replace(started=True)
        for index, step in enumerate(plan.steps):
            known = known._replace(most=index + 1)
            await take(store, step, done)
            if store.failure is not None:
                break
    except UnbrokenError as error:
        return known, error
    return known, store.failure


async def fail_at(directory: Path, plan: Journey, index: int, fault: Fault) -> bool:
    """Let one operation of the journey fail, and look at everything.

    Returns:
        Whether anybody noticed: what is only tidied up may fail.
    """
    data, killed, cut = (directory / name for name in ("data", "killed", "cut"))
    with FaultyDisk() as disk:
        store = make(data, disk)
        disk.fail(fault, *KINDS, file=FILES, after=index)
        known, error = await go_until_it_fails(store, plan)
        if store.failure is not None:
            await assert_read_only(store, plan, known, fault)
        else:
            assert error is None or not isinstance(error, OutcomeUnknown), "it could go on after that"
        disk.leave(data, killed)
        disk.leave(data, cut, chance=Random(index))
        if error is None or not isinstance(error, StoreError) or store.failure is not None:
            await store.close()
    for left in (data, killed, cut):
        assert_possible(plan, known, await found_in(left, started=known.started))
        shutil.rmtree(left)
    return error is not None


async def assert_read_only(store: SqliteStore, plan: Journey, known: Known, fault: Fault) -> None:
    """It takes no more writes, says why, and shows what was acknowledged and no more."""
    assert type(store.failure) is (StorageFull if fault is Fault.FULL else StoreReadOnly)
    assert "read-only" in str(store.failure)
    assert "on purpose" in str(store.failure)
    for _ in range(2):
        assert await look_around(store) == plan.expected[known.least]
        with pytest.raises((StorageFull, StoreReadOnly)):
            await execute(store, create("/new"))
        assert not await store.maintain()


def fail_at_each(directory: Path, plan: Journey, places: list[tuple[int, Fault]]) -> int:
    async def run() -> int:
        noticed = 0
        for index, fault in places:
            try:
                noticed += await fail_at(directory, plan, index, fault)
            except Exception as error:
                error.add_note(f"at operation {index}: {fault}")
                raise
        return noticed

    return run_inline(run())


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.full)])
def test_every_fault(recording: Recording, tmp_path: Path, stride: int, report_fact: Callable[[str], None]) -> None:
    operations = count_operations(tmp_path / "count", recording.plan)
    began_s = time.perf_counter()
    places = [
        (index, fault)
        for turn, index in enumerate(range(0, operations, stride))
        for fault in (FAULTS if stride == 1 else [FAULTS[turn % len(FAULTS)]])
    ]
    noticed = fail_at_each(tmp_path, recording.plan, places)
    assert noticed > len(places) // 2
    rate = len(places) / (time.perf_counter() - began_s)
    report_fact(f"faults: {len(places)} at {operations} operations, {rate:.0f} a second")
