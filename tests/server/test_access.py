"""Who may do what: every endpoint with and without rights, tokens in headers and in queries, live reads that end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.asked import Asked
from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import JSON, TEXT, Site, problem_code, until
from tests.server.tokens import SECRET, bearer, key_file, mint
from unbroken import tokens
from unbroken.asgi import create_app
from unbroken.protocol.scopes import Principal, grant
from unbroken.server.access import AccessRequest
from unbroken.testing import connect, encode_request, live_server, serve_asgi
from unbroken.tokens import TokenFile

Guarded = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def guarded(serve_memory: Serve, tmp_path: Path) -> Guarded:
    """A server with a key."""

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Site]:
        async with serve_memory(jwt_keys=(key_file(tmp_path),), **settings) as site:
            yield site

    return serving


def everything(site: Site, **fields: str) -> dict[str, str]:
    return bearer(mint(site, admin="/**"), **fields)


REQUESTS = [
    pytest.param("GET", "/a", "read:/a", id="read"),
    pytest.param("HEAD", "/a", "read:/a", id="head"),
    pytest.param("GET", "/a?offset=now&live=long-poll&timeout=0.01", "read:/a", id="long-poll"),
    pytest.param("GET", "/a?offset=-1&live=sse", "read:/a", id="sse"),
    pytest.param("POST", "/a", "append:/a", id="append"),
    pytest.param("PUT", "/new", "create:/new", id="create"),
    pytest.param("PUT", "/a", "create:/a", id="confirm"),
    pytest.param("DELETE", "/a", "delete:/a", id="delete"),
    pytest.param("GET", "/-/metrics", "admin:/**", id="metrics"),
    pytest.param("GET", "/-/streams", "admin:/**", id="list"),
    pytest.param("GET", "/-/streams?prefix=/x/y", "admin:/x/**", id="list-prefix"),
    pytest.param("DELETE", "/-/streams?prefix=/x/", "admin:/x/**", id="delete-prefix"),
]


@pytest.mark.parametrize(("method", "target", "needed"), REQUESTS)
@pytest.mark.parametrize("there", [True, False])
async def test_every_endpoint_with_and_without_rights(
    guarded: Guarded, method: str, target: str, needed: str, there: bool
) -> None:
    """What is refused is refused alike, whether or not there is such a stream."""
    async with guarded(sse_lifetime=0.05) as site:
        if there:
            await site.create("/a", everything(site, content_type="text/plain"), b"hello")
        body = b"x" if method in ("POST", "PUT") else None

        unknown = await site.request(method, target, TEXT, body)
        assert unknown.status == 401
        assert unknown["www-authenticate"] == 'Bearer realm="unbroken"'

        others = [f"{action}:/**" for action in ("create", "append", "read", "delete") if not needed.startswith(action)]
        token = mint_text(site, " ".join(others))
        refused = await site.request(method, target, bearer(token, content_type="text/plain"), body)
        assert refused.status == 403
        assert f'error="insufficient_scope", scope="{needed}"' in refused["www-authenticate"]
        if method != "HEAD":
            assert unknown.json()["code"] == "unauthorized"
            assert refused.json()["code"] == "insufficient-scope"
            assert needed in refused.json()["detail"]

        allowed = await site.request(method, target, bearer(mint_text(site, needed), content_type="text/plain"), body)
        missing = not there and target.startswith("/a") and method != "PUT"
        assert allowed.status == 404 if missing else allowed.status < 300


def mint_text(site: Site, scopes: str) -> str:
    globs: dict[str, list[str]] = {}
    for scope in scopes.split():
        action, _, glob = scope.partition(":")
        globs.setdefault(action, []).append(glob)
    return mint(site, **globs)


@pytest.mark.parametrize("target", ["/-/health", "/-/ready", "/-/unbroken.js", "/-/ui"])
async def test_what_is_open_to_all(guarded: Guarded, target: str) -> None:
    async with guarded() as site:
        assert (await site.get(target)).status == 200
        assert (await site.get(target, {"authorization": "Bearer nonsense"})).status == 200


async def test_an_endpoint_by_its_own_name(guarded: Guarded) -> None:
    """What gathers metrics need not be able to do anything else."""
    async with guarded() as site:
        scraper = bearer(mint(site, read="/-/metrics"))
        assert (await site.get("/-/metrics", scraper)).status == 200
        for target in ("/-/streams", "/a"):
            assert (await site.get(target, scraper)).status == 403
        for globs in ({"read": "/**"}, {"read": "/*/*"}, {"append": "/-/metrics"}, {"admin": "/a/**"}):
            assert (await site.get("/-/metrics", bearer(mint(site, **globs)))).status == 403
        assert (await site.delete("/-/streams?prefix=/", bearer(mint(site, admin="/-/streams")))).status == 403


# --- live reads end --------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenFile:
    """A file with static tokens, which the server looks at more often than every second."""
    monkeypatch.setattr("unbroken.server.access._POLL_S", 0.01)
    return TokenFile(tmp_path / "tokens.json")


async def test_a_static_token_revoked_while_streaming(serve_memory: Serve, file: TokenFile) -> None:
    token, kept = file.create("stolen", grant(admin="/**"), now_s=0)
    other, _ = file.create("sound", grant(admin="/**"), now_s=0)
    async with serve_memory(tokens_file=file.path) as site:
        await site.create("/a", bearer(token, content_type="text/plain"), b"hello")
        async with (
            site.events("/a?offset=-1&live=sse", bearer(token)) as stolen,
            site.events("/a?offset=-1&live=sse", bearer(other)) as sound,
            site.waiting("/a?offset=now&live=long-poll", bearer(token)) as waiting,
        ):
            assert (await stolen.batch())[0] == "hello"
            assert (await sound.batch())[0] == "hello"
            assert file.revoke(kept.id)
            assert [event.type for event in await stolen.rest()] == ["control"]
            assert problem_code(await waiting) == (401, "invalid-token")
            assert problem_code(await site.get("/a", bearer(token))) == (401, "invalid-token")
            await site.append("/a", {**bearer(other), **TEXT}, b"!")
            assert (await sound.batch())[0] == "!"


async def test_revoked_between_the_check_and_the_read(serve_memory: Serve, file: TokenFile) -> None:
    """A live read whose token goes while it is being opened: nobody would be there to end it later."""
    token, kept = file.create("stolen", grant(admin="/**"), now_s=0)
    async with serve_memory(tokens_file=file.path) as site:
        await site.create("/a", bearer(token, content_type="text/plain"), b"hello")
        access = site.app.app.access
        assert access is not None
        request = Asked({b"authorization": f"Bearer {token}".encode()})
        await access.check(request, "/a")
        file.revoke(kept.id)
        await until_answered(site, token, 401)
        with access.lease(request, lambda: None) as lease:
            assert lease.over


async def until_answered(site: Site, token: str, status: int) -> None:
    async with asyncio.timeout(10):
        while (await site.get("/a", bearer(token))).status != status:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)


async def test_static_tokens_come_and_go(
    serve_memory: Serve, file: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a restart; a file that is damaged changes nothing, one that is gone takes all away."""
    first, _ = file.create("first", grant(admin="/**"), now_s=0)
    async with serve_memory(tokens_file=file.path) as site:
        await site.create("/a", bearer(first, content_type="text/plain"), b"hello")
        second, _ = file.create("second", grant(read="/a"), now_s=0)
        await until_answered(site, second, 200)
        file.path.write_text("{")
        await until(lambda: "the tokens that were valid stay so" in caplog.text)
        assert (await site.get("/a", bearer(second))).status == 200
        file.path.unlink()
        await until_answered(site, second, 401)
        assert (await site.get("/a", bearer(first))).status == 401
        assert (await site.get("/a")).status == 401, "a server that asked once asks for ever"


