"""Everything that a store's users can see of it, as one value to compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Hold, Store
from unbroken.store.staged import Base, StagedTransaction
from unbroken.testing.store_bench import read_stream

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
    view = StagedTransaction(cast(Base, store))  # works on a store that takes no more writes, too
    assert all(view.state(path) == state for path, state in states.items())
    producers = {
        (state.number, producer_id): known
        for state in states.values()
        for producer_id in producer_ids
        if (known := view.producer(state.number, producer_id)) is not None
    }
    holds = set(store.holds(1_000_000))
    assert all(view.is_held(hold.fork) for hold in holds)
    streams = {path: (state, await read_stream(store, state)) for path, state in states.items()}
    return Contents(streams, producers, holds, view.next_number())
