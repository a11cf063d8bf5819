"""What the server may hold at most: refused with a code of its own, and everything else goes on."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, closed, problem_code, producer, until


async def test_stream_that_is_full(serve: Serve) -> None:
    async with serve(max_stream_size=10) as site:
        await site.create("/a", TEXT, b"12345")
        assert problem_code(await site.post("/a", TEXT, b"678901")) == (413, "stream-full")
        assert problem_code(await site.put("/b", TEXT, b"x" * 11)) == (413, "stream-full")
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"67890")).status == 200
        assert problem_code(await site.post("/a", {**TEXT, **producer("p", 0, 1)}, b"1")) == (413, "stream-full")
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"67890")).status == 204
        assert (await site.post("/a", closed())).status == 204
        assert (await site.get("/a")).body == b"1234567890"


async def test_too_many_streams(serve: Serve) -> None:
    async with serve(max_streams=2) as site:
        await until(lambda: site.engine.usage.measured)
        for path in ("/a", "/b"):
            await site.create(path, TEXT, b"x")
        refused = await site.put("/c", TEXT)
        assert problem_code(refused) == (507, "too-many-streams")
        assert int(refused["retry-after"]) > 0
        assert problem_code(await site.put("/c", {"stream-forked-from": "/a"})) == (507, "too-many-streams")
        assert (await site.put("/a", TEXT)).status == 200
        assert (await site.post("/a", TEXT, b"y")).status == 204
        assert (await site.delete("/b")).status == 204
        assert (await site.put("/c", TEXT)).status == 201


async def test_too_much_in_all(serve: Serve) -> None:
    async with serve(max_total_size=10) as site:
        await until(lambda: site.engine.usage.measured)
        await site.create("/a", TEXT, b"12345")
        await site.create("/b", TEXT, b"12345")
        for refused in (await site.post("/a", TEXT, b"6"), await site.put("/c", TEXT, b"1")):
            assert problem_code(refused) == (507, "total-size-exceeded")
        assert (await site.put("/c", TEXT)).status == 201
        assert (await site.get("/b")).body == b"12345"
        assert (await site.delete("/b")).status == 204
        assert (await site.post("/a", TEXT, b"6")).status == 204


@pytest.mark.parametrize("limit", ["max_stream_size", "max_streams", "max_total_size"])
async def test_no_limit(serve_memory: Serve, limit: str) -> None:
    async with serve_memory(**{limit: None}) as site:
        await until(lambda: site.engine.usage.measured)
        await site.create("/a", TEXT, b"x")
