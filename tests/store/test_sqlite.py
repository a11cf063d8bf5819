"""The SQLite store keeps the contract, at its own sizes and in miniature; and what is true of it alone."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from tests.store.stress import StressSuite
from tests.store.workload import look, workload
from unbroken.errors import StoreError
from unbroken.protocol.commands import Command, Delete, Release
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.restore import restore
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.worker import Worker
from unbroken.testing.faults import FaultyDisk, Operation
from unbroken.testing.store_bench import append, create, execute, fork, read_stream, settle

T = TypeVar("T")


def assert_sound(directory: Path) -> None:
    assert check(directory) == []


class TestSqliteStore(StressSuite):
    durable = True

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory)

    def check(self, directory: Path) -> None:
        assert_sound(directory)


class TestSqliteStoreInMiniature(TestSqliteStore):
    """Folds, merges, trims and checkpoints all the time."""

    large_bytes = LARGE_BYTES

    @pytest.fixture(autouse=True)
    def small(self) -> Iterator[None]:
        with miniature():
            yield

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX)


@pytest.mark.full
class TestSqliteStoreFoldingAtOnce(TestSqliteStoreInMiniature):
    """Each commit folds what the one before brought."""

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory, overlay_bytes_max=1)


# --- what is true of it alone -----------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(directory: Path, *, vfs: str | None = None) -> AsyncIterator[SqliteStore]:
    """A store in miniature, checked when it is closed."""
    with miniature():
        store = SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX, vfs=vfs)
        await store.open()
        try:
            yield store
        finally:
            await store.close()
        assert_sound(directory)


def query(directory: Path, statement: str) -> list[tuple[Any, ...]]:
    db = apsw.Connection(str(directory / DATABASE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return db.execute(statement).fetchall()
    finally:
        db.close()


async def test_nothing_is_left_of_what_was_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for turn in range(3):
            stamps = [ProducerStamp(f"p{index}", turn, 0) for index in range(7)]
            await execute(store, create("/a", b"x" * 300), *(append("/a", b"y", producer=stamp) for stamp in stamps))
            await execute(store, create("/large", b"x" * (5 * LARGE_BYTES)), create("/kept", b"kept"))
            await execute(store, fork("/fork", "/a", data=b"f" * 200))
            if turn == 1:
                await settle(store)
            await execute(store, Delete("/a"), Delete("/large"))
            await execute(store, Delete("/fork"))
            await execute(store, *releases(store))
        await settle(store)
        kept = store.state("/kept")
        assert kept is not None
        assert query(tmp_path, "SELECT * FROM trash") == []
        assert query(tmp_path, "SELECT DISTINCT stream FROM chunks") == [(kept.number,)]
        assert query(tmp_path, "SELECT * FROM producers") == []
        assert query(tmp_path, "SELECT path FROM streams") == [("/kept",)]


def releases(store: SqliteStore) -> list[Command]:
    return [Release(hold.source_path, hold.source_number, hold.fork) for hold in store.holds(100)]


async def test_what_is_folded_leaves_the_journal(tmp_path: Path) -> None:
    """All but its newest row, which says what number comes next."""
    async with opened(tmp_path) as store:
        await execute(store, create("/a"), create("/b"))
        for turn in range(30):
            await execute(store, append("/a", b"%d" % turn))
        await settle(store)
        assert query(tmp_path, "SELECT count(*), max(id) FROM journal") == [(1, 31)]


async def test_small_chunks_are_merged(tmp_path: Path) -> None:
    """A stream that grows by single bytes, each folded on its own, ends up in large chunks."""
    async with opened(tmp_path) as store:
        await execute(store, create("/a"))
        for _ in range(480):
            await execute(store, append("/a", b"x"))
            await settle(store)
        sizes = [size for (size,) in query(tmp_path, "SELECT length(data) FROM chunks")]
        assert sum(sizes) == 480
        assert len(sizes) <= 2 * 480 / 20  # as many commit times go into a chunk in miniature


async def test_the_log_stays_small(tmp_path: Path) -> None:
    """It is copied into the database as it grows, and begun again."""
    async with opened(tmp_path) as store:
        await execute(store, create("/a"))
        sizes: list[int] = []
        for turn in range(200):
            await execute(store, append("/a", b"%d" % turn))
            sizes.append((tmp_path / f"{DATABASE_NAME}-wal").stat().st_size)
        assert max(sizes) < 100 * 4096  # 40 pages are the bound in miniature, then one more commit fits


async def test_files_are_written_by_threads_of_their_own(tmp_path: Path) -> None:
    """Never by the event loop's, however large the transaction: SQLite must not write before the commit."""
    writers: set[tuple[str, str]] = set()

    def watch(operation: Operation) -> None:
        if operation.kind in ("write", "sync", "truncate"):
            writers.add((operation.file, threading.current_thread().name.rstrip("_0123456789")))

    with FaultyDisk() as disk:
        store = SqliteStore(tmp_path, vfs=disk.name)
        await store.open()
        disk.watch = watch
        for turn in range(4):
            large = append("/a", b"x" * 5_000_000)
            await execute(store, create("/a") if turn == 0 else large, large, *(create(f"/{turn}"),))
            await execute(store, *(append(f"/{turn}", b"y" * 200_000) for _ in range(20)))
        await settle(store)
        disk.watch = None
        await store.close()
    assert writers == {("log", "unbroken-commit"), ("log", "unbroken-checkpoint"), ("database", "unbroken-checkpoint")}