async def test_a_server_with_static_tokens_alone(serve_memory: Serve, file: TokenFile) -> None:
    file.create("one", grant(read="/a"), now_s=0)
    async with serve_memory(tokens_file=file.path) as site:
        response = await site.get("/a", bearer(mint(site, read="/a")))
        assert problem_code(response) == (401, "invalid-token")
        assert "no signed tokens" in response.json()["detail"]


async def test_a_static_token_expires(serve_memory: Serve, file: TokenFile) -> None:
    file.create("admin", grant(admin="/**"), now_s=0)
    token, _ = file.create("for an hour", grant(admin="/**"), now_s=0, expires_at=1_767_225_600 + 3600)
    async with serve_memory(tokens_file=file.path) as site:
        await site.create("/a", bearer(token, content_type="text/plain"), b"hello")
        site.clock.advance(3599)
        assert (await site.get("/a", bearer(token))).status == 200
        site.clock.advance(1)
        response = await site.get("/a", bearer(token))
        assert problem_code(response) == (401, "invalid-token")
        assert 'error="invalid_token"' in response["www-authenticate"]


async def test_a_live_read_is_told_nothing_after_its_token_expired(guarded: Guarded) -> None:
    """What is appended after that second is not for it, even if its timer is late."""
    async with guarded() as site:
        await site.create("/a", everything(site, content_type="application/json"))
        writer = everything(site)
        token = mint(site, read="/a", ttl_s=60)
        async with (
            site.events(f"/a?offset=-1&live=sse&token={token}") as events,
            site.waiting("/a?offset=now&live=long-poll", bearer(token)) as waiting,
        ):
            await events.batch()
            site.clock.advance(59)
            await site.append("/a", {**writer, **JSON}, b"[1]")
            assert (await events.batch())[0] == "[1]"
            assert (await waiting).body == b"[1]"
            site.clock.advance(1)
            await site.append("/a", {**writer, **JSON}, b"[2]")
            assert [event.type for event in await events.rest()] == ["control"]
        assert (await site.get("/a", bearer(token))).status == 401


