"""Copying a database, also one that a server is writing to.

The pages are copied with SQLite's backup API under one read transaction: the copy is the database at one moment, with
all that its write-ahead log held then. Measured beside VACUUM INTO on 900 MB under load, it took 0.9 to 1.8 s instead
of 2.5 to 3.8, and the slowest append meanwhile 20 ms instead of 340. It does not make the file smaller.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from unbroken.errors import StoreError
from unbroken.store.sqlite.check import Report, examine
from unbroken.store.sqlite.schema import rows, sync
from unbroken.store.sqlite.snapshot import find_database, open_still, require_ours

__all__ = ["Progress", "backup"]

Progress = Callable[[str, float], object]
"""Called with what is being done, and how much of it is done, 0 to 1."""

_PAGES_PER_STEP = 1024
_BESIDE = ("-wal", "-shm", "-journal")


def backup(
    source: Path | str, target: Path | str, *, overwrite: bool = False, progress: Progress | None = None
) -> Report:
    """Copy a database to a file, durably and checked. The file appears under its name only when all of that is done.

    Args:
        source: a data directory, of a running server or not, or a database file.
        target: the new file.
        overwrite: replace a file that is there.
        progress: told how it goes.

    Returns:
        What the check of the copy found; it is sound.

    Raises:
        StoreError: there is no database, the target exists, or the copy is not sound, as the database must be damaged.
        OSError: the file cannot be written.
    """
    source, target = find_database(source), Path(target)
    if target.is_dir() or (target.exists() and not overwrite):
        raise StoreError(f"{target} is there already: name a new file")
    told = progress or (lambda doing, done: None)
    if target.with_name(f"{target.name}-wal").exists():
        raise StoreError(f"{target} is somebody's database, with a write-ahead log beside it: name a new file")
    with _in_the_making(target) as partial:
        try:
            _copy(source, partial, told)
        except apsw.Error as error:
            raise StoreError(f"{source} cannot be copied: {error}") from error
        sync(partial)
        told("checking", 0.0)
        report = examine(partial)
        if report.faults:
            raise StoreError(f"{source} is damaged, no backup was made: {report.faults[0]}; see unbroken fsck")
        partial.replace(target)
    sync(target.resolve().parent)
    return report


@contextmanager
def _in_the_making(target: Path) -> Iterator[Path]:
    """A file beside the target, held by this process alone; what an earlier one left there is gone."""
    partial = target.with_name(f".{target.name}.partial")
    # Held until all connections are closed: closing a descriptor of a file drops this process's locks on it.
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"another backup to {target} is under way") from None
        try:
            os.ftruncate(file, 0)
            for suffix in _BESIDE:
                partial.with_name(f"{partial.name}{suffix}").unlink(missing_ok=True)
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    finally:
        os.close(file)


def _copy(source: Path, target: Path, told: Progress) -> None:
    with closing(open_still(source)) as origin, closing(apsw.Connection(str(target))) as copy:
        # Left to itself each step would see a moment of its own, and start over whenever something was written.
        rows(origin, "BEGIN")
        require_ours(origin, source)
        rows(copy, "PRAGMA synchronous = OFF")
        with copy.backup("main", origin, "main") as steps:
            while not steps.done:
                steps.step(_PAGES_PER_STEP)
                told("copying", 1 - steps.remaining / max(1, steps.page_count))
        # One file, readable where nothing can be written.
        rows(copy, "PRAGMA journal_mode = DELETE")
