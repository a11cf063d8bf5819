"""The load generator: one process, one thread, plain sockets and epoll, so that the server is what is measured.

Run as a process: a `Load` in, `Observed` out, both as JSON. Requests are put together from prepared bytes, and of the
answers only what is needed is looked at. In the end no new request is sent, and those under way are waited for.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import sys
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence

import msgspec

from benchmarks.processes import usage

__all__ = ["MARK_BYTES", "AppendLoad", "FanOutLoad", "Load", "Observed", "ReadLoad", "quantile_ms"]

MARK_BYTES = 16
_DRAIN_S = 60.0
_CONNECT_S = 10.0

clock = time.perf_counter


class Target(msgspec.Struct):
    """Where the load goes, and for how long.

    Args:
        port: of the server, on the loopback interface.
        pid: of the server process, to see what it uses.
        cpu: the core that it runs on.
        warmup_s: seconds before anything is counted. Reads have none.
        duration_s: seconds that are counted. Reads are counted to the end of the last answer.
    """

    port: int
    pid: int
    cpu: int
    warmup_s: float
    duration_s: float


class AppendLoad(msgspec.Struct, tag="append"):
    """Appends: each connection sends the next one when the last was acknowledged.

    Every body begins with the connection's number and the count of its appends, 8 digits each, so that what was
    acknowledged can be told from what is there.

    Args:
        target: see there.
        paths: streams, appended to in turn; each connection begins with another one.
        connections: how many.
        size_bytes: of each body, at least ``MARK_BYTES``.
        first_index: number of the first connection; connections of other runs on these streams have other numbers.
    """

    target: Target
    paths: list[str]
    connections: int
    size_bytes: int
    first_index: int = 0


class ReadLoad(msgspec.Struct, tag="read"):
    """Catch-up reads: each connection reads the stream from its beginning to its tail, again and again."""

    target: Target
    path: str
    connections: int


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


Load = AppendLoad | ReadLoad | FanOutLoad


class Observed(msgspec.Struct, kw_only=True):
    """What the generator saw.

    Args:
        seconds: length of the run without the warm-up.
        operations: appends acknowledged, answers read, or events received by readers, in this time.
        payload_bytes: the same in bytes.
        latencies_ms: of appends, answers, or from sending an append to its receipt by the last reader: sorted.
        server_cpu_s: what the server's threads used in this time.
        server_written_bytes: what the server had written to disk in this time.
        others_s: time that something else than the server kept the server's core busy.
        load_cpu: share of its core that the generator used; near 1 means that it was the limit.
        acknowledged: appends of each connection, from the very beginning of the warm-up to the last answer.
    """

    seconds: float
    operations: int
    payload_bytes: int
    latencies_ms: list[float]
    server_cpu_s: float
    server_written_bytes: int
    others_s: float
    load_cpu: float
    acknowledged: list[int]


def quantile_ms(sorted_ms: Sequence[float], share: float) -> float | None:
    """The value that this share of the values does not exceed; None where there is none."""
    return sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))] if sorted_ms else None


class _Meter:
    """Counts during the run; connections tell it what happened."""

    def __init__(self, target: Target) -> None:
        self.operations = 0
        self.payload_bytes = 0
        self.latencies = array("d")
        self.stopping = False
        self._target = target

    def observe(self, selector: _Selector) -> Observed:
        """Warm up, measure for the given time, and wait for what is under way, which is not counted."""
        selector.run(clock() + self._target.warmup_s)
        self._begin()
        selector.run(clock() + self._target.duration_s)
        observed = self._end()
        self._drain(selector)
        return observed

    def observe_whole(self, selector: _Selector) -> Observed:
        """Measure from the first request to the last answer: for answers that take long."""
        self._begin()
        selector.run(clock() + self._target.duration_s)
        self._drain(selector)
        return self._end()

    def _begin(self) -> None:
        self.operations = self.payload_bytes = 0
        self.latencies = array("d")
        self._used = usage(self._target.pid, self._target.cpu)
        self._own_cpu_s = time.process_time()
        self._start_s = clock()

    def _end(self) -> Observed:
        seconds = clock() - self._start_s
        own_cpu_s = time.process_time() - self._own_cpu_s
        used = usage(self._target.pid, self._target.cpu).since(self._used)
        return Observed(
            seconds=seconds,
            operations=self.operations,
            payload_bytes=self.payload_bytes,
            latencies_ms=[round(1000 * latency, 4) for latency in sorted(self.latencies)],
            server_cpu_s=used.cpu_s,
            server_written_bytes=used.written_bytes,
            others_s=max(0.0, used.core_busy_s - used.cpu_s),
            load_cpu=own_cpu_s / seconds,
            acknowledged=[],
        )

    def _drain(self, selector: _Selector) -> None:
        self.stopping = True
        selector.run(clock() + _DRAIN_S, until_idle=True)


class _Connection(ABC):
    """One connection, with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _CONNECT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @abstractmethod
    def start(self) -> None:
        """Send the first request."""

    @abstractmethod
    def on_readable(self) -> None:
        """Something has arrived."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing more is expected."""

    def receive(self, size_bytes: int) -> bytes:
        """What has arrived."""
        data = self.socket.recv(size_bytes)
        if not data:
            raise RuntimeError("the server closed a connection")
        return data


