"""What readers get: the messages of an answer as events, as text, or as the AI SDK's UI message stream.

A rendering turns each message into bytes for itself, so it can begin anywhere.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from unbroken.protocol.sse import HEARTBEAT
from unbroken.web.parts import INTERRUPTED, Beat, Begin, End, Message, Part, decode, encode

__all__ = ["Format", "Rendering", "rendering"]

Format = Literal["json", "text", "ui"]
"""
- ``json``: Server-Sent Events, each a message as it is in the stream.
- ``text``: the text alone. Plain, or, for readers that accept only ``text/event-stream`` (a browser's EventSource),
  Server-Sent Events with the text as data and an event ``end`` with the last message.
- ``ui``: the AI SDK's UI message stream, for its ``useChat``.
"""

_FAILED = "The answer failed."
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Rendering(ABC):
    """How messages become a response's body.

    Attributes:
        headers: of the response.
        heartbeat: what keeps a silent connection alive.
    """

    headers: ClassVar[dict[str, str]]
    heartbeat: ClassVar[bytes] = HEARTBEAT

    @abstractmethod
    def message(self, data: bytes, position: str | None) -> bytes:
        """A message.

        Args:
            data: as it is in the stream.
            position: where to resume after it; None if it is not in the stream.
        """


def rendering(format: Format, accept: str) -> Rendering:  # noqa: A002 (the word is the argument's in all of the API)
    """The rendering for a format.

    Args:
        format: which.
        accept: the request's ``Accept``.

    Raises:
        ValueError: there is no such format.
    """
    if format == "json":
        return _JsonEvents()
    if format == "ui":
        return _UiStream()
    if format == "text":
        return _TextEvents() if "text/event-stream" in accept.lower() else _PlainText()
    raise ValueError(f"there is no format {format!r}; there are json, text and ui")


_SSE = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}


def _event(data: bytes, position: str | None, name: bytes = b"") -> bytes:
    """An event; no data can forge another one."""
    lines = b"\n".join(b"data: " + line for line in _LINE_END.split(data))
    head = b"" if position is None else b"id: %b\n" % position.encode()
    return b"%b%b%b\n\n" % (head, b"event: %b\n" % name if name else b"", lines)


class _JsonEvents(Rendering):
    headers: ClassVar = _SSE

    def message(self, data: bytes, position: str | None) -> bytes:
        return HEARTBEAT if isinstance(decode(data), Beat) else _event(data, position)


class _TextEvents(Rendering):
    headers: ClassVar = {**_SSE, "vary": "accept"}

    def message(self, data: bytes, position: str | None) -> bytes:
        message = decode(data)
        if isinstance(message, End):
            return _event(data, position, b"end")
        if text := _text(message):
            return _event(text.encode(), position)
        return HEARTBEAT if isinstance(message, Beat) else b""


class _PlainText(Rendering):
    headers: ClassVar = {
        "content-type": "text/plain; charset=utf-8",
        "cache-control": "no-cache",
        "vary": "accept",
        "x-accel-buffering": "no",
    }
    heartbeat: ClassVar = b""

    def message(self, data: bytes, position: str | None) -> bytes:
        message = decode(data)
        if isinstance(message, End) and message.outcome in ("error", "interrupted"):
            return f"\n[{_reason(message)}]\n".encode()
        return _text(message).encode()


def _text(message: Message) -> str:
    if isinstance(message, Begin | End | Beat) or message.get("type") != "text-delta":
        return ""
    return str(message.get("delta", ""))


def _reason(end: End) -> str:
    return end.error or (INTERRUPTED.error if end.outcome == "interrupted" else None) or _FAILED


class _UiStream(Rendering):
    headers: ClassVar = {**_SSE, "x-vercel-ai-ui-message-stream": "v1"}

    def message(self, data: bytes, position: str | None) -> bytes:
        message = decode(data)
        if isinstance(message, Begin):
            return _event(encode({"type": "start", "messageId": message.key}), position)
        if isinstance(message, End):
            return _event(encode(_ending(message)), position) + b"data: [DONE]\n\n"
        if isinstance(message, Beat):
            return HEARTBEAT
        return b"" if message.get("type") == "unknown" else _event(data, position)


def _ending(end: End) -> Part:
    if end.outcome == "done":
        return {"type": "finish", **({"finishReason": end.finish_reason} if end.finish_reason else {})}
    if end.outcome == "cancelled":
        return {"type": "abort"}
    return {"type": "error", "errorText": _reason(end)}
