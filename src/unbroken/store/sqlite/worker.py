"""Threads that do one thing after another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Any]]


class Worker:
    """What an executor does, at half its cost: every commit passes through one, and every page that is read.

    Args:
        name: of the threads.
        threads: how many.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def run(self, act: Callable[[], T]) -> asyncio.Future[T]:
        """Do something in a thread.

        Returns:
            A future of its result, or of its exception if there was one.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((act, loop, done))
        return done

    def close(self) -> None:
        """End the threads, after all that is to be done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            act, loop, done = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = act()
            except BaseException as raised:  # whatever it is, somebody waits for it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, done, result, error)
            del act, loop, done, result, error, job


def _resolve(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
