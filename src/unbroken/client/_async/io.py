"""What waiting is in the asynchronous client. The other one has a module of the same name, written by hand."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2

__all__ = ["call", "limit", "next_chunk", "resolve", "sleep", "unlimit"]


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
