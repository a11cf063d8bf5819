"""Clients that mean no good, or are just broken: they cost little, and nobody else notices.

Bounds on time are generous, since the machine may be busy; what was measured is reported at the end of the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.engine.helpers import until
from tests.server.conftest import Serve
from tests.server.process import ServerProcess, server_process
from tests.server.site import JSON, TEXT, offset, problem_code
from unbroken.testing import Address, connect, encode_chunk, encode_request

MEBIBYTE = 1024 * 1024
Report = Callable[[str], None]


class Bystander:
    """Another client, that goes on appending small things and measures how long it has to wait."""

    def __init__(self) -> None:
        self.appended = 0
        self.slowest_s = 0.0
        self.begun = asyncio.Event()

    async def run(self, address: Address) -> None:
        async with connect(*address, timeout_s=60) as connection:
            await connection.request("PUT", "/bystander", TEXT)
            while True:
                begun_s = time.perf_counter()
                response = await connection.request("POST", "/bystander", TEXT, b"x")
                self.slowest_s = max(self.slowest_s, time.perf_counter() - begun_s)
                assert response.status == 204, response
                self.appended += 1
                self.begun.set()


@asynccontextmanager
async def _bystander(address: Address) -> AsyncIterator[Bystander]:
    """While the block runs, somebody else works; everything it was promised is there afterwards."""
    bystander = Bystander()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bystander.run(address))
        await bystander.begun.wait()
        yield bystander
        appended = bystander.appended
        await until(lambda: bystander.appended > appended, timeout_s=30)
        task.cancel()
    async with connect(*address) as connection:
        assert len((await connection.request("GET", "/bystander")).body) >= bystander.appended


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MEBIBYTE:.0f} MiB"


# --- readers that stop reading ---------------------------------------------------------------------------------------


async def test_stalled_readers_cost_a_bounded_buffer(tmp_path: Path, report_fact: Report) -> None:
    """20 SSE readers stop reading while 30 MiB are appended: unbounded buffers would hold 600 MiB."""
    readers, appends = 20, 30
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_process(tmp_path, "--store", "memory"))
        writer = await stack.enter_async_context(connect(*server.address))
        await writer.request("PUT", "/a", TEXT)
        for _ in range(readers):
            stalled = await stack.enter_async_context(
                connect(*server.address, receive_buffer_bytes=4096, read_ahead_bytes=1024)
            )
            await stalled.send(encode_request("GET", "/a?offset=-1&live=sse"))
            await stalled.read_head()
        healthy = await stack.enter_async_context(connect(*server.address))
        await healthy.send(encode_request("GET", "/a?offset=-1&live=sse"))
        await healthy.read_head()
        before = server.memory_bytes
        bystander = await stack.enter_async_context(_bystander(server.address))
        seen = 0
        for _ in range(appends):
            assert (await writer.request("POST", "/a", TEXT, b"x" * MEBIBYTE)).status == 204
            while seen < MEBIBYTE:
                seen += (await healthy.read_part()).count(b"x")
            seen -= MEBIBYTE
        grown = server.peak_memory_bytes - before
    stored = appends * MEBIBYTE
    report_fact(
        f"stalled readers: {readers} of them during {_mib(stored)} of appends grew the server by {_mib(grown)} "
        f"(stored data included); slowest append of others {bystander.slowest_s * 1000:.0f} ms"
    )
    assert grown < stored + readers * 4 * MEBIBYTE + 64 * MEBIBYTE
    assert bystander.slowest_s < 1


@pytest.mark.parametrize("fields", [{}, {"connection": "close"}], ids=["past ASGI", "through ASGI"])
async def test_reader_that_takes_nothing_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    """It is forgotten after a while: no follower of its stays, and its stream's lifetime runs again."""
    monkeypatch.setattr("unbroken.server.asgi._STALLED_S", 0.1)
    monkeypatch.setattr("unbroken.server.untaken.STALLED_S", 1000.0 if fields else 0.1)
    monkeypatch.setattr("unbroken.server.untaken._LOOK_S", 0.02)
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-ttl": "10"}, b"x" * 20 * MEBIBYTE)
        async with site.connect(receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled:
            await stalled.send(encode_request("GET", "/a?offset=-1&live=sse", fields))
            await stalled.read_head()
            site.clock.advance(9)
            assert (await site.head("/a")).status == 200

            def expired() -> bool:
                site.clock.advance(1)
                return site.engine.lookup("/a").presence.name == "EXPIRED"

            await until(expired)


async def test_client_that_never_reads_its_answers(tmp_path: Path) -> None:
    """200 pipelined reads of 1 MiB, never read: the server works off no more of them than its socket takes."""
    async with (
        server_process(tmp_path, "--store", "memory") as server,
        connect(*server.address) as other,
        connect(*server.address, receive_buffer_bytes=4096, read_ahead_bytes=1024) as stalled,
    ):
        await other.request("PUT", "/a", TEXT, b"x" * MEBIBYTE)
        before = server.memory_bytes
        await stalled.send(encode_request("GET", "/a") * 200)
        assert (await stalled.read_head()).status == 200
        for _ in range(10):
            assert (await other.request("GET", "/a")).status == 200
        assert server.peak_memory_bytes - before < 32 * MEBIBYTE


# --- uploads that stop, or never end ---------------------------------------------------------------------------------


async def test_requests_sent_ahead_are_not_hoarded(tmp_path: Path, report_fact: Report) -> None:
    """100,000 pipelined appends: the server reads on only when it has answered what it has read."""
    count = 100_000
    async with (
        server_process(tmp_path, "--store", "memory") as server,
        connect(*server.address) as other,
        connect(*server.address, timeout_s=60) as hasty,
    ):
        await other.request("PUT", "/a", TEXT)
        before = server.memory_bytes
        request = encode_request("POST", "/a", TEXT, b"x")

        async def read_answers() -> None:
            for _ in range(count):
                assert (await hasty.read_response()).status == 204

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(read_answers())
            for _ in range(count // 1000):
                await hasty.send(request * 1000)
        assert (await other.request("HEAD", "/a"))["stream-next-offset"].endswith(f"{count:016d}")
        grown = server.peak_memory_bytes - before
    report_fact(f"{count:,} pipelined appends: memory +{_mib(grown)}")
    assert grown < 100 * MEBIBYTE


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_stalled_upload_is_given_up(serve: Serve, method: str) -> None:
    async with serve(body_timeout=0.2) as site, site.connect() as stalled:
        if method == "POST":
            await site.create("/a", TEXT)
        await stalled.send(encode_request(method, "/a", {**TEXT, "content-length": "1000"}) + b"half of it")
        await site.create("/other", TEXT)
        for _ in range(20):
            await site.append("/other", TEXT, b"x")
        response = await stalled.read_response()
        assert problem_code(response) == (408, "request-timeout")
        assert response["connection"] == "close"
        assert await stalled.read_eof() == b""
        assert (await site.head("/a")).status == (404 if method == "PUT" else 200)
        assert (await site.get("/other")).body == b"x" * 20


async def test_stalled_chunked_upload_is_given_up(serve: Serve) -> None:
    async with serve(body_timeout=0.2) as site, site.connect() as stalled:
        await site.create("/a", TEXT)
        await stalled.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}) + b"5\r\nhal")
        assert problem_code(await stalled.read_response()) == (408, "request-timeout")
        assert (await site.get("/a")).body == b""


