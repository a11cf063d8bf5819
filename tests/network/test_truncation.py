"""Answers that end too early and in good order: nothing on the wire says so, but JSON does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.network.test_ambiguity import HURRIED
from unbroken import AsyncClient
from unbroken.client import AsyncStream
from unbroken.errors import ProtocolViolation
from unbroken.testing import live_server
from unbroken.testing.proxy import FaultyProxy, Script, Truncate

MESSAGES = [{"n": number, "filling": [[number]]} for number in range(50)]


async def read_json(stream: AsyncStream) -> object:
    return await stream.read_json()


async def read(stream: AsyncStream) -> object:
    return await stream.read_json() if b'"n":49' in await stream.read() else None


async def pages(stream: AsyncStream) -> object:
    assert [page.data[-1:] async for page in stream.pages()] == [b"]"]
    return await stream.read_json()


async def follow(stream: AsyncStream) -> object:
    async with stream.follow() as messages:
        return [message.value async for message in messages]


@pytest.mark.parametrize("act", [read_json, read, pages, follow])
async def test_a_page_without_its_end_is_read_again(act: Callable[[AsyncStream], Awaitable[object]]) -> None:
    async with (
        live_server() as server,
        FaultyProxy(server.url) as proxy,
        AsyncClient(proxy.url, retry=HURRIED) as client,
    ):
        stream = client.stream("/a")
        await stream.create(content_type="application/json")
        await stream.append_json(*MESSAGES)
        await stream.close()
        proxy.plan = script = Script(*map(Truncate, (0, 1, 2, 500)), only=lambda request: request.method == "GET")
        assert await act(stream) == MESSAGES
        assert script.left == 0
        assert proxy.counts["truncate"] == 4


async def test_pages_that_never_end_are_an_error() -> None:
    async with (
        live_server() as server,
        FaultyProxy(server.url, Script(then=Truncate(0), only=lambda request: request.method == "GET")) as proxy,
        AsyncClient(proxy.url, retry=HURRIED) as client,
    ):
        stream = client.stream("/a")
        await stream.create(content_type="application/json", data=b"1")
        with pytest.raises(ProtocolViolation, match="JSON"):
            await stream.read_json()