async def test_a_live_read_ends_by_itself() -> None:
    """By the system's clock, with nothing appended. Each request's principal is to last a moment from then on."""

    def authorize(request: AccessRequest) -> Principal:
        return Principal("somebody", grant(read="/a"), time.time() + 0.1)

    async with live_server(authorize=authorize) as server:
        await server.engine.create("/a", content_type="text/plain")
        async with connect(*server.address) as follower, connect(*server.address) as waiter:
            await follower.send(encode_request("GET", "/a?offset=-1&live=sse"))
            await waiter.send(encode_request("GET", "/a?offset=now&live=long-poll"))
            followed, waited = await follower.read_response(), await waiter.read_response()
        assert followed.body.count(b"event: control") == 2
        assert problem_code(waited) == (401, "invalid-token")


async def test_a_slow_reader_of_much_is_cut_off_as_well(guarded: Guarded) -> None:
    """Its token expires while it is still being sent what was there before."""
    async with guarded(page_size=1024 * 1024) as site:
        await site.create("/a", everything(site, content_type="text/plain"), b"x" * (20 * 1024 * 1024))
        token = mint(site, read="/a", ttl_s=60)
        async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as connection:
            await connection.send(encode_request("GET", f"/a?offset=-1&live=sse&token={token}"))
            await connection.read_head()
            await connection.read_part()
            site.clock.advance(60)
            seen = len(await connection.read_rest())
        assert seen < 15 * 1024 * 1024


# --- what is remembered ----------------------------------------------------------------------------------------------


