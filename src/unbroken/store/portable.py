"""Exports: streams as a file that any language can read in a few lines. The format, version 1.

A file is a sequence of lines of JSON in UTF-8, each an object. One with a member ``bytes`` is followed by so many
bytes, and a newline that is not part of them.

    {"unbroken_export":1,"prefix":"/chats/","exported_ms":1760000000000}
    {"stream":"/chats/7","content_type":"text/plain","created_ms":1750000000000,"closed":false}
    {"producer":"me","epoch":0,"seq":4}
    {"time_ms":1750000000123,"bytes":5}
    hello
    {"time_ms":1750000000456,"bytes":6}
     world
    {"end":"/chats/7","size":11,"sha256":"..."}
    {"streams":1}

- The first line says that it is an export, its version, and which prefix was asked for.
- A stream is everything from its ``stream`` line to its ``end`` line. Optional members of the first: ``ttl_s`` or
  ``expires_at_ms`` (Unix milliseconds, like all times), ``stream_seq``, and ``closed_by``, ``[id, epoch, seq]``.
- ``producer`` lines say what was last accepted from each producer.
- The bytes follow in order, each piece with the time of its commit; pieces may be cut anywhere. In a stream of type
  ``application/json`` each message is followed by one byte 0x1E, which JSON text cannot hold.
- ``end`` has the number of the stream's bytes, and the SHA-256 of the file from the ``stream`` line's first byte up to
  the ``end`` line's.
- The last line has the number of streams. A file without it was cut off.

Unknown members are ignored; a change that an older reader must not ignore raises the version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from unbroken.errors import StoreError, UnbrokenError
from unbroken.protocol.headers import parse_content_type
from unbroken.protocol.lifetime import TTL_S_MAX
from unbroken.protocol.paths import parse_path
from unbroken.protocol.producers import PRODUCER_INTEGER_MAX, Producer, ProducerStamp

__all__ = ["VERSION", "ExportReader", "ExportWriter", "Head", "Piece", "Sender"]

VERSION = 1

_LINE_BYTES_MAX = 64 * 1024
_PIECE_BYTES_MAX = 16 * 1024 * 1024
_PIECE_BYTES_WRITTEN = 1024 * 1024
# The years 1 to 9999.
_TIME_MS_MIN, _TIME_MS_MAX = -62_135_596_800_000, 253_402_300_799_999


class Head(msgspec.Struct, frozen=True, omit_defaults=True, rename={"path": "stream"}):
    """What is known of a stream beside its bytes and its producers."""

    path: str
    content_type: str
    created_ms: int
    closed: bool
    closed_by: ProducerStamp | None = None
    ttl_s: int | None = None
    expires_at_ms: int | None = None
    stream_seq: str | None = None

    def fault(self) -> str | None:
        """What is wrong with it, if anything is."""
        try:
            parse_path(self.path)
            if parse_content_type({b"content-type": self.content_type.encode("latin-1")}) != self.content_type:
                return "it has no content type"
        except (UnbrokenError, UnicodeError) as error:
            return str(error)
        if self.ttl_s is not None and (self.expires_at_ms is not None or not 0 <= self.ttl_s <= TTL_S_MAX):
            return "its lifetime is impossible"
        if not (_is_time(self.created_ms) and _is_time(self.expires_at_ms or 0)):
            return "a time of it is impossible"
        if self.closed_by is not None and not self.closed:
            return "it is closed by a producer, yet open"
        return None


def _is_time(time_ms: int) -> bool:
    return _TIME_MS_MIN <= time_ms <= _TIME_MS_MAX


class Piece(NamedTuple):
    """Bytes of a stream, and when they were committed."""

    time_ms: int
    data: bytes


class Sender(NamedTuple):
    """A producer, and what was last accepted from it."""

    id: str
    last: Producer


class _Line(msgspec.Struct):
    """Any line but the first of a stream."""

    unbroken_export: int | None = None
    prefix: str = "/"
    stream: str | None = None
    producer: str | None = None
    epoch: int = -1
    seq: int = -1
    time_ms: int = 0
    bytes: int | None = None
    end: str | None = None
    size: int = -1
    sha256: str = ""
    streams: int | None = None


_head = msgspec.json.Decoder(Head)
_line = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()
# What a decoder raises for what is not JSON, not UTF-8, or nested without end.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ExportWriter:
    """Writes an export.

    Args:
        file: where to.
        prefix: with which all paths begin.
        now_ms: what time it is.
    """

    def __init__(self, file: BinaryIO, prefix: str, now_ms: int) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._path = ""
        self._size_bytes = 0
        self.streams = 0
        self._line({"unbroken_export": VERSION, "prefix": prefix, "exported_ms": now_ms})

    def begin(self, head: Head) -> None:
        """Begin a stream."""
        self._digest = hashlib.sha256()
        self._path, self._size_bytes = head.path, 0
        self._line(head)

    def sender(self, sender: Sender) -> None:
        """Add a producer; before the first piece."""
        self._line({"producer": sender.id, "epoch": sender.last.epoch, "seq": sender.last.seq})

    def piece(self, piece: Piece) -> None:
        """Add bytes."""
        for start in range(0, len(piece.data), _PIECE_BYTES_WRITTEN):
            part = piece.data[start : start + _PIECE_BYTES_WRITTEN]
            self._line({"time_ms": piece.time_ms, "bytes": len(part)}, part + b"\n")
            self._size_bytes += len(part)

    def end(self) -> None:
        """End a stream."""
        digest = self._digest.hexdigest()
        self._line({"end": self._path, "size": self._size_bytes, "sha256": digest})
        self.streams += 1

    def finish(self) -> None:
        """End the export."""
        self._line({"streams": self.streams})

    def _line(self, members: object, data: bytes = b"") -> None:
        line = _encoder.encode(members) + b"\n" + data
        self._digest.update(line)
        self._file.write(line)


class ExportReader:
    """Reads an export, and trusts nothing in it.

    Args:
        file: where from.

    Raises:
        StoreError: it is no export, or of a newer version.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._position = 0
        self.ended = False
        self.streams = 0
        try:
            line = _line.decode(self._next_line())
        except (*_MALFORMED, StoreError):
            line = _Line()
        if line.unbroken_export is None:
            raise StoreError("this is not an export of Unbroken")
        if line.unbroken_export > VERSION:
            raise StoreError(f"this export has version {line.unbroken_export}; this program reads up to {VERSION}")
        self.prefix = line.prefix

    def heads(self) -> Iterator[Head]:
        """The streams, one after the other; `contents` of one must be read to the end before the next.

        Raises:
            StoreError: the file is damaged, or was cut off.
        """
        while True:
            self._digest = hashlib.sha256()
            text = self._next_line()
            line = self._decoded(text)
            if line.streams is not None:
                if line.streams != self.streams:
                    raise self._damaged(f"it says that it has {line.streams} streams, and has {self.streams}")
                return
            if line.stream is None:
                raise self._damaged("a stream should begin here")
            try:
                head = _head.decode(text)
            except _MALFORMED as error:
                raise self._damaged(str(error)) from None
            if fault := head.fault():
                raise self._damaged(f"{head.path}: {fault}")
            self.ended = False
            yield head
            assert self.ended, "all of a stream is read before the next"
            self.streams += 1

    def contents(self, head: Head) -> Iterator[Piece | Sender]:
        """What a stream has. Whoever keeps it waits for the end, where the checksum is compared.

        Raises:
            StoreError: the file is damaged, or was cut off.
        """
        size_bytes = 0
        while True:
            digest = self._digest.copy()
            line = self._decoded(self._next_line())
            if line.bytes is not None:
                data = self._next_bytes(line)
                size_bytes += len(data)
                yield Piece(line.time_ms, data)
            elif line.producer is not None:
                if not (0 <= line.epoch <= PRODUCER_INTEGER_MAX and 0 <= line.seq <= PRODUCER_INTEGER_MAX):
                    raise self._damaged(f"{head.path}: producer {line.producer!r} is at an impossible number")
                yield Sender(line.producer, Producer(line.epoch, line.seq))
            elif line.end == head.path:
                if (line.size, line.sha256) != (size_bytes, digest.hexdigest()):
                    raise self._damaged(f"{head.path} does not match its checksum")
                self.ended = True
                return
            else:
                raise self._damaged(f"{head.path} has no end")

    def _next_line(self) -> bytes:
        text = self._file.readline(_LINE_BYTES_MAX)
        self._take(text)
        if not text.endswith(b"\n"):
            raise self._damaged("it was cut off" if len(text) < _LINE_BYTES_MAX else "a line is too long")
        return text

    def _decoded(self, text: bytes) -> _Line:
        try:
            return _line.decode(text)
        except _MALFORMED as error:
            raise self._damaged(str(error)) from None

    def _next_bytes(self, line: _Line) -> bytes:
        assert line.bytes is not None
        if not 0 < line.bytes <= _PIECE_BYTES_MAX or not _is_time(line.time_ms):
            raise self._damaged(f"{line.bytes} bytes of time {line.time_ms}")
        data = self._file.read(line.bytes + 1)
        self._take(data)
        if len(data) != line.bytes + 1 or not data.endswith(b"\n"):
            raise self._damaged(
                "it was cut off" if len(data) <= line.bytes else "the bytes do not end where they should"
            )
        return data[:-1]

    def _take(self, read: bytes) -> None:
        self._digest.update(read)
        self._position += len(read)

    def _damaged(self, why: str) -> StoreError:
        return StoreError(f"the export is damaged before byte {self._position}: {why}")
