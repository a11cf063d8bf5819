"""The answers that run in this process: a table of them, and their tasks.

A path is in the table from before its stream is created until its run has let go of everything. So while the streams
are in this process too, an open stream whose path is not here has no writer.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

from unbroken.errors import Draining, Overloaded, UnbrokenError
from unbroken.web.backend import Backend
from unbroken.web.parts import INTERRUPTED, Begin, encode
from unbroken.web.run import Limits, Run
from unbroken.web.sources import Source

__all__ = ["Runs"]

_log = logging.getLogger("unbroken.web")
_CLEANUP_S = 10.0


class _Active:
    """A run in the table.

    Args:
        run: what writes the answer.
        path: of its stream.
        thread_path: of the stream of its thread.
    """

    def __init__(self, run: Run, path: str, thread_path: str | None) -> None:
        self.run = run
        self.path = path
        self.thread_path = thread_path
        self.started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        """Tell whoever still waits for the start that there is none."""
        if self.started.done():
            return
        told = error if isinstance(error, UnbrokenError) else RuntimeError("the answer could not be started")
        self.started.set_exception(told)
        self.started.exception()  # known, also if nobody waits any more


class Runs:
    """Starts answers, stops them, and ends them all when the process ends.

    Args:
        backend: where their streams are.
        limits: of each.
        keep_s: how long their streams are kept, in seconds; None for ever.
        max_running: how many there may be.
        grace_s: how long they may go on when the process ends, in seconds.
    """

    def __init__(
        self, backend: Backend, limits: Limits, *, keep_s: int | None, max_running: int, grace_s: float
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._keep_s = keep_s
        self._max_running = max_running
        self._grace_s = grace_s
        self._active: dict[str, _Active] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    def __contains__(self, path: str) -> bool:
        return path in self._active

    async def start(self, key: str, source: Source, path: str, thread_path: str | None) -> bool:
        """Start an answer, unless its stream is there.

        Args:
            key: of the answer.
            source: where it comes from.
            path: of its stream.
            thread_path: of the stream of the thread whose latest answer it becomes.

        Returns:
            Whether it was started by this call.

        Raises:
            Draining: this process is about to end.
            Overloaded: too many run.
            UnbrokenError: the stream could not be created.
        """
        if (active := self._active.get(path)) is not None:
            await asyncio.shield(active.started)
            return False
        if self.draining:
            raise Draining
        if len(self._active) >= self._max_running:
            raise Overloaded(f"{self._max_running} answers run already")
        self._active[path] = active = _Active(Run(key, source, self._limits), path, thread_path)
        # In a task of its own from here on, so that nothing is half begun if the request is cancelled.
        task = asyncio.create_task(self._run(active), name=f"unbroken-run {key}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(active.started)

    async def stop(self, path: str) -> bool | None:
        """Stop an answer that runs here.

        Returns:
            Whether it had not ended anyway; None if it does not run here.
        """
        active = self._active.get(path)
        if active is None or not await asyncio.shield(active.started):
            return None
        stopped = active.run.stop("cancelled")
        await active.run.finished.wait()
        return stopped

    async def wait(self, path: str) -> None:
        """Wait until an answer that runs here, if it does, is written as far as it will be."""
        if (active := self._active.get(path)) is not None:
            await active.run.finished.wait()

    async def drain(self) -> None:
        """Start no more, give those that run their grace time, and interrupt what still runs then."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace_s)
        for active in self._active.values():
            active.run.stop(INTERRUPTED.outcome, INTERRUPTED.error)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLEANUP_S)
            for task in late:
                _log.error("%s does not end", task.get_name())

    async def _run(self, active: _Active) -> None:
        run, token = active.run, uuid.uuid4().hex
        try:
            first = encode(Begin(run.key, token))
            if not await self._backend.create(active.path, first, ttl_s=self._keep_s):
                active.started.set_result(False)
                return
            await self._enter(active)
            await run.write(self._backend.writer(active.path))
        except BaseException as error:
            active.fail(error)
            if not isinstance(error, UnbrokenError):
                raise
            _log.warning("the answer %s cannot be started: %s", run.key, error)
        finally:
            del self._active[active.path]

    async def _enter(self, active: _Active) -> None:
        """Make the answer its thread's latest. If that fails, it is not begun."""
        run = active.run
        try:
            if active.thread_path is not None:
                await self._backend.append(
                    active.thread_path, encode({"type": "answer", "key": run.key}), ttl_s=self._keep_s
                )
        except UnbrokenError as error:
            _log.warning("the answer %s cannot be started: %s", run.key, error)
            active.fail(error)
            run.stop("error", "The answer could not be started.")
        else:
            active.started.set_result(True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)
