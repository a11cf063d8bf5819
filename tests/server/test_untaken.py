"""Answers that nobody takes: their readers are cut off in the end, and the memory for them is bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.engine.helpers import until
from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import JSON, TEXT, Site, problem_code
from unbroken.server.connection import Connection
from unbroken.server.untaken import Untaken
from unbroken.testing import RawConnection, connect, encode_request

MEBIBYTE = 1024 * 1024
LARGE = 16 * MEBIBYTE
"""More than the system keeps for a connection."""

Report = Callable[[str], None]


def _metrics(site: Site) -> dict[str, Any]:
    return {metric.name: metric.value for metric in (*site.app.app.metrics.collect(), *site.app.app.untaken.metrics())}


def _connections(site: Site) -> int:
    return cast(int, _metrics(site)["connections"])


def _quickly(monkeypatch: pytest.MonkeyPatch, *, stalled_s: float = 1000.0) -> None:
    monkeypatch.setattr("unbroken.server.untaken.STALLED_S", stalled_s)
    monkeypatch.setattr("unbroken.server.untaken._LOOK_S", 0.02)
    monkeypatch.setattr("unbroken.server.untaken._SPAN_S", 0.1)


@asynccontextmanager
async def _stalled(site: Site, *requests: bytes) -> AsyncIterator[RawConnection]:
    """Somebody who asks, and reads none of it."""
    async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as connection:
        await connection.send(b"".join(requests))
        yield connection


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(encode_request("GET", "/a"), id="page"),
        pytest.param(encode_request("GET", "/a", {"x-forwarded-proto": "ws"}), id="page-through-a-proxy"),
        pytest.param(encode_request("GET", "/a", {"connection": "close"}), id="page-and-no-more"),
        pytest.param(encode_request("GET", "/a?offset=-1&live=long-poll"), id="long-poll"),
        pytest.param(encode_request("GET", "/a?offset=-1&live=sse"), id="events"),
        pytest.param(encode_request("GET", "/a?offset=-1&live=sse", {"connection": "close"}), id="events-and-no-more"),
    ],
)
async def test_who_takes_nothing_is_cut_off(
    serve_memory: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    """The connection goes, not only the answer: what waits to be sent would keep it open for ever."""
    _quickly(monkeypatch, stalled_s=0.2)
    caplog.set_level(logging.INFO, "unbroken.server")
    async with serve_memory(page_size=LARGE) as site:
        await site.create("/a", TEXT, b"x" * LARGE)
        await until(lambda: _connections(site) == 0)
        async with _stalled(site, request_):
            await until(lambda: site.app.app.untaken.size_bytes > MEBIBYTE)
            await until(lambda: _connections(site) == 0)
        assert _metrics(site)["readers_cut_total"] == {"stalled": 1, "slow": 0}
        assert site.app.app.untaken.size_bytes == 0
        assert site.app.app.live_reads == 0
        assert "readers cut off because they were stalled: 1" in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_small_answers_that_nobody_takes(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of them that they fill all buffers, and the last are never even begun."""
    _quickly(monkeypatch, stalled_s=0.2)
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024, timeout_s=30) as stalled:

            async def flood() -> None:
                appends = encode_request("POST", "/a", TEXT, b"x") * 1000
                while True:
                    await stalled.send(appends)

            with pytest.raises(ConnectionError):
                await flood()
        assert _metrics(site)["readers_cut_total"]["stalled"] == 1
        assert (await site.post("/a", TEXT, b"y")).status == 204


async def test_what_is_left_of_a_closed_connection(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little for it to count as slow. Then its time is over, and it is closed, which waits for the rest."""
    _quickly(monkeypatch, stalled_s=0.2)
    made = Connection.connection_made

    def made_patient(self: Connection, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=2 * LARGE)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", made_patient)
    async with serve_memory(idle_timeout=0.2, page_size=LARGE) as site:
        await site.create("/a", TEXT, b"x" * LARGE)
        await until(lambda: _connections(site) == 0)
        async with _stalled(site, encode_request("GET", "/a")):
            await until(lambda: site.app.app.untaken.size_bytes > MEBIBYTE)
            await until(lambda: _connections(site) == 0)
        assert _metrics(site)["readers_cut_total"]["stalled"] == 1


async def test_memory_for_answers_is_bounded(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is slow goes when there is no room, and not before; until then large answers are refused, small ones not."""
    _quickly(monkeypatch)
    monkeypatch.setattr("unbroken.server.untaken._SPAN_S", 1000.0)
    async with serve_memory(page_size=LARGE, max_answers_size=2 * LARGE) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT, b"x" * LARGE)
        await site.create("/b", TEXT, b"small")
        for number in range(4):
            await stack.enter_async_context(_stalled(site, encode_request("GET", "/a")))
            await until(lambda at=number: _connections(site) > at)  # type: ignore[misc]
        await until(lambda: site.app.app.untaken.size_bytes >= 2 * LARGE)
        for target in ("/a", "/a?before=now", "/a?offset=-1&live=sse", "/a?offset=-1&live=long-poll"):
            refused = await site.get(target)
            assert problem_code(refused) == (503, "overloaded")
            assert int(refused["retry-after"]) > 0
        assert (await site.get("/b")).body == b"small"
        assert (await site.get("/a?limit=1000")).body == b"x" * 1000
        assert site.app.app.live_reads == 0
        monkeypatch.setattr("unbroken.server.untaken._SPAN_S", 0.1)
        await until(lambda: site.app.app.untaken.size_bytes < 2 * LARGE)
        cut = _metrics(site)["readers_cut_total"]
        assert cut["stalled"] == 0
        assert 0 < cut["slow"] < 4, "no more than had to"
        assert len((await site.get("/a")).body) == LARGE