async def test_syncs_reach_the_medium(tmp_path: Path) -> None:
    """On macOS a plain fsync leaves the data in the drive's cache; F_FULLFSYNC, which SQLite must be told to use, does
    not.
    """
    with FaultyDisk() as disk:
        async with opened(tmp_path, vfs=disk.name) as store:
            disk.sync_flags.clear()
            for turn in range(60):
                await execute(store, create(f"/{turn}", b"x" * 50))
            await settle(store)
            assert set(disk.sync_flags) == {apsw.SQLITE_SYNC_FULL}
            assert disk.sync_flags.total() >= 60


async def test_somebody_elses_checkpoint_is_no_failure(tmp_path: Path) -> None:
    """Of Litestream, say, or of the sqlite3 shell: ours finds the log busy then, and waits its turn. It also does, once
    in thousands of times, when it looks at the log in the very moment in which a commit ends.
    """
    reached, go_on = threading.Event(), threading.Event()
    thread: threading.Thread | None = None

    def hold_up(operation: Operation) -> None:
        if threading.current_thread() is thread and operation.kind == "write" and operation.file == "database":
            reached.set()
            go_on.wait(20)

    with FaultyDisk() as disk:
        async with opened(tmp_path, vfs=disk.name) as store:
            await execute(store, create("/a"))
            other = apsw.Connection(str(tmp_path / DATABASE_NAME), vfs=disk.name)
            other.execute("SELECT * FROM meta").fetchall()
            disk.watch = hold_up
            thread = threading.Thread(target=other.wal_checkpoint)
            thread.start()
            assert await asyncio.to_thread(reached.wait, 20)
            for turn in range(30):
                await execute(store, append("/a", b"%d" % (turn % 10)))
            assert store.failure is None
            go_on.set()
            await asyncio.to_thread(thread.join)
            other.close()
            for turn in range(30):
                await execute(store, append("/a", b"%d" % (turn % 10)))
            assert store.failure is None
            state = store.state("/a")
            assert state is not None
            assert await read_stream(store, state) == b"0123456789" * 6


class Held(Worker):
    """Commits, and keeps that to itself until it is let go."""

    def __init__(self) -> None:
        super().__init__("held")
        self.committed, self.go_on = threading.Event(), threading.Event()

    def run(self, act: Callable[[], T]) -> asyncio.Future[T]:
        def commit() -> T:
            result = act()
            self.committed.set()
            self.go_on.wait(20)
            return result

        return super().run(commit)


async def test_nothing_of_a_commit_is_seen_before_all_of_it_can_be(tmp_path: Path) -> None:
    """A fork with a large body goes straight to the tables, and the bytes of its source that it shares to the journal:
    in the moment after SQLite has committed, the tables have the one without the other.
    """
    async with opened(tmp_path) as store:
        await execute(store, create("/source", b"old"), create("/grown"))
        source, grown = store.state("/source"), store.state("/grown")
        assert source is not None
        large = bytes(LARGE_BYTES)
        usual, held = store._committer, Held()
        store._committer = held
        commit = asyncio.create_task(
            execute(store, append("/source", b"new"), fork("/fork", "/source", data=large), append("/grown", large))
        )
        await asyncio.to_thread(held.committed.wait, 20)
        assert store.state("/fork") is None
        assert (store.state("/source"), store.state("/grown")) == (source, grown)
        held.go_on.set()
        await commit
        forked = store.state("/fork")
        assert forked is not None
        assert await read_stream(store, forked) == b"oldnew" + large
        store._committer = usual
        held.close()


