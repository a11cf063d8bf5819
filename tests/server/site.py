"""A served site as tests see it: short requests, and what holds for every response checked on each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from tests.engine.helpers import until
from tests.server.sse import EventStream
from unbroken.engine import Engine
from unbroken.testing import Address, LiveServer, ManualClock, RawConnection, RawResponse, connect, encode_request

__all__ = [
    "BYTES",
    "JSON",
    "TEXT",
    "Site",
    "begin",
    "check_always",
    "closed",
    "offset",
    "problem_code",
    "producer",
    "until",
]

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}

_OFFSET = re.compile(r"[0-9]{16}_[0-9]{16}")


class Site:
    """One running server, and a client that opens a connection for each request."""

    def __init__(self, server: LiveServer, clock: ManualClock) -> None:
        self.address: Address = server.address
        self.engine: Engine = server.engine
        self.app = server.app
        self.clock = clock

    def connect(self, **options: Any) -> AbstractAsyncContextManager[RawConnection]:
        return connect(*self.address, **options)

    async def request(
        self, method: str, target: str | bytes, fields: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> RawResponse:
        async with self.connect() as connection:
            response = await connection.request(method, target, fields, body)
        check_always(response, method)
        return response

    async def put(
        self, target: str | bytes, fields: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> RawResponse:
        return await self.request("PUT", target, fields, body)

    async def post(
        self, target: str | bytes, fields: Mapping[str, str] | None = None, body: bytes | None = b""
    ) -> RawResponse:
        return await self.request("POST", target, fields, body)

    async def get(self, target: str | bytes, fields: Mapping[str, str] | None = None) -> RawResponse:
        return await self.request("GET", target, fields)

    async def head(self, target: str | bytes, fields: Mapping[str, str] | None = None) -> RawResponse:
        return await self.request("HEAD", target, fields)

    async def delete(self, target: str | bytes, fields: Mapping[str, str] | None = None) -> RawResponse:
        return await self.request("DELETE", target, fields)

    async def create(
        self, target: str, fields: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> RawResponse:
        """PUT that must succeed anew."""
        response = await self.put(target, fields, body)
        assert response.status == 201, response
        return response

    async def append(self, target: str, fields: Mapping[str, str], body: bytes) -> str:
        """POST that must succeed; the offset after it."""
        response = await self.post(target, fields, body)
        assert response.status in (200, 204), response
        return response["stream-next-offset"]

    @asynccontextmanager
    async def events(self, target: str, fields: Mapping[str, str] | None = None) -> AsyncIterator[EventStream]:
        """Follow a stream by SSE; the response must be a 200."""
        async with self.connect() as connection:
            response = await begin(connection, "GET", target, fields)
            assert response.status == 200, response
            yield EventStream(connection, response)

    @asynccontextmanager
    async def waiting(
        self, target: str, fields: Mapping[str, str] | None = None
    ) -> AsyncIterator[asyncio.Task[RawResponse]]:
        """A GET under way that has reached the point where the server waits for news."""
        before = len(self.engine.waiters)
        task = asyncio.create_task(self.get(target, fields))
        try:
            await until(lambda: len(self.engine.waiters) > before or task.done())
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def begin(
    connection: RawConnection, method: str, target: str, fields: Mapping[str, str] | None = None
) -> RawResponse:
    """Send a request and read no more than the head of its response."""
    await connection.send(encode_request(method, target, fields))
    response = await connection.read_head(head=method == "HEAD")
    check_always(response, method)
    return response


def check_always(response: RawResponse, method: str) -> None:
    """What WIRE.md says of every response."""
    assert response["x-content-type-options"] == "nosniff"
    assert response["cross-origin-resource-policy"] == "cross-origin"
    if (next_offset := response.get("stream-next-offset")) is not None:
        assert _OFFSET.fullmatch(next_offset), "only real offsets are sent"
        assert next_offset != "0000000000000000_0000000000000000"
    if response.status < 400:
        return
    assert response["content-type"] == "application/problem+json"
    assert response["cache-control"] == "no-store"
    if response.status in (429, 503, 507):
        assert int(response["retry-after"]) > 0
    if method != "HEAD":
        body = response.json()
        assert body["status"] == response.status
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", body["code"])
        assert body["title"]
        assert body["detail"]


def problem_code(response: RawResponse) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status, response.json()["code"]


def offset(number: int, position: int) -> str:
    return f"{number:016d}_{position:016d}"


def producer(producer_id: str, epoch: int | str, seq: int | str) -> dict[str, str]:
    return {"producer-id": producer_id, "producer-epoch": str(epoch), "producer-seq": str(seq)}


def closed(fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """These headers, and the one that closes the stream."""
    return {**(fields or {}), "stream-closed": "true"}
