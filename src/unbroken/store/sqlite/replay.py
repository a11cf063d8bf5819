"""Replaying the journal: from the tables and what is unfolded to the streams as they are."""

from __future__ import annotations

from typing import NamedTuple

from unbroken.protocol.stream import Creation, Deletion, Record, Reference, StreamState, apply
from unbroken.store.sqlite.overlay import Overlay
from unbroken.store.sqlite.reading import Reader

__all__ = ["Replayed", "replay"]


class Replayed(NamedTuple):
    """Where a replay ended.

    Args:
        journal_id: the newest journal row; 0 if there is none.
        last_number: the greatest creation number used.
    """

    journal_id: int
    last_number: int


def replay(reader: Reader, overlay: Overlay) -> Replayed:
    """Put everything that is unfolded into an overlay.

    Args:
        reader: reads the tables.
        overlay: empty.

    Raises:
        StoreError, msgspec.DecodeError: the database is damaged.
    """
    overlay.holds = {hold.fork: hold for hold in reader.holds()}
    return _Replay(reader, overlay).run()


class _Replay:
    def __init__(self, reader: Reader, overlay: Overlay) -> None:
        self._reader = reader
        self._overlay = overlay
        self._last_number: int = reader.meta("last_number")
        self._applied: dict[int, int] = {}
        self._states: dict[int, StreamState | None] = {}

    def run(self) -> Replayed:
        newest = 0
        for journal_id, records in self._reader.journal():
            newest = journal_id
            for record in records:
                self._take(journal_id, record)
        return Replayed(newest, self._last_number)

    def _take(self, journal_id: int, record: Record) -> None:
        number = record.number
        if number not in self._states:
            found = self._reader.state_by_number(number)
            self._states[number], self._applied[number] = (None, 0) if found is None else found
        if isinstance(record, Creation):
            self._last_number = max(self._last_number, number)
        if isinstance(record, Reference) and record.delta < 0:
            self._overlay.holds.pop(record.fork, None)
        before = self._states[number]
        if journal_id <= self._applied[number] or (before is None and not self._begins(record)):
            return  # folded already; or its stream's deletion is
        after = self._states[number] = apply(before, record)
        path = record.path if isinstance(record, Creation) else before.path if before is not None else ""
        if isinstance(record, Deletion):
            self._overlay.hold(record, before)
        self._overlay.add(path, record, after, journal_id)

    def _begins(self, record: Record) -> bool:
        """Whether this is where a stream begins that is not known to have ended.

        Where the tables have a later stream at its path, its whole life is over and folded.
        """
        if not isinstance(record, Creation):
            return False
        later = self._reader.state(record.path)
        return later is None or later.number < record.number
