"""An async context manager for code that is not asynchronous: in a thread, with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


@contextmanager
def in_thread(make: Callable[[], AbstractAsyncContextManager[T]], name: str) -> Iterator[T]:
    """Enter an async context manager in a thread, and leave it when the block is left.

    Args:
        make: makes it; called in the thread.
        name: of the thread.

    Raises:
        BaseException: whatever kept it from being entered or left.
    """
    ready = threading.Event()
    running: list[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = []
    failure: list[BaseException] = []

    async def run() -> None:
        async with make() as value:
            stop = asyncio.Event()
            running.append((value, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    ready.wait()
    if not running:
        thread.join()
        raise failure[0]
    value, loop, stop = running[0]
    try:
        yield value
    finally:
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failure:
        raise failure[0]
