"""The proxy does what its plan says, no more and no less, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from unbroken.server.settings import Settings
from unbroken.testing import Address, RawConnection, connect, encode_chunk, encode_request, live_server, threaded_server
from unbroken.testing.proxy import (
    KINDS,
    PASS,
    Answer,
    Buffer,
    Cut,
    Delay,
    Fault,
    FaultyProxy,
    Plan,
    ProxiedRequest,
    Script,
    Stall,
    Trickle,
    Truncate,
    Twice,
    Weather,
    threaded_proxy,
)

TEXT = {"content-type": "text/plain"}


@asynccontextmanager
async def proxied(*faults: Fault, plan: Plan | None = None, sse_s: float = 60) -> AsyncIterator[FaultyProxy]:
    """A proxy before a server that has the stream /a with three bytes. Requests get the faults in order."""
    async with live_server(settings=Settings(sse_lifetime=sse_s)) as server:
        async with connect(*server.address) as direct:
            assert (await direct.request("PUT", "/a", TEXT, b"one")).status == 201
        async with FaultyProxy(server.url, plan or Script(*faults)) as proxy:
            yield proxy
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def content(address: Address) -> bytes:
    async with connect(*address) as direct:
        return (await direct.request("GET", "/a")).body


async def server_has(proxy: FaultyProxy) -> bytes:
    host, _, port = proxy.upstream.removeprefix("http://").partition(":")
    return await content(Address(host, int(port)))


async def append(connection: RawConnection, data: bytes = b" two") -> int:
    return (await connection.request("POST", "/a", TEXT, data)).status


async def all_bytes(address: Address, request: bytes) -> tuple[bytes, bool]:
    """What comes for a request until the connection ends, and whether it was reset."""
    loop = asyncio.get_running_loop()
    got = b""
    with socket.socket() as sock:
        sock.setblocking(False)
        async with asyncio.timeout(10):
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, request)
            try:
                while part := await loop.sock_recv(sock, 65536):
                    got += part
            except ConnectionResetError:
                return got, True
    return got, False


async def test_what_passes_is_not_changed() -> None:
    async with proxied() as proxy, connect(*proxy.address) as connection:
        assert await append(connection) == 204
        chunks = encode_chunk(b" thr") + encode_chunk(b"ee") + encode_chunk(b"")
        await connection.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}) + chunks)
        assert (await connection.read_response()).status == 204
        assert (await connection.request("HEAD", "/a"))["content-type"] == "text/plain"
        response = await connection.request("GET", "/a")
        assert response.body == b"one two three"
        assert response["stream-up-to-date"] == "true"
        assert proxy.counts == Counter({"pass": 4})
        assert proxy.requests == 4


async def test_the_server_may_ask_for_the_body() -> None:
    async with proxied() as proxy, connect(*proxy.address) as connection:
        await connection.send(encode_request("POST", "/a", {**TEXT, "content-length": "2", "expect": "100-continue"}))
        assert (await connection.read_interim()).status == 100
        await connection.send(b"!!")
        assert (await connection.read_response()).status == 204


async def test_requests_may_come_before_the_responses() -> None:
    async with proxied() as proxy, connect(*proxy.address) as connection:
        await connection.send(encode_request("POST", "/a", TEXT, b"2") + encode_request("GET", "/a"))
        assert (await connection.read_response()).status == 204
        assert (await connection.read_response()).body == b"one2"


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize(
    ("part", "at_bytes", "end"),
    [("head", 0, b""), ("head", 9, b"HTTP/1.1 "), ("body", 0, b"\r\n\r\n"), ("body", 2, b"on")],
)
async def test_a_response_is_cut(part: str, at_bytes: int, end: bytes, reset: bool) -> None:
    fault = Cut("response", part, at_bytes, reset)  # type: ignore[arg-type]
    async with proxied(fault) as proxy:
        got, was_reset = await all_bytes(proxy.address, encode_request("GET", "/a"))
        assert got.endswith(end)
        assert len(got) == at_bytes or part == "body"
        assert was_reset is reset
        assert proxy.counts == Counter({fault.kind: 1})


async def test_a_response_without_an_end_is_cut_before_it_ends() -> None:
    async with proxied(Cut("response", "body", 10**6), sse_s=0.05) as proxy:
        got, _ = await all_bytes(proxy.address, encode_request("GET", "/a?offset=-1&live=sse"))
        assert b"data:one\n" in got
        assert b'"upToDate":true' in got
        assert not got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize(("part", "at_bytes"), [("head", 0), ("head", 20), ("body", 0), ("body", 3), ("body", 4 + 3)])
async def test_a_request_is_cut(part: str, at_bytes: int, reset: bool) -> None:
    fault = Cut("request", part, at_bytes, reset)  # type: ignore[arg-type]
    async with proxied(fault) as proxy:
        assert await all_bytes(proxy.address, encode_request("POST", "/a", TEXT, b" two")) == (b"", reset)
        assert await server_has(proxy) == b"one"
        assert proxy.counts == Counter({fault.kind: 1})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_the_proxy_answers(after: bool) -> None:
    async with proxied(Answer(503, after, "1"), Answer(429)) as proxy, connect(*proxy.address) as connection:
        response = await connection.request("POST", "/a", TEXT, b" two")
        assert (response.status, response["retry-after"]) == (503, "1")
        assert await server_has(proxy) == (b"one two" if after else b"one")
        response = await connection.request("HEAD", "/a")
        assert (response.status, response.get("retry-after")) == (429, None)
        assert await append(connection) == 204
        assert set(proxy.counts) == {f"answer-503-retry-after{'-after' if after else ''}", "answer-429", "pass"}


async def test_a_live_read_is_answered_after_its_head() -> None:
    async with proxied(Answer(502, after=True)) as proxy, connect(*proxy.address) as connection:
        assert (await connection.request("GET", "/a?offset=-1&live=sse")).status == 502


@pytest.mark.parametrize("side", ["request", "response"])
async def test_half_open(side: str) -> None:
    async with proxied(Stall(side, "body", 2)) as proxy:  # type: ignore[arg-type]
        async with connect(*proxy.address, timeout_s=0.2) as connection:
            await connection.send(encode_request("GET" if side == "response" else "POST", "/a", TEXT, b" two"))
            with pytest.raises(TimeoutError):
                await connection.read_eof()
        assert await server_has(proxy) == b"one"
        assert proxy.counts == Counter({f"stall-{side}": 1})


async def test_a_body_ends_early_and_in_good_order() -> None:
    async with proxied(Truncate(2), Truncate(20)) as proxy, connect(*proxy.address) as connection:
        assert (await connection.request("GET", "/a")).body == b"on"
        response = await connection.request("GET", "/a?offset=-1&live=sse")
        assert response.body == b"event: data\ndata:one"
        assert await append(connection) == 204
        assert proxy.counts == Counter({"truncate": 2, "pass": 1})


async def test_nothing_is_missing_where_the_body_is_shorter() -> None:
    async with proxied(Truncate(100)) as proxy, connect(*proxy.address) as connection:
        assert (await connection.request("GET", "/a")).body == b"one"
        assert proxy.counts == Counter({"pass": 1})


@pytest.mark.parametrize("head", [False, True])
async def test_events_are_held_until_the_response_ends(head: bool) -> None:
    async with proxied(Buffer(head), sse_s=0.5) as proxy, connect(*proxy.address, timeout_s=0.1) as connection:
        await connection.send(encode_request("GET", "/a?offset=-1&live=sse"))
        if not head:
            assert (await connection.read_head()).status == 200
        with pytest.raises(TimeoutError):
            await (connection.read_head() if head else connection.read_part())
        connection._timeout_s = 10.0
        if head:
            assert (await connection.read_head()).status == 200
        assert b"data:one\n" in await connection.read_rest()


async def test_a_trickle() -> None:
    async with proxied(Trickle(piece_bytes=1)) as proxy, connect(*proxy.address) as connection:
        assert (await connection.request("GET", "/a")).body == b"one"
        assert await append(connection) == 204
        assert proxy.counts == Counter({"trickle": 1, "pass": 1})


async def test_late() -> None:
    async with proxied(Delay(0.01)) as proxy, connect(*proxy.address) as connection:
        assert await append(connection) == 204
        assert proxy.counts == Counter({"delay": 1})


async def test_twice() -> None:
    producer = {**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    async with proxied(Twice(), Twice(), Twice()) as proxy:
        async with connect(*proxy.address) as connection:
            assert await append(connection) == 204
            assert await server_has(proxy) == b"one two two"
            assert (await connection.request("POST", "/a", producer, b"!")).status == 204  # the first got 200
            await connection.send(encode_request("GET", "/a?offset=now&live=sse"))
            assert (await connection.read_head()).status == 200
        await proxy.wait_idle()
        assert proxy.counts == Counter({"twice": 2, "left": 1})


async def test_the_client_leaves() -> None:
    async with proxied() as proxy:
        async with connect(*proxy.address) as idle, connect(*proxy.address) as live:
            assert await append(idle) == 204
            await live.send(encode_request("GET", "/a?offset=-1&live=sse"))
            await live.read_head()
            assert proxy.connections == 2
            live.abort()
        async with connect(*proxy.address) as connection:
            await connection.send(b"POST /a HTTP/1.1\r\ncontent-le")
        await proxy.wait_idle()
        assert proxy.connections == 0
        assert proxy.counts == Counter({"pass": 1, "left": 2})


async def test_the_server_is_not_there() -> None:
    proxy = FaultyProxy("http://127.0.0.1:1", Script(PASS, Answer(500, after=True)))
    async with proxy, connect(*proxy.address) as connection:
        assert (await connection.request("POST", "/a", TEXT, b"one")).status == 502
        assert (await connection.request("POST", "/a", TEXT, b"one")).status == 502
    assert proxy.counts == Counter({"unreachable": 2})


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"])
async def test_the_server_dies(said: bytes) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(die, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with FaultyProxy(f"http://{host}:{port}") as proxy:
            got, was_reset = await all_bytes(proxy.address, encode_request("GET", "/a"))
            assert said.startswith(got)
            assert was_reset
    assert proxy.counts == Counter({"lost": 1})


async def test_all_connections_are_cut_at_once() -> None:
    async with proxied() as proxy, connect(*proxy.address) as idle, connect(*proxy.address) as live:
        assert await append(idle) == 204
        await live.send(encode_request("GET", "/a?offset=-1&live=sse"))
        await live.read_head()
        proxy.cut_all()
        await proxy.wait_idle()
        for connection in (idle, live):
            with pytest.raises(ConnectionResetError):
                await connection.read_eof()


async def test_a_plan_that_fails_is_heard_of() -> None:
    def plan(_: ProxiedRequest) -> Fault:
        raise KeyError("plan")

    async def scenario() -> None:
        async with proxied(plan=plan) as proxy, connect(*proxy.address) as connection:
            with contextlib.suppress(EOFError, ConnectionError):
                await connection.request("GET", "/a")

    with pytest.raises(KeyError, match="plan"):
        await scenario()


def test_a_proxy_in_a_thread() -> None:
    with threaded_server() as server, threaded_proxy(server.url) as proxy:
        urlopen(Request(proxy.url + "/a", b"one", TEXT, method="PUT")).close()
        proxy.plan = Script(Answer(500))
        with pytest.raises(HTTPError, match="500") as error:
            urlopen(proxy.url + "/a")
        error.value.close()
        with urlopen(proxy.url + "/a") as response:
            assert response.read() == b"one"
        assert proxy.counts["answer-500"] == 1


def request(number: int, target: str = "/a", method: str = "GET", **fields: str) -> ProxiedRequest:
    return ProxiedRequest(number, method, target, fields)


def test_a_script_is_for_some_requests() -> None:
    script = Script(Answer(500), Answer(502), only=lambda request: request.method == "POST", then=Answer(503))
    kinds = [script(request(number, method=method)).kind for number, method in enumerate(("GET", "POST") * 3)]
    assert kinds == ["pass", "answer-500", "pass", "answer-502", "pass", "answer-503"]
    assert script.left == 0


def test_weather_is_the_same_for_a_seed() -> None:
    def faults(seed: int) -> list[Fault]:
        weather = Weather(seed)
        return [weather(request(number)) for number in range(200)]

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    backwards = [Weather(1)(request(number)) for number in reversed(range(200))]
    assert faults(1) == backwards[::-1]


def drawn(make: Callable[[int], ProxiedRequest], weather: Weather) -> Counter[str]:
    return Counter(weather(make(number)).kind for number in range(5000))


def test_weather_has_everything() -> None:
    of_sse = drawn(lambda number: request(number, "/a?offset=-1&live=sse"), Weather(3))
    assert set(of_sse) == {"pass", *KINDS}
    assert 0.27 < 1 - of_sse["pass"] / 5000 < 0.33


def test_weather_does_only_what_can_be_survived() -> None:
    plain = drawn(lambda number: request(number, method="POST"), Weather(3, rate=1))
    assert set(plain) == set(KINDS) - {"twice", "truncate", "buffer", "buffer-all"}
    produced = drawn(lambda number: request(number, method="POST", **{"producer-id": "p"}), Weather(3))
    assert "twice" in produced


def test_weather_can_be_chosen() -> None:
    chosen = Weather(3, rate=1, weights={"twice": 1, "answer-500": 1}, calm_after=4000)
    assert drawn(lambda number: request(number, method="POST"), chosen) == {"answer-500": 4000, "pass": 1000}
    assert set(drawn(request, chosen)) == {"answer-500", "twice", "pass"}
    assert set(drawn(lambda number: request(number, method="PUT"), Weather(3, 1, {"twice": 1}))) == {"pass"}
