"""Checkpoints: copying the write-ahead log into the database beside the writer, and keeping the log bounded.

Automatic checkpoints run inside COMMIT and were seen to make the slowest appends 18 ms; a passive one on a connection
and a thread of its own, 4 ms at the same throughput. The log starts over from its beginning at the first commit that
finds all of it copied, which under constant load may never happen by itself: so past a bound checkpoints follow one
another until little is left to copy, and then the writer waits for one more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor

import apsw

from unbroken.store.sqlite.schema import PAGE_BYTES

__all__ = ["Checkpointer"]

# What is copied is synced, and a commit's own sync waits behind that: little at a time.
_PAGES_TO_START = 256
_PAGES_TO_START_LARGE = 64
_PAGES_BEHIND = 2_000
_PAGES_MAX = 8_192
_PAGES_WAITED_FOR = 48
_PAGES_WAITED_FOR_PER_EXCESS = 1 / 32
"""What is left to copy gets down to so little only if little is written meanwhile. So the longer the log, the less is
asked for.
"""
_PAGES_MAX_EVER = 4 * _PAGES_MAX


class Checkpointer:
    """Decides when to checkpoint, and does it.

    Args:
        db: a connection of its own.
        file: a descriptor of the database file, which must not be closed before all connections are: that would drop
            the locks of this process.
        thread: an executor with one thread.
        fail: called with the error of a checkpoint that failed.
    """

    def __init__(self, db: apsw.Connection, file: int, thread: Executor, fail: Callable[[BaseException], None]) -> None:
        self._db = db
        self._file = file
        self._thread = thread
        self._fail = fail
        self._copied_pages = 0
        self._log_pages = 0
        self._running: asyncio.Task[None] | None = None

    async def after_commit(self, log_pages: int, *, large: bool = False) -> None:
        """A commit has returned and no other is under way.

        Args:
            log_pages: pages in the log now.
            large: pieces of a large body were in it, so that more of the kind are likely to follow soon.
        """
        if log_pages < self._copied_pages:
            self._copied_pages = 0  # the log has started over
        left_pages = log_pages - self._copied_pages
        self._log_pages = log_pages
        is_long = log_pages > _PAGES_MAX
        waited_for_pages = _PAGES_WAITED_FOR + (log_pages - _PAGES_MAX) * _PAGES_WAITED_FOR_PER_EXCESS
        if log_pages > _PAGES_MAX_EVER:
            await self.stop()
            await self._start()
        elif self._running is None and is_long and left_pages <= waited_for_pages:
            await self._start()
        elif self._running is None and (is_long or left_pages >= (_PAGES_TO_START_LARGE if large else _PAGES_TO_START)):
            self._running = self._start()

    def start_if_needed(self) -> None:
        """Nothing else is going on: copy what is left, which also lets the file shrink."""
        if self._running is None and self._log_pages > self._copied_pages:
            self._running = self._start()

    @property
    def left_bytes(self) -> int:
        """How much of the log is still to be copied."""
        return (self._log_pages - self._copied_pages) * PAGE_BYTES

    @property
    def behind(self) -> bool:
        """Whether so much is to be copied, or the log so long, that what can wait had better not be written now."""
        left_pages = self._log_pages - self._copied_pages
        return left_pages > (_PAGES_BEHIND if self._log_pages <= _PAGES_MAX else 0)

    async def stop(self) -> None:
        """Wait for a checkpoint under way."""
        if self._running is not None:
            await self._running

    def _start(self) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._run(), name="unbroken-checkpoint")

    async def _run(self) -> None:
        try:
            copied = await asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint)
            self._copied_pages = copied
        except (apsw.BusyError, apsw.LockedError):
            pass  # somebody else is at it
        except (apsw.Error, OSError) as error:
            self._fail(error)
        finally:
            self._running = None

    def _checkpoint(self) -> int:
        log_pages, copied_pages = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if copied_pages < log_pages:
            # SQLite syncs the database only when all is copied: a writer that waits for that would pay for everything.
            os.fdatasync(self._file)
        return copied_pages
