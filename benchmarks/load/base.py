"""What all loads share: where they go, how they are counted, and connections that wait for each other.

Requests are put together from prepared bytes, and of the answers only what is needed is looked at. In the end no new
request is sent, and those under way are waited for.
"""

from __future__ import annotations

import select
import socket
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence

import msgspec

from benchmarks.processes import usage

__all__ = [
    "MARK_BYTES",
    "Connection",
    "Meter",
    "Observed",
    "Selector",
    "Target",
    "clock",
    "post_head",
    "put_head",
    "quantile_ms",
]

MARK_BYTES = 16
_DRAIN_S = 60.0
_CONNECT_S = 10.0
_ACCEPT_S = 0.001

clock = time.perf_counter


class Target(msgspec.Struct):
    """Where the load goes, and for how long.

    Args:
        port: of the server, on the loopback interface.
        pid: of the server process, to see what it uses.
        cpu: the core that it runs on.
        warmup_s: seconds before anything is counted. Reads have none.
        duration_s: seconds that are counted. Reads are counted to the end of the last answer; what has a given number
            of requests ends with the last of them and fails if that takes longer than this.
    """

    port: int
    pid: int
    cpu: int
    warmup_s: float
    duration_s: float


class Observed(msgspec.Struct, kw_only=True):
    """What the generator saw.

    Args:
        seconds: length of the run without the warm-up.
        operations: appends acknowledged, answers read, or events received by readers, in this time.
        payload_bytes: the same in bytes.
        latencies_ms: of appends, answers, or from sending an append to its receipt by the last reader: sorted.
        longest_ms: the greatest latency, also of appends that were under way at the end of this time.
        server_cpu_s: what the server's threads used in this time.
        server_written_bytes: what the server had written to disk in this time.
        others_s: time that something else than the server kept the server's core busy.
        load_cpu: share of its core that the generator used; near 1 means that it was the limit.
        acknowledged: appends of each connection, or streams created, from the very beginning of the warm-up to the
            last answer.
        beside: what was done beside the appends in the same time: bodies acknowledged or streams deleted.
        wrong: what is not as it must be; the first of it.
    """

    seconds: float
    operations: int
    payload_bytes: int
    latencies_ms: list[float]
    longest_ms: float
    server_cpu_s: float
    server_written_bytes: int
    others_s: float
    load_cpu: float
    acknowledged: list[int]
    beside: int = 0
    wrong: list[str] = []


def quantile_ms(sorted_ms: Sequence[float], share: float) -> float | None:
    """The value that this share of the values does not exceed; None where there is none."""
    return sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))] if sorted_ms else None


class Meter:
    """Counts during the run; connections tell it what happened."""

    def __init__(self, target: Target) -> None:
        self.operations = 0
        self.payload_bytes = 0
        self.latencies = array("d")
        self.stopping = False
        self._target = target

    def observe(self, selector: Selector) -> Observed:
        """Warm up, measure for the given time, and wait for what is under way, which is not counted."""
        selector.run(clock() + self._target.warmup_s)
        self._begin()
        selector.run(clock() + self._target.duration_s)
        self._end()
        self._drain(selector)
        return self._observed()

    def observe_whole(self, selector: Selector) -> Observed:
        """Measure from the first request to the last answer: for answers that take long."""
        self._begin()
        selector.run(clock() + self._target.duration_s)
        self._drain(selector)
        self._end()
        return self._observed()

    def observe_all(self, selector: Selector) -> Observed:
        """Measure until there is nothing left to do, at most for the given time.

        Raises:
            RuntimeError: it took longer.
        """
        self._begin()
        selector.run(clock() + self._target.duration_s, until_idle=True)
        self._end()
        return self._observed()

    def _begin(self) -> None:
        self.operations = self.payload_bytes = 0
        self.latencies = array("d")
        self._used = usage(self._target.pid, self._target.cpu)
        self._own_cpu_s = time.process_time()
        self._start_s = clock()

    def _end(self) -> None:
        """Take note of where everything stands, and nothing more: answers may be waiting, and their latency grows."""
        self._seconds = clock() - self._start_s
        self._own_cpu_s = time.process_time() - self._own_cpu_s
        self._used = usage(self._target.pid, self._target.cpu).since(self._used)
        self._counted = self.operations, self.payload_bytes, len(self.latencies)

    def _observed(self) -> Observed:
        operations, payload_bytes, latencies = self._counted
        return Observed(
            seconds=self._seconds,
            operations=operations,
            payload_bytes=payload_bytes,
            latencies_ms=[round(1000 * latency, 4) for latency in sorted(self.latencies[:latencies])],
            longest_ms=1000 * max(self.latencies, default=0.0),
            server_cpu_s=self._used.cpu_s,
            server_written_bytes=self._used.written_bytes,
            others_s=max(0.0, self._used.core_busy_s - self._used.cpu_s),
            load_cpu=self._own_cpu_s / self._seconds,
            acknowledged=[],
        )

    def _drain(self, selector: Selector) -> None:
        self.stopping = True
        selector.run(clock() + _DRAIN_S, until_idle=True)


class Connection(ABC):
    """One connection, with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _CONNECT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll: select.epoll | None = None

    @abstractmethod
    def start(self) -> None:
        """Send the first request."""

    @abstractmethod
    def on_ready(self) -> None:
        """Something has arrived, or, if that is waited for, more can be sent."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing more is expected."""

    def wait_for_room(self, *, wait: bool) -> None:
        """Whether `on_ready` is to be called when more can be sent, too."""
        assert self.poll is not None
        self.poll.modify(self.socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if wait else 0))

    def receive(self, size_bytes: int) -> bytes:
        """What has arrived."""
        data = self.socket.recv(size_bytes)
        if not data:
            raise RuntimeError("the server closed a connection")
        return data


class Selector:
    """Runs connections until a moment.

    It gives the server time to accept all of them before the first request is sent: uvloop accepts one for each turn of
    its loop, so that some of 512 would wait for half a second while others keep it busy.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        time.sleep(_ACCEPT_S * len(connections))
        self.connections = connections
        self._epoll = select.epoll()
        for connection in connections:
            connection.poll = self._epoll
        self._by_descriptor = {connection.socket.fileno(): connection.on_ready for connection in connections}
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


def post_head(path: str, size_bytes: int) -> bytes:
    """What comes before the body of an append."""
    return _head("POST", path, size_bytes)


def put_head(path: str, size_bytes: int) -> bytes:
    """What comes before the first bytes of a stream that is created with some."""
    return _head("PUT", path, size_bytes)


def _head(method: str, path: str, size_bytes: int) -> bytes:
    fields = f"host: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-length: {size_bytes}\r\n\r\n"
    return f"{method} {path} HTTP/1.1\r\n{fields}".encode()
