"""Requests that concern many streams: listing them, and deleting all below a prefix."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, Site, offset, problem_code

PATHS = ["/a", "/a/1", "/a/2", "/ab", "/b/x y", "/b/ü"]


async def fill(site: Site) -> None:
    for path in PATHS:
        await site.create(quote(path), TEXT, b"hello")


async def paths(site: Site, query: str = "") -> list[str]:
    response = await site.get(f"/-/streams{query}")
    assert (response.status, response["content-type"]) == (200, "application/json")
    assert response["cache-control"] == "no-store"
    return [stream["path"] for stream in response.json()["streams"]]


async def test_streams_are_listed(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/json", {**JSON, "stream-ttl": "60"}, b"[1,2]")
        await site.create("/text", {**TEXT, "stream-closed": "true"}, b"hello")
        await site.create("/until", {**TEXT, "stream-expires-at": "2026-06-01T00:00:00Z"})
        created = "2026-01-01T00:00:00.000Z"
        assert (await site.get("/-/streams")).json() == {
            "streams": [
                {
                    "path": "/json",
                    "contentType": "application/json",
                    "nextOffset": offset(1, 4),
                    "createdAt": created,
                    "ttlSeconds": 60,
                },
                {
                    "path": "/text",
                    "contentType": "text/plain",
                    "nextOffset": offset(2, 5),
                    "createdAt": created,
                    "closed": True,
                },
                {
                    "path": "/until",
                    "contentType": "text/plain",
                    "nextOffset": offset(3, 0),
                    "createdAt": created,
                    "expiresAt": "2026-06-01T00:00:00.000Z",
                },
            ]
        }


async def test_a_listing_has_pages_and_a_prefix(serve: Serve) -> None:
    async with serve() as site:
        assert await paths(site) == []
        await fill(site)
        assert await paths(site) == PATHS
        assert await paths(site, "?prefix=/a") == ["/a", "/a/1", "/a/2", "/ab"]
        assert await paths(site, "?prefix=/a/") == ["/a/1", "/a/2"]
        assert await paths(site, f"?prefix={quote('/b/ü')}") == ["/b/ü"]
        assert await paths(site, "?prefix=b") == []
        found: list[str] = []
        after = ""
        while True:
            listing = (await site.get(f"/-/streams?limit=2&prefix=/&after={quote(after)}")).json()
            found += [stream["path"] for stream in listing["streams"]]
            if "next" not in listing:
                break
            after = listing["next"]
        assert found == PATHS


async def test_what_is_gone_or_over_is_not_listed(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/source", TEXT, b"hello")
        await site.create("/fork", {"stream-forked-from": "/source"})
        await site.create("/short", {**TEXT, "stream-ttl": "5"})
        await site.create("/gone", TEXT)
        await site.delete("/source")
        await site.delete("/gone")
        site.clock.advance(6)
        assert await paths(site) == ["/fork"]


async def test_all_below_a_prefix_are_deleted(serve: Serve) -> None:
    async with serve() as site:
        await fill(site)
        response = await site.delete("/-/streams?prefix=/a/")
        assert (response.status, response.json()) == (200, {"deleted": 2, "more": False})
        assert await paths(site) == ["/a", "/ab", "/b/x y", "/b/ü"]
        assert (await site.get("/a/1")).status == 404
        assert (await site.delete("/-/streams?prefix=/&limit=3")).json() == {"deleted": 3, "more": True}
        assert await paths(site) == ["/b/ü"]
        assert (await site.delete("/-/streams?prefix=/&limit=3")).json() == {"deleted": 1, "more": False}
        assert (await site.delete("/-/streams?prefix=/")).json() == {"deleted": 0, "more": False}


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("DELETE", ""),
        ("DELETE", "?prefix="),
        ("DELETE", "?prefix=/a&prefix=/b"),
        ("DELETE", "?prefix=/a&limit=0"),
        ("DELETE", "?prefix=/a&limit=10001"),
        ("GET", "?limit=0"),
        ("GET", "?limit=1001"),
        ("GET", "?limit=x"),
        ("GET", "?prefix=%ff"),
        ("GET", "?" + "&".join(f"x{n}=1" for n in range(17))),
    ],
)
async def test_bad_queries(serve_memory: Serve, method: str, query: str) -> None:
    async with serve_memory() as site:
        await fill(site)
        response = await site.request(method, f"/-/streams{query}")
        assert problem_code(response) == (400, "invalid-header")
        assert await paths(site) == PATHS


async def test_other_methods_are_refused(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        for method in ("PUT", "POST", "HEAD"):
            response = await site.request(method, "/-/streams?prefix=/")
            assert response.status == 405
            assert response["allow"] == "GET, DELETE, OPTIONS"


async def test_pages_of_the_internet_may_not_delete(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        await fill(site)
        response = await site.delete("/-/streams?prefix=/", {"origin": "https://example.com"})
        assert response.status == 403
        assert await paths(site) == PATHS
