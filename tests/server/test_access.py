"""Who may do what: every endpoint with and without rights, tokens in headers and in queries, live reads that end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, Site, problem_code, until
from tests.server.tokens import bearer, key_file, mint
from unbroken.protocol.scopes import grant
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


@pytest.mark.parametrize("target", ["/-/health", "/-/ready", "/-/unbroken.js"])
async def test_what_is_open_to_all(guarded: Guarded, target: str) -> None:
    async with guarded() as site:
        assert (await site.get(target)).status == 200
        assert (await site.get(target, {"authorization": "Bearer nonsense"})).status == 200


async def test_a_static_token_revoked_while_streaming(serve_memory: Serve, tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    token, kept = file.create("a test", grant(admin="/**"), now_s=0)
    other, _ = file.create("another", grant(admin="/**"), now_s=0)
    async with serve_memory(tokens_file=file.path) as site:
        await site.create("/a", bearer(token, **{"content-type": "text/plain"}), b"hello")
        async with (
            site.events("/a?offset=-1&live=sse", bearer(token)) as stolen,
            site.events("/a?offset=-1&live=sse", bearer(other)) as sound,
        ):
            assert (await stolen.batch())[0] == "hello"
            assert (await sound.batch())[0] == "hello"
            assert file.revoke(kept.id)
            assert [event.type for event in await stolen.rest()] == ["control"]
            assert problem_code(await site.get("/a", bearer(token))) == (401, "invalid-token")
            await site.append("/a", {**bearer(other), **TEXT}, b"!")
            assert (await sound.batch())[0] == "!"


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_live_read_ends_when_its_token_expires(guarded: Guarded, live: str) -> None:
    async with guarded() as site:
        await site.create("/a", everything(site, content_type="application/json"))
        admin = everything(site)
        token = mint(site, read="/a", ttl_s=1)
        async with site.connect() as connection:
            first = await connection.request("GET", "/a", bearer(token))
            assert first.status == 200
        target = f"/a?offset=now&live={live}&token={token}"
        async with site.waiting(target) as answer:
            await until(lambda: len(site.engine.waiters) == 1 or answer.done())
            site.clock.advance(1.1)
            await site.append("/a", {**admin, **JSON}, b"[1]")
            response = await answer
        assert b"[1]" not in response.body
        assert response.status == (200 if live == "sse" else 401)
