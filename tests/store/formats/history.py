"""The history that is in the databases of `tests.store.formats`, and what must be found in them, as plain data."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from unbroken.errors import UnbrokenError
from unbroken.protocol.commands import Append, Command, Create, Delete, Release
from unbroken.protocol.content import Content
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import StreamState, offset_at
from unbroken.store.base import Store
from unbroken.store.staged import StagedTransaction
from unbroken.testing.store_bench import append, create, execute, fork, read_stream

__all__ = ["LARGE", "STAGED", "at", "describe", "live", "make_history", "run"]

LARGE = b"".join(b"line %6d\n" % line for line in range(50_000))
STAGED = bytes(range(256)) * 2048
_PRODUCERS = ("p", "q", "producteur-é")
_WHOLE_BYTES_MAX = 2048


def at(second: int) -> Instant:
    """A moment of the history."""
    return Instant(1_700_000_000_000 + 1000 * second, 1_000_000 + 1000 * second)


async def run(store: Store, second: int, *commands: Command) -> None:
    """One transaction, in which nothing is refused."""
    refused = [each for each in await execute(store, *commands, now=at(second)) if isinstance(each, UnbrokenError)]
    assert not refused


def live(store: Store, path: str) -> StreamState:
    """The stream that is at a path."""
    state = store.state(path)
    assert state is not None
    return state


async def make_history(store: Store) -> None:
    """Streams of all sorts, in all states."""
    text = Create("/text", "text/plain; charset=utf-8", content=Content("für immer\n".encode()))
    await run(store, 0, text, create("/bytes"), create("/json", b'[{"a":1},"two"]', json=True))
    await run(store, 1, create("/a/deep/path", b"closed at once", closed=True), create("/empty"))
    for second in range(2, 8):  # several commit times to a chunk; one of them in the past
        data = b"%d\n" % second
        await run(
            store, second if second != 5 else 3, Append("/text", "text/plain", Content(data)), append("/bytes", data)
        )
    stamps = [ProducerStamp("p", 7, seq) for seq in range(3)]
    await run(store, 8, *(append("/bytes", b"p", producer=stamp) for stamp in stamps))
    await run(store, 9, append("/bytes", producer=ProducerStamp("producteur-é", 0, 0), data=b"q", stream_seq="0001"))
    await run(store, 10, append("/json", b"[[1,2],null]", json=True, stream_seq="b", producer=ProducerStamp("q", 0, 0)))
    await run(store, 11, create("/ttl", b"t", lifetime=Lifetime(ttl_s=86_400)))
    await run(store, 11, create("/until", b"u", lifetime=Lifetime(expires_at_ms=4_102_444_800_000)))
    await run(store, 12, create("/by-producer", b"b"))
    await run(store, 13, append("/by-producer", b"ye", close=True, producer=ProducerStamp("p", 1, 0)))
    await run(store, 14, create("/large", LARGE[:300_000]))
    await run(store, 15, append("/large", LARGE[300_000:]), append("/bytes", b"beside it"))
    await _make_forks(store)


async def _make_forks(store: Store) -> None:
    await run(store, 20, create("/source", b"0123456789"))
    await run(store, 21, fork("/fork", live(store, "/source"), 7, b"own"))
    await run(store, 22, append("/source", b"after"), fork("/json-fork", live(store, "/json"), data=b"[3]"))
    await run(store, 23, fork("/fork/deep", live(store, "/fork"), 8, b"deep"), append("/fork", b"!"))
    await run(store, 24, fork("/fork/deep/er", "/fork/deep", data=b"deeper"))
    await run(store, 25, Delete("/fork"))  # gone, and kept for its fork
    # A hold: deleted, and its source not released yet.
    await run(store, 26, fork("/held", "/source", data=b"held"), create("/passing", b"passing"))
    await run(store, 27, Delete("/held"), Delete("/passing"))
    await run(store, 28, create("/passing", b"another at the same path"))
    # One that was released.
    await run(store, 29, fork("/released", "/source"))
    number, source = live(store, "/released").number, live(store, "/source").number
    await run(store, 30, Delete("/released"))
    await run(store, 31, Release("/source", source, number))


async def describe(store: Store) -> dict[str, Any]:
    """All there is in a store, as JSON can hold it."""
    view = StagedTransaction(store)  # type: ignore[arg-type]
    streams = {}
    for state in store.states("/", "", 1000):
        data = await read_stream(store, state)
        ends = [end for _, end in state.lineage] + [state.tail]
        positions = sorted({0, *ends, *(end - 1 for end in ends if end)})
        times = {
            second: await store.find_time(state.number, state.tail, at(second).wall_ms) for second in range(0, 34, 3)
        }
        streams[state.path] = {
            "state": msgspec.to_builtins(state),
            "data": data.decode("latin-1") if len(data) <= _WHOLE_BYTES_MAX else hashlib.sha256(data).hexdigest(),
            "offsets": [str(offset_at(state, position)) for position in positions],
            "before_second": {str(second): position for second, position in times.items()},
            "producers": {
                name: list(known) for name in _PRODUCERS if (known := view.producer(state.number, name)) is not None
            },
        }
    holds = sorted([list(hold) for hold in store.holds(1000)])
    due = {kind: sorted({*store.due(kind, (0, 0), 2**53, 100)}) for kind in ("ttl_s", "expires_at_ms")}
    found = {"streams": streams, "holds": holds, "due": due, "next_number": view.next_number()}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return plain
