"""Connections: how many there may be, how long they may take, and what may be sent ahead on one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import TEXT, Site, check_always, problem_code, until
from unbroken.server import connection as connection_module
from unbroken.testing import connect, encode_chunk, encode_request

MEBIBYTE = 1024 * 1024


async def _is_served(site: Site) -> bool:
    async with site.connect() as connection:
        with suppress(ConnectionError):
            return (await connection.request("GET", "/-/health")).status == 200
    return False


async def test_one_connection_too_many_is_told(serve_memory: Serve) -> None:
    async with serve_memory(max_connections=3) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        await until(lambda: site.app.app.metrics.connections == 0)
        busy = [await stack.enter_async_context(site.connect()) for _ in range(3)]
        for connection in busy:
            await connection.send(encode_request("GET", "/a?offset=now&live=long-poll"))
        await until(lambda: len(site.engine.waiters) == 3)
        async with site.connect() as refused:
            response = await refused.read_response()
            check_always(response, "GET")
            assert problem_code(response) == (503, "too-many-connections")
            assert response["connection"] == "close"
            assert await refused.read_eof() == b""
        await busy[0].close()
        async with asyncio.timeout(10):
            while not await _is_served(site):
                pass


async def test_idle_connections_give_way(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever comes to ask something; those that are busy do not."""
    monkeypatch.setattr("unbroken.server.crowd._IDLE_GIVES_WAY_S", -1.0)
    async with serve_memory(max_connections=3) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        await until(lambda: site.app.app.metrics.connections == 0)
        busy, *idle = [await stack.enter_async_context(site.connect()) for _ in range(3)]
        await busy.send(encode_request("GET", "/a?offset=now&live=long-poll"))
        await until(lambda: len(site.engine.waiters) == 1)
        for connection in idle:
            assert (await connection.request("GET", "/-/health")).status == 200
        for _ in range(5):
            assert await _is_served(site)
            await until(lambda: site.app.app.metrics.connections <= 2)
        ends = [asyncio.create_task(connection.read_eof()) for connection in idle]
        (end,), _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert end.result() == b""
        async with site.connect() as writer:
            await writer.request("POST", "/a", TEXT, b"!")
        assert (await busy.read_response()).body == b"!"
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /a HTTP/1.1\r\n", b"GET /a HTTP/1.1\r\nhost: localhost\r\nx: y", b"\r\n", b"G"]
)
async def test_head_that_does_not_come_in_time(serve_memory: Serve, sent: bytes) -> None:
    """Whoever sends nothing is cut off without a word; whoever sends something is told."""
    async with serve_memory(head_timeout=0.2) as site, site.connect() as slow:
        await slow.send(sent)
        if sent.strip():
            response = await slow.read_response()
            check_always(response, "GET")
            assert problem_code(response) == (408, "request-timeout")
            assert response["connection"] == "close"
        assert await slow.read_eof() == b""


async def test_head_that_trickles_is_not_in_time_for_ever(serve_memory: Serve) -> None:
    """Slowloris: each byte comes soon after the last, and the head never ends."""
    async with serve_memory(head_timeout=0.3) as site, site.connect() as slow:
        await slow.send(b"GET /a HTTP/1.1\r\nhost: localhost\r\n")

        async def trickle() -> None:
            with suppress(ConnectionError):
                while True:
                    await slow.send(b"x: y\r\n")
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert problem_code(await slow.read_response()) == (408, "request-timeout")
        trickling.cancel()


async def test_head_in_pieces_is_served(serve_memory: Serve) -> None:
    async with serve_memory(head_timeout=10) as site, site.connect() as slow:
        await site.create("/a", TEXT, b"hello")
        for _ in range(2):
            for byte in encode_request("GET", "/a"):
                await slow.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await slow.read_response()).body == b"hello"


async def test_answer_under_way_is_not_hurried(serve_memory: Serve) -> None:
    """Neither by the time for heads nor by that for idle connections; also not if more was sent behind."""
    async with serve_memory(head_timeout=0.1, idle_timeout=0.1) as site, site.connect() as poller:
        await site.create("/a", TEXT, b"hello")
        await poller.send(encode_request("GET", "/a?offset=now&live=long-poll") + b"GET /a HT")
        await until(lambda: len(site.engine.waiters) == 1)
        await asyncio.sleep(0.4)
        await site.append("/a", TEXT, b"!")
        assert (await poller.read_response()).body == b"!"
        assert problem_code(await poller.read_response()) == (408, "request-timeout")


