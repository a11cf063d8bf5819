"""Live delivery: who is sent what, when readers are many, slow, or leave while more is coming.

Whatever is said here holds past ASGI, the way of ``unbroken serve``, and through it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_certificate
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import settle
from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import BYTES, JSON, TEXT, Site, begin, closed, offset, until
from tests.server.sse import EventStream, parse_events
from unbroken.engine import Page
from unbroken.server.asgi import AsgiApp, Receive, Scope, Send
from unbroken.server.connection import Connection
from unbroken.server.settings import Settings
from unbroken.server.sse import Batches
from unbroken.store.sqlite import SqliteStore
from unbroken.testing import ManualClock, encode_request, live_server

MEBIBYTE = 1024 * 1024
WAYS = pytest.mark.parametrize("way", [{}, {"connection": "close"}], ids=["past ASGI", "through ASGI"])


@pytest.fixture
def through_asgi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of reads that did take the way through ASGI."""
    paths: list[str] = []
    call = AsgiApp.__call__

    async def noting(app: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            paths.append(scope["path"])
        await call(app, scope, receive, send)

    monkeypatch.setattr(AsgiApp, "__call__", noting)
    return paths


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system keeps little for a connection, so that a reader that stalls is soon a slow one."""
    made = Connection.connection_made

    def connection_made(self: Connection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)


def _numbers(events: list[Any]) -> list[int]:
    return [number for event in events if event.type == "data" for number in json.loads(event.data)]


def _messages(events: list[Any]) -> list[Any]:
    return [message for event in events if event.type == "data" for message in json.loads(event.data)]


def _texts(events: list[Any]) -> str:
    return "".join(event.data for event in events if event.type == "data")


@asynccontextmanager
async def _appending(site: Site, target: str, fields: dict[str, str]) -> AsyncIterator[list[int]]:
    """Numbers are appended one after the other as long as the block lasts; those that were acknowledged."""
    done: list[int] = []

    async def append() -> None:
        async with site.connect() as connection:
            while True:
                response = await connection.request("POST", target, fields, b"%d" % len(done))
                assert response.status == 204
                done.append(len(done))

    task = asyncio.create_task(append())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- slow readers among quick ones -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_buffers")
@WAYS
async def test_reader_that_stalls_among_200_and_recovers(serve_memory: Serve, way: dict[str, str]) -> None:
    """The others get each message at once; for it there lies no more than its connection holds. Then it gets all."""
    count, size_bytes = 60, 8000
    async with serve_memory(page_size=64 * 1024) as site, AsyncExitStack() as stack:
        await site.create("/a", JSON)
        stalled = await stack.enter_async_context(site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024))
        slow = EventStream(stalled, await begin(stalled, "GET", "/a?offset=-1&live=sse", way))
        await slow.batch()
        target = "/a?offset=now&live=sse"
        readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(200)]
        for reader in readers:
            await reader.batch()
        for number in range(count):
            await site.append("/a", JSON, json.dumps({"n": number, "x": "." * size_bytes}).encode())
            for data, _ in await asyncio.gather(*(reader.batch() for reader in readers)):
                assert json.loads(data or "")[0]["n"] == number
        untaken = site.app.app.untaken.size_bytes
        assert 0 < untaken < 64 * 1024 + 3 * 64 * 1024, "what was there when it stalled, and a page at most"
        await site.post("/a", closed())
        got = [message["n"] for message in _messages(await slow.rest())]
        assert got == list(range(count))
        assert site.app.app.untaken.size_bytes == 0


@pytest.mark.usefixtures("small_buffers")
async def test_slow_reader_gets_larger_pages_and_no_queue(serve_memory: Serve) -> None:
    """What came while it was stalled is one event for it, not as many as there were appends."""
    async with serve_memory() as site, site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled:
        await site.create("/a", TEXT)
        slow = EventStream(stalled, await begin(stalled, "GET", "/a?offset=-1&live=sse"))
        await slow.batch()
        async with site.connect() as writer:
            for _ in range(400):
                assert (await writer.request("POST", "/a", TEXT, b"." * 1000)).status == 204
        await site.post("/a", closed())
        found = [event for event in await slow.rest() if event.type == "data"]
        assert sum(len(event.data) for event in found) == 400_000
        assert len(found) < 250


@WAYS
async def test_thousand_readers_join_and_leave_in_a_flood(serve: Serve, way: dict[str, str]) -> None:
    """Each gets every message once and in order, from where it began; some vanish, some come back where they were."""
    chance = random.Random(1)

    async def visit(site: Site, turns: asyncio.Semaphore, steps: int, returns: bool) -> None:
        async with turns:
            target, next_number = "/a?offset=-1&live=sse", 0
            for _ in range(2 if returns else 1):
                async with site.connect(timeout_s=30) as connection:
                    events = EventStream(connection, await begin(connection, "GET", target, way))
                    for _ in range(steps):
                        data, control = await events.batch()
                        numbers = json.loads(data or "[]")
                        assert numbers == list(range(next_number, next_number + len(numbers)))
                        next_number += len(numbers)
                    if steps % 2:
                        connection.abort()
                target = f"/a?offset={control['streamNextOffset']}&live=sse"

    async with serve(page_size=1024) as site:
        await site.create("/a", JSON)
        turns = asyncio.Semaphore(60)
        async with _appending(site, "/a", JSON) as done:
            visits = [visit(site, turns, chance.randrange(1, 8), chance.random() < 0.3) for _ in range(1000)]
            await asyncio.gather(*visits)
        assert len(done) > 10
        await until(lambda: len(site.engine.waiters) == 0)
        assert site.app.app.live_reads == 0


@WAYS
async def test_more_readers_than_have_their_turn_at_once(serve_memory: Serve, way: dict[str, str]) -> None:
    """What is appended before the last had theirs wakes all again, and nobody misses any."""
    async with serve_memory() as site, AsyncExitStack() as stack:
        await site.create("/a", JSON)
        target = "/a?offset=now&live=sse"
        readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(400)]
        await until(lambda: len(site.engine.waiters) == 400)
        async with site.connect() as writer:
            await writer.send(b"".join(encode_request("POST", "/a", JSON, b"%d" % number) for number in range(50)))
            for _ in range(50):
                assert (await writer.read_response()).status == 204
        await site.post("/a", closed())
        for reader in readers:
            assert _numbers(await reader.rest()) == list(range(50))


@WAYS
async def test_readers_that_hold_back_different_bytes(serve: Serve, way: dict[str, str]) -> None:
    """One has the beginning of a character, the other begins inside it: what they are sent next is not the same."""
    async with serve() as site:
        await site.create("/a", TEXT, "€".encode()[:1])
        async with (
            site.events("/a?offset=-1&live=sse", way) as whole,
            site.events(f"/a?offset={offset(1, 1)}&live=sse", way) as inside,
            site.events("/a?offset=-1&live=sse", way) as another,
        ):
            for events in (whole, inside, another):
                await events.batch()
            await site.append("/a", TEXT, "€".encode()[1:] + b"!")
            found = [await events.batch() for events in (whole, inside, another)]
        assert [data for data, _ in found] == ["€!", "\ufffd\ufffd!", "€!"]
        assert {control["streamNextOffset"] for _, control in found} == {offset(1, 4)}


# --- ends, while something is being delivered ------------------------------------------------------------------------


@WAYS
async def test_closed_while_delivering(serve: Serve, way: dict[str, str]) -> None:
    """Everything that was accepted before, then the end, once, for everybody."""
    async with serve() as site, AsyncExitStack() as stack:
        await site.create("/a", JSON)
        target = "/a?offset=-1&live=sse"
        readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(40)]
        reading = [asyncio.create_task(reader.rest()) for reader in readers]
        appends = [asyncio.create_task(site.post("/a", JSON, b"%d" % number)) for number in range(60)]
        await until(lambda: any(task.done() for task in appends))
        await site.post("/a", closed(JSON), b"1000")
        taken = [response.status for response in await asyncio.gather(*appends)].count(204)
        sequences = [_numbers(events) for events in await asyncio.gather(*reading)]
        assert len(sequences[0]) == taken + 1
        assert len(set(sequences[0])) == taken + 1, "each once"
        assert sequences[0][-1] == 1000
        assert all(sequence == sequences[0] for sequence in sequences)
        for reader in readers:
            assert reader.raw.count(b"streamClosed") == 1
            assert reader.ended


@WAYS
async def test_deleted_while_delivering(serve: Serve, way: dict[str, str]) -> None:
    """All end; what each got is how the stream began, and nothing of the next one."""
    async with serve() as site, AsyncExitStack() as stack:
        await site.create("/a", JSON)
        target = "/a?offset=-1&live=sse"
        readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(40)]
        reading = [asyncio.create_task(reader.rest()) for reader in readers]
        appends = [asyncio.create_task(site.post("/a", JSON, b"%d" % number)) for number in range(60)]
        await until(lambda: any(task.done() for task in appends))
        await site.delete("/a")
        await asyncio.gather(*appends)
        await site.create("/a", JSON, b"[-1]")
        sequences = [_numbers(events) for events in await asyncio.gather(*reading)]
        longest = max(sequences, key=len)
        for numbers in sequences:
            assert numbers == longest[: len(numbers)]
            assert -1 not in numbers
        assert len(site.engine.waiters) == 0


@WAYS
async def test_expiry_ends_a_reader_that_waits(serve: Serve, way: dict[str, str]) -> None:
    async with serve() as site:
        expires = datetime.fromtimestamp(site.clock.now().wall_ms / 1000 + 60).astimezone().isoformat()
        await site.create("/a", {**TEXT, "stream-expires-at": expires}, b"x")
        async with site.events("/a?offset=-1&live=sse", way) as events:
            await events.batch()
            site.clock.advance(61)
            assert await events.rest() == []


@WAYS
async def test_next_request_on_the_connection(serve_memory: Serve, way: dict[str, str]) -> None:
    """The response ends, and the connection goes on, if it may."""
    async with serve_memory(sse_lifetime=0.05) as site, site.connect() as connection:
        await site.create("/a", TEXT, b"hello")
        events = EventStream(connection, await begin(connection, "GET", "/a?offset=-1&live=sse", way))
        assert [event.data for event in await events.rest() if event.type == "data"] == ["hello"]
        if way:
            assert await connection.read_eof() == b""
        else:
            for _ in range(2):
                assert (await connection.request("GET", "/a")).body == b"hello"
            assert (await connection.request("POST", "/a", TEXT, b"!")).status == 204


async def test_request_behind_a_live_read_is_answered_after_it(serve_memory: Serve) -> None:
    async with serve_memory(sse_lifetime=0.05) as site, site.connect() as connection:
        await site.create("/a", TEXT, b"hello")
        requests = [("GET", "/a?offset=-1&live=sse"), ("GET", "/a?offset=now&live=long-poll&timeout=0"), ("GET", "/a")]
        await connection.send(b"".join(encode_request(*request) for request in requests))
        assert b"hello" in (await connection.read_response()).body
        assert (await connection.read_response()).status == 204
        assert (await connection.read_response()).body == b"hello"


async def test_server_ends_and_a_stalled_reader_takes_the_rest(serve_memory: Serve) -> None:
    async with serve_memory(page_size=MEBIBYTE) as site:
        await site.create("/a", TEXT, b"x" * 20 * MEBIBYTE)
        async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled:
            slow = EventStream(stalled, await begin(stalled, "GET", "/a?offset=-1&live=sse"))
            await until(lambda: site.app.app.untaken.size_bytes > 0)
            site.engine.drain()
            found = await slow.rest()
        controls = [event.control for event in found if event.type == "control"]
        received = sum(len(event.data) for event in found if event.type == "data")
        assert controls[-1]["streamNextOffset"] == offset(1, received)
        assert "streamClosed" not in controls[-1]


# --- silence ---------------------------------------------------------------------------------------------------------


@WAYS
async def test_heartbeats_in_silence_and_none_beside_data(serve_memory: Serve, way: dict[str, str]) -> None:
    heartbeat_s = 0.03
    clock = asyncio.get_running_loop().time
    async with serve_memory(sse_heartbeat=heartbeat_s, sse_lifetime=600) as site:
        await site.create("/a", TEXT)
        begun_s, silences = clock(), 0
        async with site.events("/a?offset=-1&live=sse", way) as events:
            await events.batch()
            end_s = clock() + 10 * heartbeat_s
            while clock() < end_s:
                last_s, begun_s = begun_s, clock()
                await site.append("/a", TEXT, b"x")
                await events.batch()
                # The server was silent for less than this, which is long only if the machine was busy.
                silences += int((clock() - last_s) / heartbeat_s)
            assert len(events.comments) <= silences
            del events.comments[:]
            while len(events.comments) < 2:
                assert await events.read()
            await site.append("/a", TEXT, b"y")
            assert (await events.batch())[0] == "y"


@WAYS
async def test_heartbeat_of_a_reader_that_stalls(serve_memory: Serve, way: dict[str, str]) -> None:
    """It comes where there is room for it, and the read goes on."""
    async with serve_memory(sse_heartbeat=0.02, page_size=MEBIBYTE) as site:
        await site.create("/a", TEXT, b"x" * 20 * MEBIBYTE)
        async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled:
            slow = EventStream(stalled, await begin(stalled, "GET", "/a?offset=-1&live=sse", way))
            await until(lambda: site.app.app.untaken.size_bytes > 0)
            passed = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.1, passed.set_result, None)
            await passed
            size_bytes = 0
            while size_bytes < 20 * MEBIBYTE:
                data, _ = await slow.batch()
                size_bytes += len(data or "")
            while not slow.comments:
                assert await slow.read()


# --- what is not in memory -------------------------------------------------------------------------------------------


@WAYS
async def test_catch_up_from_the_disk_and_on(tmp_path: Path, through_asgi: list[str], way: dict[str, str]) -> None:
    """A large body lies in the tables at once; what is appended meanwhile comes after it."""
    async with live_server(SqliteStore(tmp_path)) as server:
        site = Site(server, ManualClock())
        data = b"".join(b"%07d\n" % number for number in range(200_000))
        await site.create("/a", BYTES, data[:MEBIBYTE])
        await site.append("/a", BYTES, data[MEBIBYTE:])
        async with AsyncExitStack() as stack:
            target = "/a?offset=-1&live=sse"
            readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(5)]
            reading = [asyncio.create_task(reader.rest()) for reader in readers]
            await site.append("/a", BYTES, b"more")
            await site.post("/a", closed(BYTES), b"last")
            for task in reading:
                parts = [base64.b64decode(event.data) for event in await task if event.type == "data"]
                assert b"".join(parts) == data + b"morelast"
        assert len(through_asgi) == (5 if way else 0)


class _SlowStore(GatedStore):
    """Nothing is at hand: whatever is read has to be waited for, until `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.reading = 0

    def read_cached(self, number: int, start: int, end: int) -> bytes | None:
        return None

    async def read(self, number: int, start: int, end: int) -> bytes:
        self.reading += 1
        await self.go_on.wait()
        return await super().read(number, start, end)

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        self.reading += 1
        await self.go_on.wait()
        return end


@asynccontextmanager
async def _slow_site(**options: Any) -> AsyncIterator[tuple[Site, _SlowStore]]:
    store = _SlowStore()
    async with live_server(store, **options) as server:
        yield Site(server, ManualClock()), store


@WAYS
async def test_deleted_while_a_page_is_read(way: dict[str, str]) -> None:
    async with _slow_site() as (site, store):
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse", way) as events:
            await events.batch()
            await site.append("/a", TEXT, b"secret")
            await until(lambda: store.reading == 1)
            await site.delete("/a")
            await site.create("/a", TEXT, b"other!")
            store.go_on.set()
            assert await events.rest() == []


@WAYS
async def test_appends_while_a_page_is_read(way: dict[str, str]) -> None:
    """One page is read at a time, whatever wakes the reader meanwhile."""
    async with _slow_site() as (site, store):
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse", way) as events:
            await events.batch()
            await site.append("/a", TEXT, b"x")
            await until(lambda: store.reading == 1)
            for _ in range(3):
                await site.append("/a", TEXT, b"y")
            await settle()
            assert store.reading == 1
            store.go_on.set()
            await events.until_data("xyyy")
            await site.post("/a", closed())
            assert _texts(await events.rest()) == ""


@WAYS
async def test_append_while_the_first_page_is_read(way: dict[str, str]) -> None:
    """Before the reader is one: it is not told of it, and looks by itself."""
    async with _slow_site() as (site, store):
        await site.create("/a", TEXT, b"x")
        async with site.connect() as connection:
            await connection.send(encode_request("GET", "/a?offset=-1&live=sse", way))
            await until(lambda: store.reading == 1)
            await site.append("/a", TEXT, b"y")
            await settle()
            store.go_on.set()
            await EventStream(connection, await connection.read_head()).until_data("xy")


@WAYS
async def test_readers_that_come_at_once_keep_to_the_limit(way: dict[str, str]) -> None:
    """Although none of them is one before its first page is there."""
    async with _slow_site(settings=Settings(max_live_reads=2)) as (site, store), AsyncExitStack() as stack:
        await site.create("/a", TEXT, b"x")
        connections = [await stack.enter_async_context(site.connect()) for _ in range(5)]
        for connection in connections:
            await connection.send(encode_request("GET", "/a?offset=-1&live=sse", way))
        await until(lambda: store.reading == 5)
        store.go_on.set()
        statuses = [(await connection.read_head()).status for connection in connections]
        assert sorted(statuses) == [200, 200, 503, 503, 503]


@WAYS
async def test_client_gone_while_a_page_is_read(way: dict[str, str]) -> None:
    async with _slow_site() as (site, store):
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse", way) as events:
            await events.batch()
            await site.append("/a", TEXT, b"x")
            await until(lambda: store.reading == 1)
        await until(lambda: site.app.app.metrics.connections == 0)
        store.go_on.set()
        await until(lambda: len(site.engine.waiters) == 0)
        assert site.app.app.live_reads == 0


@WAYS
async def test_client_gone_before_its_read_begins_is_logged(
    way: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "unbroken.access")
    async with _slow_site(settings=Settings(access_log=True)) as (site, store):
        await site.create("/a", TEXT, b"x")
        caplog.clear()
        async with site.connect() as connection:
            await connection.send(encode_request("GET", "/a?offset=-1&live=sse", way))
            await until(lambda: store.reading == 1)
        await until(lambda: site.app.app.metrics.connections == 0)
        store.go_on.set()
        await until(lambda: "GET /a?offset=-1&live=sse 200" in caplog.text)


@WAYS
@pytest.mark.parametrize("kind", ["long-poll", "sse"])
async def test_client_gone_before_its_read_begins(way: dict[str, str], kind: str) -> None:
    """While it is found out where to begin. Nobody waits then for the ten minutes that it may take."""
    async with _slow_site(settings=Settings(long_poll_timeout=600)) as (site, store):
        await site.create("/a", TEXT)
        async with site.connect() as connection:
            target = f"/a?since=2100-01-01T00:00:00Z&live={kind}"
            await connection.send(encode_request("GET", target, way))
            await until(lambda: store.reading == 1)
        await until(lambda: site.app.app.metrics.connections == 0)
        store.go_on.set()
        await settle()
        await until(lambda: site.app.app.live_reads == 0)
        assert len(site.engine.waiters) == 0


# --- faults ----------------------------------------------------------------------------------------------------------


@WAYS
async def test_fault_of_ours_ends_one_read(
    serve_memory: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: dict[str, str]
) -> None:
    """It is logged, its connection is cut, so that nobody takes it for an orderly end; the others go on."""
    encode = Batches.encode
    broken: list[Batches] = []

    def failing(self: Batches, page: Page) -> bytes:
        if page.data == b"boom" and not broken:
            broken.append(self)
            raise ZeroDivisionError
        return encode(self, page)

    monkeypatch.setattr(Batches, "encode", failing)
    async with serve_memory() as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        target = "/a?offset=-1&live=sse"
        readers = [await stack.enter_async_context(site.events(target, way)) for _ in range(3)]
        for reader in readers:
            await reader.batch()
        await site.append("/a", TEXT, b"boom")
        seen = 0
        for reader in readers:
            with suppress(EOFError, ConnectionError):
                seen += (await reader.batch())[0] == "boom"
        assert seen == 2
        await until(lambda: len(site.engine.waiters) == 2)
        await until(lambda: "ZeroDivisionError" in caplog.text)
        assert site.app.app.live_reads == 2
    caplog.clear()


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_delivery_over_tls(tmp_path: Path) -> None:
    """A reader that stalls while 10 MiB are appended, and then takes them all."""
    made = make_certificate(tmp_path)
    flags = ("--store", "memory", "--tls-cert", str(made.chain), "--tls-key", str(made.key))
    trusting = ssl.create_default_context(cafile=str(made.chain))
    async with server_process(tmp_path, *flags) as server, AsyncExitStack() as stack:

        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=trusting, server_hostname="localhost", limit=4 * MEBIBYTE
            )
            stack.callback(writer.transport.abort)
            return reader, writer

        async with asyncio.timeout(60):
            asked, ask = await opened()
            ask.write(encode_request("PUT", "/a", TEXT))
            assert b"201" in await asked.readuntil(b"\r\n\r\n")
            followed, follow = await opened()
            follow.write(encode_request("GET", "/a?offset=-1&live=sse"))
            assert b"200" in await followed.readuntil(b"\r\n\r\n")
            for number in range(100):
                ask.write(encode_request("POST", "/a", TEXT, b"%08d" % number + b"." * 100_000))
                assert b"204" in await asked.readuntil(b"\r\n\r\n")
            ask.write(encode_request("POST", "/a", closed(), b""))
            assert b"204" in await asked.readuntil(b"\r\n\r\n")
            body = b""
            while size_bytes := int(await followed.readuntil(b"\r\n"), 16):
                body += (await followed.readexactly(size_bytes + 2))[:-2]
    events, _ = parse_events(body.decode())
    text = "".join(event.data for event in events if event.type == "data")
    assert text == "".join(f"{number:08d}" + "." * 100_000 for number in range(100))
    assert events[-1].control["streamClosed"] is True