async def test_a_store_can_be_opened_again(tmp_path: Path) -> None:
    plan = await workload()
    with miniature():
        store = SqliteStore(tmp_path, overlay_bytes_max=OVERLAY_BYTES_MAX)
        for commands in plan.transactions:
            await store.open()
            await execute(store, *commands)
            await store.close()
        await store.open()
        assert await look(store) == plan.expected[-1]
        await store.close()
    assert_sound(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not tell which files are open")
async def test_a_closed_store_leaves_nothing_open(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    files = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with opened(tmp_path) as store:
        await execute(store, create("/a", b"x" * 1000))
        await asyncio.gather(*(store.read(1, 0, 1000) for _ in range(8)))
    assert {thread for thread in threading.enumerate() if thread.name.startswith("unbroken")} <= threads
    assert sorted(os.listdir(tmp_path)) == ["lock", DATABASE_NAME]  # noqa: PTH208
    await asyncio.get_running_loop().shutdown_default_executor()
    assert len(set(os.listdir("/proc/self/fd")) - files) == 0  # noqa: PTH208


async def test_other_users_of_the_machine_can_read_nothing(tmp_path: Path) -> None:
    """Whatever the umask. A directory that was there keeps the rights that somebody gave it."""
    before = os.umask(0o022)
    try:
        made, given = tmp_path / "made", tmp_path / "given"
        given.mkdir(0o755)
        for directory in (made, given):
            async with opened(directory) as store:
                await execute(store, create("/a", b"x"))
                files = list(directory.iterdir())
                assert len(files) > 2
                assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files} == {0}
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert stat.S_IMODE(given.stat().st_mode) == 0o755
        await restore(given, tmp_path / "restored")
        assert stat.S_IMODE((tmp_path / "restored" / DATABASE_NAME).stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_one_directory_has_one_owner(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            await SqliteStore(tmp_path).open()
        program = (
            "import asyncio, sys; from unbroken.store.sqlite import SqliteStore\n"
            "asyncio.run(SqliteStore(sys.argv[1]).open())"
        )
        other = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "StoreError" in other.stderr
        assert f"in use by process {os.getpid()}" in other.stderr
        await execute(store, create("/a"))


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        ("PRAGMA application_id = 1", "not an Unbroken database"),
        ("PRAGMA application_id = 0", "not an Unbroken database"),
        ("PRAGMA user_version = 99", "format 99"),
        ("DELETE FROM meta", "damaged|unbroken"),
        ("DROP TABLE meta", "meta"),
        ("UPDATE journal SET records = x'ff'", "unbroken"),
    ],
)
async def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path, statements: str, complaint: str) -> None:
    async with opened(tmp_path) as store:
        await execute(store, create("/a", b"one"))
    db = apsw.Connection(str(tmp_path / DATABASE_NAME))
    db.execute(statements)
    db.close()
    before = query(tmp_path, "SELECT * FROM sqlite_schema")
    for _ in range(2):
        with pytest.raises(StoreError, match=complaint):
            await SqliteStore(tmp_path).open()
    assert query(tmp_path, "SELECT * FROM sqlite_schema") == before


@pytest.mark.parametrize("contents", [b"x", b"not a database at all" * 500])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(contents)
    with pytest.raises(StoreError):
        await SqliteStore(tmp_path).open()
    assert (tmp_path / DATABASE_NAME).read_bytes() == contents


