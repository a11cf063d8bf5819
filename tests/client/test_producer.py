"""A producer on a real server: each message once and in order, and errors that nobody can miss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.serving import JSON, a_stream, connected
from unbroken import AsyncClient, errors
from unbroken.client import AsyncStream, Retry
from unbroken.testing import live_server
from unbroken.testing.proxy import Answer, Cut, Fault, FaultyProxy, ProxiedRequest, Script, Twice


def is_append(request: ProxiedRequest) -> bool:
    return request.method == "POST"


@pytest.mark.parametrize("in_flight", [1, 2, 8])
async def test_what_is_sent_is_there_once_and_in_order(in_flight: int) -> None:
    async with a_stream() as stream:
        async with stream.producer("writer", max_in_flight=in_flight, max_batch_bytes=100, linger_s=0) as producer:
            for number in range(2000):
                await producer.send(number)
            end = await producer.flush()
            assert producer.pending == 0
            await producer.send([1, 2])
        assert await stream.read_json() == [*range(2000), [1, 2]]
        assert await stream.read_json(end) == [[1, 2]]


async def test_bytes_and_text() -> None:
    async with a_stream("text/plain") as stream:
        async with stream.producer("writer") as producer:
            for piece in ("h", "é", b"llo", "", bytearray(b" "), memoryview(b"you")):
                await producer.send(piece)
            with pytest.raises(TypeError, match="bytes or text"):
                await producer.send(7)
        assert await stream.read_text() == "héllo you"


async def test_closing_with_a_last_message() -> None:
    async with a_stream() as stream:
        async with stream.producer("writer") as producer:
            await producer.send(1)
            done = await producer.close_stream({"end": True})
            with pytest.raises(errors.StreamClosed):
                await producer.send(2)
        assert done.closed
        assert (await stream.head()).next_offset == done.next_offset
        assert await stream.read_json() == [1, {"end": True}]


async def test_closing_without_one() -> None:
    async with a_stream() as stream:
        async with stream.producer("writer") as producer:
            done = await producer.close_stream()
        assert (await stream.head()).closed
        assert done.next_offset == (await stream.head()).next_offset


async def test_sending_waits_while_the_buffer_is_full() -> None:
    async with a_stream("text/plain") as stream:
        async with stream.producer("writer", buffer_bytes=1000, max_batch_bytes=400, linger_s=60) as producer:
            for _ in range(200):
                await producer.send("x" * 99)
                assert producer.pending <= 11
        assert len(await stream.read()) == 19800


async def test_a_stream_that_is_not_there() -> None:
    async with connected() as client:
        producer = client.stream("/none").producer("writer")
        with pytest.raises(errors.StreamNotFound):
            await producer.start()
        with pytest.raises(RuntimeError):
            await producer.send(1)


async def test_an_error_comes_back_whatever_is_done_next() -> None:
    async with a_stream() as stream:
        producer = stream.producer("writer")

        async def block() -> None:
            async with producer:
                await stream.close()
                await producer.send(1)
                with pytest.raises(errors.StreamClosed):
                    await producer.flush()
                with pytest.raises(errors.StreamClosed):
                    await producer.send(2)
                with pytest.raises(errors.StreamClosed):
                    await producer.close_stream()

        with pytest.raises(errors.StreamClosed):
            await block()
        assert producer.pending == 1


async def send_and(stream: AsyncStream, then: Callable[[], object], **options: Any) -> None:
    async with stream.producer("writer", **options) as producer:
        await producer.send(1)
        then()


async def test_an_error_of_the_block_is_not_hidden_and_what_was_sent_is_there() -> None:
    async with a_stream() as stream:
        with pytest.raises(ZeroDivisionError):
            await send_and(stream, lambda: 1 / 0, linger_s=60)
        assert await stream.read_json() == [1]


async def test_a_cancelled_block_does_not_wait() -> None:
    async with live_server() as server, AsyncClient(server.url) as client:
        stream = client.stream("/stream")
        await stream.create()
        sent = asyncio.Event()

        async def work() -> None:
            async with stream.producer("writer", linger_s=60) as producer:
                await producer.send(b"x")
                sent.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stream.read() == b""


async def test_failures_that_pass_are_passed() -> None:
    faults: list[Fault] = [
        *(Answer(status) for status in (500, 502, 503, 504, 429, 408)),
        Answer(500, after=True),
        Answer(503, retry_after="0"),
        Cut("request", "body", 3),
        Cut("request", "head", 30, reset=True),
        Cut("response", "head", 10, reset=True),
        Twice(),
    ]
    async with live_server() as server, FaultyProxy(server.url, Script(*faults, only=is_append)) as proxy:
        async with AsyncClient(proxy.url, retry=Retry(base_s=0.001)) as client:
            stream = client.stream("/stream")
            await stream.create(content_type=JSON)
            async with stream.producer("writer") as producer:
                for number in range(30):
                    await producer.send(number)
                    await producer.flush()
        async with AsyncClient(server.url) as client:
            assert await client.stream("/stream").read_json() == [*range(30)]


async def test_a_function_that_fails_is_told() -> None:
    wrong: list[Exception] = []

    def headers() -> dict[str, str]:
        if wrong:
            raise wrong[0]
        return {}

    async with a_stream(headers=headers) as stream:
        with pytest.raises(LookupError):
            await send_and(stream, lambda: wrong.append(LookupError("no header")))


async def test_a_deadline() -> None:
    plan = Script(only=is_append, then=Answer(503))
    async with (
        live_server() as server,
        FaultyProxy(server.url, plan) as proxy,
        AsyncClient(proxy.url, retry=Retry(base_s=0.001)) as client,
    ):
        stream = client.stream("/stream")
        await stream.create(content_type=JSON)
        with pytest.raises(errors.TimedOut):
            await send_and(stream, lambda: None, deadline_s=0.05)


async def test_a_block_that_is_left_by_an_error_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.client._async.producer._GRACE_S", 0.05)
    plan = Script(only=is_append, then=Answer(503))
    async with live_server() as server, FaultyProxy(server.url, plan) as proxy, AsyncClient(proxy.url) as client:
        stream = client.stream("/stream")
        await stream.create(content_type=JSON)
        with pytest.raises(ZeroDivisionError):
            await send_and(stream, lambda: 1 / 0)


async def test_looking_into_the_stream_over_a_bad_network() -> None:
    """The first append is repeated by a proxy; then the stream is read, and that fails at first."""
    only_reads = Script(Answer(500), Cut(), only=lambda request: request.method in {"GET", "HEAD"} and looking)
    looking = False

    def plan(request: ProxiedRequest) -> Fault:
        return Twice() if is_append(request) else only_reads(request)

    def begin() -> None:
        nonlocal looking
        looking = True

    async with (
        live_server() as server,
        FaultyProxy(server.url, plan) as proxy,
        AsyncClient(proxy.url, retry=Retry(base_s=0.001)) as client,
    ):
        stream = client.stream("/stream")
        await stream.create(content_type=JSON)
        await send_and(stream, begin)
        assert only_reads.left == 0
        looking = False
        assert await stream.read_json() == [1]


async def test_two_with_one_name() -> None:
    async with a_stream() as stream:
        first = stream.producer("writer")
        await first.start()
        await first.send(1)
        await first.flush()
        with pytest.raises(errors.EpochInUse):
            async with stream.producer("writer") as second:
                await second.send(2)
        async with stream.producer("writer", epoch=1) as third:
            await third.send(3)
        await first.send(4)
        with pytest.raises(errors.StaleEpoch) as caught:
            await first.flush()
        assert caught.value.current_epoch == 1
        await first.stop()
        assert await stream.read_json() == [1, 3]


async def test_each_takes_over_from_the_other() -> None:
    async with a_stream() as stream:
        one, other = (stream.producer("writer", auto_claim=True) for _ in range(2))
        async with one, other:
            for number in range(10):
                writer = one if number % 2 else other
                await writer.send(number)
                await writer.flush()
        assert sorted((one.epoch, other.epoch)) == [8, 9]
        async with stream.producer("writer", auto_claim=True) as restarted:
            await restarted.send(10)
        assert await stream.read_json() == [*range(11)]
