"""Small appends, and what else may go on at the same time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from benchmarks.load.base import (
    MARK_BYTES,
    Connection,
    Meter,
    Observed,
    Selector,
    Target,
    clock,
    post_head,
    put_head,
)
from benchmarks.load.requests import Requester, numbered

__all__ = ["AppendLoad", "Bodies", "Deletes", "append"]

_SLICE_BYTES = 128 * 1024
"""So little at a time that sending a large body does not hold up the appends beside it in this process."""


class Bodies(msgspec.Struct, tag="bodies"):
    """Large bodies, one after the other, as long as there is time.

    Args:
        path: of the stream that they are appended to, or, before a number, of streams that are created with them.
        size_bytes: of each.
        count: how many at most.
        first: number of the first stream to be created; None if they are appended.
    """

    path: str
    size_bytes: int
    count: int
    first: int | None = None


class Deletes(msgspec.Struct, tag="deletes"):
    """Streams deleted in the order of their numbers, as long as there is time.

    Args:
        prefix: of the streams' paths, before the number.
        first: the first stream's number.
        count: how many streams at most.
        connections: over how many connections.
    """

    prefix: str
    first: int
    count: int
    connections: int


class AppendLoad(msgspec.Struct, tag="append"):
    """Appends: each connection sends the next one when the last was acknowledged.

    Every body begins with the connection's number and the count of its appends, 8 digits each, so that what was
    acknowledged can be told from what is there. All streams get their turn before one gets the next append, in an
    order that is not that of their creation.

    Args:
        target: see there.
        paths: streams to append to.
        connections: how many.
        size_bytes: of each body, at least ``MARK_BYTES``.
        first_index: number of the first connection; connections of other runs on these streams have other numbers.
        beside: what else is to be done at the same time, over connections of its own.
    """

    target: Target
    paths: list[str]
    connections: int
    size_bytes: int
    first_index: int = 0
    beside: Bodies | Deletes | None = None


class _Appender(Connection):
    """Appends to streams in turn.

    Args:
        meter: what counts.
        load: see there.
        index: number of this connection.
        heads: of the requests, one for each stream.
    """

    def __init__(self, meter: Meter, load: AppendLoad, index: int, heads: Sequence[bytes]) -> None:
        super().__init__(load.target.port)
        self.sent = 0
        self.acknowledged = 0
        self._meter = meter
        self._heads = heads
        self._filler = b"." * (load.size_bytes - MARK_BYTES)
        self._index = index
        self._connections = load.connections
        self._size_bytes = load.size_bytes
        self._sent_s = 0.0

    @property
    def idle(self) -> bool:
        return self.acknowledged == self.sent

    def start(self) -> None:
        head = self._heads[(self._index + self.sent * self._connections) % len(self._heads)]
        mark = b"%08d%08d" % (self._index, self.sent)
        self.sent += 1
        self._sent_s = clock()
        self.socket.sendall(head + mark + self._filler)

    def on_ready(self) -> None:
        answer = self.receive(4096)
        if not (answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")) and answer.endswith(b"\r\n\r\n")):
            raise RuntimeError(f"an append was answered with {answer!r}")
        meter = self._meter
        self.acknowledged += 1
        meter.operations += 1
        meter.payload_bytes += self._size_bytes
        meter.latencies.append(clock() - self._sent_s)
        if not meter.stopping:
            self.start()


class _BodySender(Connection):
    """Sends large bodies, as fast as they are taken."""

    def __init__(self, meter: Meter, port: int, bodies: Bodies) -> None:
        super().__init__(port)
        self.done = 0
        self._meter = meter
        self._bodies = bodies
        self._body = memoryview(b"." * bodies.size_bytes)
        self._rest = self._next = self._body[:0]
        self._waiting = False

    @property
    def idle(self) -> bool:
        return not self._waiting

    def start(self) -> None:
        self._waiting = True
        path, size_bytes, first = self._bodies.path, self._bodies.size_bytes, self._bodies.first
        head = post_head(path, size_bytes) if first is None else put_head(f"{path}{first + self.done}", size_bytes)
        self._rest, self._next = memoryview(head), self._body
        self.wait_for_room(wait=True)

    def on_ready(self) -> None:
        if self._rest:
            self._rest = self._rest[self.socket.send(self._rest[:_SLICE_BYTES]) :]
            if not self._rest:
                self._rest, self._next = self._next, self._body[:0]
            if not self._rest:
                self.wait_for_room(wait=False)
            return
        answer = self.receive(4096)
        if not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise RuntimeError(f"a large body was answered with {answer!r}")
        self._waiting = False
        self.done += 1
        if self.done < self._bodies.count and not self._meter.stopping:
            self.start()


class _Deleter(Requester):
    """Deletes streams, which are there."""

    def request(self, number: int) -> bytes:
        return b"DELETE %b%d HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % (self.prefix, number)

    def answered(self, number: int, answer: bytes, _body: bytes) -> None:
        if not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")):
            raise RuntimeError(f"deleting stream {number} was answered with {answer!r}")


def append(load: AppendLoad) -> Observed:
    """See `AppendLoad`."""
    meter = Meter(load.target)
    heads = [post_head(path, load.size_bytes) for path in load.paths]
    random.Random(load.first_index).shuffle(heads)
    appenders = [
        _Appender(meter, load, index, heads) for index in range(load.first_index, load.first_index + load.connections)
    ]
    others = _others(meter, load)
    selector = Selector([*appenders, *others])
    for connection in selector.connections:
        connection.start()
    observed = meter.observe(selector)
    observed.acknowledged = [appender.acknowledged for appender in appenders]
    observed.beside = sum(other.done for other in others)
    return observed


def _others(meter: Meter, load: AppendLoad) -> Sequence[_BodySender | _Deleter]:
    beside = load.beside
    if isinstance(beside, Bodies):
        return [_BodySender(meter, load.target.port, beside)]
    if isinstance(beside, Deletes):
        numbers = numbered(beside.first, beside.count)
        return [_Deleter(meter, load.target.port, beside.prefix, numbers) for _ in range(beside.connections)]
    return []
