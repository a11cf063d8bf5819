"""Clients of a real server, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from unbroken import AsyncClient
from unbroken.client import AsyncStream
from unbroken.server.settings import Settings
from unbroken.testing import live_server

JSON = "application/json"


@asynccontextmanager
async def connected(settings: Settings | None = None, **options: Any) -> AsyncIterator[AsyncClient]:
    """A client, and its server. When both are gone, so is every task."""
    before = asyncio.all_tasks()
    async with live_server(settings=settings) as server, AsyncClient(server.url, **options) as client:
        yield client
    assert asyncio.all_tasks() <= before


@asynccontextmanager
async def a_stream(
    content_type: str = JSON, settings: Settings | None = None, **options: Any
) -> AsyncIterator[AsyncStream]:
    """An empty stream on a server of its own."""
    async with connected(settings, **options) as client:
        stream = client.stream("/stream")
        await stream.create(content_type=content_type)
        yield stream
