"""Mounted below a prefix of a FastAPI or Starlette application, with real requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import fastapi
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.engine.helpers import until
from tests.server.site import JSON, TEXT, Site, closed, offset, problem_code
from unbroken.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.server.connection import Connection
from unbroken.server.settings import Settings
from unbroken.store.base import Store
from unbroken.testing import LiveServer, ManualClock, encode_chunk, encode_request, serve_asgi


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def _fastapi(streams: AsgiApp, prefix: str) -> FastAPI:
    app = FastAPI(lifespan=streams.lifespan)
    app.get("/hello")(lambda: fastapi.Response("hello", media_type="text/plain"))
    app.mount(prefix, streams)
    return app


def _starlette(streams: AsgiApp, prefix: str) -> Starlette:
    routes = [Route("/hello", _hello), Mount(prefix, app=streams)]
    return Starlette(routes=routes, lifespan=streams.lifespan)


@asynccontextmanager
async def _mounted(store: Store, framework: Any, prefix: str, http: Any = Connection) -> AsyncIterator[Site]:
    clock = ManualClock()
    streams = AsgiApp(Engine(store, clock=clock), Settings(), watch_signals=False)
    async with serve_asgi(framework(streams, prefix), http=http) as address:
        try:
            yield Site(LiveServer(address, streams), clock)
        finally:
            streams.engine.drain()


FRAMEWORKS = pytest.mark.parametrize("framework", [_fastapi, _starlette], ids=["fastapi", "starlette"])


@FRAMEWORKS
@pytest.mark.parametrize("prefix", ["/streams", "/api/v1/streams"])
async def test_streams_live_below_the_prefix(store: Store, framework: Any, prefix: str) -> None:
    async with _mounted(store, framework, prefix) as site:
        response = await site.create(f"{prefix}/a/b", TEXT, b"hello")
        assert response["location"] == f"http://localhost{prefix}/a/b"
        await site.append(f"{prefix}/a/b", TEXT, b" world")
        assert (await site.get(response["location"].removeprefix("http://localhost"))).body == b"hello world"
        assert site.engine.head("/a/b").tail == 11, "identity is what follows the prefix"
        async with site.events(f"{prefix}/a/b?offset=-1&live=sse") as events:
            assert (await events.batch())[0] == "hello world"
            await site.post(f"{prefix}/a/b", closed(TEXT), b"!")
            assert (await events.batch())[0] == "!"
        async with site.connect() as connection:
            assert (await connection.request("GET", "/hello")).body == b"hello"
            assert (await connection.request("GET", "/a/b")).status == 404


@FRAMEWORKS
async def test_mounted_at_the_root(store: Store, framework: Any) -> None:
    async with _mounted(store, framework, "") as site:
        response = await site.create("/a/b", TEXT, b"x")
        assert response["location"] == "http://localhost/a/b"
        await site.create("/c", {"stream-forked-from": "/a/b"})
        assert (await site.get("/c")).body == b"x"


@FRAMEWORKS
async def test_prefix_beyond_ascii(store: Store, framework: Any) -> None:
    async with _mounted(store, framework, "/ströme") as site:
        response = await site.create("/str%C3%B6me/a", TEXT, b"x")
        assert response["location"] == "http://localhost/str%C3%B6me/a"
        assert site.engine.head("/a").tail == 1


@FRAMEWORKS
@pytest.mark.parametrize("source", ["/streams/a", "/a", "/str%65ams/%61"])
async def test_fork_source_with_or_without_the_prefix(store: Store, framework: Any, source: str) -> None:
    async with _mounted(store, framework, "/streams") as site:
        await site.create("/streams/a", TEXT, b"hello")
        await site.create("/streams/b", {"stream-forked-from": source}, b"!")
        assert (await site.get("/streams/b")).body == b"hello!"


@FRAMEWORKS
@pytest.mark.parametrize(
    "target",
    [
        "/streams//a",
        "/streams/a/",
        "/streams/%2e%2e/a",
        "/streams/a%2Fb",
        "/streams/a%00",
        "/streams/./a",
        "/streams/-/x/..",
        "/streams/__ds/x",
    ],
)
async def test_path_identity_below_a_prefix(store: Store, framework: Any, target: str) -> None:
    async with _mounted(store, framework, "/streams") as site, site.connect() as connection:
        assert (await connection.request("PUT", target, TEXT, b"x")).status in (400, 404)
        assert list(site.engine.store.holds(1)) == []


@FRAMEWORKS
async def test_two_spellings_of_the_prefix_are_one(store: Store, framework: Any) -> None:
    async with _mounted(store, framework, "/streams") as site:
        await site.create("/str%65ams/a", TEXT, b"x")
        assert (await site.get("/streams/a")).body == b"x"


@FRAMEWORKS
async def test_stream_may_be_named_like_the_prefix(store: Store, framework: Any) -> None:
    async with _mounted(store, framework, "/streams") as site:
        await site.create("/streams/streams/a", TEXT, b"inner")
        assert (await site.get("/streams/a")).status == 404
        assert (await site.get("/streams/streams/a")).body == b"inner"


@FRAMEWORKS
async def test_health_below_the_prefix(store: Store, framework: Any) -> None:
    async with _mounted(store, framework, "/streams") as site:
        assert (await site.get("/streams/-/health")).status == 200


OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"}


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("offer", [{}, OFFER], ids=["plain", "upgrade"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_under_every_parser(store: Store, http: str, offer: dict[str, str], chunked: bool) -> None:
    """Applications run on uvicorn as it is. There the parser takes the body of a request that offers an upgrade (as
    those of ``curl --http2`` and of Java's HttpClient do) for the other protocol and hands over none: such a request
    may be refused, not acknowledged."""
    async with _mounted(store, _fastapi, "/streams", http=http) as site, site.connect() as connection:
        framing = {"transfer-encoding": "chunked"} if chunked else {"content-length": "5"}
        body = encode_chunk(b"hello") + encode_chunk(b"") if chunked else b"hello"
        await connection.send(encode_request("PUT", "/streams/a", {**TEXT, **offer, **framing}) + body)
        response = await connection.read_response()
        if response.status < 300:
            assert (await site.get("/streams/a")).body == b"hello"
        else:
            assert offer
            assert (await site.get("/streams/a")).status == 404


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_body_is_no_request_under_any_parser(store: Store, http: str) -> None:
    """Request smuggling: what such a parser takes for another protocol, it parses as the next request."""
    async with _mounted(store, _fastapi, "/streams", http=http) as site, site.connect() as connection:
        await site.create("/streams/victim", TEXT, b"hello")
        inner = encode_request("DELETE", "/streams/victim")
        fields = {**TEXT, **OFFER, "content-length": str(len(inner))}
        await connection.send(encode_request("PUT", "/streams/a", fields))
        assert (await site.get("/streams/victim")).status == 200  # by now the head has been read on its own
        with suppress(EOFError, ConnectionError):
            await connection.send(inner)
            await connection.read_response()
            await connection.send(encode_request("GET", "/streams/victim"))
            await connection.read_response()
        assert (await site.get("/streams/victim")).body == b"hello"


@FRAMEWORKS
async def test_behind_a_proxy_that_strips_its_prefix(store: Store, framework: Any) -> None:
    """FastAPI(root_path="/proxy"), as its page "Behind a Proxy" teaches: paths arrive without /proxy."""

    def behind_proxy(streams: AsgiApp, prefix: str) -> Any:
        inner = framework(streams, prefix)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "root_path": "/proxy"} if scope["type"] == "http" else scope, receive, send)

        return app

    async with _mounted(store, behind_proxy, "/streams") as site:
        response = await site.create("/streams/a", TEXT, b"x")
        assert site.engine.head("/a").tail == 1, "identity is what follows the prefix"
        assert response["location"] == "http://localhost/proxy/streams/a"


async def test_without_lifespan_the_app_says_what_to_do(store: Store) -> None:
    streams = AsgiApp(Engine(store), Settings(), watch_signals=False)
    app = FastAPI()
    app.mount("/streams", streams)
    async with serve_asgi(app) as address:
        site = Site(LiveServer(address, streams), ManualClock())
        response = await site.get("/streams/a")
        assert problem_code(response) == (503, "unavailable")
        assert "lifespan" in response.json()["detail"]


async def test_own_lifespan_around_ours(store: Store) -> None:
    """An application with a lifespan of its own enters ours within it."""
    streams = AsgiApp(Engine(store), Settings(), watch_signals=False)
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        order.append("up")
        async with streams.lifespan(app):
            yield
        order.append("down")

    app = FastAPI(lifespan=lifespan)
    app.mount("/streams", streams)
    async with serve_asgi(app) as address:
        site = Site(LiveServer(address, streams), ManualClock())
        await site.create("/streams/a", JSON, b"[1]")
    assert order == ["up", "down"]


async def test_below_middleware_that_compresses(store: Store) -> None:
    """Compression by the outer application must not break streaming: events still come one by one."""
    streams = AsgiApp(Engine(store), Settings(), watch_signals=False)
    app = Starlette(routes=[Mount("/streams", app=streams)], lifespan=streams.lifespan)
    app.add_middleware(GZipMiddleware, minimum_size=10)
    async with serve_asgi(app) as address:
        site = Site(LiveServer(address, streams), ManualClock())
        await site.create("/streams/a", TEXT, b"hello " * 100)
        async with site.events("/streams/a?offset=now&live=sse", {"accept-encoding": "gzip"}) as events:
            assert (await events.batch())[1]["streamNextOffset"] == offset(1, 600)
            await site.post("/streams/a", closed(TEXT), b"!")
            assert (await events.batch())[0] == "!"


async def test_below_middleware_that_wraps_every_request(store: Store) -> None:
    """``@app.middleware("http")`` puts its own receive and send between; live reads still come, wait and end."""

    def wrapped(streams: AsgiApp, prefix: str) -> FastAPI:
        app = _fastapi(streams, prefix)

        @app.middleware("http")
        async def mark(request: fastapi.Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["x-marked"] = "yes"
            return response

        return app

    async with _mounted(store, wrapped, "/streams") as site:
        response = await site.create("/streams/a", TEXT, b"hello")
        assert response["x-marked"] == "yes"
        async with site.waiting("/streams/a?offset=now&live=long-poll") as answer:
            await site.append("/streams/a", TEXT, b"!")
            assert (await answer).body == b"!"
        async with site.events("/streams/a?offset=-1&live=sse") as events:
            assert (await events.batch())[0] == "hello!"
            await site.append("/streams/a", TEXT, b"?")
            assert (await events.batch())[0] == "?"
            await until(lambda: len(site.engine.waiters) == 1)
        await until(lambda: len(site.engine.waiters) == 0)


async def test_engine_of_a_mounted_app_can_be_used_beside_http(store: Store) -> None:
    async with _mounted(store, _fastapi, "/streams") as site:
        await site.engine.create("/a", content_type="text/plain")
        async with site.waiting("/streams/a?offset=now&live=long-poll") as answer:
            await site.engine.append("/a", b"from within")
            assert (await answer).body == b"from within"
