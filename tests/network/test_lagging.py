"""Servers, and caches before them, that for a moment know less than they have shown before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from unbroken import AsyncClient
from unbroken.client import Retry
from unbroken.errors import OffsetLoop, ProtocolViolation
from unbroken.testing import Address, serve_asgi

HURRIED = Retry(base_s=0.001, cap_s=0.01)


class Answer(NamedTuple):
    """What is answered to the request for an offset."""

    asked: str
    data: bytes
    end: str
    closed: bool = False


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[tuple[Address, list[Answer]]]:
    """A server of a text stream that gives these answers, and the last of them for ever."""
    left = list(answers)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = left.pop(0) if len(left) > 1 else left[0]
        assert f"offset={answer.asked}" in scope["query_string"].decode().split("&")
        headers = [(b"content-type", b"text/plain"), (b"stream-next-offset", answer.end.encode())]
        headers += [(b"stream-up-to-date", b"true")]
        headers += [(b"stream-closed", b"true")] if answer.closed else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.data})

    async with serve_asgi(app) as address:
        yield address, left


async def follow(address: Address) -> bytes:
    async with (
        AsyncClient(address.url, retry=HURRIED) as client,
        client.stream("/a").follow(live="long-poll") as messages,
    ):
        return b"".join([message.data async for message in messages])


async def test_an_earlier_end_passes() -> None:
    lagging = [Answer("20", b"", "10")] * 3
    last = Answer("20", b" two", "30", closed=True)
    async with answering(Answer("-1", b"one", "20"), *lagging, last) as (address, left):
        assert await follow(address) == b"one two"
        assert left == [last]


async def test_an_earlier_end_that_stays_is_an_error() -> None:
    """As of a stream that was deleted and created again, on a server whose offsets do not tell."""
    async with answering(Answer("-1", b"one", "20"), Answer("20", b"", "10")) as (address, _):
        with pytest.raises(ProtocolViolation, match="an end before that") as caught:
            await follow(address)
        assert caught.value.offset == "20"


@pytest.mark.parametrize("end", ["20", "10"])
async def test_data_that_does_not_get_on_is_an_error(end: str) -> None:
    async with answering(Answer("-1", b"one", "20"), Answer("20", b"one", end)) as (address, _):
        with pytest.raises(OffsetLoop, match="20") as caught:
            await follow(address)
        assert caught.value.offset == "20"
