"""What a body means: content types, and JSON mode.

A JSON stream stores each message followed by one separator byte (ASCII RS, 0x1E), which counts in byte positions. JSON
text cannot hold that byte (control characters are escaped in strings, RFC 8259 section 7), so message boundaries need
no index of their own: a position is a boundary exactly when the byte before it is the separator, and a page turns into
a JSON array by replacing separators with commas. Messages are never re-serialised.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from unbroken.errors import InvalidBody, TooManyMessages, UnbrokenError

__all__ = [
    "DEFAULT_CONTENT_TYPE",
    "EMPTY",
    "JSON_DEPTH_MAX",
    "JSON_MESSAGES_MAX",
    "SEPARATOR",
    "Content",
    "frame_json",
    "frames_quickly",
    "is_json",
    "is_text",
    "json_array",
    "media_type",
    "whole_characters",
]

DEFAULT_CONTENT_TYPE = "application/octet-stream"
JSON_DEPTH_MAX = 512
JSON_MESSAGES_MAX = 100_000
SEPARATOR = b"\x1e"

_WHITESPACE = b" \t\n\r"
# Splitting runs at about 170 MB/s measured: 6 ms for the largest body that is split in one call.
_ONE_CALL_BYTES_MAX = 1024 * 1024
_SLICE_BYTES = 256 * 1024

_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_value_decoder = msgspec.json.Decoder(msgspec.Raw)


class Content(NamedTuple):
    """A body made ready for a stream: the bytes to store, or why it cannot be stored.

    Args:
        data: what is appended; in JSON mode framed by separators.
        json: whether it was read as JSON. A stream takes content only of its own mode.
        fault: reported only once the stream is known to exist, be open and have this content type.
    """

    data: bytes
    json: bool = False
    fault: UnbrokenError | None = None


EMPTY = Content(b"")


def media_type(content_type: str) -> str:
    """The type without parameters, in lower case: what two content types are compared by (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether streams of this type hold JSON messages."""
    return media_type(content_type) == "application/json"


def is_text(content_type: str) -> bool:
    """Whether SSE carries this type as text instead of base64."""
    return media_type(content_type).startswith("text/")


def frames_quickly(body: bytes) -> bool:
    """Whether `frame_json` takes only milliseconds; if not, it belongs in a worker thread."""
    return len(body) <= _ONE_CALL_BYTES_MAX and body.count(b",") < JSON_MESSAGES_MAX


def frame_json(body: bytes) -> bytes:
    """Split a JSON body into messages (one level of array is flattened) and frame them for storage.

    Works in slices, so that a worker thread never keeps the interpreter to itself for long.

    Args:
        body: the request body. ``[]`` frames to nothing.

    Raises:
        InvalidBody: not exactly one JSON text in UTF-8, or nested deeper than ``JSON_DEPTH_MAX``.
        TooManyMessages: more than ``JSON_MESSAGES_MAX`` messages.
    """
    body = body.strip(_WHITESPACE)
    _check_utf8(body)
    if frames_quickly(body) or not body.startswith(b"["):
        return _framed(_decode(body))
    return b"".join(_framed(_decode(part)) for part in _array_slices(body))


def _check_utf8(body: bytes) -> None:
    """msgspec does not look into strings, so broken UTF-8 would reach every reader."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _SLICE_BYTES):
            part = body[start : start + _SLICE_BYTES]
            if not (part.isascii() and decoder.getstate()[0] == b""):
                decoder.decode(part)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise InvalidBody("the body is not UTF-8") from None


def _framed(messages: list[msgspec.Raw] | list[bytes]) -> bytes:
    if not messages:
        return b""
    return SEPARATOR.join(messages) + SEPARATOR


def _decode(body: bytes) -> list[msgspec.Raw] | list[bytes]:
    """The messages of a body, byte for byte."""
    try:
        try:
            messages: list[msgspec.Raw] | list[bytes] = _messages(body)
        except msgspec.DecodeError:
            if b"\\u" not in body:
                raise
            messages = _decode_leniently(body)
    except msgspec.DecodeError as error:
        raise InvalidBody(f"invalid JSON: {error}") from None
    except RecursionError:
        raise InvalidBody(f"JSON nested deeper than {JSON_DEPTH_MAX} levels") from None
    if len(body) > 2 * JSON_DEPTH_MAX and body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        _check_depth(messages)
    return messages


def _messages(text: bytes) -> list[msgspec.Raw]:
    return _array_decoder.decode(text) if text.startswith(b"[") else [_value_decoder.decode(text)]


_GAP = re.compile(rb"[ \t\n\r,]*")


def _decode_leniently(body: bytes) -> list[bytes]:
    """The messages of a body with lone surrogate escapes.

    They are JSON (RFC 8259 section 8.2), and JavaScript sends them when it cuts an emoji in two, but msgspec refuses
    them. So it is shown a text of the same length with other escapes in their place. Escaped backslashes go first:
    what then looks like an escape is one.
    """
    shown = _messages(body.replace(rb"\\", b"__").replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0"))
    if not body.startswith(b"["):
        return [body]
    messages: list[bytes] = []
    position = 1
    for message in shown:
        gap = _GAP.match(body, position)
        start = gap.end() if gap else position
        position = start + memoryview(message).nbytes
        messages.append(body[start:position])
    return messages


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_depth(messages: list[msgspec.Raw] | list[bytes]) -> None:
    """msgspec stops at the interpreter's recursion limit, which differs between machines; ours must not."""
    for message in messages:
        raw = bytes(message)
        if raw.count(b"[") + raw.count(b"{") <= JSON_DEPTH_MAX:
            continue
        depth = 0
        for bracket in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > JSON_DEPTH_MAX:
                raise InvalidBody(f"JSON nested deeper than {JSON_DEPTH_MAX} levels")


# Everything up to the next character that can change the nesting (or, at the top, end an item). Strings are eaten
# whole; possessive quantifiers keep both linear.
_TO_ITEM_END = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{},]', re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{}]', re.DOTALL)
_ARRAY_END = re.compile(rb"[ \t\n\r]*\]")