async def test_many_stalled_uploads_do_not_block_others(serve: Serve) -> None:
    async with serve() as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        for _ in range(100):
            stalled = await stack.enter_async_context(site.connect())
            await stalled.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000"}) + b"x" * 999)
        for number in range(20):
            assert (await site.append("/a", TEXT, b"y")) == offset(1, number + 1)


async def test_slow_upload_is_not_given_up(serve_memory: Serve) -> None:
    """Slow is not stalled: what counts is the time since the last byte."""
    async with serve_memory(body_timeout=1.0) as site, site.connect() as slow:
        await site.create("/a", TEXT)
        await slow.send(encode_request("POST", "/a", {**TEXT, "content-length": "10"}))
        for _ in range(10):
            await asyncio.sleep(0.12)
            await slow.send(b"x")
        assert (await slow.read_response()).status == 204
        assert (await site.get("/a")).body == b"x" * 10


async def test_bodies_in_flight_are_limited_together(serve_memory: Serve) -> None:
    """Each within its own limit, all together over theirs: 503 with Retry-After, and room again when some have gone."""
    # A small body that comes in one packet is let in, if its head says how small it is.
    chunked, body = {**TEXT, "transfer-encoding": "chunked"}, encode_chunk(b"y" * 900) + encode_chunk(b"")
    async with serve_memory(max_body=1000, max_bodies_size=4000) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        uploads = [await stack.enter_async_context(site.connect()) for _ in range(4)]
        for upload in uploads:
            await upload.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000"}) + b"x" * 999)
        # What was sent is read in its own time; so is the end of a connection.
        async with asyncio.timeout(10):
            while (refused := await site.post("/a", chunked, body)).status == 204:
                pass
            assert problem_code(refused) == (503, "overloaded")
            assert int(refused["retry-after"]) > 0
            assert (await site.post("/a", TEXT, b"y" * 900)).status == 204
            uploads[0].abort()
            while (await site.post("/a", chunked, body)).status != 204:
                pass


