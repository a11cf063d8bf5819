"""What waiting is in the asynchronous client. The other one has a module of the same name, written by hand."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import httpx2

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


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def resolve(source: Any) -> Any:
    """A value, or what a function, or a coroutine function, returns."""
    value = source() if callable(source) else source
    return await value if inspect.isawaitable(value) else value


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that may wait for a disk: a coroutine function as it is, any other in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await asyncio.to_thread(function, *args)


def limit(seconds: float) -> asyncio.Timeout:
    """A block that may take so long: TimeoutError after that. Infinity is for ever."""
    return asyncio.timeout(None if math.isinf(seconds) else seconds)


def chunks_of(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """The body of an answer as it comes."""
    return response.aiter_bytes()


def unlimit(response: httpx2.Response) -> None:
    """Reading this answer's body has no limit of its own any more: `next_chunk` has one each time."""
    response.request.extensions["timeout"]["read"] = None


async def next_chunk(chunks: AsyncGenerator[bytes], response: httpx2.Response, limit_s: float) -> bytes | None:
    """The next piece of the body of an answer, None at its end.

    Raises:
        TimeoutError: nothing came in this many seconds.
    """
    async with limit(limit_s):
        return await anext(chunks, None)


class Lock:
    """Keeps others out of a block. In one event loop nobody else runs in a block that does not wait."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


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
        if self._tickets:
            self._tickets.popleft().wake()

    def notify_all(self) -> None:
        """Wake all."""
        while self._tickets:
            self._tickets.popleft().wake()


class Ticket:
    """A place among those who wait."""

    def __init__(self, tickets: deque[Ticket]) -> None:
        self._tickets = tickets
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """End its waiting."""
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, limit_s: float | None = None) -> None:
        """Wait until it is woken, or for so many seconds."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._woken
        finally:
            with suppress(ValueError):
                self._tickets.remove(self)


class Worker:
    """Something that runs beside the caller."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.task = asyncio.create_task(run(), name="unbroken-producer")


async def end(workers: list[Worker]) -> None:
    """Stop workers at once, and wait until they have."""
    for worker in workers:
        worker.task.cancel()
    await asyncio.gather(*(worker.task for worker in workers), return_exceptions=True)
