"""A transaction in the making: changes laid over a store that does not know of them yet."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Addition, Creation, Record, Reference, StreamState, apply
from unbroken.store.base import Change

__all__ = ["Base", "Dating", "Piece", "StagedTransaction"]


class Base(Protocol):
    """What is durable, below the staged changes."""

    @property
    def last_number(self) -> int:
        """The greatest creation number used so far."""
        ...

    def state(self, path: str) -> StreamState | None:
        """The stream at a path."""
        ...

    def producer(self, number: int, producer_id: str) -> Producer | None:
        """What is known of a stream's producer."""
        ...

    def producers(self, number: int) -> int:
        """How many producers of a stream are known."""
        ...

    def is_held(self, fork: int) -> bool:
        """Whether this deleted fork still holds its source's data."""
        ...


class Piece(NamedTuple):
    """A piece of a large body; see `unbroken.store.base.Transaction.stage`."""

    number: int
    position: int
    data: bytes
    time_ms: int


class Dating(NamedTuple):
    """When some of a large body will have been added; see `unbroken.store.base.Transaction.date`."""

    number: int
    start: int
    end: int
    time_ms: int


class StagedTransaction:
    """See `unbroken.store.base.Transaction`. The store takes what it gathered when the block is left.

    Attributes:
        changes: what was written, in order.
        pieces: what was staged.
        dated: when some of what was staged will have been added.
        unstaged: streams whose pieces are to be discarded.
        newcomers: how many producers are new, by stream.
        size_bytes: of the data in all changes.
        largest_bytes: of the data in one of them, at most.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._states: dict[str, StreamState | None] = {}
        self._producers: dict[tuple[int, str], Producer | None] = {}
        self._released: set[int] = set()
        self._number = base.last_number
        self.changes: list[Change] = []
        self.pieces: list[Piece] = []
        self.dated: list[Dating] = []
        self.unstaged: list[int] = []
        self.newcomers: dict[int, int] = {}
        self.size_bytes = self.largest_bytes = 0

    def state(self, path: str) -> StreamState | None:
        if path not in self._states:
            self._states[path] = self._base.state(path)
        return self._states[path]

    def producer(self, number: int, producer_id: str) -> Producer | None:
        key = number, producer_id
        if key not in self._producers:
            self._producers[key] = self._base.producer(number, producer_id)
        return self._producers[key]

    def producers(self, number: int) -> int:
        return self._base.producers(number) + self.newcomers.get(number, 0)

    def is_held(self, fork: int) -> bool:
        return fork not in self._released and self._base.is_held(fork)

    def next_number(self) -> int:
        return self._number + 1

    def use_number(self) -> None:
        self._number += 1

    def write(self, path: str, record: Record) -> Change:
        before = self.state(path)
        after = apply(before, record)
        self._states[path] = after
        if isinstance(record, Addition):
            self._count(record.data)
            if (stamp := record.producer) is not None:
                if self.producer(record.number, stamp.id) is None:
                    self.newcomers[record.number] = self.newcomers.get(record.number, 0) + 1
                self._producers[record.number, stamp.id] = Producer(stamp.epoch, stamp.seq)
        elif isinstance(record, Creation):
            self._count(record.data)
            self._number = max(self._number, record.number)
        elif isinstance(record, Reference) and record.delta < 0:
            self._released.add(record.fork)
        change = Change(path, record, before, after)
        self.changes.append(change)
        return change

    def _count(self, data: bytes) -> None:
        size_bytes = len(data)
        self.size_bytes += size_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)

    def stage(self, number: int, position: int, data: bytes, time_ms: int) -> None:
        self.pieces.append(Piece(number, position, data, time_ms))

    def date(self, number: int, start: int, end: int, time_ms: int) -> None:
        self.dated.append(Dating(number, start, end, time_ms))

    def unstage(self, number: int) -> None:
        self.unstaged.append(number)
