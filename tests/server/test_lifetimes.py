"""TTL and expiry over HTTP. Time passes only when the test moves the clock."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, closed, offset, problem_code, producer, until

TTL = {**TEXT, "stream-ttl": "10"}


async def test_sliding_lifetime_ends_exactly(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TTL, b"x")
        site.clock.advance(9.999)
        assert (await site.head("/a")).status == 200
        site.clock.advance(0.001)
        assert (await site.head("/a")).status == 404
        assert problem_code(await site.get("/a")) == (404, "stream-not-found")


@pytest.mark.parametrize(
    ("method", "target", "fields", "body"),
    [
        ("GET", "/a", {}, None),
        ("GET", "/a?offset=now", {}, None),
        ("GET", "/a", {"if-none-match": "*"}, None),
        ("GET", "/a?offset=-1&live=long-poll", {}, None),
        ("GET", "/a?offset=now&live=long-poll&timeout=0", {}, None),
        ("POST", "/a", TEXT, b"x"),
        ("POST", "/a", closed(), b""),
        ("POST", "/a", closed(producer("p", 0, 0)), b""),
    ],
)
async def test_renewed_by_reads_and_writes(serve: Serve, method: str, target: str, fields: dict, body: bytes) -> None:
    async with serve() as site:
        await site.create("/a", TTL, b"x")
        site.clock.advance(9)
        assert (await site.request(method, target, fields, body)).status < 400
        site.clock.advance(9.9)
        assert (await site.head("/a")).status == 200
        site.clock.advance(0.2)
        assert (await site.head("/a")).status == 404


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("HEAD", {}, None),
        ("PUT", TTL, b"x"),
        ("OPTIONS", {}, None),
        ("POST", JSON, b"[1]"),
        ("POST", TEXT, b""),
    ],
)
async def test_not_renewed_by_head_confirmation_or_refusals(
    serve_memory: Serve, method: str, fields: dict[str, str], body: bytes | None
) -> None:
    async with serve_memory() as site:
        await site.create("/a", TTL, b"x")
        site.clock.advance(9)
        await site.request(method, "/a", fields, body)
        site.clock.advance(1.1)
        assert (await site.head("/a")).status == 404


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_open_live_read_keeps_a_stream_alive(serve: Serve, live: str) -> None:
    async with serve() as site:
        await site.create("/a", TTL)
        async with site.waiting(f"/a?offset=now&live={live}") as answer:
            for _ in range(5):
                site.clock.advance(9)
                assert (await site.head("/a")).status == 200
            site.clock.advance(1000)
            assert (await site.head("/a")).status == 200
            await site.post("/a", closed(TEXT), b"x")
            await answer
        await until(lambda: len(site.engine.waiters) == 0)
        site.clock.advance(9.9)
        assert (await site.head("/a")).status == 200, "a full lifetime begins when the last reader goes"
        site.clock.advance(0.2)
        assert (await site.head("/a")).status == 404


@pytest.mark.parametrize("seconds", [3600, -3600, 10**9])
async def test_jump_of_the_wall_clock_ends_no_sliding_lifetime(serve: Serve, seconds: int) -> None:
    async with serve() as site:
        await site.create("/a", TTL)
        site.clock.jump_wall(seconds)
        assert (await site.head("/a")).status == 200
        site.clock.advance(9.9)
        assert (await site.head("/a")).status == 200
        site.clock.advance(0.2)
        assert (await site.head("/a")).status == 404


async def test_absolute_expiry(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-expires-at": "2026-01-01T00:00:10.500Z"}, b"x")
        site.clock.advance(10.499)
        assert (await site.get("/a")).status == 200
        site.clock.advance(0.001)
        assert (await site.get("/a")).status == 404, "reading does not renew it"


async def test_absolute_expiry_goes_by_the_wall_clock(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-expires-at": "2026-01-01T01:00:00Z"}, b"x")
        site.clock.jump_wall(3600)
        assert (await site.get("/a")).status == 404


async def test_open_live_read_does_not_outlive_an_absolute_expiry(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-expires-at": "2026-01-01T00:00:10Z"}, b"x")
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            site.clock.advance(11)
            assert problem_code(await answer) == (404, "stream-not-found"), "the sweep finds it and wakes the reader"


async def test_every_operation_on_an_expired_stream_is_404(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TTL, b"x")
        site.clock.advance(11)
        for method, target, body in [
            ("GET", "/a", None),
            ("GET", "/a?offset=-1&live=sse", None),
            ("GET", "/a?offset=-1&live=long-poll", None),
            ("POST", "/a", b"x"),
            ("DELETE", "/a", None),
        ]:
            assert problem_code(await site.request(method, target, TEXT, body)) == (404, "stream-not-found")
        response = await site.put("/fork", {"stream-forked-from": "/a"})
        assert problem_code(response) == (404, "stream-not-found")


async def test_path_of_an_expired_stream_is_free(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TTL, b"old")
        site.clock.advance(11)
        response = await site.create("/a", JSON, b"[1]")
        assert response["stream-next-offset"] == offset(2, 2)
        site.clock.advance(10**6)
        assert (await site.get("/a")).body == b"[1]", "it did not inherit the old timer"
        assert (await site.head("/a")).get("stream-ttl") is None
        assert problem_code(await site.get(f"/a?offset={offset(1, 0)}")) == (410, "offset-gone")


async def test_largest_ttl_works(serve: Serve) -> None:
    async with serve() as site:
        largest = {**TEXT, "stream-ttl": str(2**63 - 1)}
        await site.create("/a", largest, b"x")
        assert (await site.put("/a", largest)).status == 200
        site.clock.advance(10**9)
        assert (await site.get("/a")).body == b"x"
        assert (await site.head("/a"))["stream-ttl"] == str(2**63 - 1)
