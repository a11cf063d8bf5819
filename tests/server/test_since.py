"""GET with ``since``: from what was committed at a time."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, problem_code

EARLY, LATE = "2026-01-01T00:00:10Z", "2026-01-01T00:00:20Z"


async def test_reading_begins_at_a_time(serve: Serve) -> None:
    """At 00:00:00 the first message was committed, at 00:00:10 the second, at 00:00:20 the third."""
    async with serve() as site:
        await site.create("/a", JSON, b"[0]")
        for message in (b"1", b"2"):
            site.clock.advance(10)
            await site.append("/a", JSON, message)
        for since, body in [
            ("2025-12-31T00:00:00Z", b"[0,1,2]"),
            ("2026-01-01T00:00:00Z", b"[0,1,2]"),
            ("2026-01-01T00:00:00.001Z", b"[1,2]"),
            (EARLY, b"[1,2]"),
            ("2026-01-01T01:00:10%2B01:00", b"[1,2]"),
            ("2026-01-01T00:00:10.001Z", b"[2]"),
            (LATE, b"[2]"),
            ("2026-01-01T00:00:20.001Z", b"[]"),
        ]:
            response = await site.get(f"/a?since={since}")
            assert (response.status, response.body) == (200, body), since
            assert response["cache-control"] == "no-store"
            assert response.get("etag") is None


async def test_a_fork_knows_when_its_source_was_written(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/source", TEXT, b"one")
        site.clock.advance(10)
        end = await site.append("/source", TEXT, b"two")
        site.clock.advance(10)
        await site.create("/fork", {"stream-forked-from": "/source", "stream-fork-offset": end})
        await site.append("/source", TEXT, b"not in the fork")
        site.clock.advance(10)
        await site.append("/fork", TEXT, b"three")
        for since, body in [(EARLY, b"twothree"), (LATE, b"three"), ("2026-01-01T00:00:31Z", b"")]:
            assert (await site.get(f"/fork?since={since}")).body == body


async def test_live_reads_begin_at_a_time(serve: Serve) -> None:
    async with serve(long_poll_timeout=0.05) as site:
        await site.create("/a", TEXT, b"one")
        site.clock.advance(10)
        await site.append("/a", TEXT, b"two")
        response = await site.get(f"/a?live=long-poll&since={EARLY}")
        assert (response.status, response.body) == (200, b"two")
        assert (await site.get(f"/a?live=long-poll&since={LATE}")).status == 204
        async with site.events(f"/a?live=sse&since={EARLY}") as events:
            assert (await events.next()).data == "two"


@pytest.mark.parametrize(
    "query", ["since=", "since=yesterday", "since=2026-01-01", f"since={EARLY}&offset=-1", f"offset=now&since={EARLY}"]
)
async def test_bad_times(serve_memory: Serve, query: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"one")
        response = await site.get(f"/a?{query}")
        assert problem_code(response) == (400, "invalid-header")
