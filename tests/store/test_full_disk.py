"""A disk that is really full: a small one, made for the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbroken.engine import Engine
from unbroken.errors import OutcomeUnknown, StorageFull, StoreError
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing import RawConnection, connect, live_server
from unbroken.testing.store_bench import append, create, execute, read_stream, settle

MIB = 1024 * 1024
DISK_BYTES = 40 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # even if a test left something open


def free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def occupy(directory: Path, *, leave_bytes: int) -> Path:
    """Fill a disk with something else."""
    other = directory / "other"
    with other.open("wb") as file, contextlib.suppress(OSError):
        while (left_bytes := free_bytes(directory) - leave_bytes) > 0:
            file.write(bytes(min(left_bytes, 256 * 1024)))
            file.flush()
    return other


def enlarge(directory: Path) -> None:
    """Make a disk twice as large."""
    subprocess.run(["mount", "-o", f"remount,size={2 * DISK_BYTES}", str(directory)], check=True)


async def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(small_disk: Path) -> None:
    """Without a restart, because nothing was tried."""
    data = SqliteStore(small_disk / "data")
    await data.open()
    await execute(data, create("/a", b"one"))
    other = occupy(small_disk, leave_bytes=8 * MIB)
    for _ in range(3):
        with pytest.raises(StorageFull):
            await execute(data, append("/a", b"two"))
    state = data.state("/a")
    assert state is not None
    assert await read_stream(data, state) == b"one"
    assert data.failure is None
    other.unlink()
    await execute(data, append("/a", b"three"))
    state = data.state("/a")
    assert state is not None
    assert await read_stream(data, state) == b"onethree"
    await data.close()
    assert check(small_disk / "data") == []


async def test_a_full_disk_is_507_over_http(small_disk: Path) -> None:
    async def post(client: RawConnection, body: bytes) -> tuple[int, str | None, str | None]:
        response = await client.request("POST", "/a", {"content-type": "text/plain"}, body)
        code = response.json()["code"] if response.body else None
        return response.status, code, response.get("retry-after")

    data = SqliteStore(small_disk / "data")
    async with live_server(data) as server, connect(*server.address) as client:
        assert (await client.request("PUT", "/a", {"content-type": "text/plain"}, b"one")).status == 201
        other = occupy(small_disk, leave_bytes=8 * MIB)
        status, code, retry_after = await post(client, b"two")
        assert (status, code) == (507, "storage-full")
        assert retry_after is not None
        assert (await client.request("GET", "/a")).body == b"one"
        assert (await client.request("HEAD", "/a")).status == 200
        other.unlink()
        assert (await post(client, b"three"))[0] == 204
        assert (await client.request("GET", "/a")).body == b"onethree"
    assert check(small_disk / "data") == []


async def test_deletes_go_on_and_make_room(small_disk: Path) -> None:
    """Also those that wait in line with appends; and what they free lets the appends in again."""
    data = SqliteStore(small_disk / "data")
    async with Engine(data) as engine:
        for path in ("/a", "/b", "/big"):
            await engine.create(path, data=b"x" * MIB if path == "/big" else b"one")
        other = occupy(small_disk, leave_bytes=10 * MIB)
        line = [engine.append("/a", b"two"), engine.delete("/b"), engine.create("/c"), engine.delete("/big")]
        outcomes = await asyncio.gather(*line, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageFull, type(None), StorageFull, type(None)]
        assert data.full
        with pytest.raises(StorageFull):
            await engine.append("/a", b"two")
        assert (await engine.read("/a")).body == b"one"
        await engine.delete("/a")
        assert engine.streams() == []
        assert engine.usage.total_bytes == 0
        other.unlink()
        await engine.create("/a", data=b"two")
    assert check(small_disk / "data") == []


async def test_what_waits_behind_a_refused_batch_is_told(small_disk: Path) -> None:
    """Deletes are refused as well when not even they have room, and nobody waits for ever."""
    async with Engine(SqliteStore(small_disk / "data")) as engine:
        await engine.create("/a", data=b"one")
        other = occupy(small_disk, leave_bytes=MIB)
        outcomes = await asyncio.gather(engine.append("/a", b"two"), engine.delete("/a"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageFull, StorageFull]
        other.unlink()
        assert (await engine.read("/a")).body == b"one"
        await engine.delete("/a")
    assert check(small_disk / "data") == []


async def test_writes_go_on_only_when_a_good_deal_more_is_free(small_disk: Path) -> None:
    """What frees the disk byte by byte does not make the server take one write and refuse the next."""
    data = SqliteStore(small_disk / "data", reserve_bytes=20 * MIB)
    async with Engine(data) as engine:
        await engine.create("/a", data=b"one")
        other = occupy(small_disk, leave_bytes=19 * MIB)
        with pytest.raises(StorageFull):
            await engine.append("/a", b"two")
        assert data.full
        for leave_bytes, refused in ((21 * MIB, True), (24 * MIB, True), (26 * MIB, False), (21 * MIB, False)):
            other.unlink()
            other = occupy(small_disk, leave_bytes=leave_bytes)
            outcome = (await asyncio.gather(engine.append("/a", b"x"), return_exceptions=True))[0]
            assert isinstance(outcome, StorageFull) == data.full == refused, leave_bytes
    assert check(small_disk / "data") == []


async def test_a_body_for_which_there_is_no_room_is_refused_before_anything_is_tried(small_disk: Path) -> None:
    """There is more room than the reserve, but not enough for this: it must not cost the store its writes."""
    data = SqliteStore(small_disk / "data")
    await data.open()
    await execute(data, create("/a", b"one"))
    occupy(small_disk, leave_bytes=20 * MIB)
    with pytest.raises((StorageFull, OutcomeUnknown)):
        await execute(data, append("/a", b"x" * (24 * MIB)))
    state = data.state("/a")
    assert state is not None
    assert await read_stream(data, state) == b"one"
    failure = data.failure
    await data.close()
    assert check(small_disk / "data") == []
    assert failure is None


async def test_housekeeping_never_fills_the_disk(small_disk: Path) -> None:
    """While writes are refused for want of room, moving data about must not use up what is left and fail."""
    data = SqliteStore(small_disk / "data")
    await data.open()
    for index in range(8):
        await execute(data, create(f"/{index}"), *(append(f"/{index}", b"x" * 100_000) for _ in range(10)))
    occupy(small_disk, leave_bytes=2 * MIB)
    with contextlib.suppress(OutcomeUnknown):
        await settle(data)
    failure = data.failure
    for index in range(8):
        state = data.state(f"/{index}")
        assert state is not None
        assert await read_stream(data, state) == b"x" * 1_000_000
    await data.close()
    assert check(small_disk / "data") == []
    assert failure is None


async def test_a_store_survives_a_start_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """After a crash that left much unfolded: it may refuse to start, in a clear word; nothing is lost by that."""
    data = SqliteStore(small_disk / "data")
    await data.open()
    for index in range(8):
        await execute(data, create(f"/{index}"), *(append(f"/{index}", b"x" * 100_000) for _ in range(10)))
    shutil.copytree(small_disk / "data", tmp_path / "killed")
    await data.close()
    shutil.rmtree(small_disk / "data")
    shutil.copytree(tmp_path / "killed", small_disk / "data")
    other = occupy(small_disk, leave_bytes=64 * 1024)
    for _ in range(2):
        with contextlib.suppress(StoreError):
            await data.open()
            await data.close()
    other.unlink()
    await data.open()
    for index in range(8):
        state = data.state(f"/{index}")
        assert state is not None
        assert await read_stream(data, state) == b"x" * 1_000_000
    await execute(data, create("/new"))
    await data.close()
    assert check(small_disk / "data") == []


@pytest.mark.parametrize("creates", [False, True])
async def test_a_large_body_for_which_there_is_no_room_fails_alone(small_disk: Path, creates: bool) -> None:
    """It is found out when some of it is written; small ones beside it succeed, before and after."""
    async with Engine(SqliteStore(small_disk / "data")) as engine:
        for path in ("/big", "/small"):
            await engine.create(path)
        occupy(small_disk, leave_bytes=36 * MIB)
        body = b"x" * (24 * MIB)
        bringing = engine.create("/new", data=body) if creates else engine.append("/big", body)
        big = asyncio.ensure_future(bringing)
        count = 0
        while not big.done():
            await engine.append("/small", b"y")
            count += 1
        assert isinstance(big.exception(), StorageFull)
        assert engine.store.failure is None
        assert (engine.head("/big").tail, engine.head("/small").tail) == (0, count)
        enlarge(small_disk)
        await engine.append("/big", b"x" * (2 * MIB))
        assert engine.head("/big").tail == 2 * MIB
        await engine.create("/new", data=b"x" * (2 * MIB))
        assert engine.head("/new").tail == 2 * MIB
    assert check(small_disk / "data") == []