async def test_a_remembered_token_is_asked_its_time(guarded: Guarded) -> None:
    async with guarded() as site:
        token = mint(site, admin="/**", ttl_s=60)
        await site.create("/a", bearer(token, content_type="text/plain"), b"x")
        for expected in (204, 401):
            async with site.connect() as connection:
                for _ in range(3):
                    response = await connection.request("POST", "/a", bearer(token, content_type="text/plain"), b"x")
                    assert response.status == expected
            site.clock.advance(60)


async def test_what_is_remembered_is_bounded(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.server.access._KNOWN_MAX", 5)
    async with guarded() as site:
        made = [mint(site, admin="/**", subject=str(number)) for number in range(12)]
        await site.create("/a", bearer(made[0], content_type="text/plain"), b"x")
        for token in made * 2:
            assert (await site.get("/a", bearer(token))).status == 200
        access = site.app.app.access
        assert access is not None
        assert len(access._known) == 5


# --- caches and pages ------------------------------------------------------------------------------------------------


async def test_no_shared_cache_keeps_what_one_may_read(guarded: Guarded) -> None:
    async with guarded(sse_lifetime=0.05) as site:
        await site.create("/a", everything(site, content_type="text/plain"), b"hello")
        await site.create("/empty", everything(site, content_type="text/plain"))
        for target, cache_control in (
            ("/a", "private, max-age=60, stale-while-revalidate=300"),
            ("/a?offset=-1&live=long-poll", "private, max-age=60, stale-while-revalidate=300"),
            ("/empty", "private, no-cache"),
            ("/a?offset=-1&live=sse", "private, no-cache"),
            ("/a?offset=now", "no-store"),
            ("/a?offset=now&live=long-poll&timeout=0.01", "no-store"),
            ("/-/streams", "no-store"),
            ("/nothing", "no-store"),
        ):
            for fields in (everything(site), everything(site, origin="https://app.example")):
                response = await site.get(target, fields)
                assert response["cache-control"] == cache_control, target
                assert "authorization" in response["vary"].lower()
                assert response["access-control-allow-origin"] == "*"
                assert response.get("x-accel-expires") is None, "which nginx puts above Cache-Control"


async def test_a_condition_is_no_way_around(guarded: Guarded) -> None:
    async with guarded() as site:
        await site.create("/a", everything(site, content_type="text/plain"), b"hello")
        tag = (await site.get("/a", everything(site)))["etag"]
        other = bearer(mint(site, read="/b"))
        for condition in (tag, "*", f'"x", {tag}'):
            conditional = {"if-none-match": condition}
            assert (await site.get("/a", conditional)).status == 401
            assert (await site.get("/a", {**other, **conditional})).status == 403
            assert (await site.get("/a", {**everything(site), **conditional})).status == 304


async def test_pages_of_everywhere_may_try(guarded: Guarded) -> None:
    """They need a token, which the browser does not add by itself. ``--cors-origin`` still narrows it."""
    page = "https://app.example"
    async with guarded() as site:
        created = await site.put("/a", everything(site, origin=page, content_type="text/plain"), b"x")
        assert (created.status, created["access-control-allow-origin"]) == (201, "*")
        refused = await site.post("/a", {**TEXT, "origin": page}, b"x")
        assert (refused.status, refused["access-control-allow-origin"]) == (401, "*"), "so that the page can tell"
    async with guarded(cors_origin=(page,)) as site:
        assert (await site.put("/b", everything(site, origin=page), b"x")).status == 201
        other = everything(site, origin="https://evil.example")
        assert problem_code(await site.put("/c", other, b"x")) == (403, "origin-not-allowed")


@pytest.mark.parametrize(
    ("content_type", "sandboxed"),
    [
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("image/svg+xml", True),
        ("application/xhtml+xml", True),
        ("text/xml", True),
        ("multipart/x-mixed-replace", True),
        ("text/plain", False),
        ("application/json", False),
        ("application/octet-stream", False),
    ],
)
async def test_a_stream_is_no_page_of_this_server(guarded: Guarded, content_type: str, sandboxed: bool) -> None:
    async with guarded() as site:
        await site.create("/a", everything(site, content_type=content_type), b"[1]")
        for target in ("/a", "/a?offset=now", "/a?offset=-1&live=long-poll"):
            response = await site.get(target, everything(site))
            assert response.get("content-security-policy") == ("sandbox" if sandboxed else None)


async def test_where_everybody_may_write_a_page_may_be_one(serve_memory: Serve) -> None:
    """Whoever writes it can do all that the page could."""
    async with serve_memory() as site:
        await site.create("/a", {"content-type": "text/html"}, b"<script>1</script>")
        assert (await site.get("/a")).get("content-security-policy") is None


# --- no log shows a token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_log_of_the_server_shows_a_token(tmp_path: Path, log_format: str) -> None:
    """Not with every request logged, whatever becomes of it."""
    flags = ("--jwt-keys", key_file(tmp_path), "--log-level", "debug", "--log-format", log_format)
    good = tokens.mint(SECRET, admin="/**")
    expired = tokens.mint(SECRET, admin="/**", now_s=1000)
    made_up = "eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImFkbWluOi8qKiJ9.c2lnbmF0dXJl"
    async with server_process(tmp_path, *flags) as server, connect(*server.address) as client:
        assert (await client.request("PUT", "/a", bearer(good, content_type="text/plain"), b"x")).status == 201
        for token in (good, expired, made_up):
            for target in (
                *("/a?token={}", "/a?offset=-1&live=sse&token={}", "/a?x=1&token={}&y=2", "/nothing?token={}"),
                *("//a?token={}", "/a?offset=bad&token={}", "/-/streams?token={}", "/-/nothing?token={}"),
                *("/a?token={0}&token={0}", "/-/health?token={}"),
            ):
                async with connect(*server.address) as other:
                    await other.send(encode_request("GET", target.format(token)))
                    response = await other.read_head()
                    if "live=sse" not in target or response.status != 200:
                        assert token.encode() not in await other.read_rest()
            assert (await client.request("POST", f"/a?token={token}", TEXT, b"x")).status == 401
            await client.request("GET", "/a", bearer(token))
        server.send_signal(signal.SIGTERM)
        code, log = await server.wait()
    assert code == 0
    assert log.count("GET /a") > 10, "they are logged"
    for token in (good, expired, made_up):
        assert not any(part in log for part in token.split("."))


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nor_does_that_of_a_server_that_asked_for_none(tmp_path: Path, log_format: str) -> None:
    """It may be good elsewhere."""
    flags = ("--store", "memory", "--log-level", "debug", "--log-format", log_format)
    async with server_process(tmp_path, *flags) as server, connect(*server.address) as client:
        assert (await client.request("GET", "/a?offset=-1&token=good.elsewhere")).status == 404
        server.send_signal(signal.SIGTERM)
        _, log = await server.wait()
    assert "offset=-1" in log
    assert "elsewhere" not in log


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("prefix", ["", "/streams"])
async def test_no_log_of_the_server_underneath_shows_a_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, http: str, prefix: str
) -> None:
    """uvicorn logs requests by itself, as it does by default: also those of an application that mounts ours."""
    streams = create_app(store="memory", jwt_keys=key_file(tmp_path), watch_signals=False)
    app: Any = streams
    if prefix:
        app = FastAPI(lifespan=streams.lifespan)
        app.mount(prefix, streams)
    token = tokens.mint(SECRET, admin="/**")
    with caplog.at_level("INFO", "uvicorn.access"):
        async with serve_asgi(app, http=http) as address:
            monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
            async with connect(*address) as client:
                assert (await client.request("GET", f"{prefix}/a?x=1&token={token}&y=2")).status == 404
                assert (await client.request("GET", f"{prefix}/a?token={token}x")).status == 401
            streams.engine.drain()
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(lines) == 2
    assert f"{prefix}/a?x=1&token=...&y=2" in lines[0]
    assert token[-20:] not in caplog.text
