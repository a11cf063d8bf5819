"""Attempts to get past the check by spelling: what decides and what is routed must name the same stream.

Each attempt goes out byte for byte over a real socket: without a token, with one for ``/public/**`` and with one for
everything, to a server on its own and to one that is mounted below a prefix. The table says what each target means,
found out by thinking and not by asking the code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from fastapi import FastAPI

from tests.server.conftest import Serve
from tests.server.site import TEXT, Site
from tests.server.tokens import bearer, key_file, mint
from unbroken.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.server.settings import Settings
from unbroken.store.memory import MemoryStore
from unbroken.testing import LiveServer, ManualClock, RawResponse, encode_request, serve_asgi

SECRET = b"hush"
REFUSED = None

TARGETS: list[tuple[str, str | None]] = [
    # What it is about, in its own spelling and in others that are the same path.
    ("/secret/a", "/secret/a"),
    ("/%73ecret/a", "/secret/a"),
    ("/%73%65%63%72%65%74/%61", "/secret/a"),
    ("/secret/a?", "/secret/a"),
    ("/secret/a?x=/public/a", "/secret/a"),
    ("/secret/a?token=x&", "/secret/a"),
    ("/public/a", "/public/a"),
    ("/public/%61", "/public/a"),
    ("/public/a?/../../secret/a", "/public/a"),
    # Empty segments, slashes at the end.
    ("//secret/a", REFUSED),
    ("///secret/a", REFUSED),
    ("/secret//a", REFUSED),
    ("/secret/a/", REFUSED),
    ("/secret/a//", REFUSED),
    ("/public//../secret/a", REFUSED),
    ("//public/a", REFUSED),
    # Dot segments, plain and in disguise.
    ("/./secret/a", REFUSED),
    ("/secret/./a", REFUSED),
    ("/secret/a/.", REFUSED),
    ("/public/../secret/a", REFUSED),
    ("/public/b/../../secret/a", REFUSED),
    ("/public/%2e%2e/secret/a", REFUSED),
    ("/public/%2E%2e/secret/a", REFUSED),
    ("/public/.%2e/secret/a", REFUSED),
    ("/public/%2e./secret/a", REFUSED),
    ("/public/..;/secret/a", "/public/..;/secret/a"),
    ("/public/.../secret/a", "/public/.../secret/a"),
    ("/public/%252e%252e/secret/a", "/public/%2e%2e/secret/a"),
    ("/public/%c0%ae%c0%ae/secret/a", REFUSED),
    ("/public/%e0%80%ae%e0%80%ae/secret/a", REFUSED),
    ("/public/%u002e%u002e/secret/a", REFUSED),
    ("/secret/a/%2e", REFUSED),
    # Slashes in disguise.
    ("/secret%2Fa", REFUSED),
    ("/secret%2fa", REFUSED),
    ("/public%2F..%2Fsecret%2Fa", REFUSED),
    ("/public/..%2fsecret/a", REFUSED),
    ("/%2Fsecret/a", REFUSED),
    ("/secret%252Fa", "/secret%2Fa"),
    ("/secret\\a", REFUSED),
    ("\\secret\\a", REFUSED),
    ("/public\\..\\secret\\a", REFUSED),
    ("/public/..%5csecret/a", REFUSED),
    ("/%5csecret/a", REFUSED),
    ("/secret%E2%88%95a", "/secret\u2215a"),
    ("/secret%EF%BC%8Fa", "/secret\uff0fa"),
    # NUL and other control characters.
    ("/secret/a%00", REFUSED),
    ("/secret/a%00.txt", REFUSED),
    ("/secret%00/a", REFUSED),
    ("/public/a%00/../../secret/a", REFUSED),
    ("/secret/a%0a", REFUSED),
    ("/secret/a%0d%0ax:%20y", REFUSED),
    ("/secret/a%09", REFUSED),
    ("/secret/a%7f", REFUSED),
    # Case, Unicode, decorations: other streams.
    ("/SECRET/a", "/SECRET/a"),
    ("/Secret/A", "/Secret/A"),
    ("/PUBLIC/a", "/PUBLIC/a"),
    ("/%C5%BFecret/a", "/\u017fecret/a"),
    ("/secret/%D0%B0", "/secret/\u0430"),
    ("/%EF%BD%93ecret/a", "/\uff53ecret/a"),
    ("/secret%E2%80%8B/a", "/secret\u200b/a"),
    ("/secret/%EF%BB%BFa", "/secret/\ufeffa"),
    ("/secret/a%CC%80", "/secret/a\u0300"),
    ("/secret/a%20", "/secret/a "),
    ("/secret/a.", "/secret/a."),
    ("/secret/a;x=1", "/secret/a;x=1"),
    ("/secret;x=1/a", "/secret;x=1/a"),
    ("/secret/a%3Fx", "/secret/a?x"),
    ("/secret/a%23x", "/secret/a#x"),
    ("/secret/a+", "/secret/a+"),
    ("/secret/a.json", "/secret/a.json"),
    # A wildcard in a path is no wildcard.
    ("/*", "/*"),
    ("/**", "/**"),
    ("/secret/*", "/secret/*"),
    ("/*/a", "/*/a"),
    ("/public/*", "/public/*"),
    # Past what is open to everybody.
    ("/-/health/../../secret/a", REFUSED),
    ("/-/health/%2e%2e/%2e%2e/secret/a", REFUSED),
    ("/-/unbroken.js/../../secret/a", REFUSED),
    ("/-/../secret/a", REFUSED),
    ("/-", REFUSED),
    ("/-/secret/a", REFUSED),
    ("/__ds/secret/a", REFUSED),
    ("/%5F%5Fds/secret/a", REFUSED),
    # Spellings that are broken.
    ("/secret/%", REFUSED),
    ("/secret/%6", REFUSED),
    ("/secret/%zz", REFUSED),
    ("/%FFsecret/a", REFUSED),
    ("/", REFUSED),
    ("/secret/" + "a" * 1024, REFUSED),
    ("/secret" + "/a" * 32, REFUSED),
]
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


class World(NamedTuple):
    """A server, where its streams begin, and tokens."""

    site: Site
    prefix: str
    some: dict[str, str]
    all: dict[str, str]

    async def send(
        self, method: str, target: str, fields: dict[str, str], body: bytes | None = None
    ) -> RawResponse | None:
        """None: the server hung up."""
        try:
            async with self.site.connect() as connection:
                return await connection.request(method, target.encode(), fields, body)
        except (EOFError, ConnectionError):
            return None

    @property
    def paths(self) -> set[str]:
        return {state.path for state in self.site.engine.streams()}

    def check_untouched(self) -> None:
        """What is secret is as it was, and nothing was made where nobody may."""
        state = self.site.engine.head("/secret/a")
        assert (state.tail, state.closed, state.number) == (len(SECRET), False, 1)
        assert all(path == "/secret/a" or path.startswith("/public/") for path in self.paths)


Worlds = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(params=["alone", "mounted"])
def world(request: pytest.FixtureRequest, serve_memory: Serve, tmp_path: Path) -> Worlds:
    """A server with ``/secret/a`` and ``/public/a``, on its own and below a prefix of a FastAPI application."""
    keys = (key_file(tmp_path),)

    @asynccontextmanager
    async def filled(site: Site, prefix: str) -> AsyncIterator[World]:
        some = bearer(mint(site, **dict.fromkeys(("read", "append", "create", "delete"), "/public/**")))
        everything = bearer(mint(site, admin="/**"))
        for path, data in (("/secret/a", SECRET), ("/public/a", b"open")):
            await site.engine.create(path, content_type="text/plain", data=data)
        yield World(site, prefix, some, everything)

    @asynccontextmanager
    async def alone() -> AsyncIterator[World]:
        async with serve_memory(jwt_keys=keys) as site, filled(site, "") as made:
            yield made

    @asynccontextmanager
    async def mounted() -> AsyncIterator[World]:
        clock = ManualClock()
        streams = AsgiApp(Engine(MemoryStore(), clock=clock), Settings(jwt_keys=keys), watch_signals=False)
        app = FastAPI(lifespan=streams.lifespan)
        app.mount("/streams", streams)
        async with serve_asgi(app) as address:
            async with filled(Site(LiveServer(address, streams), clock), "/streams") as made:
                yield made
            streams.engine.drain()

    return alone if request.param == "alone" else mounted


def told(response: RawResponse | None) -> int:
    return 400 if response is None else response.status


async def test_spellings_without_rights(world: Worlds) -> None:
    """Refused, or let through to what is public: never to anything else."""
    async with world() as made:
        for target, means in TARGETS:
            for method in METHODS:
                body = b"x" if method in ("POST", "PUT") else None
                for fields, least in (({}, 401), (made.some, 403)):
                    response = await made.send(method, made.prefix + target, {**TEXT, **fields}, body)
                    status = told(response)
                    case = (method, target, fields and "some", response)
                    assert response is None or SECRET not in response.body, case
                    if means is REFUSED:
                        assert status in (400, 401, 404), case
                    elif means.startswith("/public/") and fields:
                        assert status < 500, case
                        assert status not in (400, 401, 403), case
                    else:
                        assert status == least or (target.count("token=") and status in (400, 401)), case
                    made.check_untouched()


async def test_spellings_with_rights(world: Worlds) -> None:
    """With all rights each does what the table says, so the test above refuses for want of them and nothing else."""
    async with world() as made:
        await made.send("DELETE", f"{made.prefix}/public/a", made.all)
        for target, means in TARGETS:
            if "token=" in target:
                continue
            fields = {**TEXT, **made.all}
            there = means in made.paths
            before = made.paths
            read = await made.send("GET", made.prefix + target, fields)
            if means is REFUSED:
                assert told(read) in (400, 404), target
                assert told(await made.send("PUT", made.prefix + target, fields, b"x")) in (400, 404), target
                assert told(await made.send("DELETE", made.prefix + target, fields)) in (400, 404), target
                assert made.paths == before, target
                continue
            assert told(read) == (200 if there else 404), target
            if there:
                assert read is not None
                assert (read.body == SECRET) == (means == "/secret/a"), target
                continue
            assert told(await made.send("PUT", made.prefix + target, fields, b"other")) == 201, target
            assert made.paths - before == {means}, target
            assert told(await made.send("DELETE", made.prefix + target, fields)) == 204, target


RESERVED = [
    "/-/streams",
    "/%2D/streams",
    "/-/%73treams",
    "/%2d/%73treams",
    "/-/streams?prefix=/",
    "/-/streams?prefix=/secret/",
    "/-/streams?prefix=/secret",
    "/-/streams?prefix=/public",
    "/-/streams?prefix=",
    "/-/streams?prefix=%2Fsecret%2F",
    "/-/streams?after=/public/&limit=10",
    "/-/streams?prefix=/&x=/-/health",
]
NOWHERE = [
    "/-//streams",
    "//-/streams",
    "/-/streams/",
    "/-/STREAMS",
    "/-/streams%00",
    "/-/streams%20",
    "/-/health/../streams",
    "/-/health/%2e%2e/streams",
    "/-/health%2F..%2Fstreams",
    "/-%2Fstreams",
    "/-/health/",
    "/-/./streams",
    "/public/../-/streams",
    "/-/streams;x",
    "/-/streams%3Fprefix=/",
]


async def test_endpoints_of_the_server(world: Worlds) -> None:
    """One who administers ``/public/**`` lists and deletes there, by whatever prefix, and nowhere else."""
    async with world() as made:
        admin = bearer(mint(made.site, admin="/public/**"))
        for method in ("GET", "DELETE"):
            for target in RESERVED:
                for fields, status in (({}, 401), (made.some, 403), (admin, 403)):
                    response = await made.send(method, made.prefix + target, fields)
                    assert told(response) == status, (method, target, fields)
                    assert response is not None
                    assert b"/secret/a" not in response.body.replace(b"admin:/secret/", b"")
                    made.check_untouched()
            for target in NOWHERE:
                for fields in ({}, made.some, admin, made.all):
                    assert told(await made.send(method, made.prefix + target, fields)) in (400, 401, 404), target
                    made.check_untouched()
        # A prefix is characters, not a path: nothing begins with these.
        odd = await made.send("GET", f"{made.prefix}/-/streams?prefix=/public/../secret/", admin)
        assert odd is not None
        assert odd.json() == {"streams": []}
        listed = await made.send("GET", f"{made.prefix}/-/streams?prefix=/public/", admin)
        assert listed is not None
        assert [stream["path"] for stream in listed.json()["streams"]] == ["/public/a"]
        everything = await made.send("GET", f"{made.prefix}/%2D/%73treams", made.all)
        assert everything is not None
        assert len(everything.json()["streams"]) == 2
        assert told(await made.send("DELETE", f"{made.prefix}/-/streams?prefix=/public/", admin)) == 200
        assert made.paths == {"/secret/a"}


HEADERS: list[dict[str, str]] = [
    {"x-http-method-override": "GET"},
    {"x-http-method": "GET"},
    {"x-method-override": "GET"},
    {"x-original-url": "/secret/a"},
    {"x-rewrite-url": "/secret/a"},
    {"x-original-uri": "/secret/a"},
    {"x-forwarded-prefix": "/secret"},
    {"x-forwarded-path": "/secret/a"},
    {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "x-client-ip": "127.0.0.1"},
    {"x-forwarded-host": "localhost", "forwarded": "for=127.0.0.1;host=localhost"},
    {"x-forwarded-user": "admin", "x-remote-user": "admin", "remote-user": "admin"},
    {"connection": "authorization, close"},
    {"content-location": "/secret/a", "referer": "http://localhost/secret/a"},
]


@pytest.mark.parametrize("extra", HEADERS)
async def test_headers_that_other_servers_believe(world: Worlds, extra: dict[str, str]) -> None:
    async with world() as made:
        for method in METHODS:
            body = b"x" if method in ("POST", "PUT") else None
            response = await made.send(method, f"{made.prefix}/secret/a", {**TEXT, **made.some, **extra}, body)
            assert told(response) == 403
            made.check_untouched()
        other = await made.send("GET", f"{made.prefix}/public/a", {**made.some, **extra})
        assert other is not None
        assert (other.status, other.body) == (200, b"open")
        overridden = {**made.some, **TEXT, **extra, "x-http-method-override": "DELETE"}
        assert told(await made.send("POST", f"{made.prefix}/public/a?_method=DELETE", overridden, b"!")) == 204
        assert "/public/a" in made.paths


def twice(target: str, *values: str, name: str = "authorization") -> bytes:
    """A request with one header several times."""
    lines = "".join(f"{name}: {value}\r\n" for value in values)
    return f"GET {target} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode()


async def test_several_tokens_are_none(world: Worlds) -> None:
    """Whichever of them a proxy in front would have looked at."""
    async with world() as made:
        some, everything = made.some["authorization"], made.all["authorization"]
        token = everything.removeprefix("Bearer ")
        for path in ("/secret/a", "/public/a"):
            target = made.prefix + path
            for raw in (
                twice(target, some, everything),
                twice(target, everything, some),
                twice(target, everything, everything),
                twice(target, f"{everything}, {some}"),
                twice(target, f"{everything},"),
                twice(target, "Basic eDp5", everything),
                twice(target, everything, "Basic eDp5"),
                twice(target, ""),
                twice(target, "Bearer"),
                twice(target, "Bearer "),
                twice(target, token),
                twice(target, f"Bearer{token}"),
                twice(target, f"Bearer\t{token}"),
                twice(target, f'Bearer "{token}"'),
                twice(target, f"Bearer {token} x"),
                twice(target, f"Token {token}"),
                twice(target, f"DPoP {token}"),
                twice(target, everything, name="proxy-authorization"),
                twice(target, everything, name="x-authorization"),
                twice(target, f"token={token}", name="cookie"),
                twice(f"{target}?access_token={token}"),
                twice(f"{target}?Token={token}"),
                twice(f"{target}?%74oken={token}"),
                twice(f"{target}?x=1;token={token}"),
                twice(f"{target}?token={token}&token={token}"),
                twice(f"{target}?token="),
                twice(f"{target}?token={token}%20"),
                twice(f"{target}?token={token}", everything),
                twice(f"{target}?token={token}", some),
            ):
                async with made.site.connect() as connection:
                    await connection.send(raw)
                    response = await connection.read_response()
                    assert response.status in (400, 401), raw
                    assert token.encode() not in response.body
        made.check_untouched()


async def test_how_a_token_may_come(world: Worlds) -> None:
    async with world() as made:
        token = made.all["authorization"].removeprefix("Bearer ")
        target = f"{made.prefix}/secret/a"
        for raw in (
            twice(target, f"Bearer {token}"),
            twice(target, f"bearer {token}"),
            twice(target, f"BEARER   {token}"),
            twice(target, f"  Bearer {token}  "),
            twice(f"{target}?token={token}"),
            twice(f"{target}?x&token={token}&y"),
            twice(f"{target}?token={token}", "Basic eDp5"),
        ):
            async with made.site.connect() as connection:
                await connection.send(raw)
                assert (await connection.read_response()).body == SECRET, raw


async def test_a_token_in_the_query_is_for_reads(world: Worlds) -> None:
    async with world() as made:
        token = made.all["authorization"].removeprefix("Bearer ")
        for method in ("POST", "PUT", "DELETE"):
            body = None if method == "DELETE" else b"x"
            assert told(await made.send(method, f"{made.prefix}/secret/a?token={token}", TEXT, body)) == 401
        assert told(await made.send("DELETE", f"{made.prefix}/-/streams?prefix=/&token={token}", {})) == 401
        made.check_untouched()
        assert told(await made.send("HEAD", f"{made.prefix}/secret/a?token={token}", {})) == 200


@pytest.mark.parametrize(
    "method", ["get", "Get", "gET", "GET\t", "TRACE", "CONNECT", "PATCH", "PROPFIND", "QUERY", "FOO"]
)
async def test_other_methods(world: Worlds, method: str) -> None:
    async with world() as made:
        for fields in ({}, made.some, made.all):
            response = await made.send(method, f"{made.prefix}/secret/a", fields)
            assert told(response) in (400, 401, 405)
            assert response is None or SECRET not in response.body
        made.check_untouched()


async def test_a_preflight_tells_nothing(world: Worlds) -> None:
    async with world() as made:
        answers = [
            await made.send("OPTIONS", made.prefix + path, {}) for path in ("/secret/a", "/nothing", "/-/streams")
        ]
        assert all(answer is not None and (answer.status, answer.body) == (204, b"") for answer in answers)
        assert len({answer.fields for answer in answers if answer is not None}) == 1


FORMS = [
    ("http://localhost{}", True),
    ("http://evil.example{}", True),
    ("https://user:password@localhost:9999{}", True),
    ("HTTP://LOCALHOST{}", True),
    ("//localhost{}", False),
    ("localhost:80", False),
    ("*", False),
]


@pytest.mark.parametrize(("form", "names_it"), FORMS)
async def test_other_forms_of_a_target(world: Worlds, form: str, names_it: bool) -> None:
    """The path of an absolute form (RFC 9112 section 3.2.2) is a path like any other, and asked about alike."""
    async with world() as made:
        for path, body in (("/secret/a", SECRET), ("/public/a", b"open")):
            target = form.format(made.prefix + path)
            for fields in ({}, made.some):
                response = await made.send("GET", target, fields)
                if path == "/public/a" and fields and told(response) == 200:
                    continue
                assert told(response) in (400, 401, 403, 404), target
                assert response is None or SECRET not in response.body
            response = await made.send("GET", target, made.all)
            if told(response) == 200:
                assert names_it
                assert response is not None
                assert response.body == body


SOURCES = [
    *("/secret/a", "/%73ecret/a", "/%73%65cret/%61", "//secret/a", "/secret/a/", "/secret//a", "/./secret/a"),
    *("/public/../secret/a", "/public/%2e%2e/secret/a", "/secret%2Fa", "/secret/a%00", "http://localhost/secret/a"),
    *(
        "/SECRET/a",
        "/secret/a ",
        "secret/a",
        "/secret/a, /public/a",
        "/public/a, /secret/a",
        "\\secret\\a",
        "/nothing/a",
    ),
]


@pytest.mark.parametrize("source", SOURCES)
async def test_a_fork_takes_the_right_to_read_its_source(world: Worlds, source: str) -> None:
    async with world() as made:
        for origin in (source, made.prefix + source):
            fields = {**made.some, "stream-forked-from": origin}
            response = await made.send("PUT", f"{made.prefix}/public/copy", fields)
            # One of them is a path below /public, with a comma in it.
            assert told(response) == 404 if origin.endswith("/public/a, /secret/a") else told(response) in (400, 403)
            made.check_untouched()
            assert made.paths == {"/secret/a", "/public/a"}
        # Whether there is such a source is not told either.
        there, absent = [
            await made.send("PUT", f"{made.prefix}/public/copy", {**made.some, "stream-forked-from": path})
            for path in ("/secret/a", "/secret/b")
        ]
        assert told(there) == told(absent) == 403
        only_create = bearer(mint(made.site, create="/public/**"))
        own = {**only_create, "stream-forked-from": "/public/a"}
        assert told(await made.send("PUT", f"{made.prefix}/public/copy", own)) == 403
        both = bearer(mint(made.site, create="/public/**", read="/secret/a"))
        copied = await made.send("PUT", f"{made.prefix}/public/copy", {**both, "stream-forked-from": "/secret/a"})
        assert told(copied) == 201


async def test_pipelined_requests_are_asked_one_by_one(world: Worlds) -> None:
    """What one request may do, the next on the same connection may not."""
    async with world() as made, made.site.connect() as connection:
        # An empty append is malformed, for whoever may append.
        told_in_turn = [(made.all, 400), ({}, 401), (made.some, 403), (made.all, 400), ({}, 401)]
        target = f"{made.prefix}/secret/a"
        await connection.send(b"".join(encode_request("POST", target, {**TEXT, **who}, b"") for who, _ in told_in_turn))
        for _, status in told_in_turn:
            assert (await connection.read_response()).status == status
        made.check_untouched()