async def test_endless_upload_is_cut_at_the_limit(tmp_path: Path) -> None:
    async with (
        server_process(tmp_path, "--store", "memory", "--max-body", "1MiB") as server,
        connect(*server.address) as endless,
        connect(*server.address) as other,
    ):
        await other.request("PUT", "/a", TEXT)
        before = server.memory_bytes
        await endless.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}))
        chunk = encode_chunk(b"x" * 65_536)
        for _ in range(32):
            await endless.send(chunk)
        assert (await endless.read_response()).status == 413
        with suppress(ConnectionError):
            for _ in range(640):  # it goes on, deaf to the answer
                await endless.send(chunk)
        assert (await other.request("GET", "/a")).body == b""
        assert server.peak_memory_bytes - before < 32 * MEBIBYTE


# --- bodies that are hard to digest ----------------------------------------------------------------------------------


async def _upload(server: ServerProcess, start: bytes, unit: bytes, end: bytes) -> int:
    """Append 64 MiB of repeated units to a JSON stream; the status."""
    size_bytes = 64 * MEBIBYTE
    count = (size_bytes - len(start) - len(end)) // len(unit)
    piece = unit * (262_144 // len(unit))
    async with connect(*server.address, timeout_s=60) as connection:
        await connection.request("PUT", "/a", JSON)
        length = len(start) + count * len(unit) + len(end)
        await connection.send(encode_request("POST", "/a", {**JSON, "content-length": str(length)}) + start)
        whole, rest = divmod(count * len(unit), len(piece))
        for _ in range(whole):
            await connection.send(piece)
        await connection.send(piece[:rest] + end)
        return (await connection.read_response()).status


async def test_array_of_millions_of_messages(tmp_path: Path, report_fact: Report) -> None:
    """64 MiB of ``1,``: refused, in bounded memory, while others hardly notice."""
    async with server_process(tmp_path, "--store", "memory") as server, _bystander(server.address) as bystander:
        before = server.memory_bytes
        begun_s = time.perf_counter()
        status = await _upload(server, b"[", b"1,", b"1]")
        took_s = time.perf_counter() - begun_s
        grown = server.peak_memory_bytes - before
    report_fact(
        f"64 MiB of `1,`: {status} after {took_s:.1f} s, memory +{_mib(grown)}, meanwhile {bystander.appended} "
        f"appends of others, the slowest {bystander.slowest_s * 1000:.0f} ms"
    )
    assert status == 413
    assert grown < 400 * MEBIBYTE
    assert bystander.slowest_s < 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "start", "unit", "end"),
    [
        ("numbers", b'{"a":[', b"1,", b"1]}"),
        ("empty arrays", b"[[", b"[],", b"[]]]"),
        ("empty strings", b"[[", b'"",', b'""]]'),
        ("one string", b'["', b"x", b'"]'),
        ("escaped quotes", b'[["', b'\\"', b'"]]'),
        ("a string without end", b'["', b'\\"', b""),
        ("lone surrogates", b'["', b"\\ud800", b'"]'),
        ("one number", b"[", b"1", b"]"),
        ("white space", b"[", b" ", b"1]"),
        ("brackets", b"[", b"[", b""),
        ("objects", b"[", b'{"":', b""),
        ("commas", b"[", b",", b"]"),
    ],
)
async def test_bodies_that_are_hard_to_digest(
    tmp_path: Path, report_fact: Report, name: str, start: bytes, unit: bytes, end: bytes
) -> None:
    """One request of 64 MiB, written and (where it was taken) read back: others go on meanwhile."""
    async with server_process(tmp_path, "--store", "memory") as server, _bystander(server.address) as bystander:
        before = server.memory_bytes
        begun_s = time.perf_counter()
        status = await _upload(server, start, unit, end)
        written_s, slowest_write_s = time.perf_counter() - begun_s, bystander.slowest_s
        bystander.slowest_s = 0.0
        async with connect(*server.address, timeout_s=60) as connection:
            await connection.request("GET", "/a")
        grown = server.peak_memory_bytes - before
    report_fact(
        f"64 MiB of {name}: {status} after {written_s:.1f} s, memory +{_mib(grown)}; slowest append of others "
        f"{slowest_write_s * 1000:.0f} ms during the write, {bystander.slowest_s * 1000:.0f} ms during a read"
    )
    assert grown < 400 * MEBIBYTE
    assert max(slowest_write_s, bystander.slowest_s) < 3
    assert written_s < 60


