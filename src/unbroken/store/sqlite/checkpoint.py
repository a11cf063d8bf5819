"""Checkpoints: copying the write-ahead log into the database beside the writer, and keeping the log bounded.

Automatic checkpoints run inside COMMIT and were seen to make the slowest appends 18 ms; a passive one on a connection
and a thread of its own, 4 ms at the same throughput. The log starts over from its beginning at the first commit that
finds all of it copied, which under constant load may never happen by itself: so past a bound the writer waits for one
checkpoint that copies the little that came since the last.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import cast

import apsw

__all__ = ["Checkpointer"]

_PAGES_TO_START = 1_000
_PAGES_MAX = 16_384


class Checkpointer:
    """Decides when to checkpoint, and does it.

    Args:
        db: a connection of its own.
        thread: an executor with one thread.
    """

    def __init__(self, db: apsw.Connection, thread: Executor) -> None:
        self._db = db
        self._thread = thread
        self._copied_pages = 0
        self._running: asyncio.Future[int] | None = None

    async def after_commit(self, log_pages: int) -> None:
        """A commit has returned and no other is under way.

        Args:
            log_pages: pages in the log now.

        Raises:
            apsw.Error: a checkpoint failed.
        """
        if self._running is not None and self._running.done():
            self._collect()
        if log_pages < self._copied_pages:
            self._copied_pages = 0  # the log has started over
        if log_pages > _PAGES_MAX:
            await self._catch_up()
        elif self._running is None and log_pages - self._copied_pages >= _PAGES_TO_START:
            self._running = self._start()

    async def stop(self) -> None:
        """Wait for a checkpoint under way."""
        if self._running is not None:
            await asyncio.wait([self._running])
            self._collect()

    async def _catch_up(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])
            self._collect()
        self._running = self._start()
        await asyncio.wait([self._running])
        self._collect()

    def _start(self) -> asyncio.Future[int]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint)

    def _collect(self) -> None:
        running = cast("asyncio.Future[int]", self._running)
        self._running = None
        self._copied_pages = running.result()

    def _checkpoint(self) -> int:
        _, copied_pages = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return copied_pages
