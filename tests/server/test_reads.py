"""GET: catch-up reads, offsets, validators and freshness."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, Site, closed, offset, problem_code


async def test_read_from_everywhere(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello world")
        for query, body in [
            ("", b"hello world"),
            ("?offset=-1", b"hello world"),
            ("?offset=0000000000000000_0000000000000000", b"hello world"),
            (f"?offset={offset(1, 0)}", b"hello world"),
            (f"?offset={offset(1, 6)}", b"world"),
            (f"?offset={offset(1, 11)}", b""),
            ("?offset=now", b""),
            (f"?x=1&offset={offset(1, 6)}&y", b"world"),
            ("?offset=%2D1", b"hello world"),
            ("?cursor=nonsense&foo=bar&foo=baz", b"hello world"),
        ]:
            response = await site.get("/a" + query, {"x-unknown": "ignored"})
            assert (response.status, response.body) == (200, body), query
            assert response["content-type"] == "text/plain"
            assert response["stream-next-offset"] == offset(1, 11)
            assert response["stream-up-to-date"] == "true"
            assert response.get("stream-closed") is None


async def test_empty_stream(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/text", TEXT)
        await site.create("/json", JSON, b"[]")
        for path, number, body in (("/text", 1, b""), ("/json", 2, b"[]")):
            for query in ("", "?offset=-1", "?offset=now"):
                response = await site.get(path + query)
                assert (response.status, response.body) == (200, body)
                assert response["stream-next-offset"] == offset(number, 0)
                assert response["stream-up-to-date"] == "true"


@pytest.mark.parametrize(
    "query",
    [
        "?offset=",
        "?offset=-1&offset=-1",
        "?offset=now&x=1&offset=",
        "?offset=0",
        "?offset=-2",
        "?offset=NOW",
        "?offset=5",
        "?offset=0000000000000001_000000000000005",
        "?offset=0000000000000001_00000000000000005",
        "?offset=0000000000000001-0000000000000005",
        "?offset=%2B000000000000001_0000000000000005",
        "?offset=0000000000000001_0000000000000005%00",
        "?offset=0000000000000001_0000000000000005%0A",
        "?offset=0000000000000000_0000000000000001",
        "?offset=0000000000000001_0000000000000006",
        "?offset=9999999999999999_9999999999999999",
        "?offset=%D9%A0000000000000001_0000000000000005",
        "?offset=" + "1" * 300,
    ],
)
@pytest.mark.parametrize("live", ["", "&live=long-poll", "&live=sse"])
async def test_bad_offset(serve_memory: Serve, query: str, live: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        assert problem_code(await site.get("/a" + query + live)) == (400, "invalid-offset")


@pytest.mark.parametrize("live", ["", "&live=long-poll", "&live=sse"])
async def test_offset_of_an_earlier_stream_is_gone(serve: Serve, live: str) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"old data")
        await site.delete("/a")
        await site.create("/a", TEXT, b"new data")
        for position in (0, 3, 8):
            response = await site.get(f"/a?offset={offset(1, position)}{live}")
            assert problem_code(response) == (410, "offset-gone")


@pytest.mark.parametrize("live", ["x", "", "LONG-POLL", "true", "sse,long-poll"])
async def test_unknown_live_mode(serve_memory: Serve, live: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        assert (await site.get(f"/a?offset=-1&live={live}")).status == 400


# --- pages ---------------------------------------------------------------------------------------------------------


async def _pages(site: Site, path: str) -> list[bytes]:
    """Read to the tail, page by page."""
    found: list[bytes] = []
    query = ""
    while True:
        response = await site.get(path + query)
        found.append(response.body)
        if response.get("stream-up-to-date") == "true":
            return found
        assert response.get("stream-closed") is None, "only the last page says that the stream is closed"
        query = f"?offset={response['stream-next-offset']}"


async def test_pages_of_bytes(serve: Serve) -> None:
    data = bytes(range(256)) * 4
    async with serve(page_size=100) as site:
        await site.create("/a", closed(), data)
        pages = await _pages(site, "/a")
        assert b"".join(pages) == data
        assert [len(page) for page in pages] == [100] * 10 + [24]


async def test_pages_of_messages_end_between_messages(serve: Serve) -> None:
    messages = [b'"%s"' % (b"x" * size) for size in (1, 200, 5, 90, 90, 1, 1, 300, 2)]
    async with serve(page_size=100) as site:
        await site.create("/a", closed(JSON), b"[" + b",".join(messages) + b"]")
        pages = await _pages(site, "/a")
        assert b",".join(page[1:-1] for page in pages) == b",".join(messages)
        assert len(pages) >= 6
        for page in pages:
            assert len(page) > 2, "a page holds at least one message"
            assert len(page) <= 100 or page.count(b",") == 0, "more than the limit only for one message alone"


async def test_page_that_ends_exactly_at_the_tail(serve: Serve) -> None:
    async with serve(page_size=16) as site:
        await site.create("/a", TEXT, b"x" * 16)
        assert (await site.get("/a"))["stream-up-to-date"] == "true"
        await site.append("/a", TEXT, b"y")
        assert (await site.get("/a")).get("stream-up-to-date") is None


async def test_same_offset_same_bytes(serve: Serve) -> None:
    """A past page is immutable: whatever comes after it, its URL gives the same bytes and the same validator."""
    async with serve(page_size=16) as site:
        await site.create("/a", TEXT, b"0123456789abcdefXYZ")
        first = await site.get("/a?offset=-1")
        await site.append("/a", TEXT, b"more")
        await site.post("/a", closed())
        again = await site.get("/a?offset=-1")
        assert (again.body, again["etag"]) == (first.body, first["etag"])
        assert again["stream-next-offset"] == first["stream-next-offset"] == offset(1, 16)


# --- validators ----------------------------------------------------------------------------------------------------


async def test_etag_and_304(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        page = await site.get("/a?offset=-1")
        tag = page["etag"]
        assert tag.startswith('"')
        assert tag.endswith('"')
        for wanted in (tag, f"W/{tag}", f'"other", {tag}', f'{tag},"other"', "*"):
            response = await site.get("/a?offset=-1", {"if-none-match": wanted})
            assert (response.status, response.body) == (304, b""), wanted
            assert response["etag"] == tag
            assert response["cache-control"] == page["cache-control"]
        for wanted in ('"other"', tag.strip('"'), "", tag[:-1], '"*"'):
            response = await site.get("/a?offset=-1", {"if-none-match": wanted})
            assert (response.status, response.body) == (200, b"hello"), wanted


async def test_etag_changes_with_whatever_changes_the_page(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        seen = [(await site.get("/a"))["etag"]]
        for change in (
            site.post("/a", TEXT, b"hello"),
            site.post("/a", TEXT, b"!"),
            site.post("/a", closed()),
            site.delete("/a"),
        ):
            await change
            if (await site.head("/a")).status == 200:
                response = await site.get("/a?offset=-1", {"if-none-match": ", ".join(seen)})
                assert response.status == 200, "a change must not be hidden by 304"
                seen.append(response["etag"])
        await site.create("/a", closed(TEXT), b"hello!")
        seen.append((await site.get("/a"))["etag"])
        assert len(set(seen)) == 5


async def test_etags_of_two_starts_differ(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"aaaa")
        await site.create("/b", TEXT, b"aaaa")
        tags = [(await site.get(path))["etag"] for path in ("/a", f"/a?offset={offset(1, 1)}", "/b")]
        assert len(set(tags)) == 3


async def test_freshness(serve: Serve) -> None:
    with_data = "public, max-age=60, stale-while-revalidate=300"
    async with serve() as site:
        await site.create("/a", TEXT)
        empty = await site.get("/a")
        assert (empty["cache-control"], bool(empty["etag"])) == ("no-cache", True)
        end = await site.append("/a", TEXT, b"hello")
        assert (await site.get("/a"))["cache-control"] == with_data
        at_tail = await site.get(f"/a?offset={end}")
        assert (at_tail["cache-control"], bool(at_tail["etag"])) == ("no-cache", True)
        now = await site.get("/a?offset=now")
        assert (now["cache-control"], now.get("etag")) == ("no-store", None)
        assert (await site.get("/a?offset=now", {"if-none-match": "*"})).status == 200
        await site.post("/a", closed())
        assert (await site.get(f"/a?offset={end}", {"if-none-match": at_tail["etag"]})).status == 200
        assert (await site.get("/a?offset=now"))["cache-control"] == "no-store"


@pytest.mark.parametrize(("ttl", "age"), [("10", 10), ("60", 60), ("100", 60), ("1000", 60)])
async def test_freshness_never_exceeds_a_sliding_lifetime(serve_memory: Serve, ttl: str, age: int) -> None:
    async with serve_memory() as site:
        await site.create("/a", {**TEXT, "stream-ttl": ttl}, b"x")
        directives = (await site.get("/a"))["cache-control"].split(", ")
        assert f"max-age={age}" in directives
        assert _fresh_for(directives) <= int(ttl)


@pytest.mark.parametrize("left_s", [0.5, 1, 30, 90, 200, 3600])
async def test_freshness_never_exceeds_the_time_to_expiry(serve_memory: Serve, left_s: float) -> None:
    async with serve_memory() as site:
        await site.create("/a", {**TEXT, "stream-expires-at": "2026-01-01T02:00:00Z"}, b"x")
        site.clock.advance(7200 - left_s)
        assert _fresh_for((await site.get("/a"))["cache-control"].split(", ")) <= left_s


def _fresh_for(directives: list[str]) -> int:
    return sum(int(part.partition("=")[2]) for part in directives if "=" in part)


@pytest.mark.parametrize("path", ["/a", "/a?offset=now"])
async def test_closed_stream_is_marked_wherever_its_tail_is_reached(serve: Serve, path: str) -> None:
    async with serve() as site:
        await site.create("/a", closed(TEXT), b"hello")
        response = await site.get(path)
        assert (response["stream-closed"], response["stream-up-to-date"]) == ("true", "true")
