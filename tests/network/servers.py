"""The servers that runs go against, and a writer that knows the wire and no more: it does not go through the proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from tests.peers import ReferenceServer, need_reference
from unbroken.testing import RawConnection, ServerProcess, connect

__all__ = ["SERVERS", "ServerKind", "Writer", "read_all", "running"]

ServerKind = Literal["memory", "sqlite", "reference-memory", "reference-files"]
SERVERS: tuple[ServerKind, ...] = ("memory", "sqlite", "reference-memory", "reference-files")

FLAGS = (
    "--page-size=32KiB",
    "--long-poll-timeout=1",
    "--sse-heartbeat=0.1",
    "--sse-lifetime=0.5",
    "--log-level=warning",
)
"""Small pages and a quick pulse: so a run of some thousand messages takes many requests, and silence is noticed."""


def _make(kind: ServerKind, folder: Path) -> ServerProcess:
    if kind == "memory":
        return ServerProcess(folder / "data", *FLAGS, "--store=memory")
    if kind == "sqlite":
        return ServerProcess(folder / "data", *FLAGS)
    need_reference()
    return ReferenceServer(folder / "data" if kind == "reference-files" else None, wait_s=1.0)


@asynccontextmanager
async def running(kind: ServerKind, folder: Path) -> AsyncIterator[ServerProcess]:
    """A server in a process of its own, ended with the block."""
    server = _make(kind, folder)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


class Writer:
    """Appends each body once, as a producer does, whatever happens to the server meanwhile.

    Args:
        server: whose stream it is.
        path: of the stream.
        content_type: of the stream.
    """

    def __init__(self, server: ServerProcess, path: str, content_type: str) -> None:
        self._server = server
        self.path = path
        self._fields = {"content-type": content_type}
        self._seq = 0

    async def create(self) -> None:
        async with connect(*self._server.address) as connection:
            assert (await connection.request("PUT", self.path, self._fields)).status == 201

    async def append(self, body: bytes) -> None:
        await self._repeat(self._fields, body)

    async def close(self) -> None:
        await self._repeat({**self._fields, "stream-closed": "true"}, b"")

    async def _repeat(self, fields: dict[str, str], body: bytes) -> None:
        producer = {"producer-id": "writer", "producer-epoch": "0", "producer-seq": str(self._seq)}
        while True:
            try:
                async with connect(*self._server.address) as connection:
                    response = await connection.request("POST", self.path, {**fields, **producer}, body)
            except (OSError, EOFError):
                await asyncio.sleep(0.01)
                continue
            assert response.status in (200, 204), response
            self._seq += 1
            return


async def read_all(server: ServerProcess, path: str) -> list[bytes]:
    """All pages of a stream, straight from the server."""
    async with connect(*server.address) as connection:
        return [page async for page in _pages(connection, path)]


async def _pages(connection: RawConnection, path: str) -> AsyncIterator[bytes]:
    offset = "-1"
    while True:
        response = await connection.request("GET", f"{path}?offset={offset}")
        assert response.status == 200, response
        yield response.body
        if response.get("stream-up-to-date") == "true":
            return
        offset = response["stream-next-offset"]
