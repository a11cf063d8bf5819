"""The live servers that ship with the package."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.server.site import TEXT
from unbroken.store.sqlite import SqliteStore
from unbroken.testing import connect, encode_request, live_server, serve_asgi, threaded_server


def test_server_in_a_thread_for_code_that_is_not_asynchronous() -> None:
    before = threading.active_count()
    with threaded_server() as address:
        request = urllib.request.Request(f"{address.url}/a", b"hello", TEXT, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 201
        with urllib.request.urlopen(f"{address.url}/a", timeout=10) as response:
            assert response.read() == b"hello"
    assert threading.active_count() == before
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"{address.url}/a", timeout=10)


def test_thread_server_tells_why_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RuntimeError, match="startup failed"), threaded_server(SqliteStore(tmp_path / "file")):
        pytest.fail("it started")


def test_error_in_the_block_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), threaded_server():
        raise ZeroDivisionError


async def test_nothing_is_left_of_a_live_server() -> None:
    async with live_server() as server, connect(*server.address) as connection:
        assert (await connection.request("PUT", "/a", TEXT, b"x")).status == 201
        await connection.send(encode_request("GET", "/a?offset=now&live=sse"))
        await connection.read_head()
        # A live read is under way; it is ended with the server.
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(OSError, match=r"refused|failed"):
        async with connect(*server.address):
            pass


async def test_startup_that_fails() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="startup failed"):
        async with serve_asgi(app):
            pytest.fail("it started")


async def test_what_does_not_end_is_cancelled() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serve_asgi(app, grace_s=0.05) as address, connect(*address) as connection:
        await connection.send(encode_request("GET", "/"))
        await entered.wait()
    assert cancelled.is_set()
