"""Fixtures of the engine tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine.stores import STORES, checked_store
from unbroken.engine import Engine
from unbroken.store.base import Store
from unbroken.testing import ManualClock

Start = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of either kind, not opened. Its integrity is checked after the test."""
    with checked_store(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def clock() -> ManualClock:
    """Stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def start(store: Store, clock: ManualClock) -> Start:
    """Run an engine on the store; afterwards nothing of it may be left."""

    @asynccontextmanager
    async def starting(**options: Any) -> AsyncIterator[Engine]:
        async with Engine(store, clock=clock, **options) as engine:
            yield engine
        assert len(engine.waiters) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    return starting


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Housekeeping in the background comes round every few milliseconds."""
    monkeypatch.setattr("unbroken.engine.engine._SWEEP_INTERVAL_S", 0.005)
    monkeypatch.setattr("unbroken.engine.commit._IDLE_MAINTENANCE_S", 0.005)
