"""Appends that come in one packet and reads of pages are answered past ASGI; nothing about the answer may tell."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tests.server.conftest import Serve
from tests.server.site import BYTES, JSON, TEXT, offset, producer, until
from unbroken.engine.upload import Tell
from unbroken.protocol.commands import Command
from unbroken.server.asgi import AsgiApp, Receive, Scope, Send
from unbroken.server.connection import Connection
from unbroken.server.exchange import sender
from unbroken.server.http import join_fields
from unbroken.server.settings import Settings
from unbroken.testing import RawResponse, connect, encode_request, live_server


@pytest.fixture
def past_asgi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the requests that did take the way through ASGI, as they come."""
    methods: list[str] = []
    call = AsgiApp.__call__

    async def noting(app: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            methods.append(scope["method"])
        await call(app, scope, receive, send)

    monkeypatch.setattr(AsgiApp, "__call__", noting)
    return methods


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The server's connections, in the order in which they are made."""
    made: list[Connection] = []
    connection_made = Connection.connection_made

    def noting(connection: Connection, transport: asyncio.Transport) -> None:
        made.append(connection)
        connection_made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", noting)
    return made


_APPENDS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "append": ("/a", TEXT, b"hello"),
    "by a producer": ("/a", {**TEXT, **producer("p", 0, 0)}, b"hello"),
    "producer's gap": ("/a", {**TEXT, **producer("p", 0, 5)}, b"hello"),
    "append and close": ("/a", {**TEXT, "stream-closed": "true"}, b"hello"),
    "close": ("/a", {"stream-closed": "true"}, b""),
    "to a closed stream": ("/closed", TEXT, b"hello"),
    "JSON": ("/json", JSON, b'[{"n":1},2]'),
    "broken JSON": ("/json", JSON, b"[1,"),
    "another content type": ("/a", JSON, b"1"),
    "no content type": ("/a", {}, b"hello"),
    "no body": ("/a", TEXT, b""),
    "no stream": ("/nothing", TEXT, b"hello"),
    "bad path": ("/a//b", TEXT, b"hello"),
    "reserved path": ("/-/health", TEXT, b"hello"),
    "nothing at a reserved path": ("/-/x", TEXT, b"hello"),
    "escaped path": ("/%61?x=y", TEXT, b"hello"),
    "path that is not ASCII": ("/ä", TEXT, b"hello"),
    "whole URL": ("http://streams.test/a", TEXT, b"hello"),
    "URL without a path": ("http://streams.test", TEXT, b"hello"),
    "bad header": ("/a", {**TEXT, "stream-seq": ""}, b"hello"),
    "page of this machine": ("/a", {**TEXT, "origin": "http://localhost:3000"}, b"hello"),
    "page of another": ("/a", {**TEXT, "origin": "https://evil.test"}, b"hello"),
    "too large": ("/a", TEXT, b"x" * 33_000),
    "connection to be closed": ("/a", {**TEXT, "connection": "close"}, b"hello"),
    "behind a proxy": ("/a", {**TEXT, "x-forwarded-proto": "https"}, b"hello"),
    "behind two": ("/a", {**TEXT, "x-forwarded-for": "203.0.113.7, 192.0.2.1"}, b"hello"),
}