async def test_a_damaged_database_meets_no_other_error_than_ours(tmp_path: Path) -> None:
    """Whichever page is lost; and the check finds it, unless nothing was on it."""
    store = SqliteStore(tmp_path / "whole")
    await store.open()
    await execute(store, create("/a", bytes(50_000)), create("/b", b"b"))
    await store.close()
    whole = (tmp_path / "whole" / DATABASE_NAME).read_bytes()
    page_bytes = int.from_bytes(whole[16:18], "big")
    refused = missed = 0
    for page in range(len(whole) // page_bytes):
        directory = tmp_path / str(page)
        directory.mkdir()
        lost = whole[: page * page_bytes] + bytes(page_bytes) + whole[(page + 1) * page_bytes :]
        (directory / DATABASE_NAME).write_bytes(lost)
        store = SqliteStore(directory)
        try:
            await store.open()
        except StoreError:
            refused += 1
            continue
        with suppress(StoreError):
            assert len(await store.read(1, 0, 50_000)) in (0, 50_000)
            store.state("/a")
            store.due("ttl_s", (0, 0), 1, 1)
        await store.close()
        missed += not check(directory)
    assert refused > 1
    assert missed <= 2


async def test_one_quiet_stream_does_not_hold_the_journal(tmp_path: Path) -> None:
    """Under constant load, while others come and go."""
    with miniature():
        async with opened(tmp_path) as store:
            await execute(store, create("/quiet", b"x"))
            for turn in range(400):
                await execute(store, create("/busy", b"%d" % turn * 20))
                await execute(store, Delete("/busy"))
            ((rows, size_bytes),) = query(tmp_path, "SELECT count(*), sum(length(records)) FROM journal")
            assert rows < 400
            assert size_bytes < 8 * OVERLAY_BYTES_MAX
    assert_sound(tmp_path)


async def test_many_producers_of_one_stream_are_folded_a_thousand_at_a_time(tmp_path: Path) -> None:
    """Each is a row of its own: all at once they would keep everybody waiting."""
    store = SqliteStore(tmp_path)
    await store.open()
    await execute(store, create("/a"))
    folded = 0
    for turn in range(30):
        stamps = [ProducerStamp(f"{turn}-{index}", 0, 0) for index in range(100)]
        await execute(store, *(append("/a", b"x", producer=stamp) for stamp in stamps))
        ((rows,),) = query(tmp_path, "SELECT count(*) FROM producers")
        assert rows - folded <= 1200
        assert 100 * (turn + 1) - rows <= 1200
        folded = rows
    await store.close()
    assert query(tmp_path, "SELECT count(*) FROM producers") == [(3000,)]
    assert_sound(tmp_path)


async def test_lives_at_one_path_are_folded_as_quickly_as_others(tmp_path: Path) -> None:
    """Each waits for the one before it, which is no reason to fold only one at a time."""
    async with opened(tmp_path) as store:
        for _ in range(100):
            await execute(store, create("/a", b"x"), Delete("/a"))
            assert len(store._overlay.streams) < 40


async def test_readers_that_wait_for_a_thread_hold_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page to fill is made when a thread is free to fill it."""
    under_way = list[asyncio.Future[Any]]()
    at_once = 0
    async with opened(tmp_path) as store:
        await execute(store, create("/a", b"0123456789" * 100))
        await settle(store)
        run = store._reader._worker.run

        def noting(act: Callable[[], Any]) -> asyncio.Future[Any]:
            nonlocal at_once
            under_way.append(run(act))
            at_once = max(at_once, sum(not done.done() for done in under_way))
            return under_way[-1]

        monkeypatch.setattr(store._reader._worker, "run", noting)
        parts = await asyncio.gather(*(store.read(1, start, start + 10) for start in range(200)))
        assert parts == [(b"0123456789" * 100)[start : start + 10] for start in range(200)]
        assert len(under_way) == 200
        assert at_once <= 4


async def test_a_large_body_at_the_path_of_a_deleted_stream(tmp_path: Path) -> None:
    """Both are unfolded, and are folded in the commit that brings the large body: the deleted one first."""
    async with opened(tmp_path) as store:
        for turn in range(3):
            await execute(store, create("/a", b"old"), append("/a", b"%d" % turn))
            await execute(store, Delete("/a"))
        await execute(store, create("/a", b"new"))
        large = bytes(LARGE_BYTES * 2000)
        await execute(store, append("/a", large))
        await execute(store, append("/a", b"end"))
        state = store.state("/a")
        assert state is not None
        assert await read_stream(store, state) == b"new" + large + b"end"
        await settle(store)
        assert await read_stream(store, state) == b"new" + large + b"end"
    assert_sound(tmp_path)
