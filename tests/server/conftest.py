"""Fixtures of the HTTP tests: a live server on every kind of store."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine.stores import STORES, checked_store
from tests.server.site import Site
from unbroken.server.settings import Settings
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.testing import ManualClock, live_server

Serve = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of either kind, not opened. Its integrity is checked after the test."""
    with checked_store(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def serve(store: Store) -> Serve:
    """Serve the store; keyword arguments are settings. Time stands still until ``site.clock`` is moved.

    When the server has ended, nothing of it may be left: no waiting reader and no task.
    """
    return functools.partial(_serving, store)


@pytest.fixture
def serve_memory() -> Serve:
    """Like `serve`, on the memory store alone: for what is decided before any store is asked."""
    return functools.partial(_serving, MemoryStore())


@asynccontextmanager
async def _serving(store: Store, **settings: Any) -> AsyncIterator[Site]:
    clock = ManualClock()
    async with live_server(store, Settings(**settings), clock=clock) as server:
        yield Site(server, clock)
    assert len(server.engine.waiters) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
