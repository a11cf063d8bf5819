"""GET with ``before``: the page that ends at an offset; and with ``limit``: smaller pages than the server's."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, Site, closed, offset, problem_code


async def pages_back(site: Site, path: str, limit: int) -> list[bytes]:
    """All pages from the last one on, in the order of the stream."""
    pages: list[bytes] = []
    before: str | None = "now"
    while before is not None:
        response = await site.get(f"{path}?before={before}&limit={limit}")
        assert response.status == 200
        pages.insert(0, response.body)
        before = response.get("stream-previous-offset")
    return pages


async def test_paging_back_through_bytes(serve: Serve) -> None:
    async with serve(page_size=16) as site:
        await site.create("/a", TEXT, bytes(range(100)))
        for limit in (1, 7, 16, 1000):
            pages = await pages_back(site, "/a", limit)
            assert b"".join(pages) == bytes(range(100))
            assert {len(page) for page in pages[1:]} == {min(limit, 16)}


async def test_paging_back_through_messages(serve: Serve) -> None:
    """Pages begin between messages, and hold one that is larger than they may be."""
    messages = [number % 7 * "x" for number in range(60)] + ["y" * 500, "", "z" * 40]
    async with serve() as site:
        await site.create("/a", JSON, json.dumps(messages).encode())
        for limit in (1, 2, 3, 10, 41, 42, 43, 44, 502, 503, 504, 10_000):
            pages = [json.loads(page) for page in await pages_back(site, "/a", limit)]
            assert [message for page in pages for message in page] == messages
            for page in pages:
                assert len(page) == 1 or sum(len(message) + 3 for message in page) <= limit


async def test_paging_back_through_a_fork(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/source", JSON, b"[1,2,3]")
        await site.create("/fork", {"stream-forked-from": "/source"})
        await site.append("/source", JSON, b"4")
        await site.append("/fork", JSON, b"[5,6]")
        assert await pages_back(site, "/fork", 4) == [b"[1]", b"[2,3]", b"[5,6]"]
        assert await pages_back(site, "/fork", 6) == [b"[1,2]", b"[3,5,6]"]


async def test_what_a_page_says(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"0123456789")
        last = await site.get("/a?before=now&limit=4")
        assert (last.body, last["stream-next-offset"]) == (b"6789", offset(1, 10))
        assert last["stream-previous-offset"] == offset(1, 6)
        assert last["stream-up-to-date"] == "true"
        assert last["cache-control"] == "no-store"
        assert last.get("etag") is None
        earlier = await site.get(f"/a?before={offset(1, 6)}&limit=4")
        assert (earlier.body, earlier["stream-next-offset"]) == (b"2345", offset(1, 6))
        assert earlier.get("stream-up-to-date") is None
        forwards = await site.get(f"/a?offset={offset(1, 2)}&limit=4")
        assert (forwards.body, forwards["etag"]) == (earlier.body, earlier["etag"])
        assert forwards["cache-control"] == earlier["cache-control"]
        assert forwards.get("stream-previous-offset") is None
        again = await site.get(f"/a?before={offset(1, 6)}&limit=4", {"if-none-match": earlier["etag"]})
        assert again.status == 304
        first = await site.get(f"/a?before={offset(1, 2)}")
        assert (first.body, first.get("stream-previous-offset")) == (b"01", None)
        for beginning in ("-1", offset(1, 0)):
            nothing = await site.get(f"/a?before={beginning}")
            assert (nothing.body, nothing["stream-next-offset"]) == (b"", offset(1, 0))
            assert nothing.get("stream-previous-offset") is None
        await site.post("/a", closed())
        assert (await site.get("/a?before=now"))["stream-closed"] == "true"
        assert (await site.get(f"/a?before={offset(1, 6)}")).get("stream-closed") is None


async def test_an_empty_stream(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON)
        page = await site.get("/a?before=now")
        assert (page.body, page["stream-next-offset"], page["stream-up-to-date"]) == (b"[]", offset(1, 0), "true")


async def test_since_says_where_it_begins(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"one")
        site.clock.advance(10)
        await site.append("/a", TEXT, b"two")
        page = await site.get("/a?since=2026-01-01T00:00:05Z")
        assert (page.body, page["stream-previous-offset"]) == (b"two", offset(1, 3))
        assert (await site.get(f"/a?before={page['stream-previous-offset']}")).body == b"one"
        assert (await site.get("/a?since=2025-01-01T00:00:00Z")).get("stream-previous-offset") is None


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("before=", 400, "invalid-offset"),
        ("before=x", 400, "invalid-offset"),
        ("before=now&before=now", 400, "invalid-offset"),
        (f"before={offset(1, 4)}", 400, "invalid-offset"),
        (f"before={offset(1, 2)}", 400, "invalid-offset"),
        (f"before={offset(1, 2)}&limit=1", 400, "invalid-offset"),
        ("before=now&offset=-1", 400, "invalid-header"),
        ("before=now&since=2026-01-01T00:00:00Z", 400, "invalid-header"),
        ("before=now&live=sse", 400, "invalid-header"),
        ("before=now&live=long-poll", 400, "invalid-header"),
        ("before=now&limit=0", 400, "invalid-header"),
        ("before=now&limit=-1", 400, "invalid-header"),
        ("before=now&limit=1e3", 400, "invalid-header"),
        ("offset=-1&limit=", 400, "invalid-header"),
    ],
)
async def test_refusals(serve_memory: Serve, query: str, status: int, code: str) -> None:
    """The stream holds one message, of three bytes with the separator."""
    async with serve_memory() as site:
        await site.create("/a", JSON, b"10")
        assert problem_code(await site.get(f"/a?{query}")) == (status, code)


async def test_the_deleted_and_the_missing(serve: Serve) -> None:
    async with serve() as site:
        assert problem_code(await site.get("/a?before=now")) == (404, "stream-not-found")
        await site.create("/a", TEXT, b"old")
        await site.delete("/a")
        await site.create("/a", TEXT, b"new")
        assert problem_code(await site.get(f"/a?before={offset(1, 3)}")) == (410, "offset-gone")
