"""Streams read from their end back to their beginning."""

from __future__ import annotations

import json

import pytest

from tests.client.serving import a_stream
from unbroken import errors
from unbroken.client import AsyncClient
from unbroken.testing import serve_asgi


async def test_all_messages_come_and_each_knows_its_place() -> None:
    async with a_stream() as stream:
        expected = [{"n": number, "text": "x" * (number % 50)} for number in range(300)]
        await stream.append_json(*expected)
        batches = [batch async for batch in stream.backwards(page_bytes=1000)]
        assert len(batches) > 5
        assert (batches[0].up_to_date, batches[1].up_to_date) == (True, False)
        messages = [message for batch in reversed(batches) for message in batch]
        assert [message.value for message in messages] == expected
        for number in (0, 7, 150, 299):
            assert await stream.read_json(messages[number].position) == expected[number + 1 :]
        assert json.loads(messages[7].data) == expected[7]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_an_empty_stream(content_type: str) -> None:
    async with a_stream(content_type) as stream:
        assert [batch.values async for batch in stream.backwards()] == [[]]


async def test_bytes() -> None:
    async with a_stream("application/octet-stream") as stream:
        data = bytes(range(256)) * 10
        await stream.append(data)
        parts = [message.data async for batch in stream.backwards(page_bytes=1000) for message in batch]
        assert [len(part) for part in parts] == [1000, 1000, 560]
        assert b"".join(reversed(parts)) == data


async def test_a_server_that_cannot() -> None:
    """What ignores the question answers with the first page: right if that is all, refused if not."""
    up_to_date = True

    async def app(scope: dict, receive: object, send: object) -> None:
        if scope["type"] == "lifespan":
            return
        headers = [(b"content-type", b"application/json"), (b"stream-next-offset", b"b")]
        headers += [(b"stream-up-to-date", b"true")] * up_to_date
        await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"[1,2]"})  # type: ignore[operator]

    async with serve_asgi(app) as address, AsyncClient(address.url) as client:
        stream = client.stream("/a")
        assert [batch.values async for batch in stream.backwards()] == [[1, 2]]
        up_to_date = False
        with pytest.raises(errors.ProtocolViolation, match="cannot be read backwards"):
            await anext(stream.backwards())
