"""An application that says by its own means who somebody is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection

from tests.server.site import JSON, TEXT, Site, problem_code
from tests.server.tokens import bearer, key_file, mint
from unbroken.asgi import AccessRequest, AsgiApp, Principal, grant
from unbroken.engine import Engine
from unbroken.errors import Forbidden
from unbroken.server.access import Authorize
from unbroken.server.settings import Settings
from unbroken.store.memory import MemoryStore
from unbroken.testing import LiveServer, ManualClock, live_server, serve_asgi

ALICE = Principal("alice", grant(admin="/alice/**"))


def by_cookie(request: AccessRequest) -> Principal | None:
    connection = HTTPConnection(request.scope)
    return ALICE if connection.cookies.get("session") == "alice" else None


async def by_cookie_later(request: AccessRequest) -> Principal | None:
    await asyncio.sleep(0)
    return by_cookie(request)


@asynccontextmanager
async def serving(authorize: Authorize, **settings: Any) -> AsyncIterator[Site]:
    clock = ManualClock()
    async with live_server(settings=Settings(**settings), clock=clock, authorize=authorize) as server:
        yield Site(server, clock)


@asynccontextmanager
async def mounted(authorize: Authorize) -> AsyncIterator[Site]:
    clock = ManualClock()
    streams = AsgiApp(Engine(MemoryStore(), clock=clock), Settings(), authorize=authorize, watch_signals=False)
    app = FastAPI(lifespan=streams.lifespan)
    app.mount("/streams", streams)
    async with serve_asgi(app) as address:
        yield Site(LiveServer(address, streams), clock)


COOKIE = {"cookie": "session=alice"}


@pytest.mark.parametrize("authorize", [by_cookie, by_cookie_later])
async def test_the_application_decides(authorize: Authorize) -> None:
    async with serving(authorize) as site:
        await site.create("/alice/1", {**TEXT, **COOKIE}, b"hello")
        await site.append("/alice/1", {**TEXT, **COOKIE}, b"!")
        assert (await site.get("/alice/1", COOKIE)).body == b"hello!"
        assert problem_code(await site.get("/alice/1")) == (401, "unauthorized")
        assert problem_code(await site.post("/alice/1", TEXT, b"x")) == (401, "unauthorized")
        assert problem_code(await site.get("/bob/1", COOKIE)) == (403, "insufficient-scope")
        assert problem_code(await site.put("/bob/1", COOKIE)) == (403, "insufficient-scope")
        vary = (await site.get("/alice/1", COOKIE))["vary"]
        assert {"authorization", "cookie"} <= {name.strip().lower() for name in vary.split(",")}


async def test_what_the_application_is_told() -> None:
    asked: list[AccessRequest] = []

    def authorize(request: AccessRequest) -> Principal:
        asked.append(request)
        return Principal("anybody", grant(admin="/**"))

    async with mounted(authorize) as site:
        await site.create("/streams/%61/b%20c", {**JSON, "X-Twice": "1"}, b"[1]")
        await site.get("/streams/a/b%20c?offset=-1&x=%2F")
        await site.post("/streams/a/b%20c", JSON, b"[2]")
        await site.delete("/streams/a/b%20c")
        await site.get("/streams/-/streams?prefix=/a/")
        await site.get("/streams/-/health")
        await site.get("/streams//a")
        await site.request("OPTIONS", "/streams/a")
    assert [(one.method, one.path, one.action, one.query) for one in asked] == [
        ("PUT", "/a/b c", "create", ""),
        ("GET", "/a/b c", "read", "offset=-1&x=%2F"),
        ("POST", "/a/b c", "append", ""),
        ("DELETE", "/a/b c", "delete", ""),
        ("GET", "/-/streams", "read", "prefix=/a/"),
    ]
    assert asked[0].headers["x-twice"] == "1"
    assert all(one.scope["type"] == "http" and one.scope["client"][0] == "127.0.0.1" for one in asked)


async def test_whom_it_does_not_know_needs_a_token(tmp_path: Path) -> None:
    async with serving(by_cookie, jwt_keys=(key_file(tmp_path),)) as site:
        await site.create("/alice/1", {**TEXT, **COOKIE}, b"hello")
        token = mint(site, read="/alice/1")
        assert (await site.get("/alice/1", bearer(token))).body == b"hello"
        assert (await site.get(f"/alice/1?token={token}")).body == b"hello"
        assert problem_code(await site.get("/alice/1", bearer("nonsense"))) == (401, "invalid-token")
        assert (await site.get("/alice/1", {**COOKIE, **bearer("nonsense")})).body == b"hello", "it was asked first"


async def test_each_request_is_asked_about() -> None:
    """Who was known a moment ago may be gone: a session that ended, a member who was removed."""
    known = True

    def authorize(request: AccessRequest) -> Principal | None:
        return Principal("x", grant(admin="/**")) if known else None

    async with serving(authorize) as site, site.connect() as connection:
        assert (await connection.request("PUT", "/a", TEXT, b"x")).status == 201
        assert (await connection.request("POST", "/a", TEXT, b"x")).status == 204
        known = False
        assert (await connection.request("POST", "/a", TEXT, b"x")).status == 401
        assert (await connection.request("GET", "/a", TEXT)).status == 401


async def test_an_application_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: AccessRequest) -> Principal:
        raise RuntimeError("the database of users is down")

    def refusing(request: AccessRequest) -> Principal:
        raise Forbidden("your trial is over")

    def foolish(request: AccessRequest) -> Any:
        return True

    async with serving(broken) as site:
        assert problem_code(await site.put("/a", TEXT, b"x")) == (500, "internal-error")
        assert list(site.engine.streams()) == []
    assert "the database of users is down" in caplog.text
    async with serving(refusing) as site:
        response = await site.put("/a", TEXT, b"x")
        assert problem_code(response) == (403, "forbidden")
        assert response.json()["detail"] == "your trial is over"
    async with serving(foolish) as site:
        assert problem_code(await site.put("/a", TEXT, b"x")) == (500, "internal-error")
        assert list(site.engine.streams()) == []


async def test_cookies_and_pages_of_others() -> None:
    """A browser adds cookies by itself, so a page of another site must not write with them: not even by a form."""
    async with serving(by_cookie) as site:
        host = f"{site.address.host}:{site.address.port}"
        form = {**COOKIE, "content-type": "text/plain", "host": "app.example"}
        for origin, status in (
            ("https://app.example", 201),
            ("http://app.example", 201),
            ("https://APP.example", 201),
            ("https://evil.example", 403),
            ("https://app.example.evil.example", 403),
            ("https://app.example:444", 403),
            ("https://evil.example/app.example", 403),
            ("http://localhost:3000", 403),
            ("null", 403),
            ("app.example", 403),
            ("ftp://app.example", 403),
        ):
            response = await site.put(f"/alice/{abs(hash(origin))}", {**form, "origin": origin}, b"x")
            assert response.status == status, origin
            assert (response.get("access-control-allow-origin") is not None) == (status == 201)
        own = {**COOKIE, "host": host, "origin": "http://localhost:3000"}
        assert (await site.put("/alice/dev", own, b"x")).status == 201, "both of this machine"


async def test_pages_of_others_that_are_allowed_need_tokens(tmp_path: Path) -> None:
    """Cookies are not taken across origins, neither for writes, which a page may send blindly, nor for reads."""
    settings: dict[str, Any] = {"cors_origin": ("https://other.example",), "public_url": "https://public.example"}
    async with serving(by_cookie, jwt_keys=(key_file(tmp_path),), **settings) as site:
        page = {**TEXT, **COOKIE, "host": "app.example"}
        listed, token = {**page, "origin": "https://other.example"}, mint(site, admin="/alice/**")
        for own in ("https://app.example", "https://public.example"):
            await site.create(f"/alice/{own[8:]}", {**page, "origin": own}, b"x")
        for refused in (
            await site.put("/alice/1", listed, b"x"),
            await site.post("/alice/app.example", listed, b"x"),
            await site.delete("/alice/app.example", listed),
            await site.get("/alice/app.example", listed),
            await site.get("/alice/app.example?live=sse&offset=-1", listed),
        ):
            assert problem_code(refused) == (401, "unauthorized")
        assert (await site.post("/alice/app.example", {**listed, **bearer(token)}, b"y")).status == 204
        assert (await site.get("/alice/app.example", {**listed, **bearer(token)})).body == b"xy"


async def test_pages_of_others_that_embed_a_stream() -> None:
    """As a script or an image. A browser says so, and sends no Origin. A link is followed with cookies, as anywhere."""
    async with serving(by_cookie) as site:
        await site.create("/alice/1", {**TEXT, **COOKIE}, b"hello")
        for kind, mode, status in (
            ("cross-site", "no-cors", 401),
            ("cross-site", "navigate", 200),
            ("same-site", "no-cors", 200),
            ("same-origin", "cors", 200),
            ("none", "navigate", 200),
        ):
            fetch = {**COOKIE, "sec-fetch-site": kind, "sec-fetch-mode": mode}
            assert (await site.get("/alice/1", fetch)).status == status, (kind, mode)


class ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


async def test_middleware_of_the_outer_application() -> None:
    """It has run by then, so what it found out is at hand."""

    def authorize(request: AccessRequest) -> Principal | None:
        user = request.scope["user"]
        return Principal(user.display_name, grant(admin=f"/{user.display_name}/**")) if user.is_authenticated else None

    streams = AsgiApp(Engine(MemoryStore()), Settings(), authorize=authorize, watch_signals=False)
    app = FastAPI(lifespan=streams.lifespan)
    app.mount("/streams", streams)
    app.add_middleware(AuthenticationMiddleware, backend=ByHeader())
    async with serve_asgi(app) as address:
        site = Site(LiveServer(address, streams), ManualClock())
        alice = {**TEXT, "x-user": "alice"}
        assert (await site.put("/streams/alice/1", alice, b"x")).status == 201
        assert (await site.post("/streams/alice/1", alice, b"x")).status == 204
        assert (await site.put("/streams/bob/1", alice, b"x")).status == 403
        assert (await site.put("/streams/alice/2", None, b"x")).status == 401