async def test_large_message_is_read_in_linear_time(serve_memory: Serve, report_fact: Report) -> None:
    """A message larger than a page is put together piece by piece. Four times the size, about four times the work."""
    async with serve_memory(page_size=256) as site:
        took_s: list[float] = []
        for number, size in enumerate((MEBIBYTE // 2, 2 * MEBIBYTE)):
            await site.create(f"/{number}", JSON, b'["' + b"x" * size + b'"]')
            begun_s = time.perf_counter()
            assert len((await site.get(f"/{number}")).body) == size + 4
            took_s.append(time.perf_counter() - begun_s)
        report_fact(
            f"message of 0.5 MiB read in {took_s[0]:.2f} s, of 2 MiB in {took_s[1]:.2f} s, in pages of 256 bytes"
        )
        assert took_s[1] < 10 * took_s[0] + 0.2, "quadratic would be 16 times"


# --- bad manners -----------------------------------------------------------------------------------------------------


async def test_single_bytes(serve: Serve) -> None:
    """A whole request in pieces of one byte, head and chunked body."""
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        request = encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"})
        for byte in request + b"".join(encode_chunk(bytes([byte])) for byte in b"hello") + encode_chunk(b""):
            await connection.send(bytes([byte]))
        assert (await connection.read_response()).status == 204
        assert (await site.get("/a")).body == b"hello"


async def test_chunks_of_one_byte_cost_no_object_each(tmp_path: Path, report_fact: Report) -> None:
    """A million chunks of one byte are a body of a million bytes, not a list of a million parts."""
    async with (
        server_process(tmp_path, "--store", "memory") as server,
        connect(*server.address, timeout_s=60) as tiny,
        _bystander(server.address) as bystander,
    ):
        before = server.memory_bytes
        await tiny.send(encode_request("PUT", "/a", {**TEXT, "transfer-encoding": "chunked"}))
        many = encode_chunk(b"x") * 10_000
        for _ in range(100):
            await tiny.send(many)
        await tiny.send(encode_chunk(b""))
        response = await tiny.read_response()
        grown = server.peak_memory_bytes - before
    report_fact(f"1,000,000 chunks of one byte: memory +{_mib(grown)}, others at most {bystander.slowest_s:.2f} s")
    assert (response.status, response["stream-next-offset"][-7:]) == (201, "1000000")
    assert grown < 32 * MEBIBYTE
    assert bystander.slowest_s < 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /é HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    ],
)
async def test_garbage(serve_memory: Serve, garbage: bytes) -> None:
    """Alone, and pipelined behind a good request: the good one is answered, the rest costs only its connection."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        for before in (b"", encode_request("GET", "/a")):
            async with site.connect() as connection:
                await connection.send(before + garbage)
                if before:
                    answered = await connection.read_response()
                    assert answered.status in (200, 400)
                with suppress(EOFError, ConnectionError):
                    assert (await connection.read_response()).status in (400, 404, 405)
        assert (await site.get("/a")).body == b"hello"


async def test_append_smuggled_in_a_body_is_a_body(serve_memory: Serve) -> None:
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        inner = encode_request("DELETE", "/a")
        assert (await connection.request("POST", "/a", TEXT, inner)).status == 204
        assert (await connection.request("GET", "/a")).body == inner


_OFFERS = [
    {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
    {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "eA=="},
]


@pytest.mark.parametrize("offer", _OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_a_request_that_offers_an_upgrade(
    serve_memory: Serve, offer: dict[str, str], chunked: bool
) -> None:
    """``curl --http2`` and Java's HttpClient offer HTTP/2 with their requests. A server may decline (RFC 9110 section
    7.8), or refuse, but not acknowledge the request without its body."""
    async with serve_memory() as site, site.connect() as connection:
        framing = {"transfer-encoding": "chunked"} if chunked else {"content-length": "5"}
        body = encode_chunk(b"hello") + encode_chunk(b"") if chunked else b"hello"
        await connection.send(encode_request("PUT", "/a", {**TEXT, **offer, **framing}) + body)
        response = await connection.read_response()
        if response.status < 300:
            assert (await site.get("/a")).body == b"hello"
        else:
            assert (await site.get("/a")).status == 404


@pytest.mark.parametrize("offer", _OFFERS)
async def test_offer_of_an_upgrade_is_declined(serve_memory: Serve, offer: dict[str, str]) -> None:
    """Without a body, the request is served as if nothing had been offered."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        for method, target, status in (("GET", "/a", 200), ("HEAD", "/a", 200), ("DELETE", "/a", 204)):
            async with site.connect() as connection:
                response = await connection.request(method, target, offer)
                assert response.status == status
                if response.get("connection") != "close":
                    assert (await connection.request("GET", "/-/health")).status == 200


