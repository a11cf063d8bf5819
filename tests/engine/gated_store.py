"""A memory store whose commits a test holds back, or lets fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from unbroken.errors import StoreReadOnly, UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Due, DueKind, Hold, Totals, Transaction
from unbroken.store.memory import MemoryStore

__all__ = ["GatedStore"]


class GatedStore:
    """See `unbroken.store.base.Store`. Between the decision and the commit of each batch stands a gate.

    Attributes:
        commits: how many batches have become durable.
        at_gate: set while a batch waits there.
        error: what the next commit fails with; the store is read-only from then on, as the contract demands.
        maintenance_error: what housekeeping fails with.
    """

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.identity = self.inner.identity
        self.failure: UnbrokenError | None = None
        self.commits = 0
        self.at_gate = asyncio.Event()
        self.error: Exception | None = None
        self.maintenance_error: Exception | None = None
        self.closed = False
        self._shut = False
        self._batch: asyncio.Future[None] | None = None

    def shut_gate(self) -> None:
        self._shut = True

    def open_gate(self) -> None:
        self._shut = False
        self.let_one_through()

    def let_one_through(self) -> None:
        """Let the batch at the gate through; the next one finds it shut again."""
        if self._batch is not None:
            self._batch.set_result(None)
            self._batch = None

    @asynccontextmanager
    async def transaction(self, paths: Sequence[str]) -> AsyncIterator[Transaction]:
        async with self.inner.transaction(paths) as transaction:
            yield transaction
            await self._pass_gate()
            if self.error is not None:
                self.failure = StoreReadOnly("a commit failed")
                raise self.error
        self.commits += 1

    async def _pass_gate(self) -> None:
        if self._shut:
            self._batch = asyncio.get_running_loop().create_future()
            self.at_gate.set()
            await self._batch
            self.at_gate.clear()

    @property
    def behind(self) -> bool:
        return self.inner.behind

    @property
    def full(self) -> bool:
        return self.inner.full

    def totals(self, below: Sequence[Prefixes] = ()) -> asyncio.Future[Totals]:
        return self.inner.totals(below)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()

    def state(self, path: str) -> StreamState | None:
        return self.inner.state(path)

    def states(self, prefix: str, after: str, limit: int) -> Sequence[StreamState]:
        return self.inner.states(prefix, after, limit)

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        return await self.inner.find_time(number, end, time_ms)

    def read_cached(self, number: int, start: int, end: int) -> bytes | None:
        return self.inner.read_cached(number, start, end)

    async def read(self, number: int, start: int, end: int) -> bytes:
        return await self.inner.read(number, start, end)

    def due(self, kind: DueKind, after: tuple[int, int], until: int, limit: int) -> Sequence[Due]:
        return self.inner.due(kind, after, until, limit)

    def holds(self, limit: int) -> Sequence[Hold]:
        return self.inner.holds(limit)

    def metrics(self) -> Sequence[Metric]:
        return self.inner.metrics()

    async def maintain(self) -> bool:
        if self.maintenance_error is not None:
            self.failure = self.failure or StoreReadOnly("housekeeping failed")
            raise self.maintenance_error
        return await self.inner.maintain()
