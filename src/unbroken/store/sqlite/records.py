"""The packed form of records in the journal, and of structured columns. Part of the on-disk format."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from unbroken.protocol.content import is_json
from unbroken.protocol.lifetime import IMMORTAL, Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import Origin, Record, StreamState

__all__ = ["STREAM_COLUMNS", "pack", "state_from_row", "state_to_row", "unpack"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])
_json = msgspec.json.Encoder()
_lineage = msgspec.json.Decoder(tuple[tuple[int, int], ...])
_origin = msgspec.json.Decoder(Origin)
_stamp = msgspec.json.Decoder(ProducerStamp)

STREAM_COLUMNS = (
    "number, path, content_type, ttl_s, expires_at_ms, tail, closed, closed_by, stream_seq, lineage, origin, "
    "forks, gone"
)
Row = tuple[int, str, str, int | None, int | None, int, int, str | None, str | None, str, str | None, int, int]


def pack(records: Sequence[Record]) -> bytes:
    """The records of one commit as MessagePack."""
    return _encoder.encode(records)


def unpack(packed: bytes) -> list[Record]:
    """The records of one commit.

    Raises:
        msgspec.DecodeError: the bytes are damaged.
    """
    return _decoder.decode(packed)


def state_to_row(state: StreamState) -> Row:
    """A state as ``STREAM_COLUMNS``."""
    return (
        state.number,
        state.path,
        state.content_type,
        state.lifetime.ttl_s,
        state.lifetime.expires_at_ms,
        state.tail,
        int(state.closed),
        None if state.closed_by is None else _json.encode(state.closed_by).decode(),
        state.stream_seq,
        _json.encode(state.lineage).decode(),
        None if state.origin is None else _json.encode(state.origin).decode(),
        state.forks,
        int(state.gone),
    )


def state_from_row(row: Row) -> StreamState:
    """A state from ``STREAM_COLUMNS``."""
    number, path, content_type, ttl_s, expires_at_ms, tail, closed, closed_by, seq, lineage, origin, forks, gone = row
    return StreamState(
        number=number,
        path=path,
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
    )
