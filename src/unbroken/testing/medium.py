"""What a disk is certain of, and what a power cut may leave of the rest.

A `Medium` follows what is done to files and keeps apart what a sync has made certain from what is still pending. Asked
what a power cut would leave, it lets chance decide about everything pending, each thing by itself, whatever the order
in which it was done and whichever file it was done to:

- A write is there, is not there, or is torn: of its sectors any may be missing. A sector is old or new as a whole, and
  what lies around the written bytes is untouched (SQLite's "powersafe overwrite").
- A file has its new length and does not have the bytes yet: they are zeros, or rubbish.
- A truncation happened or did not, whatever became of the writes around it.
- A file that was created has no name yet, one that was deleted has it still: entries of a directory are certain only
  when the directory has been synced. A new directory's own entry likewise.
"""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

__all__ = ["Event", "EventKind", "Medium"]

T = TypeVar("T")

_KEEPS = (0.0, 0.1, 0.5, 0.9, 1.0)
_SECTORS_BYTES = (512, 4096)


class EventKind(StrEnum):
    """What can happen to a file."""

    SEEN = auto()
    """It is opened; ``data`` is what it held when nobody had told of it yet."""
    WRITTEN = auto()
    TRUNCATED = auto()
    SYNCED = auto()
    DELETED = auto()
    DIRECTORY_SYNCED = auto()
    """The path is that of a directory."""


class Event(NamedTuple):
    """Something that was done to a file.

    Args:
        kind: what.
        path: of the file.
        position: of a write, in bytes; the length left by a truncation.
        data: of a write.
    """

    kind: EventKind
    path: str
    position: int = 0
    data: bytes = b""


class _Dice:
    """What chance makes of one power cut."""

    def __init__(self, chance: Random, keep: float | None) -> None:
        self._random = chance
        self._keep = keep
        self._keep_file = 1.0
        self.sector_bytes = chance.choice(_SECTORS_BYTES)
        self._rubbish = keep is None and chance.random() < 0.5

    def next_file(self) -> None:
        """Some files have been written back almost whole while nothing of others has."""
        self._keep_file = self._random.choice(_KEEPS) if self._keep is None else self._keep

    def kept(self) -> bool:
        return self._random.random() < self._keep_file

    def often(self) -> bool:
        """Of what may also happen to something that was not kept."""
        return self._keep is None and self._random.random() < 0.5

    def choose(self, certain: T, *possible: T) -> T:
        return self._random.choice((certain, *possible)) if self._keep is None else certain

    def filling(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes) if self._rubbish else bytes(size_bytes)


class _Content:
    """One file's bytes, whatever its name is or was."""

    def __init__(self, certain: bytes | bytearray) -> None:
        self._certain = bytearray(certain)
        self._pending: list[Event] = []

    def copy(self) -> _Content:
        copied = _Content(self._certain)
        copied._pending = self._pending[:]
        return copied

    def note(self, event: Event) -> None:
        if event.kind is EventKind.SYNCED:
            for pending in self._pending:
                _do(self._certain, pending)
            self._pending.clear()
        else:
            self._pending.append(event)

    def now(self) -> bytes:
        content = bytearray(self._certain)
        for event in self._pending:
            _do(content, event)
        return bytes(content)

    def left(self, dice: _Dice) -> bytes:
        dice.next_file()
        content = bytearray(self._certain)
        for event in self._pending:
            if dice.kept():
                _do(content, event, dice)
            elif event.kind is EventKind.WRITTEN and dice.often():
                _tear(content, event, dice)
        return bytes(content)


def _do(content: bytearray, event: Event, dice: _Dice | None = None) -> None:
    if event.kind is EventKind.TRUNCATED:
        del content[event.position :]
        return
    if (missing_bytes := event.position - len(content)) > 0:
        content += bytes(missing_bytes) if dice is None else dice.filling(missing_bytes)
    content[event.position : event.position + len(event.data)] = event.data


def _tear(content: bytearray, event: Event, dice: _Dice) -> None:
    """Some sectors of a write, but maybe all of the length it gave the file."""
    end = event.position + len(event.data)
    if end > len(content) and dice.often():
        content += dice.filling(end - len(content))
    first = event.position - event.position % dice.sector_bytes
    for sector in range(first, end, dice.sector_bytes):
        if dice.often():
            start = max(sector, event.position)
            part = event.data[start - event.position : sector + dice.sector_bytes - event.position]
            _do(content, Event(EventKind.WRITTEN, event.path, start, part), dice)


class Medium:
    """Files, named by their absolute paths, and what is certain of them."""

    def __init__(self) -> None:
        # Whose content the name has stood for since the directory was synced: first what is certain, last what is now.
        self._entries: dict[str, list[_Content | None]] = {}
        self._new_directories: set[str] = set()

    def copy(self) -> Medium:
        """An independent copy."""
        copied = Medium()
        copied._entries = {
            path: [None if content is None else content.copy() for content in entries]
            for path, entries in self._entries.items()
        }
        copied._new_directories = set(self._new_directories)
        return copied

    def knows(self, path: str) -> bool:
        """Whether a file is there as far as was told."""
        return self._entries.get(path, [None])[-1] is not None

    def note(self, event: Event) -> None:
        """Tell what was done to a file."""
        if event.kind is EventKind.DIRECTORY_SYNCED:
            self._sync_directory(event.path)
        elif event.kind is EventKind.SEEN:
            self._see(event)
        elif event.kind is EventKind.DELETED:
            if event.path in self._entries:
                self._entries[event.path].append(None)
        elif (content := self._entries.get(event.path, [None])[-1]) is not None:
            content.note(event)

    def _see(self, event: Event) -> None:
        if self.knows(event.path):
            return
        directory = str(Path(event.path).parent)
        is_first = not any(str(Path(path).parent) == directory for path in self._entries)
        if is_first and not event.data:
            self._new_directories.add(directory)
        # What is empty may just have been created, by somebody who did not tell.
        before = [] if event.data else self._entries.get(event.path, [None])
        self._entries[event.path] = [*before, _Content(event.data)]

    def _sync_directory(self, directory: str) -> None:
        for path, entries in self._entries.items():
            if str(Path(path).parent) == directory:
                del entries[:-1]
        self._new_directories = {new for new in self._new_directories if str(Path(new).parent) != directory}

    def left(self, directory: Path, chance: Random | None, keep: float | None = None) -> dict[str, bytes]:
        """The files that a crash now would leave in a directory, by name.

        Args:
            directory: which.
            chance: decides what becomes of everything pending after a power cut; None for a killed process, of which
                nothing is lost.
            keep: the probability that something pending is kept; by default all sorts, from file to file. With 0.0
                nothing is left but what is certain.
        """
        directory = directory.resolve()
        files = {path: entries for path, entries in self._entries.items() if Path(path).parent == directory}
        if chance is None:
            return {Path(path).name: last.now() for path, entries in files.items() if (last := entries[-1]) is not None}
        dice = _Dice(chance, keep)
        if str(directory) in self._new_directories and dice.choose(True, False, False, False):
            return {}
        chosen = {Path(path).name: dice.choose(*entries) for path, entries in files.items()}
        return {name: content.left(dice) for name, content in chosen.items() if content is not None}
