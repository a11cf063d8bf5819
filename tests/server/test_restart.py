"""What clients hold in their hands outlives a restart of the server (in good order; crashes are tested apart)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.server.site import JSON, TEXT, Site, closed, offset, problem_code
from unbroken.store.sqlite import SqliteStore
from unbroken.testing import ManualClock, live_server


@asynccontextmanager
async def _started(directory: Path) -> AsyncIterator[Site]:
    clock = ManualClock()
    async with live_server(SqliteStore(directory), clock=clock) as server:
        yield Site(server, clock)


async def test_bytes_offsets_and_validators_are_the_same(tmp_path: Path) -> None:
    targets = ["/open", "/closed", "/json", "/fork", f"/open?offset={offset(1, 3)}", f"/fork?offset={offset(1, 2)}"]
    async with _started(tmp_path) as site:
        await site.create("/open", TEXT, b"hello")
        await site.create("/closed", closed({"content-type": "Text/Plain; x=Y"}), b"all")
        await site.create("/json", JSON, b'[{"a":1,"a":2},12345678901234567890]')
        await site.create("/fork", {"stream-forked-from": "/open", "stream-fork-offset": offset(1, 4)}, b"!")
        before = {target: await site.get(target) for target in targets}
        heads = {target: await site.head(target) for target in targets[:4]}
    async with _started(tmp_path) as site:
        for target, page in before.items():
            assert await site.get(target) == page
            assert (await site.get(target, {"if-none-match": page["etag"]})).status == 304
        for target, head in heads.items():
            assert await site.head(target) == head
        async with site.events(f"/open?offset={offset(1, 2)}&live=sse") as events:
            assert (await events.batch())[0] == "llo"
            assert await site.append("/open", TEXT, b" again") == offset(1, 11)
            assert (await events.batch())[0] == " again"


async def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    """Also not that of the last stream, which left nothing behind."""
    for number in range(1, 4):
        async with _started(tmp_path) as site:
            assert (await site.create("/a", TEXT, b"x"))["stream-next-offset"] == offset(number, 1)
            if number > 1:
                assert problem_code(await site.get(f"/a?offset={offset(number - 1, 0)}")) == (410, "offset-gone")
            await site.delete("/a")


async def test_rules_remember(tmp_path: Path) -> None:
    async with _started(tmp_path) as site:
        await site.create("/a", {**TEXT, "stream-ttl": "60"})
        await site.append("/a", {**TEXT, "stream-seq": "b"}, b"x")
        await site.create("/fork", {"stream-forked-from": "/a", "stream-fork-offset": "-1"})
        await site.create("/dated", {**TEXT, "stream-expires-at": "2030-01-01T00:00:00.250Z"})
        await site.delete("/a")
    async with _started(tmp_path) as site:
        assert problem_code(await site.get("/a")) == (410, "stream-gone")
        assert (await site.put("/fork", {"stream-forked-from": "/a", "stream-fork-offset": "-1"})).status == 200
        assert (await site.head("/fork"))["stream-ttl"] == "60"
        assert (await site.head("/dated"))["stream-expires-at"] == "2030-01-01T00:00:00.250Z"
        await site.delete("/fork")
        assert (await site.put("/a", TEXT)).status == 201


async def test_stream_seq_and_the_closing_producer_are_remembered(tmp_path: Path) -> None:
    last = closed({**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"})
    async with _started(tmp_path) as site:
        await site.create("/a", TEXT)
        await site.append("/a", {**TEXT, "stream-seq": "b"}, b"x")
        await site.create("/b", TEXT)
        assert (await site.post("/b", last, b"bye")).status == 200
    async with _started(tmp_path) as site:
        assert problem_code(await site.post("/a", {**TEXT, "stream-seq": "b"}, b"y")) == (409, "sequence-regression")
        again = await site.post("/b", last, b"bye")
        assert (again.status, again["stream-closed"], again["stream-next-offset"]) == (204, "true", offset(2, 3))


@pytest.mark.parametrize("megabytes", [1, 5])
async def test_large_streams_come_back_whole(tmp_path: Path, megabytes: int) -> None:
    body = bytes(range(256)) * 4096 * megabytes
    async with _started(tmp_path) as site:
        await site.create("/a", {}, body)
        for number in range(100):
            await site.append("/a", {"content-type": "application/octet-stream"}, b"%d" % number)
    async with _started(tmp_path) as site:
        found, query = b"", ""
        while True:
            page = await site.get("/a" + query)
            found += page.body
            query = f"?offset={page['stream-next-offset']}"
            if page.get("stream-up-to-date"):
                break
        assert found == body + b"".join(b"%d" % number for number in range(100))
