"""A backup is the database at one moment, whoever writes to it meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from unbroken.engine.engine import Engine
from unbroken.errors import StoreError
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.backup import backup
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.testing.store_bench import create, execute


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o500)
    try:
        yield
    finally:
        directory.chmod(0o700)


async def test_while_a_server_writes(tmp_path: Path) -> None:
    """Each stream gets the same appends in the same order, two streams with each commit: so a copy of one moment has
    as many of one as of the other.
    """
    told: list[tuple[str, float]] = []
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await asyncio.gather(engine.create("/a"), engine.create("/b", data=b"b" * 3_000_000))
        running = True

        async def write() -> None:
            for index in range(100_000):
                if not running:
                    return
                await asyncio.gather(engine.append("/a", b"%06d" % index), engine.append("/b", b"%06d" % index))

        writer = asyncio.create_task(write())
        sizes = []
        for copy in range(3):
            await asyncio.sleep(0.02)
            acknowledged = engine.head("/a").tail
            target = tmp_path / f"{copy}.db"
            report = await asyncio.to_thread(backup, tmp_path / "data", target, progress=lambda *now: told.append(now))
            assert (report.faults, report.streams) == ([], 2)
            with Snapshot(target) as snapshot:
                states = {state.path: state.tail for state in snapshot.states()}
            assert states["/b"] == states["/a"] + 3_000_000
            assert states["/a"] >= acknowledged
            sizes.append(states["/a"])
        running = False
        await writer
    assert sizes == sorted(set(sizes))
    assert {doing for doing, _ in told} == {"copying", "checking"}
    assert max(done for _, done in told) == 1.0
    assert check(tmp_path / "data") == []
    assert names(tmp_path) == ["0.db", "1.db", "2.db", "data"]


async def small(directory: Path) -> None:
    store = SqliteStore(directory)
    await store.open()
    await execute(store, create("/a", b"a" * 100))
    await store.close()


async def test_it_is_one_file_that_anybody_can_open(tmp_path: Path) -> None:
    await small(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "saved.db")
    with read_only(tmp_path):
        db = apsw.Connection(str(tmp_path / "saved.db"), flags=apsw.SQLITE_OPEN_READONLY)
        assert db.execute("SELECT path FROM streams").fetchall() == [("/a",)]
        assert db.pragma("journal_mode") == "delete"
        db.close()
    backup(tmp_path / "saved.db", tmp_path / "again.db")
    assert check(tmp_path / "again.db") == []


async def test_nothing_is_replaced_unless_asked_for(tmp_path: Path) -> None:
    await small(tmp_path / "data")
    write(tmp_path / "saved.db", b"precious")
    with pytest.raises(StoreError, match="there already"):
        backup(tmp_path / "data", tmp_path / "saved.db")
    with pytest.raises(StoreError, match="there already"):
        backup(tmp_path / "data", tmp_path, overwrite=True)
    assert check(tmp_path / "saved.db") == ["the database cannot be read: file is not a database"]
    backup(tmp_path / "data", tmp_path / "saved.db", overwrite=True)
    assert check(tmp_path / "saved.db") == []
    write(tmp_path / "saved.db-wal", b"")
    with pytest.raises(StoreError, match="write-ahead log beside it"):
        backup(tmp_path / "data", tmp_path / "saved.db", overwrite=True)


async def test_damage_makes_no_backup(tmp_path: Path) -> None:
    await small(tmp_path / "data")
    db = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME))
    db.execute("UPDATE chunks SET data = zeroblob(100)")
    db.close()
    with pytest.raises(StoreError, match="damaged, no backup was made: stream 1: the chunk at 0 does not match"):
        backup(tmp_path / "data", tmp_path / "saved.db")
    write(tmp_path / "data" / DATABASE_NAME, b"x" * 10_000)
    with pytest.raises(StoreError, match="is not a database"):
        backup(tmp_path / "data", tmp_path / "saved.db")
    assert names(tmp_path) == ["data"]


async def test_one_at_a_time_to_one_file(tmp_path: Path) -> None:
    await small(tmp_path / "data")
    with (tmp_path / ".saved.db.partial").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another backup"):
            backup(tmp_path / "data", tmp_path / "saved.db")
    backup(tmp_path / "data", tmp_path / "saved.db")


KILLED = """
import os, signal, sys
from unbroken.store.sqlite.backup import backup
def die(doing, done): doing == sys.argv[3] and os.kill(os.getpid(), signal.SIGKILL)
backup(sys.argv[1], sys.argv[2], progress=die)
"""


@pytest.mark.parametrize("moment", ["copying", "checking"])
async def test_a_killed_one_leaves_nothing_that_looks_like_a_backup(tmp_path: Path, moment: str) -> None:
    await small(tmp_path / "data")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(tmp_path / "saved.db"), moment]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == -signal.SIGKILL
    assert "saved.db" not in names(tmp_path)
    backup(tmp_path / "data", tmp_path / "saved.db")
    assert check(tmp_path / "saved.db") == []
    assert names(tmp_path) == ["data", "saved.db"]