async def test_event_stream_ends_when_there_is_no_room(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two events, so that its reader comes back to where it is."""
    _quickly(monkeypatch)
    monkeypatch.setattr("unbroken.server.untaken._SPAN_S", 1000.0)
    async with serve_memory(page_size=LARGE, max_answers_size=MEBIBYTE) as site:
        await site.create("/a", TEXT, b"x" * LARGE)
        await site.create("/b", TEXT)
        async with site.events("/b?offset=-1&live=sse") as events, _stalled(site, encode_request("GET", "/a")):
            await events.batch()
            await until(lambda: site.app.app.untaken.size_bytes >= MEBIBYTE)
            await site.append("/b", TEXT, b"small")
            assert (await events.batch())[0] == "small"
            await site.append("/b", TEXT, b"y" * MEBIBYTE)
            assert await events.rest() == []


class Buffer:
    """A connection of which only the buffer is known."""

    def __init__(self, sizes: Callable[[int], int]) -> None:
        self._sizes = sizes
        self.asked = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        self.asked += 1
        return self._sizes(self.asked)

    def abort(self) -> None:
        self.aborted = True


async def test_slow_readers_that_take_something_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is room: a byte now and then is enough."""
    _quickly(monkeypatch, stalled_s=0.2)
    untaken = Untaken(10 * MEBIBYTE)
    slow, stalled = Buffer(lambda asked: MEBIBYTE - asked), Buffer(lambda asked: MEBIBYTE)
    for buffer in (slow, stalled):
        untaken.begin(cast(asyncio.Transport, buffer))
    await until(lambda: stalled.aborted)
    asked = slow.asked
    await until(lambda: slow.asked > asked + 20)
    assert not slow.aborted
    untaken.end(cast(asyncio.Transport, slow))
    assert untaken.size_bytes == 0


async def test_the_slowest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _quickly(monkeypatch)
    untaken = Untaken(3 * MEBIBYTE)
    buffers = {
        "quick": Buffer(lambda asked: 2 * MEBIBYTE - 100_000 * (asked % 15)),
        "slow": Buffer(lambda asked: MEBIBYTE - asked),
        "slowest": Buffer(lambda asked: MEBIBYTE),
    }
    for buffer in buffers.values():
        untaken.begin(cast(asyncio.Transport, buffer))
    await until(lambda: buffers["slowest"].aborted)
    asked = buffers["quick"].asked
    await until(lambda: buffers["quick"].asked > asked + 20)
    assert [name for name, buffer in buffers.items() if buffer.aborted] == ["slowest"]
    for buffer in buffers.values():
        untaken.end(cast(asyncio.Transport, buffer))


async def test_readers_that_wait_hold_nothing(tmp_path: Path, report_fact: Report) -> None:
    """50 of them have read 1 MiB each by events, and wait for more."""
    readers = 50
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_process(tmp_path, "--store", "memory", "--access-log"))
        writer = await stack.enter_async_context(connect(*server.address))
        await writer.request("PUT", "/a", TEXT, b"x" * MEBIBYTE)
        before = server.memory_bytes
        for _ in range(readers):
            reader = await stack.enter_async_context(connect(*server.address))
            await reader.send(encode_request("GET", "/a?offset=-1&live=sse"))
            await reader.read_head()
            seen = b""
            while not seen.endswith(b'"upToDate":true}\n\n'):
                seen = seen[-100:] + await reader.read_part()
        grown = server.memory_bytes - before
    report_fact(f"{readers} readers of 1 MiB each that wait for more: memory +{grown / MEBIBYTE:.0f} MiB")
    assert grown < readers * MEBIBYTE / 2


async def test_large_messages_are_not_all_read_at_once(tmp_path: Path, report_fact: Report) -> None:
    """30 readers of a message of 16 MiB, none of which takes it."""
    async with AsyncExitStack() as stack:
        flags = ("--store", "memory", "--max-answers-size", "32MiB")
        server = await stack.enter_async_context(server_process(tmp_path, *flags))
        writer = await stack.enter_async_context(connect(*server.address))
        await writer.request("PUT", "/a", JSON, b'"' + b"x" * (LARGE - 2) + b'"')
        before = server.memory_bytes
        for _ in range(30):
            stalled = await stack.enter_async_context(
                connect(*server.address, receive_buffer_bytes=4096, read_ahead_bytes=1024)
            )
            await stalled.send(encode_request("GET", "/a"))
        # Whoever comes now is answered after them.
        assert (await writer.request("GET", "/a")).status in (200, 503)
        grown = server.peak_memory_bytes - before
    report_fact(f"30 readers that take nothing of 16 MiB each: memory +{grown / MEBIBYTE:.0f} MiB at most")
    assert grown < 200 * MEBIBYTE
