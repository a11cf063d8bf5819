"""Beside Litestream, which copies the write-ahead log elsewhere and owns its checkpoints: we make none.

A checkpoint that we made could let the log start over before Litestream has copied it, and it would have to copy the
whole database again. See docs/operations.md for how to run both.
"""

from __future__ import annotations

import logging
from pathlib import Path

import apsw

from unbroken.store.sqlite.schema import DATABASE_NAME, sync

__all__ = ["LeftToLitestream", "make_durable"]

_log = logging.getLogger("unbroken.store")

# 1 GiB. Litestream checkpoints from 1,000 pages on, so that it must be down or far behind by then.
_PAGES_TO_WARN = 131_072


def make_durable(db: apsw.Connection, directory: Path) -> None:
    """Make durable what is in the log, as far as that is possible without having it to ourselves.

    Litestream's read lock keeps a checkpoint from going further than what it has copied; the rest stays in the log,
    which is synced.

    Args:
        db: the connection that writes.
        directory: where the database is.
    """
    # Closing the last connection would make a checkpoint, too.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        _log.info("Litestream is making a checkpoint")
    # Not the database file: closing a descriptor of that one would drop SQLite's locks. There are none on the log.
    log = directory / f"{DATABASE_NAME}-wal"
    if log.exists():
        sync(log)


class LeftToLitestream:
    """Stands in for `unbroken.store.sqlite.checkpoint.Checkpointer`, and makes no checkpoints."""

    behind = False
    left_bytes = 0

    def __init__(self) -> None:
        self._warn_pages = _PAGES_TO_WARN

    async def after_commit(self, log_pages: int, *, large: bool = False) -> None:
        """A commit has returned: nothing to do but to watch the log.

        Args:
            log_pages: pages in the log now.
            large: see `Checkpointer.after_commit`.
        """
        if log_pages >= self._warn_pages:
            self._warn_pages = 2 * log_pages
            _log.warning(
                "the write-ahead log has %d pages and nobody checkpoints it: is Litestream running?", log_pages
            )
        elif log_pages < _PAGES_TO_WARN:
            self._warn_pages = _PAGES_TO_WARN

    def start_if_needed(self) -> None:
        """Nothing else is going on."""

    async def stop(self) -> None:
        """There is nothing to wait for."""
