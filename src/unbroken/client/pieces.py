"""What one answer, or one event, brings a reader: data, and how far it goes."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

import msgspec

from unbroken.client.answers import is_true, next_offset
from unbroken.client.reading import Progress
from unbroken.client.values import Answer
from unbroken.errors import ProtocolViolation
from unbroken.protocol.content import is_json
from unbroken.protocol.sse import EventDecoder

__all__ = ["EventPieces", "Piece", "piece_of"]

_EMPTY = ("", "[]", b"", b"[]")


class Piece(NamedTuple):
    """Data, and what the server said with it.

    Args:
        data: bytes, or text of a JSON array.
        progress: how far it gets its reader.
    """

    data: bytes | str
    progress: Progress


def piece_of(answer: Answer, content_type: str) -> Piece:
    """What a page, or the answer to a long-poll, brings.

    Raises:
        ProtocolViolation: it is not from a server of the protocol, or a proxy has cut it short.
    """
    headers = answer.headers
    data = answer.body
    if answer.status == 200 and is_json(content_type):
        data = data.strip()
        if data[:1] != b"[" or data[-1:] != b"]":
            raise ProtocolViolation("the server sent what is not a JSON array")
        data = b"" if data == b"[]" else data
    has_data = bool(data)
    closed = is_true(headers, "stream-closed")
    return Piece(
        data,
        Progress(
            next_offset(answer),
            has_data,
            closed or is_true(headers, "stream-up-to-date") or answer.status == 204,
            closed,
            headers.get("stream-cursor"),
        ),
    )


class _Control(msgspec.Struct, rename="camel"):
    """What a control event says."""

    stream_next_offset: str
    stream_cursor: str | None = None
    up_to_date: bool = False
    stream_closed: bool = False


_control_decoder = msgspec.json.Decoder(_Control)


class EventPieces:
    """Makes pieces of an event stream, fed as it arrives. Data counts only with the control event after it, which says
    how far it goes; what a broken connection leaves without one is read again.

    Args:
        json: whether the stream holds JSON messages.
        base64_: whether data is sent in base64.
        size_max: more characters of data without a control event are refused.
    """

    def __init__(self, *, json: bool, base64_: bool, size_max: int) -> None:
        self._decoder = EventDecoder(line_chars_max=size_max)
        self._json = json
        self._base64 = base64_
        self._size_max = size_max
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Piece]:
        """The pieces that this chunk completes.

        Raises:
            ProtocolViolation: they are not events of the protocol.
        """
        pieces = []
        try:
            for event in self._decoder.feed(chunk):
                if event.type == "data":
                    self._take(event.data)
                elif event.type == "control":
                    pieces.append(self._piece(_control_decoder.decode(event.data)))
        except (ValueError, binascii.Error) as error:
            raise ProtocolViolation(f"the server sent an event that is not of the protocol: {error}") from error
        return pieces

    def _take(self, data: str) -> None:
        self._size += len(data)
        if self._size > self._size_max:
            raise ValueError(f"over {self._size_max} characters without a control event")
        self._data.append(data)

    def _piece(self, control: _Control) -> Piece:
        parts, self._data, self._size = self._data, [], 0
        data: bytes | str
        if self._json:
            data = _joined_arrays(parts)
        elif self._base64:
            data = b"".join(base64.b64decode(part.replace("\n", ""), validate=True) for part in parts)
        else:
            data = "".join(parts).encode()
        has_data = data not in _EMPTY
        up_to_date = control.up_to_date or control.stream_closed
        progress = Progress(
            control.stream_next_offset, has_data, up_to_date, control.stream_closed, control.stream_cursor
        )
        return Piece(data if has_data else b"", progress)


def _joined_arrays(parts: list[str]) -> str:
    """JSON arrays as one."""
    if len(parts) < 2:
        return parts[0] if parts else ""
    inner = (part.strip()[1:-1] for part in parts)
    return f"[{','.join(part for part in inner if part.strip())}]"
