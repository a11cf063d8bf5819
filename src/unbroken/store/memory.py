"""The memory store: the model that other stores are compared with, and the choice for ephemeral use.

Everything is a dict, and a transaction is a list of changes made at its end. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from unbroken.errors import UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Addition, Creation, Deletion, Reference, StreamState
from unbroken.store.base import Change, Due, DueKind, Held, Hold, Totals
from unbroken.store.runs import Runs, append_run, end_of_runs_before
from unbroken.store.staged import StagedTransaction

__all__ = ["MemoryStore"]


class MemoryStore:
    """Streams in this process's memory. See `unbroken.store.base.Store`."""

    def __init__(self) -> None:
        self.identity = secrets.token_hex(4)
        self._states: dict[str, StreamState] = {}
        self._producers: dict[int, dict[str, Producer]] = {}
        self._bytes: dict[int, tuple[int, bytearray]] = {}
        self._runs: dict[int, Runs] = {}
        self._holds: dict[int, Hold] = {}
        self._last_number = 0

    @property
    def failure(self) -> UnbrokenError | None:
        return None

    @property
    def behind(self) -> bool:
        return False

    @property
    def full(self) -> bool:
        return False

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def state(self, path: str) -> StreamState | None:
        return self._states.get(path)

    def states(self, prefix: str, after: str, limit: int) -> Sequence[StreamState]:
        paths = (path for path in self._states if path > after and path.startswith(prefix))
        return [self._states[path] for path in heapq.nsmallest(limit, paths)]

    def totals(self, below: Sequence[Prefixes] = ()) -> asyncio.Future[Totals]:
        at_hand: asyncio.Future[Totals] = asyncio.get_running_loop().create_future()
        states = self._states.values()
        held = tuple(Held({}, {}) for _ in below)
        for prefixes, part in zip(below, held, strict=True):
            part.add_all(states, prefixes)
        at_hand.set_result(Totals(len(states), sum(state.own_bytes for state in states), held))
        return at_hand

    @asynccontextmanager
    async def transaction(self, paths: Sequence[str]) -> AsyncIterator[StagedTransaction]:
        transaction = StagedTransaction(self)
        yield transaction
        for change in transaction.changes:
            self._make(change)
        self._last_number = transaction.next_number() - 1

    def read_cached(self, number: int, start: int, end: int) -> bytes:
        first, data = self._bytes.get(number, (0, bytearray()))
        return bytes(memoryview(data)[start - first : end - first])

    async def read(self, number: int, start: int, end: int) -> bytes:
        return self.read_cached(number, start, end)

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        if number not in self._runs:
            return None
        first = self._bytes[number][0]
        size_bytes = end_of_runs_before(self._runs[number], time_ms, end - first)
        return None if size_bytes is None else first + size_bytes

    def due(self, kind: DueKind, after: tuple[int, int], until: int, limit: int) -> Sequence[Due]:
        return ()  # nothing was there when it was opened

    def holds(self, limit: int) -> Sequence[Hold]:
        return list(self._holds.values())[:limit]

    def metrics(self) -> Sequence[Metric]:
        return ()

    async def maintain(self) -> bool:
        return False

    def producer(self, number: int, producer_id: str) -> Producer | None:
        return self._producers.get(number, {}).get(producer_id)

    def producers(self, number: int) -> int:
        return len(self._producers.get(number, ()))

    def is_held(self, fork: int) -> bool:
        return fork in self._holds

    @property
    def last_number(self) -> int:
        return self._last_number

    def _make(self, change: Change) -> None:
        path, record, before, after = change.path, change.record, change.before, change.after
        if after is None:
            del self._states[path]
        else:
            self._states[path] = after
        if isinstance(record, Creation):
            self._bytes[record.number] = (record.position, bytearray(record.data))
            self._runs[record.number] = [(len(record.data), record.time_ms)] if record.data else []
        elif isinstance(record, Addition):
            self._bytes[record.number][1].extend(record.data)
            if record.data:
                append_run(self._runs[record.number], len(record.data), record.time_ms)
            if (stamp := record.producer) is not None:
                self._producers.setdefault(record.number, {})[stamp.id] = Producer(stamp.epoch, stamp.seq)
        elif isinstance(record, Reference) and record.delta < 0:
            self._holds.pop(record.fork, None)
        elif isinstance(record, Deletion) and after is None and before is not None:
            self._bytes.pop(record.number, None)
            self._runs.pop(record.number, None)
            self._producers.pop(record.number, None)
            if (origin := before.origin) is not None:
                self._holds[record.number] = Hold(record.number, origin.source_number, origin.source_path)
