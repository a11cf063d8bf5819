"""Beside Litestream: the log is left to it, and what it has copied comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from tests.crash.serving import TEXT, Lost, dialled, kill, send
from tests.server.process import ServerProcess, server_process
from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from tests.store.stress import StressSuite
from unbroken.engine.engine import Engine
from unbroken.errors import OffsetGone, StoreError
from unbroken.store.sqlite import SqliteStore, litestream
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.restore import restore
from unbroken.store.sqlite.schema import DATABASE_NAME, rows
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.testing.store_bench import append, create, execute

LITESTREAM = shutil.which("litestream")
CONFIG = """
socket:
  enabled: true
  path: {root}/socket
dbs:
  - path: {root}/data/unbroken.db
    monitor-interval: 100ms
    checkpoint-interval: 1s
    truncate-page-n: 1000
    replica:
      path: {root}/replica
      sync-interval: 100ms
"""
WRITERS = 8
BODY_BYTES = 2_000


# --- with Litestream itself ------------------------------------------------------------------------------------------


async def run(*arguments: str) -> str:
    """Run a command of Litestream."""
    assert LITESTREAM is not None
    process = await asyncio.create_subprocess_exec(
        *(LITESTREAM, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@asynccontextmanager
async def replicating(root: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """``litestream replicate``; killed at the end."""
    assert LITESTREAM is not None
    (root / "litestream.yml").write_text(CONFIG.format(root=root))
    process = await asyncio.create_subprocess_exec(
        *(LITESTREAM, "replicate", "-config", str(root / "litestream.yml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def write(server: ServerProcess, path: str, acknowledged: dict[str, int]) -> None:
    """Append numbered messages until the server is gone."""
    with contextlib.suppress(Lost):
        async with dialled(server.address) as connection:
            await send(connection, "PUT", path, TEXT)
            while True:
                number = acknowledged.get(path, 0)
                response = await send(connection, "POST", path, TEXT, message(path, number))
                assert response.status == 204
                acknowledged[path] = number + 1


def message(path: str, number: int) -> bytes:
    return f"{path}-{number};".encode().ljust(BODY_BYTES)


async def grown(acknowledged: dict[str, int], by: int) -> None:
    until = sum(acknowledged.values()) + by
    async with asyncio.timeout(60):
        while sum(acknowledged.values()) < until:  # noqa: ASYNC110 (what happens is in other processes)
            await asyncio.sleep(0.01)


@pytest.mark.skipif(LITESTREAM is None, reason="litestream is not installed (https://litestream.io)")
async def test_what_was_copied_before_the_crash_comes_back(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    async with server_process(tmp_path, "--litestream") as server, replicating(tmp_path) as replicator:
        writers = [asyncio.create_task(write(server, f"/s/{index}", acknowledged)) for index in range(WRITERS)]
        await grown(acknowledged, 2_000)
        before = dict(acknowledged)
        await synced(tmp_path)
        await grown(acknowledged, 200)
        replicator.send_signal(signal.SIGKILL)
        await kill(server)
        await asyncio.gather(*writers)
    # The server's own files, to begin with.
    assert check(tmp_path / "data") == []
    await all_there(tmp_path / "data", acknowledged)
    copy = tmp_path / "copy.db"
    await run("restore", "-o", str(copy), "-config", f"{tmp_path}/litestream.yml", f"{tmp_path}/data/{DATABASE_NAME}")
    assert check(copy) == []
    await restore(copy, tmp_path / "new")
    assert check(tmp_path / "new") == []
    await all_there(tmp_path / "new", before)
    async with (
        server_process(tmp_path / "again", "--data-dir", str(tmp_path / "new"), "--litestream") as server,
        dialled(server.address) as connection,
    ):
        response = await send(connection, "POST", "/s/0", TEXT, b"goes on")
        assert response.status == 204
    assert check(tmp_path / "new") == []


async def all_there(directory: Path, acknowledged: dict[str, int]) -> None:
    async with Engine(SqliteStore(directory)) as engine:
        for path, count in acknowledged.items():
            page = await engine.read(path)
            data = page.data
            while not page.up_to_date:
                page = await engine.read(path, page.next_offset)
                data += page.data
            found, left = divmod(len(data), BODY_BYTES)
            assert left == 0
            assert found >= count
            assert data == b"".join(message(path, number) for number in range(found))


@pytest.mark.skipif(LITESTREAM is None, reason="litestream is not installed (https://litestream.io)")
async def test_starts_and_stops_in_any_order(tmp_path: Path) -> None:
    """The server is restarted while Litestream holds its read lock; what is in the log stays."""
    acknowledged: dict[str, int] = {}
    async with server_process(tmp_path, "--litestream") as first, replicating(tmp_path):
        writers = [asyncio.create_task(write(first, f"/s/{index}", acknowledged)) for index in range(WRITERS)]
        await grown(acknowledged, 300)
        await kill(first)
        await asyncio.gather(*writers)
        expected = {path: count * BODY_BYTES for path, count in acknowledged.items()}
        for end in (signal.SIGTERM, signal.SIGKILL):
            async with server_process(tmp_path, "--litestream") as server:
                async with dialled(server.address) as connection:
                    for path, size_bytes in expected.items():
                        response = await send(connection, "GET", path)
                        assert len(response.body) >= min(size_bytes, 1024 * 1024)
                        response = await send(connection, "POST", path, TEXT, b"x" * 1_500_000)
                        assert response.status == 204
                        expected[path] += 1_500_000
                server.send_signal(end)
                await server.wait()
    assert check(tmp_path / "data") == []


@pytest.mark.skipif(LITESTREAM is None, reason="litestream is not installed (https://litestream.io)")
async def test_a_restored_server_is_copied_to_the_same_place(tmp_path: Path) -> None:
    copy, again = tmp_path / "copy.db", tmp_path / "again.db"
    arguments = ("-config", f"{tmp_path}/litestream.yml", f"{tmp_path}/data/{DATABASE_NAME}")
    for life, file in enumerate((copy, again)):
        async with server_process(tmp_path, "--litestream") as server, replicating(tmp_path) as replicator:
            async with dialled(server.address) as connection:
                assert (await send(connection, "PUT", "/a", TEXT)).status in (200, 201)
                assert (await send(connection, "POST", "/a", TEXT, b"life %d;" % life)).status == 204
            await synced(tmp_path)
            replicator.send_signal(signal.SIGKILL)
            await kill(server)
        await run("restore", "-o", str(file), *arguments)
        if file == copy:
            shutil.move(tmp_path / "data", tmp_path / "lost")
            await restore(copy, tmp_path / "data")
    assert check(again) == []
    with Snapshot(again) as snapshot:
        state = snapshot.state("/a")
        assert state is not None
        assert b"".join(run.data for run in snapshot.runs(state)) == b"life 0;life 1;"


async def synced(root: Path) -> None:
    """Wait until Litestream has copied everything."""
    command = ("sync", "-wait", "-socket", f"{root}/socket", f"{root}/data/{DATABASE_NAME}")
    for _ in range(200):
        # The one before, which was killed, has left its socket.
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(root / "socket")
            writer.close()
            break
        await asyncio.sleep(0.05)
    await run(*command)


# --- without it ------------------------------------------------------------------------------------------------------


def reader_of(directory: Path) -> apsw.Connection:
    """Holds the read lock that Litestream holds."""
    db = apsw.Connection(str(directory / DATABASE_NAME))
    rows(db, "PRAGMA wal_autocheckpoint = 0")
    rows(db, "BEGIN")
    rows(db, "SELECT 1 FROM streams")
    return db


@pytest.mark.full
class TestSqliteStoreBesideLitestream(StressSuite):
    """The mode keeps the whole contract."""

    durable = True
    large_bytes = LARGE_BYTES

    @pytest.fixture(autouse=True)
    def small(self) -> Iterator[None]:
        with miniature():
            yield

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX, litestream=True)

    def check(self, directory: Path) -> None:
        assert check(directory) == []


async def test_no_checkpoint_is_made(tmp_path: Path) -> None:
    log = tmp_path / "data" / f"{DATABASE_NAME}-wal"
    store = SqliteStore(tmp_path / "data", litestream=True)
    await store.open()
    for index in range(40):
        await execute(store, create(f"/{index}", b"x" * 300_000))
        while await store.maintain():
            pass
    size_bytes = log.stat().st_size
    assert size_bytes > 40 * 300_000
    assert not store.behind
    await store.close()
    assert log.stat().st_size >= size_bytes
    assert (tmp_path / "data" / DATABASE_NAME).stat().st_size < 300_000
    assert check(tmp_path / "data") == []


async def test_a_start_needs_no_lock_that_litestream_holds(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data", litestream=True)
    await store.open()
    await execute(store, create("/a", b"one"))
    holder = reader_of(tmp_path / "data")
    await execute(store, append("/a", b"two"))
    await store.close()
    store = SqliteStore(tmp_path / "data", litestream=True)
    async with asyncio.timeout(5):
        await store.open()
    await execute(store, append("/a", b"three"))
    state = store.state("/a")
    assert state is not None
    assert await store.read(state.number, 0, state.tail) == b"onetwothree"
    await store.close()
    holder.close()
    assert check(tmp_path / "data") == []


async def test_without_the_mode_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.store.sqlite.schema._BUSY_TIMEOUT_MS", 10)
    store = SqliteStore(tmp_path / "data", litestream=True)
    await store.open()
    holder = reader_of(tmp_path / "data")
    await execute(store, create("/a", b"one"))
    await store.close()
    with pytest.raises(StoreError, match="start with --litestream"):
        await SqliteStore(tmp_path / "data").open()
    holder.close()
    store = SqliteStore(tmp_path / "data")
    await store.open()
    await store.close()


async def test_a_log_that_nobody_checkpoints_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(litestream, "_PAGES_TO_WARN", 20)
    store = SqliteStore(tmp_path / "data", litestream=True)
    await store.open()
    with caplog.at_level(logging.WARNING):
        for index in range(30):
            await execute(store, create(f"/{index}", b"x" * 10_000))
    warnings = [record.message for record in caplog.records]
    assert 1 < len(warnings) < 6
    assert "is Litestream running?" in warnings[0]
    await store.close()


async def test_an_offset_that_litestream_had_not_copied_is_refused(tmp_path: Path) -> None:
    """As after any restore."""
    async with Engine(SqliteStore(tmp_path / "data", litestream=True)) as engine:
        await engine.create("/a", data=b"copied")
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        lost = (await engine.append("/a", b"lost")).next_offset
    await restore(tmp_path / "copy" / DATABASE_NAME, tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new")) as engine:
        with pytest.raises(OffsetGone):
            await engine.read("/a", lost)
