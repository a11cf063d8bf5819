"""Path identity: which request targets name a stream, and which stream. For every method alike."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, problem_code
from unbroken.testing import encode_request

REFUSED = [
    "/",
    "//",
    "//a",
    "/a//b",
    "/a/",
    "/a/b/",
    "/.",
    "/..",
    "/a/.",
    "/a/..",
    "/./a",
    "/../a",
    "/a/./b",
    "/a/../b",
    "/%2e",
    "/%2E%2e",
    "/a/%2e%2E/b",
    "/a/.%2e",
    "/a%2Fb",
    "/a%2fb",
    "/%2F",
    "/a%00",
    "/%00",
    "/a%0Ab",
    "/a%0d%0aLocation:%20x",
    "/a%1Fb",
    "/a%7F",
    "/a%C2%80",
    "/a%C2%9F",
    "/a%5Cb",
    "/..%5C..%5Cb",
    "/%",
    "/a%",
    "/a%4",
    "/a%zz",
    "/a%u0041",
    "/a%FF",
    "/a%C3",
    "/a%C3%28",
    "/a%C0%AF",
    "/a%ED%A0%80",
    "/a%F4%90%80%80",
    "/" + "a" * 1024,
    "/" + "%61" * 1024,
    "/" + "%C3%A9" * 512,
    "/a" * 33,
    "/-",
    "/__ds",
    "/__ds/subscriptions/x",
    "/%5F%5Fds/x",
    "/%2D",
]


@pytest.mark.parametrize("target", REFUSED)
async def test_refused_target(serve_memory: Serve, target: str) -> None:
    async with serve_memory() as site:
        for method in ("PUT", "POST", "GET", "DELETE"):
            response = await site.request(method, target, TEXT, b"x" if method in ("PUT", "POST") else None)
            assert problem_code(response) == (400, "invalid-path"), method
        assert (await site.head(target)).status == 400


@pytest.mark.parametrize(
    "target",
    [
        "/a",
        "/v1/stream/a/b",
        "/" + "a" * 1023,
        "/" + "%C3%A9" * 511,
        "/a" * 32,
        "/...",
        "/a/.b",
        "/a/..b",
        "/a.",
        "/%20",
        "/a%20b",
        "/%252F",
        "/%252e%252e",
        "/a%25",
        "/a?",
        "/a%3Fb",
        "/a%23b",
        "/~user/x_y-z",
        "/:a@b!$&'()*+,;=",
        "/[x]",
        "/a%E2%80%AEb",
        "/%F0%9F%98%80",
        "/a/-",
        "/a/__ds",
        "/-a",
        "/__dsx",
    ],
)
async def test_accepted_target(serve: Serve, target: str) -> None:
    async with serve() as site:
        await site.create(target, TEXT, b"x")
        assert (await site.get(target)).body == b"x"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a%62c", "/abc"),
        ("/%61", "/a"),
        ("/%7Ea", "/~a"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%2Bb", "/a+b"),
        ("/a", "/a?x=1"),
        ("/%2Da", "/-a"),
    ],
)
async def test_two_spellings_of_one_stream(serve: Serve, one: str, other: str) -> None:
    async with serve() as site:
        await site.create(one, TEXT, b"x")
        assert (await site.get(other)).body == b"x"
        assert (await site.put(other, TEXT)).status == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/A"),
        ("/caf%C3%A9", "/cafe%CC%81"),  # precomposed and decomposed
        ("/a+b", "/a%20b"),
        ("/a%2525", "/a%25"),
        ("/a%3Fb", "/a?b"),
        ("/%EF%BC%A1", "/A"),  # full-width
        ("/stra%C3%9Fe", "/strasse"),
        ("/a", "/a%20"),
    ],
)
async def test_two_streams(serve: Serve, one: str, other: str) -> None:
    async with serve() as site:
        await site.create(one, TEXT, b"one")
        assert (await site.get(other)).status == 404
        await site.create(other, TEXT, b"other")
        assert (await site.get(one)).body == b"one"


async def test_absolute_form_of_the_target(serve_memory: Serve) -> None:
    """RFC 9112 section 3.2.2: a server must accept it."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        assert (await site.get("http://localhost/a?offset=-1")).body == b"x"


async def test_raw_bytes_in_the_target_harm_nobody(serve_memory: Serve) -> None:
    """Bytes above 0x7F do not belong into a target (RFC 9112 section 3.2); uvicorn refuses them itself."""
    async with serve_memory() as site, site.connect() as connection:
        await connection.send(encode_request("GET", b"/caf\xc3\xa9"))
        assert (await connection.read_response()).status == 400
        assert (await site.get("/a")).status == 404


@pytest.mark.parametrize("path", ["/-/nothing", "/-/", "/-/health/", "/-/../a", "/-//health"])
async def test_reserved_paths_hold_no_streams(serve_memory: Serve, path: str) -> None:
    async with serve_memory() as site:
        for method in ("PUT", "POST", "GET", "DELETE", "HEAD"):
            assert (await site.request(method, path, TEXT)).status in (400, 404), method


async def test_health(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        for path, word in (("/-/health", "ok"), ("/-/ready", "ready")):
            response = await site.get(path)
            assert (response.status, response.json()) == (200, {"status": word})
            assert response["cache-control"] == "no-store"
            assert (await site.head(path)).status == 200
