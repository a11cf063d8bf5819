"""Failures that do not say whether it was done: what can double is not repeated, what cannot is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from unbroken import AsyncClient
from unbroken.client import AsyncStream, Retry
from unbroken.errors import StreamNotFound, UnbrokenError
from unbroken.testing import live_server
from unbroken.testing.proxy import Answer, Cut, Fault, FaultyProxy, Script, Stall

AFTER: list[Fault] = [
    *(Answer(status, after=True) for status in (500, 502, 503)),
    Answer(503, after=True, retry_after="0"),
    *(Cut("response", "head", at_bytes, reset) for at_bytes in (0, 20) for reset in (False, True)),
    Stall("response", "head", 0),
]
"""It was done, and the client is not told."""
HURRIED = Retry(base_s=0.001, cap_s=0.01)

BEFORE: list[Fault] = [
    Answer(500),
    Answer(502),
    Answer(503),
    Cut("request", "body", 2),
    Cut("request", "head", 0, True),
]
"""It was not done, and the client cannot know."""
REFUSED: list[Fault] = [Answer(429), Answer(429, retry_after="0")]
"""It was not done, and the client can know."""


@asynccontextmanager
async def stream_behind(*faults: Fault) -> AsyncIterator[AsyncStream]:
    """A stream with one message; the next requests that may change it meet these faults."""
    async with (
        live_server() as server,
        FaultyProxy(server.url) as proxy,
        AsyncClient(proxy.url, timeout_s=0.3, retry=HURRIED) as client,
    ):
        stream = client.stream("/a")
        await stream.create(content_type="application/json", data=b"1")
        proxy.plan = script = Script(*faults, only=lambda request: request.method not in ("GET", "HEAD"))
        yield stream
        assert script.left == 0


def by_kind(fault: Fault) -> str:
    return f"{fault.kind}-{fault.at_bytes}" if isinstance(fault, Cut) else fault.kind


@pytest.mark.parametrize("fault", [*AFTER, *BEFORE], ids=by_kind)
async def test_an_append_is_not_repeated(fault: Fault) -> None:
    async with stream_behind(fault) as stream:
        with pytest.raises(UnbrokenError):
            await stream.append_json(2)
        assert await stream.read_json() == ([1] if fault in BEFORE else [1, 2])


@pytest.mark.parametrize("fault", REFUSED, ids=by_kind)
async def test_an_append_that_was_refused_is_repeated(fault: Fault) -> None:
    async with stream_behind(fault, fault) as stream:
        await stream.append_json(2)
        assert await stream.read_json() == [1, 2]


async def closed(stream: AsyncStream) -> None:
    await stream.close()
    assert (await stream.head()).closed


async def ensured(stream: AsyncStream) -> None:
    await stream.ensure(content_type="application/json")


async def deleted(stream: AsyncStream) -> None:
    await stream.delete()
    with pytest.raises(StreamNotFound):
        await stream.head()


async def forked(stream: AsyncStream) -> None:
    fork = await stream.fork("/fork")
    assert await fork.read_json() == [1]


@pytest.mark.parametrize("fault", [*AFTER, *BEFORE, *REFUSED], ids=by_kind)
@pytest.mark.parametrize("act", [closed, ensured, deleted, forked])
async def test_what_cannot_double_is_repeated(act: Callable[[AsyncStream], Awaitable[None]], fault: Fault) -> None:
    async with stream_behind(fault) as stream:
        await act(stream)


@pytest.mark.parametrize("fault", BEFORE, ids=by_kind)
async def test_an_append_with_a_sequence_is_repeated(fault: Fault) -> None:
    async with stream_behind(fault) as stream:
        await stream.append_json(2, seq="a")
        assert await stream.read_json() == [1, 2]


@pytest.mark.parametrize("fault", AFTER, ids=by_kind)
async def test_an_append_with_a_sequence_is_there_once(fault: Fault) -> None:
    """Whether it was this one or another writer's with the same sequence, nobody knows."""
    async with stream_behind(fault) as stream:
        with pytest.raises(UnbrokenError, match="may have been accepted"):
            await stream.append_json(2, seq="a")
        assert await stream.read_json() == [1, 2]
