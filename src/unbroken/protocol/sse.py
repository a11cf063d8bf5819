"""Server-Sent Events: the encoder that the server uses and the incremental decoder that clients use.

The framing is narrow on purpose (conformance): ``event:`` with a space, ``data:`` without one, LF line ends, and after
every data event a control event. Each batch has one ``id:``, so that a browser's own EventSource resumes exactly.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["HEARTBEAT", "Event", "EventDecoder", "encode_base64", "encode_control", "encode_text"]

HEARTBEAT = b":\n\n"

_LINE_END = re.compile(r"\r\n|\r|\n")
_LINE_END_BYTES = re.compile(rb"\r\n|\r|\n")


def encode_text(text: bytes, next_offset: str) -> bytes:
    """A data event. CR, LF and CRLF in the text become separate ``data:`` lines, so no payload can forge an event.

    Args:
        text: the payload, UTF-8. A line that begins with a space gets one more, which parsers strip.
        next_offset: where to go on after it; sent as the event's id.
    """
    if b"\r" in text or b"\n" in text:
        text = b"\ndata:".join(b" " + line if line[:1] == b" " else line for line in _LINE_END_BYTES.split(text))
    elif text[:1] == b" ":
        text = b" " + text
    return b"event: data\ndata:%b\nid:%b\n\n" % (text, next_offset.encode())


def encode_base64(data: bytes, next_offset: str) -> bytes:
    """A data event that carries any bytes, as one line of base64."""
    return b"event: data\ndata:%b\nid:%b\n\n" % (base64.b64encode(data), next_offset.encode())


def encode_control(
    next_offset: str, *, cursor: int | None, up_to_date: bool, closed: bool, with_id: bool = False
) -> bytes:
    """A control event: where the reader stands.

    Args:
        next_offset: the offset to resume from.
        cursor: for the next request; omitted once the stream is closed.
        up_to_date: nothing more is there to read now.
        closed: nothing more will ever come; the server ends the response after this event.
        with_id: carry the offset as id too, for a batch without a data event.
    """
    fields = [f'"streamNextOffset":"{next_offset}"']
    if cursor is not None and not closed:
        fields.append(f'"streamCursor":"{cursor}"')
    if up_to_date:
        fields.append('"upToDate":true')
    if closed:
        fields.append('"streamClosed":true')
    event_id = f"id:{next_offset}\n" if with_id else ""
    return f"event: control\ndata:{{{','.join(fields)}}}\n{event_id}\n".encode()


class Event(NamedTuple):
    """One dispatched event: its type, its data (lines joined by LF) and the last id seen so far."""

    type: str
    data: str
    id: str


class EventDecoder:
    """Incremental parser of an event stream, by the WHATWG rules (HTML section 9.2.6).

    Feed it bytes as they arrive, cut anywhere. Comments and unknown fields are ignored; an event that the connection
    cut short is never dispatched.

    Args:
        line_chars_max: longest line held in memory; a longer one raises ValueError. 64 Mi by default.
    """

    def __init__(self, *, line_chars_max: int = 64 * 1024 * 1024) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._line_chars_max = line_chars_max
        self._rest: list[str] = []
        self._rest_chars = 0
        self._after_cr = False
        self._type = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that this chunk completes.

        Raises:
            ValueError: a line is longer than the limit.
        """
        text = self._utf8.decode(chunk)
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        if text.endswith("\r"):
            self._after_cr = True
        *lines, rest = _LINE_END.split(text)
        for line in lines:
            whole = "".join((*self._rest, line))
            self._rest, self._rest_chars = [], 0
            if event := self._take_line(whole):
                yield event
        if rest:
            self._rest.append(rest)
            self._rest_chars += len(rest)
            if self._rest_chars > self._line_chars_max:
                raise ValueError(f"a line of the event stream is over {self._line_chars_max} characters")

    def _take_line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._type, self._data = "", []
        return event
