"""An event loop without threads: what is given to an executor is done at once, in the loop's own thread.

So a store runs the same way each time, operation by operation, and a crash or a fault can be placed at any of them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

from unbroken.store.sqlite import reading, store

__all__ = ["finish", "run_inline"]

T = TypeVar("T")


class _InlineLoop(asyncio.SelectorEventLoop):
    turns = 0

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        self._run_after(self.turns, done, functools.partial(func, *args))
        return done

    def _run_after(self, turns: int, done: asyncio.Future[Any], act: Callable[[], Any]) -> None:
        if turns:
            self.call_soon(self._run_after, turns - 1, done, act)
            return
        try:
            result = act()
        except Exception as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)


class _InlineWorker:
    """In place of a `Worker`."""

    def __init__(self, name: str, threads: int = 1) -> None:
        pass

    def run(self, act: Callable[[], object]) -> asyncio.Future[object]:
        return asyncio.get_running_loop().run_in_executor(None, act)

    def close(self) -> None:
        pass


def run_inline(coroutine: Coroutine[Any, Any, T], *, turns: int = 0) -> T:
    """Run a coroutine to its end.

    Args:
        coroutine: what to run.
        turns: so many turns of the loop come before anything that an executor is to do: what is ready then runs.
    """
    workers = patch.object(store, "Worker", _InlineWorker), patch.object(reading, "Worker", _InlineWorker)
    with workers[0], workers[1], asyncio.Runner(loop_factory=_InlineLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _InlineLoop)
        loop.turns = turns
        return runner.run(coroutine)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for, in the midst of whatever runs now."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("it had to wait")