class _Selector:
    """Runs connections until a moment."""

    def __init__(self, connections: Sequence[_Connection]) -> None:
        self.connections = connections
        self._epoll = select.epoll()
        self._by_descriptor = {connection.socket.fileno(): connection.on_readable for connection in connections}
        for descriptor in self._by_descriptor:
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self, end_s: float, *, until_idle: bool = False) -> None:
        """Let connections work until ``end_s``, or until none expects anything.

        Raises:
            RuntimeError: they were to become idle and did not.
        """
        poll, by_descriptor = self._epoll.poll, self._by_descriptor
        while (left_s := end_s - clock()) > 0:
            if until_idle and all(connection.idle for connection in self.connections):
                return
            for descriptor, _ in poll(min(left_s, 0.05)):
                by_descriptor[descriptor]()
        if until_idle:
            raise RuntimeError("answers are missing")


# --- appends -----------------------------------------------------------------------------------------------------


def _post_head(path: str, size_bytes: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-length: {size_bytes}\r\n\r\n"
    ).encode()


class _Appender(_Connection):
    """Appends to streams in turn."""

    def __init__(self, meter: _Meter, load: AppendLoad, index: int) -> None:
        super().__init__(load.target.port)
        self.sent = 0
        self.acknowledged = 0
        self._meter = meter
        self._heads = [_post_head(path, load.size_bytes) for path in load.paths]
        self._filler = b"." * (load.size_bytes - MARK_BYTES)
        self._index = index
        self._size_bytes = load.size_bytes
        self._sent_s = 0.0

    @property
    def idle(self) -> bool:
        return self.acknowledged == self.sent

    def start(self) -> None:
        head = self._heads[(self._index + self.sent) % len(self._heads)]
        mark = b"%08d%08d" % (self._index, self.sent)
        self.sent += 1
        self._sent_s = clock()
        self.socket.sendall(head + mark + self._filler)

    def on_readable(self) -> None:
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


def append(load: AppendLoad) -> Observed:
    """See `AppendLoad`."""
    meter = _Meter(load.target)
    appenders = [
        _Appender(meter, load, index) for index in range(load.first_index, load.first_index + load.connections)
    ]
    selector = _Selector(appenders)
    for appender in appenders:
        appender.start()
    observed = meter.observe(selector)
    observed.acknowledged = [appender.acknowledged for appender in appenders]
    return observed


# --- catch-up reads ------------------------------------------------------------------------------------------------

