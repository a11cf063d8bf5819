"""GET with ``live=long-poll``: wait for data."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, closed, offset, problem_code, until

# 2026-01-01T00:00:00Z, where the tests' clock starts, in 20 s intervals since 2024-10-09T00:00:00Z.
INTERVAL = 449 * 86_400 // 20


async def test_data_that_is_there_comes_at_once(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        response = await site.get("/a?offset=-1&live=long-poll")
        assert (response.status, response.body) == (200, b"hello")
        assert response["content-type"] == "text/plain"
        assert response["stream-next-offset"] == offset(1, 5)
        assert response["stream-up-to-date"] == "true"
        assert response["stream-cursor"] == str(INTERVAL)
        catch_up = await site.get("/a?offset=-1")
        assert response["cache-control"] == catch_up["cache-control"]
        assert response["etag"] == catch_up["etag"]


async def test_waits_for_data(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        async with site.waiting(f"/a?offset={offset(1, 5)}&live=long-poll") as answer:
            assert not answer.done()
            await site.append("/a", TEXT, b" world")
            response = await answer
        assert (response.status, response.body) == (200, b" world")
        assert response["stream-next-offset"] == offset(1, 11)


async def test_one_append_wakes_all_who_wait(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON)
        await site.create("/b", JSON)
        target = "?offset=now&live=long-poll"
        async with site.waiting("/b" + target) as other:
            answers = [asyncio.create_task(site.get("/a" + target)) for _ in range(20)]
            await until(lambda: len(site.engine.waiters) == 21)
            await site.append("/a", JSON, b'{"n":1}')
            for answer in answers:
                response = await answer
                assert (response.status, response.body) == (200, b'[{"n":1}]')
            assert not other.done(), "a reader of another stream sleeps on"


async def test_nothing_comes(serve: Serve) -> None:
    async with serve(long_poll_timeout=0.02) as site:
        end = (await site.create("/a", TEXT, b"hello"))["stream-next-offset"]
        for query in (f"offset={end}", "offset=now", f"offset={end}&timeout=600"):
            response = await site.get(f"/a?{query}&live=long-poll")
            assert (response.status, response.body) == (204, b"")
            assert response["stream-next-offset"] == end
            assert response["stream-up-to-date"] == "true"
            assert response["stream-cursor"] == str(INTERVAL)
            assert response["cache-control"] == "no-store"
            assert response.get("x-accel-expires") == (None if query == "offset=now" else "1")
            assert response.get("stream-closed") is None
            assert response.get("etag") is None


@pytest.mark.parametrize("timeout", ["0", "0.02", "000.01"])
async def test_client_may_wait_shorter(serve_memory: Serve, timeout: str) -> None:
    async with serve_memory(long_poll_timeout=600) as site:
        await site.create("/a", TEXT)
        response = await site.get(f"/a?offset=-1&live=long-poll&timeout={timeout}")
        assert response.status == 204


@pytest.mark.parametrize("timeout", ["", "-1", "x", "1e3", "inf", "nan", "0x1", "1,5", "%D9%A1"])
async def test_malformed_timeout(serve_memory: Serve, timeout: str) -> None:
    async with serve_memory(long_poll_timeout=0.01) as site:
        await site.create("/a", TEXT)
        assert problem_code(await site.get(f"/a?offset=-1&live=long-poll&timeout={timeout}")) == (400, "invalid-header")


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_offset_is_required(serve_memory: Serve, live: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        assert problem_code(await site.get(f"/a?live={live}")) == (400, "invalid-offset")


async def test_end_of_a_closed_stream_is_told_at_once(serve: Serve) -> None:
    async with serve(long_poll_timeout=600) as site:
        end = (await site.create("/a", closed(TEXT), b"hello"))["stream-next-offset"]
        for query in (f"offset={end}", "offset=now"):
            response = await site.get(f"/a?{query}&live=long-poll")
            assert (response.status, response["stream-closed"], response["stream-next-offset"]) == (204, "true", end)
            assert response["stream-up-to-date"] == "true"
            assert response["cache-control"] == "no-store"
        response = await site.get("/a?offset=-1&live=long-poll")
        assert (response.status, response.body, response["stream-closed"]) == (200, b"hello", "true")


async def test_closure_wakes(serve: Serve) -> None:
    async with serve() as site:
        end = (await site.create("/a", TEXT, b"hello"))["stream-next-offset"]
        async with site.waiting(f"/a?offset={end}&live=long-poll") as answer:
            await site.post("/a", closed())
            response = await answer
        assert (response.status, response["stream-closed"], response["stream-next-offset"]) == (204, "true", end)


async def test_closure_with_data_wakes_with_data(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            await site.post("/a", closed(TEXT), b"bye")
            response = await answer
        assert (response.status, response.body, response["stream-closed"]) == (200, b"bye", "true")


async def test_reader_that_goes_away_is_forgotten(serve: Serve) -> None:
    """At once, not when its time is up: nobody is waiting, and a sliding lifetime is not held open."""
    async with serve(long_poll_timeout=600) as site:
        await site.create("/a", TEXT)
        async with site.waiting("/a?offset=now&live=long-poll"):
            assert len(site.engine.waiters) == 1
        await until(lambda: len(site.engine.waiters) == 0)


async def test_deletion_wakes(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            await site.delete("/a")
            assert problem_code(await answer) == (404, "stream-not-found")


async def test_soft_deletion_wakes(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        await site.create("/fork", {"stream-forked-from": "/a"})
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            await site.delete("/a")
            assert problem_code(await answer) == (410, "stream-gone")


async def test_now_is_not_for_caches(serve: Serve) -> None:
    """``offset=now`` means another thing a moment later: no answer to it may be stored, nor be a 304."""
    async with serve() as site:
        await site.create("/a", TEXT, b"old")
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            await site.append("/a", TEXT, b"new")
            response = await answer
        assert (response.status, response.body) == (200, b"new")
        assert response["cache-control"] == "no-store"
        assert response.get("etag") is None


# --- cursors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", ["", "0", "1", str(INTERVAL - 1), "-5", "nonsense", "1.5"])
async def test_cursor_below_the_present_interval(serve_memory: Serve, cursor: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        for offset_ in ("-1", "now&timeout=0"):
            response = await site.get(f"/a?offset={offset_}&live=long-poll&cursor={cursor}")
            assert response["stream-cursor"] == str(INTERVAL)


@pytest.mark.parametrize("cursor", [INTERVAL, INTERVAL + 1, INTERVAL + 100_000, 10**17])
async def test_cursor_goes_strictly_ahead_of_the_client(serve_memory: Serve, cursor: int) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        for offset_ in ("-1", "now&timeout=0"):
            response = await site.get(f"/a?offset={offset_}&live=long-poll&cursor={cursor}")
            step = int(response["stream-cursor"]) - cursor
            assert 1 <= step <= 180, "a random 1 to 3600 s, in intervals of 20 s"


async def test_cursor_follows_the_clock(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        for passed_s, intervals in ((19.9, 0), (0.2, 1), (60, 4)):
            site.clock.advance(passed_s)
            response = await site.get("/a?offset=-1&live=long-poll")
            assert int(response["stream-cursor"]) == INTERVAL + intervals
