"""Cross-origin rules: whose pages may read and write."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, problem_code

_BY_SCRIPT = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}
REQUEST_HEADERS = {
    "content-type",
    "stream-seq",
    "stream-ttl",
    "stream-expires-at",
    "stream-closed",
    "stream-forked-from",
    "stream-fork-offset",
    "stream-fork-sub-offset",
    "producer-id",
    "producer-epoch",
    "producer-seq",
    "if-none-match",
    "last-event-id",
    "authorization",
}
RESPONSE_HEADERS = {
    "stream-next-offset",
    "stream-cursor",
    "stream-up-to-date",
    "stream-closed",
    "stream-ttl",
    "stream-expires-at",
    "stream-sse-data-encoding",
    "producer-epoch",
    "producer-seq",
    "producer-expected-seq",
    "producer-received-seq",
    "etag",
    "location",
    "retry-after",
}
PAGE = "https://app.example"
LOOPBACK = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "http://app.localhost:5173",
    "http://127.0.0.1:8000",
    "http://127.8.9.1",
    "http://[::1]:9999",
]
FOREIGN = [
    PAGE,
    "null",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://evil.example:80",
    "http://evillocalhost",
    "http://192.168.0.1",
    "http://0.0.0.0",
    "http://[::2]",
    "http://[::1",
    "http://",
    "",
    "file://",
    "http://localhost, http://evil.example",
]


def _names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("origin", LOOPBACK)
async def test_pages_of_this_machine_may_do_everything_by_default(serve_memory: Serve, origin: str) -> None:
    async with serve_memory() as site:
        page = {**TEXT, "origin": origin}
        for method, status in (("PUT", 201), ("POST", 204), ("GET", 200), ("HEAD", 200), ("DELETE", 204)):
            response = await site.request(method, "/a", page, b"x" if method in ("PUT", "POST") else None)
            assert response.status == status
            assert response["access-control-allow-origin"] == origin
            assert "origin" in _names(response["vary"])
            assert _names(response["access-control-expose-headers"]) >= RESPONSE_HEADERS


@pytest.mark.parametrize("origin", FOREIGN)
async def test_other_pages_may_neither_read_nor_write_by_default(serve_memory: Serve, origin: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"secret")
        page = {**TEXT, "origin": origin}
        for method in ("POST", "PUT", "DELETE"):
            response = await site.request(method, "/a", page, b"x")
            assert problem_code(response) == (403, "origin-not-allowed")
            assert response.get("access-control-allow-origin") is None
        for target in ("/a", "/a?offset=-1&live=long-poll", "/none"):
            response = await site.get(target, page)
            assert response.get("access-control-allow-origin") is None, "so the browser keeps it from the page"
            assert "origin" in _names(response["vary"])
        preflight = await site.request("OPTIONS", "/a", {**page, "access-control-request-method": "PUT"})
        assert preflight.get("access-control-allow-origin") is None
        assert (await site.get("/a")).body == b"secret"


async def test_refused_write_is_refused_before_anything_is_told(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        page = {**TEXT, "origin": PAGE}
        assert problem_code(await site.put("/new", page, b"x")) == (403, "origin-not-allowed")
        assert problem_code(await site.post("/none", page, b"x")) == (403, "origin-not-allowed")
        assert (await site.head("/new")).status == 404


async def test_without_origin_everybody_may(serve_memory: Serve) -> None:
    async with serve_memory(cors_origin=()) as site:
        response = await site.create("/a", TEXT, b"x")
        assert response.get("access-control-allow-origin") is None


async def test_any_origin(serve_memory: Serve) -> None:
    async with serve_memory(cors_origin=("*",)) as site:
        page = {**TEXT, "origin": PAGE}
        assert (await site.put("/a", page, b"x")).status == 201
        response = await site.get("/a", page)
        assert response["access-control-allow-origin"] == "*"
        assert _names(response["access-control-expose-headers"]) >= RESPONSE_HEADERS
        assert (await site.get("/a"))["access-control-allow-origin"] == "*", "caches serve pages with and without"


async def test_listed_origins(serve_memory: Serve) -> None:
    async with serve_memory(cors_origin=(PAGE, "http://other.example:8080")) as site:
        for origin in (PAGE, "http://other.example:8080"):
            response = await site.put("/a", {**TEXT, "origin": origin}, b"x")
            assert response["access-control-allow-origin"] == origin
            assert "origin" in _names(response["vary"])
        for origin in ("http://other.example", "http://localhost:3000", f"{PAGE}.evil.example", "https://xapp.example"):
            response = await site.put("/a", {**TEXT, "origin": origin}, b"x")
            assert problem_code(response) == (403, "origin-not-allowed")


async def test_pages_of_the_public_url_are_allowed(serve_memory: Serve) -> None:
    async with serve_memory(public_url="https://streams.example/base") as site:
        response = await site.put("/a", {**TEXT, "origin": "https://streams.example"}, b"x")
        assert (response.status, response["access-control-allow-origin"]) == (201, "https://streams.example")


@pytest.mark.parametrize("path", ["/a", "/missing", "//bad", "/-/health", "*"])
async def test_preflight(serve_memory: Serve, path: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        asked = {"origin": "http://localhost:3000", "access-control-request-method": "PUT"}
        response = await site.request("OPTIONS", path, asked)
        assert (response.status, response.body) == (204, b"")
        assert response["access-control-allow-origin"] == "http://localhost:3000"
        assert _names(response["access-control-allow-methods"]) >= {method.lower() for method in METHODS}
        assert _names(response["access-control-allow-headers"]) >= REQUEST_HEADERS
        assert int(response["access-control-max-age"]) > 0


async def test_errors_can_be_read_by_allowed_pages(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        await site.create("/closed", {**TEXT, "stream-closed": "true"})
        page = {**TEXT, "origin": "http://localhost:3000"}
        for response in (
            await site.get("/missing", page),
            await site.get("//bad", page),
            await site.post("/closed", page, b"x"),
            await site.request("PATCH", "/closed", page),
        ):
            assert response.status >= 400
            assert response["access-control-allow-origin"] == "http://localhost:3000"
            assert _names(response["access-control-expose-headers"]) >= RESPONSE_HEADERS


async def test_live_reads_and_304_can_be_read_by_allowed_pages(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        page = {"origin": "http://localhost:3000"}
        await site.create("/a", {**TEXT, "stream-closed": "true"})
        tag = (await site.get("/a"))["etag"]
        end = (await site.head("/a"))["stream-next-offset"]
        for response in (
            await site.get("/a?offset=-1&live=sse", page),
            await site.get(f"/a?offset={end}&live=long-poll", page),
            await site.get("/a", {**page, "if-none-match": tag}),
        ):
            assert response["access-control-allow-origin"] == "http://localhost:3000"
            assert "origin" in _names(response["vary"])


async def test_page_of_another_site_that_embeds_a_stream(serve_memory: Serve) -> None:
    """A script or an image is loaded without being asked for: what is in it must not reach a page of the internet."""
    async with serve_memory() as site:
        await site.create("/a", {"content-type": "text/javascript"}, b"secret = 1")
        assert problem_code(await site.get("/a", _BY_SCRIPT)) == (403, "origin-not-allowed")
        for allowed in (
            {**_BY_SCRIPT, "sec-fetch-site": "same-site"},
            {**_BY_SCRIPT, "sec-fetch-mode": "navigate"},
            {**_BY_SCRIPT, "origin": "http://localhost:3000"},
        ):
            assert (await site.get("/a", allowed)).body == b"secret = 1"


@pytest.mark.parametrize("origins", [("*",), ("https://app.example",)])
async def test_pages_that_embed_a_stream_where_others_may(serve_memory: Serve, origins: tuple[str, ...]) -> None:
    async with serve_memory(cors_origin=origins) as site:
        await site.create("/a", TEXT, b"hello")
        assert (await site.get("/a", _BY_SCRIPT)).body == b"hello"
