"""The fixtures for other people's tests (docs/testing.md has their everyday use, and is run by tests/test_docs.py)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.request import Request, urlopen

import httpx2
import pytest

from unbroken.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.store.base import Store
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.testing import ManualClock, ServerProcess

pytest_plugins = ["unbroken.testing.fixtures"]


@pytest.fixture
def unbroken_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Durable, here: what is not let go of shows."""
    return SqliteStore(tmp_path / "data")


async def test_the_engine_runs_in_the_loop_of_the_test(unbroken_engine: Engine) -> None:
    await unbroken_engine.create("/a", data=b"one")
    await unbroken_engine.append("/a", b"two")
    assert (await unbroken_engine.read("/a")).body == b"onetwo"


async def test_the_engine_can_be_started_by_hand(unbroken_engine: Engine) -> None:
    async with unbroken_engine as streams:
        assert streams.streams() == []
        await streams.create("/a")
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await unbroken_engine.create("/b")
    assert [state.path for state in unbroken_engine.streams()] == ["/a", "/b"]


def test_the_engine_goes_on_in_another_loop(unbroken_engine: Engine) -> None:
    asyncio.run(_create(unbroken_engine, "/a"))
    asyncio.run(_create(unbroken_engine, "/b"))
    assert [state.path for state in unbroken_engine.streams()] == ["/a", "/b"]


async def _create(engine: Engine, path: str) -> None:
    await engine.create(path)


def test_the_engine_is_stopped_in_a_loop_that_outlives_the_test(tmp_path: Path) -> None:
    """As pytest-asyncio's and anyio's do."""
    from unbroken.testing.fixtures import _LazyEngine

    with asyncio.Runner() as runner:
        engine = _LazyEngine(SqliteStore(tmp_path / "data"))
        runner.run(_create(engine, "/a"))
        assert asyncio.all_tasks(runner.get_loop())
        engine.end()
        assert not asyncio.all_tasks(runner.get_loop())
    assert check(tmp_path / "data") == []


@pytest.mark.parametrize("with_lifespan", [False, True])
async def test_the_app_answers_with_and_without_its_lifespan(
    unbroken_app: AsgiApp, unbroken_clock: ManualClock, with_lifespan: bool
) -> None:
    async def scenario() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(unbroken_app), base_url="http://test") as client:
            assert (await client.put("/a", headers={"stream-ttl": "60"})).status_code == 201
            assert (await client.get("/a")).status_code == 200
            unbroken_clock.advance(61)
            assert (await client.get("/a")).status_code == 404

    if with_lifespan:
        async with unbroken_app.lifespan():
            await scenario()
    else:
        await scenario()


def put(url: str, body: bytes) -> None:
    urlopen(Request(url, body, method="PUT")).close()


def test_a_process_comes_back_on_the_same_port(unbroken_process: ServerProcess) -> None:
    url = unbroken_process.url
    put(url + "/a", b"one")
    unbroken_process.kill()
    with pytest.raises(RuntimeError, match="does not run"):
        unbroken_process.kill()
    with pytest.raises(ConnectionError), socket.create_connection(unbroken_process.address):
        pass
    unbroken_process.start()
    with pytest.raises(RuntimeError, match="runs already"):
        unbroken_process.start()
    put(url + "/b", b"two")
    unbroken_process.restart()
    for path, body in (("/a", b"one"), ("/b", b"two")):
        with urlopen(url + path) as response:
            assert response.read() == body
    assert unbroken_process.stop() == 0


def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a directory")
    with pytest.raises(RuntimeError, match="cannot use the data directory"), ServerProcess(tmp_path / "data"):
        pass
