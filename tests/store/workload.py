"""A short workload that does everything a store can be asked for, and what must be there after each of its steps."""

from __future__ import annotations

from typing import NamedTuple

from tests.store.looking import Contents, contents
from tests.store.sizes import LARGE_BYTES
from unbroken.errors import UnbrokenError
from unbroken.protocol.commands import Command, Delete, Release
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.testing.store_bench import append, create, execute, fork

__all__ = ["Workload", "look", "workload"]

_PATHS = ("/a", "/b", "/c", "/json", "/fork", "/fork/deep", "/large", "/ttl")
_PRODUCERS = ("p", "q")


class Workload(NamedTuple):
    """Transactions, and the store's contents: ``expected[n]`` after ``n`` of them."""

    transactions: tuple[tuple[Command, ...], ...]
    expected: tuple[Contents, ...]


async def look(store: Store) -> Contents:
    """What a store holds of a workload."""
    return await contents(store, _PATHS, _PRODUCERS)


async def workload() -> Workload:
    """The workload, tried out on the memory store."""
    model = MemoryStore()
    transactions: list[tuple[Command, ...]] = []
    expected = [await look(model)]

    async def step(*commands: Command) -> None:
        outcomes = await execute(model, *commands)
        assert not [outcome for outcome in outcomes if isinstance(outcome, UnbrokenError)]
        transactions.append(commands)
        expected.append(await look(model))

    def number(path: str) -> int:
        state = model.state(path)
        assert state is not None
        return state.number

    stamps = [ProducerStamp("p", 3, seq) for seq in range(4)]
    await step(create("/a", b"first"), create("/b"), create("/json", b'[1,"two"]', json=True))
    await step(append("/a", b"-", producer=stamps[0]), append("/a", b"-" * 30, producer=stamps[1]))
    await step(append("/b", b"B" * 20), append("/json", b"[[]]", json=True, stream_seq="1"))
    state = model.state("/a")
    assert state is not None
    await step(fork("/fork", state, 7, b"own"), append("/a", b"after", producer=stamps[2]))
    await step(append("/fork", b"F" * 10), fork("/fork/deep", "/fork", data=b"deep"), create("/c", b"C" * 60))
    await step(create("/large", b"L" * LARGE_BYTES), append("/a", b"x" * (2 * LARGE_BYTES)), append("/b", b"b"))
    deep, forked, source = number("/fork/deep"), number("/fork"), number("/a")
    await step(Delete("/fork"), Delete("/c"), create("/c", b"again", lifetime=Lifetime(ttl_s=60)))
    await step(Delete("/fork/deep"), append("/large", b"small"), append("/json", b'{"k":0}', json=True, close=True))
    await step(Release("/fork", forked, deep), append("/b", b"q", producer=ProducerStamp("q", 0, 0)))
    await step(Delete("/a"))
    await step(Release("/a", source, forked), create("/ttl", lifetime=Lifetime(expires_at_ms=10**12)))
    await step(create("/a", b"new"), append("/large", b"y" * LARGE_BYTES), append("/b", b"!", close=True))
    await step(Delete("/large"), Delete("/c"), append("/a", b"z" * 50, producer=ProducerStamp("p", 0, 0)))
    await step(create("/large", b"small now"), append("/a", b"end"))
    return Workload(tuple(transactions), tuple(expected))
