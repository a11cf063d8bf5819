"""Many small requests for streams that have numbers, over some connections: create them, look at them."""

from __future__ import annotations

import itertools
import re
from abc import abstractmethod
from collections.abc import Iterator

import msgspec

from benchmarks.load.base import MARK_BYTES, Connection, Meter, Observed, Selector, Target, clock

__all__ = ["CheckLoad", "CreateLoad", "Requester", "check", "create", "first_body", "numbered"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)\r\n")
_NO_BODY = b"HTTP/1.1 204"
_WRONG_MAX = 5


class CreateLoad(msgspec.Struct, tag="create"):
    """Streams created, each connection the next one when its last one is there.

    Args:
        target: see there.
        prefix: of the streams' paths, before the number.
        connections: how many.
        first: the first stream's number.
        count: how many; None for as many as there is time for.
        size_bytes: of the body that each is created with, see `first_body`.
    """

    target: Target
    prefix: str
    connections: int
    first: int
    count: int | None
    size_bytes: int = 0


class CheckLoad(msgspec.Struct, tag="check"):
    """Streams looked at: whether they hold what they were created with, and nothing else.

    Args:
        target: see there.
        prefix: of the streams' paths, before the number.
        connections: how many.
        numbers: of the streams.
        size_bytes: of the body that each was created with; None if they must be gone.
    """

    target: Target
    prefix: str
    connections: int
    numbers: list[int]
    size_bytes: int | None


def first_body(number: int, size_bytes: int) -> bytes:
    """The body that stream of this number is created with: its number and a filler, or nothing."""
    return (b"%016d" % number).ljust(size_bytes, b".") if size_bytes else b""


def numbered(first: int, count: int | None) -> Iterator[int]:
    """Numbers of streams, for connections that take them in turn."""
    return itertools.count(first) if count is None else iter(range(first, first + count))


class Requester(Connection):
    """Sends a request for the next number when the last one was answered."""

    receive_bytes = 4096

    def __init__(self, meter: Meter, port: int, prefix: str, numbers: Iterator[int]) -> None:
        super().__init__(port)
        self.prefix = prefix.encode()
        self.meter = meter
        self.done = 0
        self.sent_s = 0.0
        self._numbers = numbers
        self._number: int | None = None
        self._answer = b""

    @abstractmethod
    def request(self, number: int) -> bytes:
        """The request for a stream."""

    @abstractmethod
    def answered(self, number: int, answer: bytes, body: bytes) -> None:
        """An answer is complete."""

    @property
    def idle(self) -> bool:
        return self._number is None

    def start(self) -> None:
        number = self._number = None if self.meter.stopping else next(self._numbers, None)
        if number is not None:
            self.sent_s = clock()
            self.socket.sendall(self.request(number))

    def on_ready(self) -> None:
        self._answer += self.receive(self.receive_bytes)
        body = _body(self._answer)
        if body is None:
            return
        answer, self._answer = self._answer, b""
        assert self._number is not None
        self.answered(self._number, answer, body)
        self.done += 1
        self.start()


def _body(answer: bytes) -> bytes | None:
    """The body of an answer; None if it is not complete."""
    if answer.startswith(_NO_BODY) and answer.endswith(b"\r\n\r\n"):
        return b""
    head, gap, rest = answer.partition(b"\r\n\r\n")
    if not gap:
        return None
    if length := _LENGTH.search(head):
        return rest if len(rest) == int(length[1]) else None
    if not _CHUNKED.search(head):
        return b""
    if not rest.endswith(b"0\r\n\r\n"):
        return None
    body = b""
    while size := _CHUNK.match(rest):
        end = size.end() + int(size[1], 16)
        body, rest = body + rest[size.end() : end], rest[end + 2 :]
    return body


class _Creator(Requester):
    """Creates streams."""

    size_bytes = 0

    def request(self, number: int) -> bytes:
        return b"PUT %b%d HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (
            self.prefix,
            number,
            self.size_bytes,
            first_body(number, self.size_bytes),
        )

    def answered(self, number: int, answer: bytes, _body: bytes) -> None:
        if not answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 204")):
            raise RuntimeError(f"creating stream {number} was answered with {answer[:500]!r}")
        meter = self.meter
        meter.operations += 1
        meter.payload_bytes += self.size_bytes
        meter.latencies.append(clock() - self.sent_s)


def create(load: CreateLoad) -> Observed:
    """See `CreateLoad`."""
    assert not load.size_bytes or load.size_bytes >= MARK_BYTES
    meter = Meter(load.target)
    numbers = numbered(load.first, load.count)
    creators = [_Creator(meter, load.target.port, load.prefix, numbers) for _ in range(load.connections)]
    for creator in creators:
        creator.size_bytes = load.size_bytes
    selector = Selector(creators)
    for creator in creators:
        creator.start()
    observed = meter.observe(selector) if load.count is None else meter.observe_all(selector)
    observed.acknowledged = [creator.done for creator in creators]
    return observed


class _Checker(Requester):
    """Looks at streams."""

    receive_bytes = 64 * 1024
    size_bytes: int | None = 0
    wrong: list[str]

    def request(self, number: int) -> bytes:
        return b"GET %b%d?offset=-1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % (self.prefix, number)

    def answered(self, number: int, answer: bytes, body: bytes) -> None:
        self.meter.operations += 1
        self.meter.latencies.append(clock() - self.sent_s)
        if self.size_bytes is None:
            is_right = answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 410"))
        else:
            is_right = answer.startswith(b"HTTP/1.1 200") and body == first_body(number, self.size_bytes)
        if not is_right and len(self.wrong) < _WRONG_MAX:
            self.wrong.append(f"stream {number} is {answer[:300]!r}")


def check(load: CheckLoad) -> Observed:
    """See `CheckLoad`."""
    meter = Meter(load.target)
    numbers, wrong = iter(load.numbers), list[str]()
    checkers = [_Checker(meter, load.target.port, load.prefix, numbers) for _ in range(load.connections)]
    for checker in checkers:
        checker.size_bytes, checker.wrong = load.size_bytes, wrong
    selector = Selector(checkers)
    for checker in checkers:
        checker.start()
    observed = meter.observe_all(selector)
    observed.wrong = wrong
    return observed
