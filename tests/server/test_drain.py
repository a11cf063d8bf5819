"""The end of a server: live reads are told, writes that were accepted are finished."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import JSON, TEXT, begin, offset, until
from tests.server.sse import EventStream
from unbroken.testing import RawConnection, connect, encode_request


async def test_sse_gets_a_last_control_event_and_a_clean_end(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await until(lambda: len(site.engine.waiters) == 1)
            site.engine.drain()
            last = await events.next()
            assert last.control["streamNextOffset"] == last.id == offset(1, 5)
            assert "streamClosed" not in last.control, "the stream goes on, on another server"
            assert "streamCursor" in last.control
            assert await events.rest() == []
            assert events.ended


async def test_last_control_event_does_not_count_what_is_held_back(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, "a€".encode()[:3])
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await until(lambda: len(site.engine.waiters) == 1)
            site.engine.drain()
            last = await events.next()
            assert last.control["streamNextOffset"] == offset(1, 1)
            assert "upToDate" not in last.control


async def test_long_poll_is_answered(serve: Serve) -> None:
    async with serve(long_poll_timeout=600) as site:
        await site.create("/a", TEXT, b"hello")
        async with site.waiting("/a?offset=now&live=long-poll") as answer:
            site.engine.drain()
            response = await answer
        assert (response.status, response["stream-next-offset"]) == (204, offset(1, 5))
        assert response["cache-control"] == "no-store"


async def test_live_reads_that_come_later_end_at_once(serve: Serve) -> None:
    async with serve(long_poll_timeout=600, sse_lifetime=600) as site:
        await site.create("/a", TEXT, b"hello")
        site.engine.drain()
        assert (await site.get("/a?offset=now&live=long-poll")).status == 204
        async with site.events("/a?offset=-1&live=sse") as events:
            assert [event.data for event in await events.rest() if event.type == "data"] == ["hello"]


async def test_upload_under_way_is_finished(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        fields = {**TEXT, "content-length": "10", "expect": "100-continue"}
        await connection.send(encode_request("POST", "/a", fields))
        await connection.read_interim()
        site.engine.drain()
        await connection.send(b"0123456789")
        assert (await connection.read_response()).status == 204
        assert (await site.get("/a")).body == b"0123456789"


# --- the whole process -----------------------------------------------------------------------------------------------


async def _follow(connection: RawConnection, target: str) -> EventStream:
    return EventStream(connection, await begin(connection, "GET", target))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_signal_ends_the_process_in_good_order(tmp_path: Path, number: signal.Signals, kind: str) -> None:
    async with (
        server_process(tmp_path, "--store", kind) as process,
        connect(*process.address) as writer,
        connect(*process.address) as follower,
        connect(*process.address) as poller,
    ):
        assert (await writer.request("PUT", "/a", JSON, b"[1]")).status == 201
        events = await _follow(follower, "/a?offset=-1&live=sse")
        assert (await events.batch())[0] == "[1]"
        await poller.send(encode_request("GET", "/a?offset=now&live=long-poll"))
        # The poll was sent before, so it is under way when this is answered.
        assert (await writer.request("GET", "/a")).status == 200
        process.send_signal(number)
        assert (await events.next()).control["streamNextOffset"] == offset(1, 2)
        assert await events.rest() == []
        assert (await poller.read_response()).status == 204
        code, log = await process.wait()
        assert code == 0, log
        assert "Traceback" not in log


async def test_reader_that_has_stalled_does_not_keep_the_process(tmp_path: Path) -> None:
    async with (
        server_process(tmp_path, "--store", "memory") as process,
        connect(*process.address) as writer,
        connect(*process.address, receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled,
    ):
        assert (await writer.request("PUT", "/a", TEXT, b"x" * 20_000_000)).status == 201
        await stalled.send(encode_request("GET", "/a?offset=-1&live=sse"))
        await stalled.read_head()
        process.send_signal(signal.SIGTERM)
        code, log = await process.wait()
        assert code == 0, log
