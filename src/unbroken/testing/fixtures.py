"""pytest fixtures for tests of what is built on Unbroken. Ask for them in the top ``conftest.py``:

    pytest_plugins = ["unbroken.testing.fixtures"]

No plugin for coroutine tests is needed, and any will do. Everything here lives as long as one test. Define
`unbroken_store`, `unbroken_settings` or `unbroken_clock` anew, and all the others build on that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbroken.engine.clock import Clock
from unbroken.engine.engine import Engine
from unbroken.protocol.commands import Command, Outcome
from unbroken.server.asgi import AsgiApp
from unbroken.server.settings import Settings
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.testing.clock import ManualClock
from unbroken.testing.faults import FaultyDisk
from unbroken.testing.live import Address, threaded_server
from unbroken.testing.process import ServerProcess
from unbroken.testing.proxy import FaultyProxy, threaded_proxy

__all__ = [
    "unbroken_app",
    "unbroken_clock",
    "unbroken_disk",
    "unbroken_engine",
    "unbroken_process",
    "unbroken_proxy",
    "unbroken_server",
    "unbroken_settings",
    "unbroken_store",
]


class _LazyEngine(Engine):
    """Starts with its first write, in the event loop that runs then: which one, only the test knows."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None:
            await self.store.close()  # the other loop has ended, and the engine's tasks with it
        self._loop = loop
        await super().start()

    async def stop(self) -> None:
        self._loop = None
        await super().stop()

    async def execute(self, command: Command) -> Outcome:
        await self.start()
        return await super().execute(command)

    def end(self) -> None:
        """Stop, from outside of any event loop."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if loop.is_closed():
            asyncio.run(self.store.close())
        else:
            loop.run_until_complete(super().stop())


@pytest.fixture
def unbroken_clock() -> ManualClock:
    """The time as `unbroken_engine`, `unbroken_app` and `unbroken_server` know it: stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def unbroken_store() -> Store:
    """The store that `unbroken_engine`, `unbroken_app` and `unbroken_server` are on: in memory."""
    return MemoryStore()


@pytest.fixture
def unbroken_settings() -> Settings:
    """The settings of `unbroken_app` and `unbroken_server`: the defaults."""
    return Settings()


@pytest.fixture
def unbroken_engine(unbroken_store: Store, unbroken_clock: Clock, unbroken_settings: Settings) -> Iterator[Engine]:
    """Streams without HTTP, in the event loop of the test. It starts by itself and is stopped after the test."""
    engine = _LazyEngine(unbroken_store, clock=unbroken_clock, page_bytes=unbroken_settings.page_size)
    yield engine
    engine.end()


@pytest.fixture
def unbroken_app(unbroken_engine: Engine, unbroken_settings: Settings) -> AsgiApp:
    """The server as an ASGI app, over `unbroken_engine`: to be mounted, or called by a client without a network. It
    answers whether its lifespan is run or not.
    """
    app = AsgiApp(unbroken_engine, unbroken_settings, watch_signals=False)
    app.app.started = True
    return app


@pytest.fixture
def unbroken_server(unbroken_store: Store, unbroken_settings: Settings, unbroken_clock: Clock) -> Iterator[Address]:
    """A server on a free port, in a thread: for any HTTP client, at ``unbroken_server.url``. Not in the same test as
    `unbroken_engine` or `unbroken_app`, since a store has one owner.
    """
    with threaded_server(unbroken_store, unbroken_settings, clock=unbroken_clock) as address:
        yield address


@pytest.fixture
def unbroken_proxy(unbroken_server: Address) -> Iterator[FaultyProxy]:
    """A proxy before `unbroken_server`, at ``unbroken_proxy.url``: nothing happens to requests until the test sets
    ``unbroken_proxy.plan``.
    """
    with threaded_proxy(unbroken_server.url) as proxy:
        yield proxy


@pytest.fixture
def unbroken_process(tmp_path: Path) -> Iterator[ServerProcess]:
    """``unbroken serve`` in a process of its own, on the durable store; ``kill``, ``start`` and ``restart`` it."""
    with ServerProcess(tmp_path / "unbroken-data") as server:
        yield server


@pytest.fixture
def unbroken_disk() -> Iterator[FaultyDisk]:
    """A disk that fails on demand, for ``SqliteStore(directory, vfs=unbroken_disk.name)``."""
    with FaultyDisk() as disk:
        yield disk
