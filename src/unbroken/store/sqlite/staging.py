"""Large bodies, written in pieces ahead of the record that makes them part of their stream.

The pieces are chunks beyond the stream's tail, where nobody reads. A row of ``staging`` says where they begin, so that
a start after a crash can discard them.
"""

from __future__ import annotations

import apsw
import msgspec

from unbroken.protocol.stream import Addition, Creation, Record
from unbroken.store.base import Change
from unbroken.store.sqlite.chunks import write_chunks
from unbroken.store.sqlite.schema import rows
from unbroken.store.staged import Dating, Piece

__all__ = ["Staging"]


class Staging:
    """The bodies that are being written. What it remembers counts only while no commit has failed."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[int, int]] = {}
        self._discarded: list[tuple[int, int]] = []

    @property
    def has_discarded(self) -> bool:
        """Whether there is something to `clear`."""
        return bool(self._discarded)

    def recover(self, db: apsw.Connection) -> None:
        """Discard what an earlier process left."""
        self._discarded = [(number, start) for number, start in rows(db, "SELECT stream, start FROM staging")]

    def write(self, db: apsw.Connection, piece: Piece) -> None:
        """Write a piece, in a transaction."""
        number, start = piece.number, piece.position
        if number in self._ends:
            start, end = self._ends[number]
            assert end == piece.position, "pieces come one after the other"
        else:
            db.execute("INSERT INTO staging (stream, start) VALUES (?, ?)", (number, start))
        # All of it is committed when its record is. A time of the same size is put in its place then, for which SQLite
        # writes one page of the chunk and not all of them.
        write_chunks(db, number, piece.position, piece.data, [(len(piece.data), piece.time_ms)], grown=False)
        self._ends[number] = (start, piece.position + len(piece.data))

    def date(self, db: apsw.Connection, dating: Dating) -> None:
        """Put the time in its place for some of what is written."""
        if dating.number in self._ends:
            _date(db, dating)

    def has(self, changes: list[Change]) -> bool:
        """Whether this is the one change whose bytes are there already."""
        if len(changes) != 1 or not isinstance(record := changes[0].record, Addition | Creation):
            return False
        return record.number in self._ends

    def complete(self, db: apsw.Connection, record: Record) -> Addition | Creation:
        """Make the pieces part of their stream, in the transaction that writes the record.

        Returns:
            The record without its bytes.
        """
        assert isinstance(record, Addition | Creation)
        start, end = self._ends.pop(record.number)
        assert (start, end) == (record.position, record.position + len(record.data)), "the record brings all pieces"
        db.execute("DELETE FROM staging WHERE stream = ?", (record.number,))
        _date(db, Dating(record.number, start, end, record.time_ms))
        return msgspec.structs.replace(record, data=b"")

    def abandon(self, numbers: list[int]) -> None:
        """The records for these streams' pieces will not come."""
        for number in numbers:
            if number in self._ends:
                start, _ = self._ends.pop(number)
                self._discarded.append((number, start))

    def clear(self, db: apsw.Connection) -> None:
        """Delete what is discarded, in a transaction. Must come before anything else that is written."""
        for number, start in self._discarded:
            db.execute("DELETE FROM chunks WHERE stream = ? AND start >= ?", (number, start))
            db.execute("DELETE FROM staging WHERE stream = ?", (number,))
        self._discarded.clear()


def _date(db: apsw.Connection, dating: Dating) -> None:
    """SQLite reads whole chunks for this, so only of those that say something else."""
    db.execute(
        "UPDATE chunks SET time_ms = ?4 WHERE stream = ?1 AND start >= ?2 AND start < ?3 AND time_ms <> ?4", dating
    )
