"""The contract between the engine and whatever keeps the bytes.

A store holds records, bytes and the states that follow from them; it knows no rules. One engine owns it, and calls it
from one event loop. Its contract is a test suite, `unbroken.testing.store_suite`, which every store subclasses.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

import msgspec

from unbroken.errors import UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Record, StreamState

__all__ = ["PRODUCERS_COUNTED_MAX", "Change", "Due", "DueKind", "Held", "Hold", "Store", "Totals", "Transaction"]

PRODUCERS_COUNTED_MAX = 1_000_000
"""A store need not count more producers of one stream than that."""


DueKind = Literal["ttl_s", "expires_at_ms"]


class Due(NamedTuple):
    """A stream with a lifetime: ``key`` is its TTL in seconds or its expiry in Unix milliseconds."""

    key: int
    number: int
    path: str


class Hold(NamedTuple):
    """A deleted fork that still holds its source's data."""

    fork: int
    source_number: int
    source_path: str


class Held(NamedTuple):
    """How much there is below each prefix, those left out that have none.

    Two dicts of numbers, since there may be a million prefixes: the garbage collector has nothing to look through.

    Args:
        streams: how many.
        total_bytes: their bytes.
    """

    streams: dict[str, int]
    total_bytes: dict[str, int]

    def add(self, prefix: str, streams: int, size_bytes: int) -> None:
        """Count more, or less where the numbers are negative."""
        if streams:
            _move(self.streams, prefix, streams)
        if size_bytes:
            _move(self.total_bytes, prefix, size_bytes)

    def add_all(self, states: Iterable[StreamState], prefixes: Prefixes) -> None:
        """Count these streams."""
        for state in states:
            if (prefix := prefixes.of(state.path)) is not None:
                self.add(prefix, 1, state.own_bytes)


def _move(counts: dict[str, int], prefix: str, by: int) -> None:
    if count := counts.get(prefix, 0) + by:
        counts[prefix] = count
    else:
        del counts[prefix]  # never zero, so it was there


class Totals(NamedTuple):
    """How much there is.

    Args:
        streams: how many, those included that are kept for their forks alone.
        total_bytes: their bytes, what forks share counted once.
        held: the same below the prefixes that were asked for.
    """

    streams: int
    total_bytes: int
    held: tuple[Held, ...] = ()


class Change(msgspec.Struct, frozen=True, gc=False):
    """One record, where it happens, and the stream before and after it."""

    path: str
    record: Record
    before: StreamState | None
    after: StreamState | None


class Transaction(Protocol):
    """Exclusive right to change the store. Sees its own changes; nobody else does until it is durable."""

    def state(self, path: str) -> StreamState | None:
        """The stream at a path."""
        ...

    def producer(self, number: int, producer_id: str) -> Producer | None:
        """What is known of a stream's producer."""
        ...

    def producers(self, number: int) -> int:
        """How many producers of a stream are known; `PRODUCERS_COUNTED_MAX` may stand for more.

        Asked when a new one comes: may take some milliseconds the first time.
        """
        ...

    def is_held(self, fork: int) -> bool:
        """Whether this deleted fork still holds its source's data."""
        ...

    def next_number(self) -> int:
        """The creation number for the next stream: larger than every number used before."""
        ...

    def use_number(self) -> None:
        """Use the next number up, for a stream whose first bytes are to be staged before it is created."""
        ...

    def write(self, path: str, record: Record) -> Change:
        """Make one transition of the stream at ``path``."""
        ...

    def stage(self, number: int, position: int, data: bytes, time_ms: int) -> None:
        """Write a piece of a large body ahead of the record, an `Addition` or a `Creation`, that will bring it.

        So that nobody waits for all of the body, it comes in pieces, a transaction each. Nobody can read them until the
        record, alone in its transaction, makes them part of the stream; a crash before that discards them.

        Args:
            number: the stream; nobody may add to it in between, nor create another at its path before it is there.
            position: the stream's tail for the first piece, then where the piece before ended.
            data: the piece.
            time_ms: now.
        """
        ...

    def date(self, number: int, start: int, end: int, time_ms: int) -> None:
        """Say of some of what is staged, ahead of the record, which ``time_ms`` that will have.

        The record sets right whatever does not say so yet: of a large body that is too much at once.
        """
        ...

    def unstage(self, number: int) -> None:
        """Discard the pieces written for a stream: their record will not come."""
        ...


class Store(Protocol):
    """A place for streams."""

    @property
    def identity(self) -> str:
        """Names this store among all stores: part of cache validators."""
        ...

    @property
    def failure(self) -> UnbrokenError | None:
        """Why nothing can be written any more; None while all is well."""
        ...

    @property
    def behind(self) -> bool:
        """Whether housekeeping is behind, so that large bodies had better wait."""
        ...

    @property
    def full(self) -> bool:
        """Whether there is no room but for what frees some: deletes go on."""
        ...

    async def open(self) -> None:
        """Make ready: recover, so that what is readable is durable.

        Raises:
            StoreError: in use by another process, damaged, or of an unknown format.
        """
        ...

    async def close(self) -> None:
        """Let go. No transaction may be under way."""
        ...

    def state(self, path: str) -> StreamState | None:
        """The durable state of the stream at a path."""
        ...

    def states(self, prefix: str, after: str, limit: int) -> Sequence[StreamState]:
        """The durable states of streams whose path begins with a prefix, in the order of their paths.

        Args:
            prefix: compared character by character.
            after: the path to continue from, exclusive; empty to begin.
            limit: how many at most.
        """
        ...

    def totals(self, below: Sequence[Prefixes] = ()) -> Future[Totals]:
        """How much there is at the moment of the call, at which neither a transaction nor `maintain` may be under way.

        May take a second where there are some millions of streams; holds nobody up, and may be cancelled.

        Args:
            below: the prefixes for each of which to count as well.
        """
        ...

    def transaction(self, paths: Sequence[str]) -> AbstractAsyncContextManager[Transaction]:
        """Change the streams at these paths (and no others): all of it durable when the block is left, or none.

        One at a time.

        Raises:
            OutcomeUnknown, StorageFull: leaving the block failed; whether it is durable is not known, and `failure`
                says why nothing can be written from now on. Readers see none of it.
        """
        ...

    def read_cached(self, number: int, start: int, end: int) -> bytes | None:
        """A stream's own bytes ``[start, end)`` if they are at hand in memory, else None."""
        ...

    async def read(self, number: int, start: int, end: int) -> bytes:
        """A stream's own bytes ``[start, end)``; fewer if the stream was deleted meanwhile."""
        ...

    async def find_time(self, number: int, end: int, time_ms: int) -> int | None:
        """The position after the last of a stream's own bytes below ``end`` that was committed before a time.

        Returns:
            The position; None if no such byte was.
        """
        ...

    def due(self, kind: DueKind, after: tuple[int, int], until: int, limit: int) -> Sequence[Due]:
        """Streams that were there when the store was opened and have a lifetime of this kind, by (key, number).

        Args:
            kind: which of the two lifetimes.
            after: the (key, number) to continue from, exclusive.
            until: greatest key, inclusive.
            limit: how many at most.
        """
        ...

    def holds(self, limit: int) -> Sequence[Hold]:
        """Deleted forks whose source has not been released yet."""
        ...

    def metrics(self) -> Sequence[Metric]:
        """What it tells of itself; see `unbroken.measures`."""
        ...

    async def maintain(self) -> bool:
        """Do a little housekeeping, a few milliseconds of it. Never while a transaction is under way.

        Returns:
            Whether there is more to do.
        """
        ...
