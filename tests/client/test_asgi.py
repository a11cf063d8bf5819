"""Clients of an application in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from unbroken import AsyncClient, errors
from unbroken.asgi import create_app
from unbroken.client import AsgiTransport
from unbroken.testing import serve_asgi


async def test_following_an_application() -> None:
    before = asyncio.all_tasks()
    async with AsyncClient("http://streams", transport=AsgiTransport(create_app(store="memory"))) as client:
        stream = client.stream("/stream")
        await stream.create(content_type="application/json")
        for live in ("sse", "long-poll"):
            async with stream.follow("now", live=live) as messages:
                reading = asyncio.create_task(anext(aiter(messages)))
                async with stream.producer("writer", auto_claim=True) as producer:
                    await producer.send(live)
                assert (await reading).value == live
        assert await stream.read_json() == ["sse", "long-poll"]
        async with stream.follow("now", live="sse", item_timeout_s=0.01) as messages:
            with pytest.raises(errors.TimedOut):
                await anext(aiter(messages))
    assert asyncio.all_tasks() <= before


async def test_mounted_and_started_by_somebody_else() -> None:
    streams = create_app(store="memory")
    app = FastAPI()
    app.mount("/streams", streams)
    transport = AsgiTransport(app, lifespan=False)
    async with streams.lifespan(), AsyncClient("http://app/streams", transport=transport) as client:
        stream = client.stream("/a")
        await stream.create(data=b"x")
        copy = await stream.fork("/b")
        assert await copy.read() == b"x"


def an_app() -> FastAPI:
    app = FastAPI()

    @app.post("/count")
    async def count(request: Request) -> list[int]:
        return [len(part) async for part in request.stream()]

    @app.get("/fails")
    async def fails() -> None:
        raise LookupError("no luck")

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"x"
            raise LookupError("no luck")

        return StreamingResponse(body())

    return app


async def test_an_upload_streams() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for size in (3, 5, 7):
            yield b"x" * size

    async with httpx2.AsyncClient(transport=AsgiTransport(an_app()), base_url="http://app") as http:
        assert (await http.post("/count", content=parts())).json() == [3, 5, 7, 0]


async def test_an_answer_streams_and_the_application_does_not_run_ahead() -> None:
    told: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            for number in range(1_000_000):
                told.append(number)
                await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        finally:
            told.append("gone")

    async with httpx2.AsyncClient(transport=AsgiTransport(app, lifespan=False)) as http:
        async with http.stream("GET", "http://app/") as response:
            chunks = response.aiter_raw()
            assert [await anext(chunks) for _ in range(3)] == [b"0", b"1", b"2"]
        assert told[-1] == "gone"
        assert len(told) < 20


async def test_an_application_that_fails() -> None:
    async with httpx2.AsyncClient(transport=AsgiTransport(an_app()), base_url="http://app") as http:
        with pytest.raises(LookupError):
            await http.get("/fails")
        with pytest.raises(LookupError):
            await http.get("/breaks")
    transport = AsgiTransport(an_app(), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as http:
        assert (await http.get("/fails")).status_code == 500
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get("/breaks")


async def test_an_application_that_says_nothing() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ends":
            return
        if scope["path"] == "/begins":
            await send({"type": "http.response.start", "status": 200})
        await asyncio.Event().wait()

    transport = AsgiTransport(silent, lifespan=False)
    before = asyncio.all_tasks()
    async with httpx2.AsyncClient(transport=transport, base_url="http://app", timeout=0.01) as http:
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get("/ends")
        for path in ("/silent", "/begins"):
            with pytest.raises(httpx2.ReadTimeout):
                await http.get(path)
        assert asyncio.all_tasks() <= before


async def test_work_after_an_answer_goes_on() -> None:
    done = asyncio.Event()
    may_end = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError, match="gone"):
            await send({"type": "http.response.body"})
        await may_end.wait()
        done.set()

    async with httpx2.AsyncClient(transport=AsgiTransport(app, lifespan=False)) as http:
        assert (await http.get("http://app/")).status_code == 204
        may_end.set()
        await done.wait()


async def test_a_startup_that_fails() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.raises(RuntimeError, match="no disk"):
        await AsgiTransport(app).__aenter__()


async def test_it_is_as_over_a_network() -> None:
    async with serve_asgi(an_app(), http="h11") as address, httpx2.AsyncClient(base_url=address.url) as http:
        assert (await http.post("/count", content=b"x" * 9)).json() == [9, 0]
