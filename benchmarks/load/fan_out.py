"""One writer, many SSE readers; or many of both, each reader with a writer of its own."""

from __future__ import annotations

import re

import msgspec

from benchmarks.load.base import MARK_BYTES, Connection, Meter, Observed, Selector, Target, clock, post_head

__all__ = ["ChatsLoad", "FanOutLoad", "chats", "fan_out"]

_MARK = re.compile(rb"<(\d{14})>")
_EVENTS_BYTES = 65_536


class FanOutLoad(msgspec.Struct, tag="fan-out"):
    """One writer, many SSE readers of the same stream.

    Args:
        target: see there.
        path: the stream.
        readers: how many.
        size_bytes: of each append.
        wait: send the next append only when all readers have received the last; else when it was acknowledged.
    """

    target: Target
    path: str
    readers: int
    size_bytes: int
    wait: bool


class ChatsLoad(msgspec.Struct, tag="chats"):
    """Conversations: to each stream one writer appends, and one SSE reader follows it. The next append comes when the
    last was acknowledged and received.

    Args:
        target: see there.
        paths: the streams.
        size_bytes: of each append.
    """

    target: Target
    paths: list[str]
    size_bytes: int


class _Round:
    """The append that is under way: who has not seen it yet."""

    def __init__(self, meter: Meter, load: FanOutLoad) -> None:
        self.meter = meter
        self.wait = load.wait
        self.size_bytes = load.size_bytes
        self.readers = load.readers
        self.number = 0
        self.missing = 0
        self.sent_s = 0.0
        self.writer: _Writer | None = None

    def begin(self) -> int:
        """Begin with the next append.

        Returns:
            Its number.
        """
        self.sent_s = clock()
        self.missing += self.readers
        self.number += 1
        return self.number - 1

    def received(self, events: int) -> None:
        """A reader got so many events."""
        meter = self.meter
        meter.operations += events
        meter.payload_bytes += events * self.size_bytes
        self.missing -= events
        if not self.missing:
            meter.latencies.append(clock() - self.sent_s)
            self.go_on()

    def go_on(self) -> None:
        """Send the next append, if it is time."""
        writer = self.writer
        assert writer is not None
        if not (self.meter.stopping or writer.waiting or (self.wait and self.missing)):
            writer.start()


class _Writer(Connection):
    """Sends appends."""

    def __init__(self, load: FanOutLoad, current: _Round) -> None:
        super().__init__(load.target.port)
        self.waiting = False
        self._head = post_head(load.path, load.size_bytes)
        self._filler = b"." * (load.size_bytes - MARK_BYTES)
        self._round = current

    @property
    def idle(self) -> bool:
        return not self.waiting

    def start(self) -> None:
        self.waiting = True
        self.socket.sendall(self._head + b"<%014d>" % self._round.begin() + self._filler)

    def on_ready(self) -> None:
        answer = self.receive(4096)
        if not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")):
            raise RuntimeError(f"an append was answered with {answer!r}")
        self.waiting = False
        self._round.go_on()


class _SseReader(Connection):
    """Reads events, and checks that none is missing, doubled or out of order."""

    def __init__(self, load: FanOutLoad, current: _Round) -> None:
        super().__init__(load.target.port)
        self._path = load.path
        self._round = current
        self._buffer = memoryview(bytearray(_EVENTS_BYTES))
        self._rest = b""
        self._next = 0

    @property
    def idle(self) -> bool:
        return self._next == self._round.number

    def start(self) -> None:
        """Connect, and return when the reader stands at the tail."""
        self.socket.sendall(b"GET %b?offset=now&live=sse HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % self._path.encode())
        while b"event: control" not in self._rest or not self._rest.endswith((b"\n\n", b"\n\n\r\n")):
            self._rest += self.receive(_EVENTS_BYTES)
        self._rest = b""

    def on_ready(self) -> None:
        size_bytes = self.socket.recv_into(self._buffer)
        if not size_bytes:
            raise RuntimeError("the server closed a connection")
        data = self._rest + bytes(self._buffer[:size_bytes])
        self._rest = b""
        events, end = 0, 0
        for match in _MARK.finditer(data):
            if int(match[1]) != self._next:
                raise RuntimeError(f"event {int(match[1])} came where {self._next} was expected")
            self._next += 1
            events, end = events + 1, match.end()
        # A mark may have been cut in two.
        start = data.rfind(b"<", max(end, len(data) - MARK_BYTES + 1))
        if start >= 0:
            self._rest = data[start:]
        if events:
            self._round.received(events)


def fan_out(load: FanOutLoad) -> Observed:
    """See `FanOutLoad`."""
    meter = Meter(load.target)
    current = _Round(meter, load)
    readers = [_SseReader(load, current) for _ in range(load.readers)]
    for reader in readers:
        reader.start()
    writer = current.writer = _Writer(load, current)
    selector = Selector([writer, *readers])
    writer.start()
    observed = meter.observe(selector)
    observed.acknowledged = [current.number]
    return observed


def chats(load: ChatsLoad) -> Observed:
    """See `ChatsLoad`."""
    meter = Meter(load.target)
    rounds: list[_Round] = []
    writers: list[_Writer] = []
    readers: list[_SseReader] = []
    for path in load.paths:
        alone = FanOutLoad(load.target, path, 1, load.size_bytes, wait=True)
        current = _Round(meter, alone)
        reader = _SseReader(alone, current)
        reader.start()
        current.writer = _Writer(alone, current)
        rounds.append(current)
        writers.append(current.writer)
        readers.append(reader)
    selector = Selector([*writers, *readers])
    for writer in writers:
        writer.start()
    observed = meter.observe(selector)
    observed.acknowledged = [current.number for current in rounds]
    return observed