_NEXT = re.compile(rb"\r\nstream-next-offset: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CAUGHT_UP = re.compile(rb"\r\nstream-up-to-date: *true", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_BUFFER_BYTES = 1024 * 1024


class _Reader(_Connection):
    """Reads a stream over and over, page by page.

    The bytes of an answer without a length are counted with their chunk headers; these are some bytes in a page.
    """

    def __init__(self, meter: _Meter, load: ReadLoad) -> None:
        super().__init__(load.target.port)
        self.idle_ = True
        self._meter = meter
        self._path = load.path
        self._offset = b"-1"
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._left_bytes = 0
        self._in_body = False
        self._sent_s = 0.0

    @property
    def idle(self) -> bool:
        return self.idle_

    def start(self) -> None:
        self.idle_, self._in_body = False, False
        self._sent_s = clock()
        self.socket.sendall(
            b"GET %b?offset=%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % (self._path.encode(), self._offset)
        )

    def on_readable(self) -> None:
        size_bytes = self.socket.recv_into(self._view)
        if not size_bytes:
            raise RuntimeError("the server closed a connection")
        if not self._in_body:
            size_bytes = self._take_head(size_bytes)
        self._meter.payload_bytes += size_bytes
        self._left_bytes -= size_bytes
        if self._left_bytes == 0 or (self._left_bytes < 0 and self._ends(size_bytes)):
            self._finish()

    def _take_head(self, size_bytes: int) -> int:
        """Look at the head of an answer, which comes in one piece, and move what follows it to the buffer's start."""
        end = self._buffer.find(b"\r\n\r\n", 0, size_bytes) + 4
        head = bytes(self._view[:end])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a read was answered with {bytes(self._view[:size_bytes])!r}")
        next_offset, length = _NEXT.search(head), _LENGTH.search(head)
        assert next_offset is not None
        self._offset = b"-1" if _CAUGHT_UP.search(head) else next_offset[1]
        self._left_bytes = int(length[1]) if length else -1
        self._in_body = True
        body_bytes = size_bytes - end
        self._view[:body_bytes] = bytes(self._view[end:size_bytes])
        return body_bytes

    def _ends(self, size_bytes: int) -> bool:
        """Whether the last chunk is there. Our streams do not contain what ends it."""
        return self._buffer.endswith(_LAST_CHUNK, max(0, size_bytes - len(_LAST_CHUNK)), size_bytes)

    def _finish(self) -> None:
        self._meter.operations += 1
        self._meter.latencies.append(clock() - self._sent_s)
        self.idle_ = True
        if not self._meter.stopping:
            self.start()


def read(load: ReadLoad) -> Observed:
    """See `ReadLoad`."""
    meter = _Meter(load.target)
    readers = [_Reader(meter, load) for _ in range(load.connections)]
    selector = _Selector(readers)
    for reader in readers:
        reader.start()
    return meter.observe_whole(selector)


# --- fan-out ---------------------------------------------------------------------------------------------------------

_MARK = re.compile(rb"<(\d{14})>")
_EVENTS_BYTES = 65_536


class _Round:
    """The append that is under way: who has not seen it yet."""

    def __init__(self, meter: _Meter, load: FanOutLoad) -> None:
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


class _Writer(_Connection):
    """Sends appends."""

    def __init__(self, load: FanOutLoad, current: _Round) -> None:
        super().__init__(load.target.port)
        self.waiting = False
        self._head = _post_head(load.path, load.size_bytes)
        self._filler = b"." * (load.size_bytes - MARK_BYTES)
        self._round = current

    @property
    def idle(self) -> bool:
        return not self.waiting

    def start(self) -> None:
        self.waiting = True
        self.socket.sendall(self._head + b"<%014d>" % self._round.begin() + self._filler)

    def on_readable(self) -> None:
        answer = self.receive(4096)
        if not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")):
            raise RuntimeError(f"an append was answered with {answer!r}")
        self.waiting = False
        self._round.go_on()


class _SseReader(_Connection):
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

    def on_readable(self) -> None:
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
    meter = _Meter(load.target)
    current = _Round(meter, load)
    readers = [_SseReader(load, current) for _ in range(load.readers)]
    for reader in readers:
        reader.start()
    writer = current.writer = _Writer(load, current)
    selector = _Selector([writer, *readers])
    writer.start()
    observed = meter.observe(selector)
    observed.acknowledged = [current.number]
    return observed


def generate(load: Load) -> Observed:
    """Generate a load."""
    if isinstance(load, AppendLoad):
        return append(load)
    return read(load) if isinstance(load, ReadLoad) else fan_out(load)


if __name__ == "__main__":
    gc.disable()
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(generate(given)))
