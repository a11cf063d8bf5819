"""Servers for tests leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from unbroken.testing import Address, LiveServer, live_server
from unbroken.testing.proxy import FaultyProxy

Serve = Callable[[], AbstractAsyncContextManager[LiveServer | FaultyProxy]]


@pytest.mark.parametrize("serve", [live_server, lambda: FaultyProxy("http://127.0.0.1:1")], ids=["server", "proxy"])
@pytest.mark.parametrize("turns", range(5))
async def test_connections_that_come_as_it_ends_are_ended(serve: Serve, turns: int) -> None:
    """However far they have come by then: a socket that nobody closes is a warning, and that an error."""
    async with serve() as served:
        address: Address = served.address
        clients = [socket.create_connection(address) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
    for client in clients:
        client.close()
    gc.collect()
