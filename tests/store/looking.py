"""Everything that a store's users can see of it, as one value to compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Hold, Store
from unbroken.testing.store_suite import read_stream

__all__ = ["Contents", "contents"]


class Contents(NamedTuple):
    """What a store holds."""

    streams: dict[str, tuple[StreamState, bytes]]
    producers: dict[tuple[int, str], Producer]
    holds: set[Hold]
    next_number: int


async def contents(store: Store, paths: Iterable[str], producer_ids: Iterable[str] = ()) -> Contents:
    """What a store holds at these paths.

    Args:
        store: open.
        paths: where to look.
        producer_ids: which producers to ask for, in each stream.
    """
    states = {path: state for path in sorted(paths) if (state := store.state(path)) is not None}
    async with store.transaction(sorted(states)) as transaction:
        assert all(transaction.state(path) == state for path, state in states.items())
        producers = {
            (state.number, producer_id): known
            for state in states.values()
            for producer_id in producer_ids
            if (known := transaction.producer(state.number, producer_id)) is not None
        }
        holds = set(store.holds(1_000_000))
        assert all(transaction.is_held(hold.fork) for hold in holds)
        next_number = transaction.next_number()
    streams = {path: (state, await read_stream(store, state)) for path, state in states.items()}
    return Contents(streams, producers, holds, next_number)
