"""A thread that does one thing after another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Worker"]

_Job = tuple[Callable[[], object], asyncio.AbstractEventLoop, asyncio.Future[None]]


class Worker:
    """What an executor with one thread does, at half its cost: a commit passes through here.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, act: Callable[[], object]) -> asyncio.Future[None]:
        """Do something in the thread.

        Returns:
            A future that is resolved when it is done, with its exception if there was one.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._jobs.put((act, loop, done))
        return done

    def close(self) -> None:
        """End the thread, after what it is doing."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            act, loop, done = job
            error: BaseException | None = None
            try:
                act()
            except BaseException as raised:  # whatever it is, somebody waits for it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, done, error)
            del act, loop, done, error, job


def _resolve(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