_READS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "page": ("/full", {}, b""),
    "page of a large stream": ("/large?offset=-1", {}, b""),
    "page of JSON": ("/full-json?offset=-1", {}, b""),
    "empty stream": ("/a", {}, b""),
    "closed stream": ("/closed?offset=now", {}, b""),
    "the client has it": ("/full", {"if-none-match": "*"}, b""),
    "no stream": ("/nothing", {}, b""),
    "bad offset": ("/full?offset=x", {}, b""),
    "reserved path": ("/-/health", {}, b""),
    "escaped query": ("/full?%6fffset=-1", {}, b""),
    "long-poll": ("/full?offset=-1&live=long-poll", {}, b""),
    "long-poll in disguise": ("/full?offset=-1&l%69ve=long-poll", {}, b""),
    "long-poll at the end": ("/closed?offset=now&live=long-poll", {}, b""),
    "events": ("/closed?offset=-1&live=sse", {}, b""),
    "events of bytes": ("/closed-bytes?offset=-1&live=sse", {}, b""),
    "events, at the end": ("/closed?live=sse", {"last-event-id": offset(3, 5)}, b""),
    "events of no stream": ("/nothing?offset=-1&live=sse", {}, b""),
    "events, bad offset": ("/full?offset=x&live=sse", {}, b""),
    "live, but how": ("/full?offset=-1&live=x", {}, b""),
    "with a body": ("/full", TEXT, b"hello"),
    "page of another site": ("/full", {"origin": "https://evil.test"}, b""),
    "connection to be closed": ("/full", {"connection": "close"}, b""),
    "behind a proxy": ("/full", {"x-forwarded-proto": "https"}, b""),
}
_CREATIONS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "empty": ("/new", TEXT, b""),
    "no content type": ("/new", {}, b""),
    "with content": ("/new", TEXT, b"hello"),
    "with content of no type": ("/new", {}, b"hello"),
    "JSON": ("/new", JSON, b'[{"n":1},2]'),
    "no JSON message": ("/new", JSON, b"[]"),
    "broken JSON": ("/new", JSON, b"[1,"),
    "closed": ("/new", {**TEXT, "stream-closed": "true"}, b"all"),
    "with a lifetime": ("/new", {**TEXT, "stream-ttl": "60"}, b""),
    "over at once": ("/new", {**TEXT, "stream-ttl": "0"}, b""),
    "bad lifetime": ("/new", {**TEXT, "stream-ttl": "-1"}, b""),
    "two lifetimes": ("/new", {**TEXT, "stream-ttl": "1", "stream-expires-at": "2100-01-01T00:00:00Z"}, b""),
    "bad content type": ("/new", {"content-type": "text"}, b""),
    "again": ("/a", TEXT, b"ignored"),
    "again, another type": ("/a", JSON, b""),
    "fork": ("/new", {"stream-forked-from": "/full"}, b" world"),
    "fork of nothing": ("/new", {"stream-forked-from": "/nothing"}, b""),
    "fork without a source": ("/new", {"stream-fork-offset": "-1"}, b""),
    "bad path": ("/new/", TEXT, b""),
    "reserved path": ("/-/health", TEXT, b""),
    "no reserved path": ("/__ds/x", TEXT, b""),
    "odd path": ("/%C3%A4/~x+(y)?z", TEXT, b""),
    "another host": ("/new", {**TEXT, "host": "localhost:1"}, b""),
    "not our host": ("/new", {**TEXT, "host": "evil.test"}, b""),
    "page of another": ("/new", {**TEXT, "origin": "https://evil.test"}, b""),
    "too large": ("/new", TEXT, b"x" * 33_000),
    "larger than small": ("/new", TEXT, b"x" * 20_000),
    "behind a proxy": ("/new", {**TEXT, "x-forwarded-proto": "https"}, b""),
}
_STREAMS: tuple[tuple[str, dict[str, str], bytes], ...] = (
    ("/a", TEXT, b""),
    ("/json", JSON, b""),
    ("/closed", {**TEXT, "stream-closed": "true"}, b"hello"),
    ("/closed-bytes", {**BYTES, "stream-closed": "true"}, bytes(range(256))),
    ("/full", TEXT, b"hello"),
    ("/full-json", JSON, b'[{"n":1},2]'),
    ("/large", TEXT, b"." * 30_000),
)
_OWN_FIELDS = ("date", "x-request-id", "etag", "stream-cursor")
"""Of the answer or the store alone, or of chance."""


async def _answer(method: str, target: str, fields: dict[str, str], body: bytes) -> tuple[RawResponse, bytes]:
    """The answer, but for what no two answers have in common, and what the stream holds then."""
    async with live_server(settings=Settings(max_body=32_000)) as server, connect(*server.address) as other:
        for stream in _STREAMS:
            assert (await other.request("PUT", *stream)).status == 201
        async with connect(*server.address) as connection:
            response = await connection.request(method, target, fields, body)
        stored = await other.request("GET", {"/json": "/json", "/new": "/new"}.get(target, "/a"))
        shown = tuple(sorted(field for field in response.fields if field[0] not in _OWN_FIELDS))
        return replace(response, fields=shown), stored.body


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        pytest.param(method, request, id=f"{method} {name}")
        for method, requests in (("POST", _APPENDS), ("GET", _READS), ("PUT", _CREATIONS))
        for name, request in requests.items()
    ],
)
async def test_answer_is_that_of_the_long_way(
    monkeypatch: pytest.MonkeyPatch, method: str, request_: tuple[str, dict[str, str], bytes]
) -> None:
    short = await _answer(method, *request_)
    monkeypatch.setattr(Connection, "_takes_short_cut", lambda *_: False)
    assert short == await _answer(method, *request_)


@pytest.mark.parametrize("client", [("127.0.0.1", 5), ("10.1.2.3", 5), ("192.0.2.1", 5), ("::1", 5), None])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-forwarded-proto", b"https")],
        [(b"x-forwarded-proto", b"http"), (b"x-forwarded-for", b"203.0.113.7")],
        [(b"x-forwarded-for", b"203.0.113.7:8080")],
        [(b"x-forwarded-for", b"[2001:db8::1]:80")],
        [(b"x-forwarded-for", b"203.0.113.7, 10.9.9.9")],
        [(b"x-forwarded-for", b"1.2.3.4, 203.0.113.7"), (b"x-forwarded-for", b"10.9.9.9")],
        [(b"x-forwarded-for", b"10.1.1.1, 127.0.0.1")],
        [(b"x-forwarded-for", b"")],
        [(b"x-forwarded-for", b", ,")],
        [(b"x-forwarded-for", b"unknown")],
        [(b"x-forwarded-for", b"\xff\x00")],
    ],
)
async def test_sender_is_the_one_that_uvicorn_finds(
    client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]]
) -> None:
    """Behind proxies that are trusted, and others."""
    found: list[Any] = []

    async def app(scope: Any, receive: object, send: object) -> None:
        found.append((scope["scheme"], scope["client"]))

    middleware = ProxyHeadersMiddleware(app, ["127.0.0.1", "10.0.0.0/8"])
    scope: Any = {"type": "http", "scheme": "http", "client": client, "headers": headers}
    await middleware(scope, None, None)  # type: ignore[arg-type]
    assert [sender(middleware, join_fields(headers), "http", client)] == found
    assert sender(app, join_fields(headers), "http", client) == ("http", client), "where nobody is trusted"


