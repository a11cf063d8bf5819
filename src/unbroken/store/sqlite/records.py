"""The packed form of records in the journal, and of structured columns. Part of the on-disk format."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence

import apsw
import msgspec

from unbroken.protocol.content import is_json
from unbroken.protocol.lifetime import IMMORTAL, Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import Origin, Record, StreamState

__all__ = [
    "STREAM_COLUMNS",
    "JournalSize",
    "pack",
    "read_journal",
    "state_from_row",
    "state_to_row",
    "unpack",
    "unpack_former",
    "write_journal",
]

_MARK_BYTES = 1024 * 1024
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])
_json = msgspec.json.Encoder()
_lineage = msgspec.json.Decoder(tuple[tuple[int, int], ...])
_origin = msgspec.json.Decoder(Origin)
_former = msgspec.json.Decoder(tuple[int, ...])
_stamp = msgspec.json.Decoder(ProducerStamp)

STREAM_COLUMNS = (
    "number, path, created_ms, content_type, ttl_s, expires_at_ms, tail, closed, closed_by, stream_seq, lineage, "
    "origin, forks, gone, former"
)
Row = tuple[
    int, str, int, str, int | None, int | None, int, int, str | None, str | None, str, str | None, int, int, str
]


def pack(records: Sequence[Record]) -> bytes:
    """The records of one commit as MessagePack."""
    return _encoder.encode(records)


def write_journal(db: apsw.Connection, journal_id: int, packed: bytes) -> None:
    """Add a row to the journal."""
    db.execute("INSERT INTO journal (id, checksum, records) VALUES (?, ?, ?)", (journal_id, zlib.crc32(packed), packed))


def read_journal(db: apsw.Connection) -> Iterator[tuple[int, list[Record]]]:
    """All journal rows, oldest first.

    Raises:
        msgspec.DecodeError: one is damaged.
    """
    for journal_id, checksum, packed in db.execute("SELECT id, checksum, records FROM journal ORDER BY id"):
        if zlib.crc32(packed) != checksum:
            raise msgspec.DecodeError(f"journal row {journal_id} does not match its checksum")
        yield journal_id, unpack(packed)


class JournalSize:
    """About how large the journal is: what was written since the start, less what was trimmed; a mark each MiB."""

    def __init__(self) -> None:
        self._written_bytes = 0
        self._trimmed_bytes = 0
        self._marks: deque[tuple[int, int]] = deque([(0, 0)])

    @property
    def size_bytes(self) -> int:
        """Bytes of records."""
        return self._written_bytes - self._trimmed_bytes

    def grow(self, journal_id: int, size_bytes: int) -> None:
        """A row was written."""
        self._written_bytes += size_bytes
        if self._written_bytes >= self._marks[-1][1] + _MARK_BYTES:
            self._marks.append((journal_id, self._written_bytes))

    def begins_at(self, first_id: int) -> None:
        """The rows before this one are not needed any more."""
        while len(self._marks) > 1 and self._marks[1][0] <= first_id:
            self._marks.popleft()
        self._trimmed_bytes = self._marks[0][1]


def unpack(packed: bytes) -> list[Record]:
    """The records of one commit.

    Raises:
        msgspec.DecodeError: the bytes are damaged.
    """
    return _decoder.decode(packed)


def unpack_former(former: str) -> tuple[int, ...]:
    """The column ``former``: earlier numbers of a stream, whose bytes it still owns."""
    return _former.decode(former)


def state_to_row(state: StreamState) -> Row:
    """A state as ``STREAM_COLUMNS``."""
    return (
        state.number,
        state.path,
        state.created_ms,
        state.content_type,
        state.lifetime.ttl_s,
        state.lifetime.expires_at_ms,
        state.tail,
        int(state.closed),
        None if state.closed_by is None else _json.encode(state.closed_by).decode(),
        state.stream_seq,
        _json.encode(state.lineage).decode() if state.lineage else "[]",
        None if state.origin is None else _json.encode(state.origin).decode(),
        state.forks,
        int(state.gone),
        _json.encode(state.former).decode() if state.former else "[]",
    )


def state_from_row(row: Row) -> StreamState:
    """A state from ``STREAM_COLUMNS``."""
    number, path, created_ms, content_type, ttl_s, expires_at_ms, tail, closed, closed_by, seq = row[:10]
    lineage, origin, forks, gone, former = row[10:]
    return StreamState(
        number=number,
        path=path,
        created_ms=created_ms,
        content_type=content_type,
        json=is_json(content_type),
        lifetime=IMMORTAL if ttl_s is None and expires_at_ms is None else Lifetime(ttl_s, expires_at_ms),
        tail=tail,
        closed=bool(closed),
        closed_by=None if closed_by is None else _stamp.decode(closed_by),
        stream_seq=seq,
        lineage=() if lineage == "[]" else _lineage.decode(lineage),
        origin=None if origin is None else _origin.decode(origin),
        forks=forks,
        gone=bool(gone),
        former=() if former == "[]" else unpack_former(former),
    )
