"""What waiting is in the synchronous client. The other one has a module of the same name, written by hand."""

from __future__ import annotations

import inspect
import math
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import httpx2

from unbroken.client.reading import Silence

__all__ = [
    "Lock",
    "Ticket",
    "Waiters",
    "Worker",
    "call",
    "chunks_of",
    "end",
    "limit",
    "next_chunk",
    "resolve",
    "sleep",
    "unlimit",
]

Lock = threading.Lock
"""Keeps others out of a block."""


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def resolve(source: Any) -> Any:
    """A value, or what a function returns.

    Raises:
        TypeError: it is a coroutine function.
    """
    value = source() if callable(source) else source
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError("a coroutine function is for AsyncClient")
    return value


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that may wait for a disk."""
    return function(*args)


@contextmanager
def limit(_seconds: float) -> Iterator[None]:
    """A block that may take so long. Here it is the requests in it that have a limit."""
    yield


def chunks_of(response: httpx2.Response) -> Generator[bytes]:
    """The body of an answer as it comes."""
    return cast(Generator[bytes], response.iter_bytes())


def unlimit(response: httpx2.Response) -> None:
    """Reading this answer's body has no limit of its own any more: `next_chunk` has one each time.

    Where there is no socket to put a limit on, as with a transport of somebody's own, there is one that does not
    change.
    """
    response.request.extensions["timeout"]["read"] = None if _socket(response) else Silence.UNKNOWN_S


def next_chunk(chunks: Generator[bytes], response: httpx2.Response, limit_s: float) -> bytes | None:
    """The next piece of the body of an answer, None at its end.

    Raises:
        TimeoutError: nothing came in this many seconds.
    """
    began_s = time.monotonic()
    if sock := _socket(response):
        # The limit of an HTTP client holds for the whole answer; that of a blocking socket for each time it is read.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(limit_s))
    try:
        return next(chunks, None)
    except (httpx2.ReadError, httpx2.ReadTimeout) as error:
        if time.monotonic() - began_s >= 0.95 * limit_s:
            raise TimeoutError from error
        raise


def _socket(response: httpx2.Response) -> socket.socket | None:
    stream = response.extensions.get("network_stream")
    sock = None if stream is None else stream.get_extra_info("socket")
    return sock if hasattr(sock, "setsockopt") else None


def _timeval(limit_s: float) -> bytes:
    """As `setsockopt` wants it. Zero is for ever, so it is a little more."""
    limit_ms = 0 if math.isinf(limit_s) else max(1, int(limit_s * 1000))
    if sys.platform == "win32":
        return struct.pack("L", limit_ms)
    return struct.pack("@ll", limit_ms // 1000, limit_ms % 1000 * 1000)


class Waiters:
    """Those who wait for something to happen. To be used with the lock held."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    def ticket(self) -> Ticket:
        """Be woken by the next notification. Wait for it without the lock."""
        ticket = Ticket(self._tickets)
        self._tickets.append(ticket)
        return ticket

    def notify(self) -> None:
        """Wake the one that has waited longest."""
        with suppress(IndexError):
            self._tickets.popleft().wake()

    def notify_all(self) -> None:
        """Wake all."""
        with suppress(IndexError):
            while True:
                self._tickets.popleft().wake()


class Ticket:
    """A place among those who wait."""

    def __init__(self, tickets: deque[Ticket]) -> None:
        self._tickets = tickets
        self._woken = threading.Event()

    def wake(self) -> None:
        """End its waiting."""
        self._woken.set()

    def wait(self, limit_s: float | None = None) -> None:
        """Wait until it is woken, or for so many seconds."""
        try:
            self._woken.wait(limit_s)
        finally:
            with suppress(ValueError):
                self._tickets.remove(self)


class Worker:
    """Something that runs beside the caller, in a thread."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=run, name="unbroken-producer", daemon=True)
        self.thread.start()


def end(workers: list[Worker]) -> None:
    """Wait until workers have stopped, which they have been told to do."""
    for worker in workers:
        worker.thread.join()