@pytest.mark.parametrize("scheme", ["ws", "HTTPS", "https, http", ""])
async def test_schemes_that_are_none_do_not_take_it(serve: Serve, past_asgi: list[str], scheme: str) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        assert (await site.post("/a", {**TEXT, "x-forwarded-proto": scheme}, b"x")).status == 204
        assert (await site.post("/a", {**TEXT, "x-forwarded-proto": "https"}, b"x")).status == 204
        assert past_asgi == ["POST"]


async def test_append_in_one_packet_takes_it(serve: Serve, past_asgi: list[str]) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        for _ in range(3):
            assert (await connection.request("POST", "/a", TEXT, b"x")).status == 204
        assert past_asgi == []
        assert (await site.get("/a")).body == b"xxx"


async def test_pages_take_it(serve: Serve, past_asgi: list[str]) -> None:
    """Several on one connection, larger than what a socket takes at once, a live read between them."""
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT, b"." * 3_000_000)
        del past_asgi[:]
        assert (await connection.request("GET", "/a")).body == b"." * 2**20
        assert (await connection.request("GET", "/a?offset=-1&live=long-poll")).body == b"." * 2**20
        assert (await connection.request("GET", f"/a?offset={offset(1, 2**21)}")).body == b"." * (3_000_000 - 2**21)
        assert past_asgi == []


async def test_body_that_comes_later(serve: Serve, past_asgi: list[str]) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(encode_request("POST", "/a", {**TEXT, "content-length": "10"}) + b"01234")
        await until(lambda: past_asgi == ["POST"])  # it is being read
        await connection.send(b"56789")
        assert (await connection.read_response())["stream-next-offset"] == offset(1, 10)
        assert (await connection.request("GET", "/a")).body == b"0123456789"


async def test_full_buffers_are_waited_for(serve: Serve, past_asgi: list[str], connections: list[Connection]) -> None:
    """A client that does not read its answers: the long way waits until it does."""
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        connections[0].pause_writing()
        await connection.send(encode_request("POST", "/a", TEXT, b"x"))
        await until(lambda: past_asgi == ["POST"])
        connections[0].resume_writing()
        assert (await connection.read_response()).status == 204


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    append = encode_request("POST", "/a", TEXT, b"x")
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(append + append + encode_request("GET", "/a") + append)
        tails = [(await connection.read_response())["stream-next-offset"] for _ in range(4)]
        assert tails == [offset(1, 1), offset(1, 2), offset(1, 2), offset(1, 3)]
        # A request that is broken off does not keep the one before it from being made.
        await connection.send(append + append[:-1])
        assert (await connection.read_response())["stream-next-offset"] == offset(1, 4)
        await connection.send(append[-1:])
        assert (await connection.read_response())["stream-next-offset"] == offset(1, 5)


async def test_server_that_ends_says_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, connections: list[Connection]
) -> None:
    """An append under way when the server is told to end is answered, and the connection closed."""
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        submit, submitted = site.engine.submit, list[tuple[Command, Tell]]()
        monkeypatch.setattr(site.engine, "submit", lambda *given: submitted.append(given))
        await connection.send(encode_request("POST", "/a", TEXT, b"hello"))
        await until(lambda: bool(submitted))
        connections[0].shutdown()
        submit(*submitted[0])
        response = await connection.read_response()
        assert (response.status, response["connection"]) == (204, "close")
        assert await connection.read_eof() == b""


async def test_idle_connection_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, connections: list[Connection]
) -> None:
    """After its last answer, not while one is still to come."""
    async with serve(idle_timeout=0.05) as site, site.connect() as connection:
        await site.create("/a", TEXT)
        submit, submitted = site.engine.submit, list[tuple[Command, Tell]]()
        assert (await connection.request("POST", "/a", TEXT, b"x")).status == 204
        monkeypatch.setattr(site.engine, "submit", lambda *given: submitted.append(given))
        await connection.send(encode_request("POST", "/a", TEXT, b"x"))
        await until(lambda: bool(submitted))
        connections[0].timeout_keep_alive_handler()  # as if it had taken that long
        submit(*submitted[0])
        assert (await connection.read_response())["stream-next-offset"] == offset(1, 2)
        assert await connection.read_eof() == b""


async def test_answers_on_one_connection_have_the_date_of_their_own(
    serve_memory: Serve, connections: list[Connection]
) -> None:
    """Uvicorn puts new headers in the place of the old ones each second."""
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        for second in ("1", "2"):
            connections[0].server_state.default_headers = [(b"date", second.encode())]
            assert (await connection.request("POST", "/a", TEXT, b"x"))["date"] == second
            assert (await connection.request("GET", "/a"))["date"] == second
