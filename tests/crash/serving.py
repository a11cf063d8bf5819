"""A server that is killed, and clients that expect it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.server.process import ServerProcess, server_process
from unbroken.testing import Address, RawConnection, RawResponse, connect

__all__ = ["TEXT", "Lost", "dialled", "kill", "read_all", "send", "served"]

TEXT = {"content-type": "text/plain"}
TIMEOUT_S = 20.0


class Lost(Exception):
    """The connection ended before the answer came: what was asked for happened, or not."""


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[ServerProcess]:
    """A server process on ``directory / "data"``."""
    async with server_process(directory) as server:
        yield server


async def kill(server: ServerProcess) -> None:
    """kill -9."""
    server.send_signal(signal.SIGKILL)
    code, _ = await server.wait()
    assert code == -signal.SIGKILL


@asynccontextmanager
async def dialled(address: Address) -> AsyncIterator[RawConnection]:
    """A connection; what goes wrong with it comes out as `Lost`."""
    try:
        async with connect(*address, timeout_s=TIMEOUT_S) as connection:
            yield connection
    except (OSError, EOFError, asyncio.IncompleteReadError) as error:
        raise Lost from error


async def send(
    connection: RawConnection,
    method: str,
    target: str,
    fields: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> RawResponse:
    """A request and its response."""
    return await connection.request(method, target, fields, body)


async def read_all(connection: RawConnection, path: str, offset: str = "-1") -> bytes:
    """All of a stream from an offset on, page by page."""
    parts: list[bytes] = []
    while True:
        page = await send(connection, "GET", f"{path}?offset={offset}")
        assert page.status == 200, page
        parts.append(page.body)
        if page.get("stream-up-to-date") == "true":
            return b"".join(parts)
        offset = page["stream-next-offset"]
