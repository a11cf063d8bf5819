"""A bar for bytes on their way."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["Transfer"]

_AFTER_S = 0.5


class Transfer:
    """A bar for bytes on their way, on standard error: shown where somebody watches and for what takes a while.

    Args:
        doing: what is being done.
        size_bytes: of the whole, if that is known.
        hidden: show nothing; the terminal has something else on it.
    """

    def __init__(self, doing: str, size_bytes: int | None = None, *, hidden: bool = False) -> None:
        self._progress: Progress | None = None
        self._done_bytes = 0
        self._begun_s = time.monotonic()
        self._doing, self._size_bytes = doing, size_bytes
        self._hidden = hidden or not sys.stderr.isatty()

    def add(self, size_bytes: int) -> None:
        """So much more is done."""
        self._done_bytes += size_bytes
        if self._hidden:
            return
        if self._progress is None:
            if time.monotonic() < self._begun_s + _AFTER_S:
                return
            self._progress = _bar(self._size_bytes is not None)
            self._progress.add_task(self._doing, total=self._size_bytes)
            self._progress.start()
        self._progress.update(TaskID(0), completed=self._done_bytes)

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _bar(known: bool) -> Progress:
    columns: list[ProgressColumn] = [TextColumn("{task.description}")]
    if known:
        columns.append(BarColumn())
    columns += (DownloadColumn(binary_units=True), TransferSpeedColumn())
    if known:
        columns.append(TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