@pytest.mark.parametrize("offer", _OFFERS)
async def test_body_of_a_request_that_offers_an_upgrade_is_no_request(
    serve_memory: Serve, offer: dict[str, str]
) -> None:
    """Request smuggling: what comes after the head is the body, whenever it comes."""
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/victim", TEXT, b"hello")
        inner = encode_request("DELETE", "/victim")
        await connection.send(encode_request("PUT", "/a", {**TEXT, **offer, "content-length": str(len(inner))}))
        assert (await site.get("/victim")).status == 200  # by now the head has been read on its own
        await connection.send(inner)
        with suppress(EOFError, ConnectionError):
            await connection.read_response()
            await connection.send(encode_request("GET", "/victim"))
            await connection.read_response()
        assert (await site.get("/victim")).body == b"hello"


@pytest.mark.parametrize("count", [500, 20_000])
async def test_many_headers(serve_memory: Serve, count: int) -> None:
    async with serve_memory() as site, site.connect() as connection:
        await site.create("/a", TEXT, b"hello")
        fields = {f"x-{number}": "y" * 10 for number in range(count)}
        response = await connection.request("GET", "/a", fields)
        assert response.status in (200, 400, 431)
        assert (await site.get("/a")).body == b"hello"


async def test_heads_of_many_small_fields_take_no_more_memory_than_others(tmp_path: Path) -> None:
    """Unfinished, each on a connection of its own: in memory, thousands of short fields are more than their bytes."""
    fields = b"".join(b"x%d: yy\r\n" % number for number in range(5000))
    async with (
        server_process(tmp_path, "--store", "memory", "--head-timeout", "5") as server,
        AsyncExitStack() as stack,
    ):
        before = server.memory_bytes
        endless = [await stack.enter_async_context(connect(*server.address, timeout_s=30)) for _ in range(100)]
        for connection in endless:
            with suppress(ConnectionError):
                await connection.send(b"GET /a HTTP/1.1\r\n" + fields)
        for connection in endless:
            with suppress(ConnectionError):
                await connection.read_eof()
        assert server.peak_memory_bytes - before < 20 * MEBIBYTE


