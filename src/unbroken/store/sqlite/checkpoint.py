"""Checkpoints: copying the write-ahead log into the database beside the writer, and keeping the log bounded.

Automatic checkpoints run inside COMMIT and were seen to make the slowest appends 18 ms; a passive one on a connection
and a thread of its own, 4 ms at the same throughput. The log starts over from its beginning at the first commit that
finds all of it copied, which under constant load may never happen by itself: so past a bound the writer waits for one
checkpoint that copies the little that came since the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import apsw

__all__ = ["Checkpointer"]

_PAGES_TO_START = 1_000
_PAGES_MAX = 16_384


class Checkpointer:
    """Decides when to checkpoint, and does it.

    Args:
        db: a connection of its own.
        thread: an executor with one thread.
        fail: called with the error of a checkpoint that failed.
    """

    def __init__(self, db: apsw.Connection, thread: Executor, fail: Callable[[BaseException], None]) -> None:
        self._db = db
        self._thread = thread
        self._fail = fail
        self._copied_pages = 0
        self._running: asyncio.Task[None] | None = None

    async def after_commit(self, log_pages: int) -> None:
        """A commit has returned and no other is under way.

        Args:
            log_pages: pages in the log now.
        """
        if log_pages < self._copied_pages:
            self._copied_pages = 0  # the log has started over
        if log_pages > _PAGES_MAX:
            await self.stop()
            self._running = self._start()
            await self._running
        elif self._running is None and log_pages - self._copied_pages >= _PAGES_TO_START:
            self._running = self._start()

    async def stop(self) -> None:
        """Wait for a checkpoint under way."""
        if self._running is not None:
            await self._running

    def _start(self) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._run(), name="unbroken-checkpoint")

    async def _run(self) -> None:
        try:
            _, copied = await asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint)
            self._copied_pages = copied
        except (apsw.BusyError, apsw.LockedError):
            pass  # somebody else is at it
        except apsw.Error as error:
            self._fail(error)
        finally:
            self._running = None

    def _checkpoint(self) -> tuple[int, int]:
        return self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