@pytest.mark.parametrize("sent_bytes", [10, 100_000])
async def test_refused_body_that_was_sent_ahead_does_not_keep_a_connection(
    serve_memory: Serve, sent_bytes: int
) -> None:
    """What has come of it is skipped; the rest is not waited for longer than for another request."""
    async with serve_memory(idle_timeout=0.1) as site, site.connect() as client:
        await site.create("/a", TEXT)
        head = encode_request("PUT", "/b", {**TEXT, "content-length": str(2**40)})
        await client.send(encode_request("GET", "/a?offset=now&live=long-poll") + head + b"x" * sent_bytes)
        await until(lambda: len(site.engine.waiters) == 1)
        await site.append("/a", TEXT, b"!")
        assert (await client.read_response()).body == b"!"
        assert problem_code(await client.read_response()) == (413, "body-too-large")
        assert await client.read_eof() == b""


async def test_blank_lines_do_not_keep_a_connection(serve_memory: Serve) -> None:
    """They may stand before a request (RFC 9112 section 2.2), but they are none."""
    async with serve_memory(idle_timeout=0.3, head_timeout=0.3) as site, site.connect() as blank:
        assert (await blank.request("GET", "/-/health")).status == 200

        async def trickle() -> None:
            with suppress(ConnectionError):
                while True:
                    await blank.send(b"\r\n")
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        with suppress(ConnectionError):
            await blank.read_eof()
        trickling.cancel()
        async with site.connect() as other:
            assert (await other.request("GET", "/-/health")).status == 200


async def test_what_is_sent_behind_a_long_poll_costs_its_own_size(tmp_path: Path) -> None:
    """Thousands of small requests on each of many connections, all of which have to wait."""
    behind = encode_request("GET", "/a") * 6_000
    async with server_process(tmp_path, "--store", "memory") as server, AsyncExitStack() as stack:
        other = await stack.enter_async_context(connect(*server.address))
        await other.request("PUT", "/a", TEXT, b"hello")
        before = server.memory_bytes
        for _ in range(20):
            poller = await stack.enter_async_context(connect(*server.address))
            await poller.send(encode_request("GET", "/a?offset=now&live=long-poll"))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await poller.send(behind)
        assert (await other.request("GET", "/a")).body == b"hello"
        assert server.peak_memory_bytes - before < 20 * MEBIBYTE


async def test_what_was_sent_ahead_is_answered_in_order(serve_memory: Serve) -> None:
    """However it is cut into packets, and wherever the server stopped reading."""
    async with serve_memory() as site, site.connect(timeout_s=30) as hasty:
        await site.create("/a", TEXT, b"")
        bodies = [b"%d;" % number * (1 + number % 700) for number in range(1500)]
        requests = b"".join(encode_request("POST", "/a", TEXT, body) + encode_request("HEAD", "/a") for body in bodies)

        async def send() -> None:
            for at in range(0, len(requests), 77_777):
                await hasty.send(requests[at : at + 77_777])

        sending = asyncio.create_task(send())
        tail = 0
        for body in bodies:
            tail += len(body)
            assert (await hasty.read_response())["stream-next-offset"].endswith(f"{tail:016d}")
            assert (await hasty.read_response(head=True))["stream-next-offset"].endswith(f"{tail:016d}")
        await sending
        assert (await site.get("/a")).body == b"".join(bodies)[:MEBIBYTE]


async def test_garbage_behind_a_request_does_not_spoil_its_answer(serve_memory: Serve) -> None:
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/a", TEXT, b"hello")
        await connection.send(encode_request("GET", "/a?offset=now&live=long-poll") + b"\x00garbage\r\n\r\n")
        await until(lambda: len(site.engine.waiters) == 1)
        await site.append("/a", TEXT, b"!")
        assert (await connection.read_response()).body == b"!"
        assert await connection.read_eof() == b""


async def test_body_that_is_broken_is_refused_at_once(serve_memory: Serve) -> None:
    """Also behind a request that has to wait: nobody waits for the rest of it."""
    broken = encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}) + b"zz\r\n"
    async with serve_memory() as site, site.connect() as connection, site.connect() as behind:
        await site.create("/a", TEXT, b"hello")
        await connection.send(broken)
        assert problem_code(await connection.read_response()) == (400, "invalid-request")
        assert await connection.read_eof() == b""
        await behind.send(encode_request("GET", "/a?offset=now&live=long-poll") + broken)
        await until(lambda: len(site.engine.waiters) == 1)
        await site.append("/a", TEXT, b"!")
        assert (await behind.read_response()).body == b"!"
        assert await behind.read_eof() == b""
        assert (await site.get("/a")).body == b"hello!"