async def test_repeated_header_costs_linear_time(serve_memory: Serve) -> None:
    """The same header 50,000 times. Repeated ones are joined by commas, which must not be quadratic."""
    async with serve_memory() as site, site.connect(timeout_s=30) as connection:
        await site.create("/a", TEXT, b"hello")
        request = encode_request("GET", "/a").replace(
            b"\r\n\r\n", b"\r\n" + b"x-a: yyyyyyyyyyyyyyyy\r\n" * 50_000 + b"\r\n"
        )
        begun_s = time.perf_counter()
        await connection.send(request)
        assert (await connection.read_response()).status in (200, 400, 431)
        assert time.perf_counter() - begun_s < 2


_CHUNKED = encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"})
_ENDLESS = {
    "headers": (b"GET /a HTTP/1.1\r\n", b"x: " + b"y" * 65_536 + b"\r\n"),
    "small headers": (b"GET /a HTTP/1.1\r\n", b"x: y\r\n" * 10_000),
    "value": (b"GET /a HTTP/1.1\r\nx: ", b"y" * 65_536),
    "name": (b"GET /a HTTP/1.1\r\n", b"y" * 65_536),
    "target": (b"GET /", b"y" * 65_536),
    "small trailers": (_CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n" * 10_000),
    "chunk extension": (_CHUNKED + b"1;x=", b"y" * 65_536),
    "trailer": (_CHUNKED + b"1\r\nx\r\n0\r\nx: ", b"y" * 65_536),
}


async def test_endless_heads(tmp_path: Path) -> None:
    """A request head that never ends, or what may stand around a body, is cut off somewhere: a limit on everything."""
    async with server_process(tmp_path, "--store", "memory") as server, connect(*server.address) as other:
        before = server.memory_bytes
        for name, (start, more) in _ENDLESS.items():
            async with connect(*server.address) as endless:
                with suppress(ConnectionError):
                    await endless.send(start)
                    for _ in range(400):
                        await endless.send(more)
            assert (await other.request("GET", "/-/health")).status == 200
            assert server.peak_memory_bytes - before < 12 * MEBIBYTE, name


async def test_head_over_the_limit(serve_memory: Serve) -> None:
    """Whole, and within one packet or a few: it is refused, not served."""
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        for fields in ({"x": "y" * 70_000}, {f"x-{number}": "y" * 100 for number in range(700)}):
            async with site.connect() as connection:
                assert (await connection.request("GET", "/a", fields)).status in (400, 431)
        async with site.connect() as connection:
            assert (await connection.request("GET", "/a", {"x": "y" * 30_000})).status == 200


async def test_vanishing_clients_leave_nothing_open(tmp_path: Path) -> None:
    """200 clients go away in the middle of appends, long-polls and event streams."""
    async with server_process(tmp_path, "--store", "memory") as server, connect(*server.address) as other:
        await other.request("PUT", "/a", TEXT, b"x")
        before = server.open_files
        async with AsyncExitStack() as stack:
            for number in range(200):
                connection = await stack.enter_async_context(connect(*server.address))
                await connection.send(
                    (
                        encode_request("POST", "/a", {**TEXT, "content-length": "100"}) + b"half",
                        encode_request("GET", "/a?offset=now&live=long-poll"),
                        encode_request("GET", "/a?offset=-1&live=sse"),
                        b"GET /a HTT",
                    )[number % 4]
                )
            assert (await other.request("GET", "/a")).body == b"x"
        await until(lambda: server.open_files <= before)
        assert (await other.request("POST", "/a", TEXT, b"y")).status == 204
        assert (await other.request("GET", "/a")).body == b"xy"
