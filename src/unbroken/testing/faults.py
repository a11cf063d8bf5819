"""A disk that fails on demand, and that tells what a crash would leave of it.

    with FaultyDisk() as disk:
        store = SqliteStore(directory, vfs=disk.name)
        ...
        disk.fail(Fault.ERROR, "sync", file="log")  # the next sync of the write-ahead log
        ...
        disk.leave(directory, elsewhere, chance=Random(7))  # what a power cut now could leave

It is an SQLite VFS over the system's own. What goes around it: the shared-memory index of the write-ahead log, which
SQLite rebuilds after a crash, and the lock file of the data directory.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, Self

import apsw

__all__ = ["Fault", "FaultyDisk", "FileKind", "Operation", "OperationKind"]

OperationKind = Literal["open", "read", "write", "sync", "truncate", "delete"]
FileKind = Literal["database", "log", "journal", "other"]

_SECTOR_BYTES = 512
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


class _Shadow:
    """What is certain of a file's contents, and what was done to it since the last sync."""

    def __init__(self, durable: bytes) -> None:
        self._durable = bytearray(durable)
        self._pending: list[tuple[int, bytes | None]] = []

    def write(self, position: int, data: bytes) -> None:
        self._pending.append((position, data))

    def truncate(self, size_bytes: int) -> None:
        self._pending.append((size_bytes, None))

    def sync(self) -> None:
        self._durable = self.after(None)
        self._pending.clear()

    def after(self, chance: Random | None) -> bytearray:
        """The contents if all that is pending happened, or what chance leaves of it."""
        contents = bytearray(self._durable)
        for position, data in self._pending:
            fate = 0.0 if chance is None else chance.random()
            if fate >= 0.75:
                continue  # never reached the disk
            if data is None:
                del contents[position:]
                continue
            kept_bytes = len(data)
            if chance is not None and fate >= 0.5:
                kept_bytes = chance.randrange(len(data) // _SECTOR_BYTES + 1) * _SECTOR_BYTES
            if len(contents) < position:
                contents.extend(bytes(position - len(contents)))
            contents[position : position + kept_bytes] = data[:kept_bytes]
        return contents


class FaultyDisk(apsw.VFS):
    """The VFS. A context manager; all connections through it must be closed before the block is left.

    Attributes:
        name: what to pass as ``vfs``.
        watch: called before each operation, in the thread that asks for it; may block it, or raise in its place.
        counts: how many operations of each kind there were, failed ones included.
        sync_flags: how many syncs there were by SQLite's flags: `apsw.SQLITE_SYNC_FULL` or `apsw.SQLITE_SYNC_NORMAL`.
    """

    def __init__(self) -> None:
        self.name = f"unbroken-faulty-{next(_numbers)}"
        self.watch: Callable[[Operation], None] | None = None
        self.counts: Counter[OperationKind] = Counter()
        self.sync_flags: Counter[int] = Counter()
        self._rules: list[_Rule] = []
        self._shadows: dict[str, _Shadow] = {}
        # One operation at a time, so that what a crash would leave is what was there at one moment.
        self._lock = threading.RLock()
        super().__init__(self.name, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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

    def leave(self, directory: Path, target: Path, *, chance: Random | None = None) -> None:
        """Make a directory of what a crash now would leave of another one.

        Args:
            directory: a data directory in use through this disk.
            target: the directory to make.
            chance: None for a killed process: all that was written stays. For a power cut, decides for each write since
                the file's last sync whether it reached the disk, in part, or not.
        """
        target.mkdir(parents=True)
        with self._lock:
            for path, shadow in self._shadows.items():
                if Path(path).parent == directory.resolve():
                    (target / Path(path).name).write_bytes(shadow.after(chance))

    def begin(self, kind: OperationKind, path: str) -> Fault | None:
        """Count an operation that is about to happen, and tell how it is to fail. Called by the files."""
        operation = Operation(kind, _kind_of(path), path)
        if self.watch is not None:
            self.watch(operation)
        with self._lock:
            self.counts[kind] += 1
            struck = [rule.fault for rule in self._rules if rule.strikes(operation)]
        return struck[0] if struck else None

    def perform(self, path: str, act: Callable[[], None], note: Callable[[_Shadow], None]) -> None:
        """Do something to a file, and keep its shadow in step. Called by the files."""
        with self._lock:
            act()
            if (shadow := self._shadows.get(path)) is not None:
                note(shadow)

    # --- what SQLite calls -----------------------------------------------------------------------------------------

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file."""
        path = "" if name is None else name if isinstance(name, str) else name.filename()
        _raise(self.begin("open", path), apsw.CantOpenError)
        with self._lock:
            if path and path not in self._shadows:
                self._shadows[path] = _Shadow(Path(path).read_bytes() if Path(path).exists() else b"")
            return _File(self, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        _raise(self.begin("delete", filename), apsw.IOError)
        with self._lock:
            super().xDelete(filename, syncdir)
            self._shadows.pop(filename, None)

    def excepthook(self, *_: object) -> bool:
        """A fault that SQLite does not report is passed over, as on a real disk."""
        return True


class _File(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: FaultyDisk, path: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
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
            self._disk.perform(
                self._path, lambda: super_write(written, offset), lambda shadow: shadow.write(offset, written)
            )
        _raise(fault, apsw.IOError)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync_flags[flags] += 1
        _raise(self._disk.begin("sync", self._path), apsw.IOError)
        super_sync = super().xSync
        self._disk.perform(self._path, lambda: super_sync(flags), lambda shadow: shadow.sync())

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        _raise(self._disk.begin("truncate", self._path), apsw.IOError)
        super_truncate = super().xTruncate
        self._disk.perform(self._path, lambda: super_truncate(newsize), lambda shadow: shadow.truncate(newsize))


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
    return "database" if path.endswith(".db") else "other"
