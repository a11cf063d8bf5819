"""A disk that fails on demand, and that tells what a crash would leave of it.

    with FaultyDisk() as disk:
        store = SqliteStore(directory, vfs=disk.name)
        ...
        disk.fail(Fault.ERROR, "sync", file="log")  # the next sync of the write-ahead log
        ...
        disk.leave(directory, elsewhere, chance=Random(7))  # what a power cut now could leave

It is an SQLite VFS over the system's own, and stands in for `os.fsync` and `os.fdatasync` meanwhile, by which the store
syncs directories and, between two checkpoints, its database. What goes around it: the shared-memory index of the
write-ahead log, which SQLite rebuilds after a crash, and the lock file of the data directory.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, Self
from unittest.mock import patch

import apsw

from unbroken.testing.medium import Event, EventKind, Medium

__all__ = ["Fault", "FaultyDisk", "FileKind", "Operation", "OperationKind"]

OperationKind = Literal["open", "read", "write", "sync", "truncate", "delete"]
FileKind = Literal["database", "log", "journal", "directory", "other"]

_numbers = itertools.count(1)


class Fault(Enum):
    """How an operation fails."""

    ERROR = auto()
    """An I/O error; nothing was done."""
    SHORT = auto()
    """An I/O error after half of a write."""
    FULL = auto()
    """The disk is full; half of a write fitted."""


class Operation(NamedTuple):
    """What SQLite is about to do.

    Args:
        kind: to what it comes down.
        file: which of the store's files.
        path: of the file; empty for a temporary one.
    """

    kind: OperationKind
    file: FileKind
    path: str


@dataclass
class _Rule:
    """Makes an operation fail, or all from it on."""

    fault: Fault
    kinds: frozenset[OperationKind]
    files: frozenset[FileKind]
    passes: int
    lasting: bool

    def strikes(self, operation: Operation) -> bool:
        if operation.kind not in self.kinds or operation.file not in self.files:
            return False
        self.passes -= 1
        return self.passes < 0 if self.lasting else self.passes == -1


class FaultyDisk(apsw.VFS):
    """The VFS. A context manager; all connections through it must be closed before the block is left.

    Args:
        medium: what is certain of files from before: a killed process takes nothing with it, and leaves nothing synced.

    Attributes:
        name: what to pass as ``vfs``.
        watch: called before each operation, in the thread that asks for it; may block it, or raise in its place.
        counts: how many operations of each kind there were, failed ones included.
        sync_flags: how many syncs there were by SQLite's flags: `apsw.SQLITE_SYNC_FULL` or `apsw.SQLITE_SYNC_NORMAL`.
        events: all that was done to files, in order, for a `Medium` to go through once more; None unless set to a list.
    """

    def __init__(self, medium: Medium | None = None) -> None:
        self.name = f"unbroken-faulty-{next(_numbers)}"
        self.watch: Callable[[Operation], None] | None = None
        self.counts: Counter[OperationKind] = Counter()
        self.sync_flags: Counter[int] = Counter()
        self._rules: list[_Rule] = []
        self.events: list[Event] | None = None
        self._medium = Medium() if medium is None else medium
        self._seen: set[str] = set()
        self._standing_in = ExitStack()
        # One operation at a time, so that what a crash would leave is what was there at one moment.
        self._lock = threading.RLock()
        super().__init__(self.name, "")

    def __enter__(self) -> Self:
        for name in ("fsync", "fdatasync"):
            if (real := getattr(os, name, None)) is not None:
                self._standing_in.enter_context(patch.object(os, name, self._stand_in_for(real)))
        return self

    def __exit__(self, *_: object) -> None:
        self._standing_in.close()
        self.unregister()

    def fail(
        self,
        fault: Fault,
        *kinds: OperationKind,
        file: FileKind | tuple[FileKind, ...] = ("database", "log"),
        after: int = 0,
        lasting: bool = False,
    ) -> None:
        """Let an operation fail.

        Args:
            fault: how.
            kinds: which operations count.
            file: on which files.
            after: so many of them succeed first.
            lasting: all later ones fail as well, until `heal`.
        """
        files: frozenset[FileKind] = frozenset([file] if isinstance(file, str) else file)
        with self._lock:
            self._rules.append(_Rule(fault, frozenset(kinds), files, after, lasting))

    def heal(self) -> None:
        """From now on everything succeeds."""
        with self._lock:
            self._rules.clear()

    def leave(self, directory: Path, target: Path, *, chance: Random | None = None, keep: float | None = None) -> None:
        """Make a directory of what a crash now would leave of another one.

        Args:
            directory: a data directory in use through this disk.
            target: the directory to make.
            chance: None for a killed process: all that was written stays. For a power cut, decides what becomes of all
                that was not synced; see `unbroken.testing.medium`.
            keep: how likely each thing that was not synced is kept; by default all sorts, from file to file.
        """
        target.mkdir(parents=True)
        with self._lock:
            for name, content in self._medium.left(directory, chance, keep).items():
                (target / name).write_bytes(content)

    def begin(self, kind: OperationKind, path: str) -> Fault | None:
        """Count an operation that is about to happen, and tell how it is to fail. Called by the files."""
        operation = Operation(kind, _kind_of(path), path)
        if self.watch is not None:
            self.watch(operation)
        with self._lock:
            self.counts[kind] += 1
            struck = [rule.fault for rule in self._rules if rule.strikes(operation)]
        return struck[0] if struck else None

    def perform(self, act: Callable[[], object], *events: Event) -> None:
        """Do something to a file, and remember it. Called by the files."""
        with self._lock:
            act()
            for event in events:
                self._medium.note(event)
            if self.events is not None:
                self.events += events

    def _stand_in_for(self, real: Callable[[int], None]) -> Callable[[int], None]:
        """A function that syncs by a file's descriptor."""

        def sync(file: int) -> None:
            path, kind = self._find(os.fstat(file))
            if path:
                fault = self.begin("sync", path)
                if fault is not None:
                    raise OSError(errno.ENOSPC if fault is Fault.FULL else errno.EIO, "the disk failed (on purpose)")
            self.perform(lambda: real(file), *([Event(kind, path)] if path else []))

        return sync

    def _find(self, found: os.stat_result) -> tuple[str, EventKind]:
        """Which of our files or their directories this is; an empty path for another one."""
        paths = {path for path in self._seen if path and Path(path).exists()}
        kind = EventKind.SYNCED
        if stat.S_ISDIR(found.st_mode):
            kind = EventKind.DIRECTORY_SYNCED
            directories = {Path(path).parent for path in paths}
            paths = {str(place) for directory in directories for place in (directory, directory.parent)}
        return next((path for path in paths if os.path.samestat(found, Path(path).stat())), ""), kind

    # --- what SQLite calls -----------------------------------------------------------------------------------------

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file."""
        path = "" if name is None else name if isinstance(name, str) else name.filename()
        _raise(self.begin("open", path), apsw.CantOpenError)
        with self._lock:
            # What lies beside a database is part of it, though SQLite may not have opened it yet.
            paths = (path, f"{path}-wal", f"{path}-journal") if path and not self._medium.knows(path) else ()
            before = {beside: _read(beside) for beside in paths if not self._medium.knows(beside)}
            file = _File(self, path, name, flags)
            for beside, data in before.items():
                if data is not None or beside == path:
                    self.perform(lambda: None, Event(EventKind.SEEN, beside, data=data or b""))
            self._seen.add(path)
            return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        _raise(self.begin("delete", filename), apsw.IOError)
        super_delete = super().xDelete
        events = [Event(EventKind.DELETED, filename)]
        if syncdir:
            events.append(Event(EventKind.DIRECTORY_SYNCED, str(Path(filename).parent)))
        self.perform(lambda: super_delete(filename, syncdir), *events)

    def excepthook(self, *_: object) -> bool:
        """A fault that SQLite does not report is passed over, as on a real disk."""
        return True


class _File(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: FaultyDisk, path: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        # The first sync of a log or a journal that SQLite may have created includes its directory.
        self._is_new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and _kind_of(path) in ("log", "journal")
        super().__init__("", name, flags)

    def excepthook(self, *_: object) -> bool:
        return True

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        _raise(self._disk.begin("read", self._path), apsw.IOError)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        fault = self._disk.begin("write", self._path)
        written = bytes(data)
        if fault is not None:
            written = b"" if fault is Fault.ERROR else written[: len(written) // 2]
        if written:
            super_write = super().xWrite
            event = Event(EventKind.WRITTEN, self._path, offset, written)
            self._disk.perform(lambda: super_write(written, offset), event)
        _raise(fault, apsw.IOError)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync_flags[flags] += 1
        _raise(self._disk.begin("sync", self._path), apsw.IOError)
        super_sync = super().xSync
        events = [Event(EventKind.SYNCED, self._path)]
        if self._is_new:
            events.append(Event(EventKind.DIRECTORY_SYNCED, str(Path(self._path).parent)))
        self._disk.perform(lambda: super_sync(flags), *events)
        self._is_new = False

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        _raise(self._disk.begin("truncate", self._path), apsw.IOError)
        super_truncate = super().xTruncate
        self._disk.perform(lambda: super_truncate(newsize), Event(EventKind.TRUNCATED, self._path, newsize))


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if Path(path).is_file() else None


def _raise(fault: Fault | None, error: type[apsw.Error]) -> None:
    if fault is Fault.FULL:
        raise apsw.FullError("the disk is full (on purpose)")
    if fault is not None:
        raise error("the disk failed (on purpose)")


def _kind_of(path: str) -> FileKind:
    if path.endswith("-wal"):
        return "log"
    if path.endswith("-journal"):
        return "journal"
    if path.endswith(".db"):
        return "database"
    return "directory" if path and Path(path).is_dir() else "other"
