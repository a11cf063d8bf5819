"""A real server on a free loopback port, for tests.

    async with live_server() as server:
        async with httpx2.AsyncClient(base_url=server.url) as client:
            await client.put("/events")

uvicorn with httptools underneath, as in production, but without signal handlers, log set-up or fixed waits: it is
ready when the block begins, and nothing of it is left when the block ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from unbroken.engine.clock import Clock
from unbroken.engine.engine import Engine
from unbroken.server.access import Authorize
from unbroken.server.asgi import AsgiApp
from unbroken.server.connection import Connection
from unbroken.server.factory import quota_of
from unbroken.server.settings import Settings
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.testing.threads import in_thread

__all__ = ["Address", "LiveServer", "close_listener", "live_server", "serve_asgi", "threaded_server"]

_GRACE_S = 5.0
# asyncio accepts a socket in one turn of its loop, gives it a transport in the next, and tells its protocol in a third.
_TURNS_TO_CONNECT = 3


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return f"http://{self.host}:{self.port}"


class LiveServer(NamedTuple):
    """A running server.

    Args:
        address: where it listens.
        app: what it serves.
    """

    address: Address
    app: AsgiApp

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return self.address.url

    @property
    def engine(self) -> Engine:
        """Its engine. Only to be used from the event loop that the server runs in."""
        return self.app.engine


@asynccontextmanager
async def serve_asgi(app: Any, *, http: Any = Connection, grace_s: float = _GRACE_S) -> AsyncIterator[Address]:
    """Serve any ASGI application in this event loop.

    Args:
        app: the application; its lifespan is run.
        http: uvicorn's setting of that name: what speaks HTTP. That of ``unbroken serve`` by default; ``httptools`` and
            ``h11`` are what applications run on elsewhere.
        grace_s: seconds that responses under way have to end in when the block is left. Then they are cancelled, and
            connections that are still there are aborted.

    Raises:
        RuntimeError: the application's startup failed.
    """
    config = uvicorn.Config(
        app, http=http, ws="none", lifespan="on", proxy_headers=False, log_config=None, access_log=False
    )
    config.load()
    state = ServerState()
    lifespan = LifespanOn(config)
    await lifespan.startup()
    if lifespan.should_exit:
        raise RuntimeError("the application's startup failed; the log says why")
    try:
        protocol: Any = config.http_protocol_class
        listener = await asyncio.get_running_loop().create_server(
            lambda: protocol(config, state, lifespan.state), "127.0.0.1", 0
        )
        try:
            host, port = listener.sockets[0].getsockname()[:2]
            yield Address(host, port)
        finally:
            await close_listener(listener)
            await _end_connections(state, grace_s)
            await listener.wait_closed()
    finally:
        await lifespan.shutdown()


async def close_listener(listener: asyncio.Server) -> None:
    """Let nobody in any more. Who was let in already has a connection that can be ended when this returns.

    A listener that is merely closed loses the sockets that it has accepted in this turn.
    """
    loop = asyncio.get_running_loop()
    for socket in listener.sockets:
        loop.remove_reader(socket.fileno())
    for _ in range(_TURNS_TO_CONNECT):
        await asyncio.sleep(0)
    listener.close()


async def _end_connections(state: ServerState, grace_s: float) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    loop = asyncio.get_running_loop()
    end_s = loop.time() + grace_s
    if state.tasks:
        _, late = await asyncio.wait(list(state.tasks), timeout=end_s - loop.time())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    # Small appends are answered without a task.
    while any(map(_is_busy, state.connections)) and loop.time() < end_s:  # noqa: ASYNC110 (they tell nobody)
        await asyncio.sleep(0)
    for connection in list(state.connections):
        connection.transport.abort()
    while state.connections:  # noqa: ASYNC110 (an aborted transport tells its protocol in a later turn of the loop)
        await asyncio.sleep(0)


def _is_busy(connection: Any) -> bool:
    return connection.cycle is not None and not connection.cycle.response_complete


@asynccontextmanager
async def live_server(
    store: Store | None = None,
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
    authorize: Authorize | None = None,
    grace_s: float = _GRACE_S,
) -> AsyncIterator[LiveServer]:
    """An Unbroken server in this event loop. Its live reads end as they do when a process is asked to stop.

    Args:
        store: where the streams are; in memory by default.
        settings: limits and times.
        clock: tells the time; a `ManualClock` lets a test decide.
        authorize: see `unbroken.asgi.create_app`.
        grace_s: see `serve_asgi`.
    """
    settings = settings or Settings()
    engine = Engine(
        MemoryStore() if store is None else store,
        clock=clock,
        page_bytes=settings.page_size,
        quota=quota_of(settings),
    )
    app = AsgiApp(engine, settings, authorize=authorize, watch_signals=False)
    async with serve_asgi(app, grace_s=grace_s) as address:
        try:
            yield LiveServer(address, app)
        finally:
            engine.drain()


@contextmanager
def threaded_server(
    store: Store | None = None, settings: Settings | None = None, *, clock: Clock | None = None
) -> Iterator[Address]:
    """An Unbroken server in a thread of its own, for code that is not asynchronous.

    Args:
        store: where the streams are; in memory by default. Not to be touched while the server runs.
        settings: limits and times.
        clock: tells the time.

    Raises:
        Exception: whatever kept the server from starting.
    """
    with in_thread(lambda: live_server(store, settings, clock=clock), "unbroken-live-server") as server:
        yield server.address