def _array_slices(body: bytes) -> Iterator[bytes]:
    """Cut a large array into smaller arrays of whole items.

    Cuts are made by nesting alone: each slice is still to be decoded, and a body that is not JSON yields a slice that
    does not decode. Only cuts themselves could hide a fault (a missing item beside them), so those are looked at here.
    """
    start, position, depth, items = 1, 1, 0, 0
    while match := (_TO_BRACKET if depth else _TO_ITEM_END).match(body, position):
        position = match.end()
        last = body[position - 1]
        if last == 0x2C:  # comma
            items += 1
            if items >= JSON_MESSAGES_MAX:
                raise TooManyMessages(JSON_MESSAGES_MAX)
            if position - start >= _SLICE_BYTES and not _ARRAY_END.match(body, position):
                item = body[start : position - 1]
                if item.isspace():
                    raise InvalidBody("invalid JSON: an item is missing")
                yield b"[" + item + b"]"
                start = position
        elif last in b"[{":
            depth += 1
            if depth > JSON_DEPTH_MAX:
                raise InvalidBody(f"JSON nested deeper than {JSON_DEPTH_MAX} levels")
        elif depth:
            depth -= 1
        else:
            break
    yield b"[" + body[start:]


def json_array(framed: bytes) -> bytes:
    """Turn framed messages into the JSON array that readers get."""
    return b"[" + framed[:-1].replace(SEPARATOR, b",") + b"]"


# How characters begin that are cut after their first, second or third byte (Unicode, table 3-7).
_BEGUN = re.compile(
    rb"(?:[\xc2-\xdf]"
    rb"|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3][\x80-\xbf]{0,2}|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)\Z"
)


def whole_characters(data: bytes) -> int:
    """How many leading bytes of UTF-8 text can be shown now: at most 3 trailing ones of a cut character are left out.

    Bytes that can never become a character are not waited for.
    """
    begun = _BEGUN.search(data, max(0, len(data) - 3))
    return begun.start() if begun else len(data)