async def test_reader_that_vanishes_with_requests_sent_behind_is_noticed(serve_memory: Serve) -> None:
    async with serve_memory(sse_heartbeat=0.05) as site:
        await site.create("/a", TEXT, b"hello")
        async with site.connect() as connection:
            await connection.send(encode_request("GET", "/a?offset=-1&live=sse") + encode_request("GET", "/a"))
            await connection.read_head()
            await until(lambda: site.app.app.live_reads == 1)
            connection.abort()
        await until(lambda: site.app.app.live_reads == 0)


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "reset"])
@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_client_that_sent_ahead_and_left_is_noticed(
    serve_memory: Serve, monkeypatch: pytest.MonkeyPatch, live: str, orderly: bool
) -> None:
    """Although nothing is read from it and nothing is to be sent to it."""
    monkeypatch.setattr("unbroken.server.connection._LOOK_S", 0.01)
    async with serve_memory(sse_heartbeat=60, sse_lifetime=60) as site:
        await site.create("/a", TEXT)
        async with site.connect() as connection:
            append = encode_request("POST", "/a", TEXT, b"x" * 1000)
            await connection.send(encode_request("GET", f"/a?offset=now&live={live}") + append * 20)
            await until(lambda: site.app.app.live_reads == 1)
            if not orderly:
                connection.abort()
        await until(lambda: site.app.app.live_reads == 0)
        await until(lambda: site.app.app.metrics.connections == 0)
        assert (await site.get("/a")).body == b"", "what it sent ahead, and has no answer to, is dropped"


async def test_client_that_sent_ahead_and_waits_is_left_alone(
    serve_memory: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def has_left(transport: asyncio.Transport) -> bool:
        looks.append(look(transport))
        return looks[-1]

    look = connection_module._has_left
    monkeypatch.setattr(connection_module, "_has_left", has_left)
    monkeypatch.setattr(connection_module, "_LOOK_S", 0.01)
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(encode_request("GET", "/a?offset=now&live=long-poll") + encode_request("GET", "/a"))
        await until(lambda: len(looks) >= 3)
        await site.append("/a", TEXT, b"!")
        for _ in range(2):
            assert (await connection.read_response()).body == b"!"
        assert not any(looks)


# --- uploads ---------------------------------------------------------------------------------------------------------


async def test_upload_that_takes_too_long_is_given_up(serve_memory: Serve) -> None:
    async with serve_memory(upload_timeout=0.4, body_timeout=10) as site, site.connect() as slow:
        await site.create("/a", TEXT)
        await slow.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000"}))

        async def trickle() -> None:
            with suppress(ConnectionError):
                while True:
                    await slow.send(b"x")
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        response = await slow.read_response()
        trickling.cancel()
        assert problem_code(response) == (408, "request-timeout")
        assert "within 0.4 s" in response.json()["detail"]
        assert (await site.get("/a")).body == b""


async def test_slow_uploads_make_way_when_memory_is_short(serve_memory: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hold the memory and send nothing lose it to those that come, and are told; nobody else is."""
    monkeypatch.setattr("unbroken.server.bodies._SPAN_S", 0.1)
    chunked, body = {**TEXT, "transfer-encoding": "chunked"}, encode_chunk(b"y" * 900) + encode_chunk(b"")
    async with serve_memory(max_body=1000, max_bodies_size=4000) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        holders = [await stack.enter_async_context(site.connect()) for _ in range(4)]
        for holder in holders:
            await holder.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000"}) + b"x" * 999)
        await until(lambda: site.app.app.bodies_bytes == 3996)
        await asyncio.sleep(0.2)  # so long that they are slow
        assert (await site.post("/a", chunked, body)).status == 204
        answers = {asyncio.create_task(holder.read_response()): holder for holder in holders}
        (told,), waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert problem_code(told.result()) == (408, "request-timeout")
        assert "slowest" in told.result().json()["detail"]
        for answer in waiting:
            await answers[answer].send(b"x")
            assert (await answer).status == 204
        assert site.app.app.bodies_bytes == 0
