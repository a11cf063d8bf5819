"""What a body means: content types, and JSON mode.

A JSON stream stores each message followed by one separator byte (ASCII RS, 0x1E), which counts in byte positions. JSON
text cannot hold that byte (control characters are escaped in strings, RFC 8259 section 7), so message boundaries need
no index of their own: a position is a boundary exactly when the byte before it is the separator, and a page turns into
a JSON array by replacing separators with commas. Messages are never re-serialised.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from functools import lru_cache

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
    "make_content",
    "media_type",
    "split_json",
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
_SURELY_QUICK_BYTES = 4 * 1024
# With surrogates in escapes each message is cut out by itself, and each bracket is looked at by itself for the depth:
# no more than some milliseconds.
_CUT_QUICKLY_MAX = 5_000
_BRACKETS_QUICKLY_MAX = 50_000

_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_value_decoder = msgspec.json.Decoder(msgspec.Raw)


Message = msgspec.Raw | bytes


class Content(msgspec.Struct, frozen=True):
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


def make_content(body: bytes, content_type: str | None) -> Content:
    """Make a body ready to be stored in a stream of this content type; a fault in it is kept in the result.

    See `frames_quickly` for how long it may take.
    """
    if content_type is None or not is_json(content_type):
        return Content(body)
    if not body:
        return EMPTY
    try:
        return Content(frame_json(body), json=True)
    except UnbrokenError as fault:
        return Content(b"", json=True, fault=fault)


@lru_cache(maxsize=1024)
def media_type(content_type: str) -> str:
    """The type without parameters, in lower case: what two content types are compared by (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=1024)
def is_json(content_type: str) -> bool:
    """Whether streams of this type hold JSON messages."""
    return media_type(content_type) == "application/json"


def is_text(content_type: str) -> bool:
    """Whether SSE carries this type as text instead of base64."""
    return media_type(content_type).startswith("text/")


def frames_quickly(body: bytes) -> bool:
    """Whether `frame_json` takes only milliseconds; if not, it belongs in a worker thread."""
    if len(body) <= _SURELY_QUICK_BYTES:
        return True
    return _splits_quickly(body) and body.count(b"[") + body.count(b"{") < _BRACKETS_QUICKLY_MAX


def _splits_quickly(body: bytes) -> bool:
    if len(body) > _ONE_CALL_BYTES_MAX:
        return False
    commas = body.count(b",")
    return commas < JSON_MESSAGES_MAX and (commas < _CUT_QUICKLY_MAX or not (rb"\ud" in body or rb"\uD" in body))


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
    try:
        messages = _split(body) if _splits_quickly(body) else _split_in_steps(body)
    except msgspec.DecodeError as error:
        raise InvalidBody(f"invalid JSON: {error}") from None
    except RecursionError:
        raise InvalidBody(f"JSON nested deeper than {JSON_DEPTH_MAX} levels") from None
    if len(body) > 2 * JSON_DEPTH_MAX and body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        for message in messages:
            if memoryview(message).nbytes > 2 * JSON_DEPTH_MAX:
                _check_depth(message)
    return SEPARATOR.join((*messages, b"")) if len(body) <= _ONE_CALL_BYTES_MAX else _join_in_steps(messages)


def _join_in_steps(messages: Sequence[Message]) -> bytes:
    """The same in calls of a MiB, or one message, each."""
    framed = io.BytesIO()
    step: list[Message] = []
    step_bytes = 0
    for message in messages:
        step.append(message)
        step_bytes += memoryview(message).nbytes
        if step_bytes > _ONE_CALL_BYTES_MAX:
            framed.write(SEPARATOR.join((*step, b"")))
            step.clear()
            step_bytes = 0
    framed.write(SEPARATOR.join((*step, b"")))
    return framed.getvalue()


def split_json(body: bytes) -> list[bytes]:
    """The messages of a JSON array, or of a single value, byte for byte: what a reader has of a page.

    Raises:
        InvalidBody: it is not JSON.
    """
    try:
        return [bytes(message) for message in _split(body.strip(_WHITESPACE))]
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"invalid JSON: {error}") from None


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


def _split(body: bytes) -> Sequence[Message]:
    """The messages of a body, byte for byte."""
    try:
        return _messages(body)
    except msgspec.DecodeError:
        if b"\\u" not in body:
            raise
    shown = _messages(_without_surrogates(body))
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


_GAP = re.compile(rb"[ \t\n\r,]*")


def _messages(text: bytes) -> list[msgspec.Raw]:
    return _array_decoder.decode(text) if text.startswith(b"[") else [_value_decoder.decode(text)]


def _has_surrogates(body: bytes) -> bool:
    """Whether there may be escapes of surrogates in it, looked for in slices."""
    slices = (body[start : start + _SLICE_BYTES + 2] for start in range(0, len(body), _SLICE_BYTES))
    return any(rb"\ud" in part or rb"\uD" in part for part in slices)


def _without_surrogates(body: bytes) -> bytes:
    """A text of the same length with other escapes in the place of surrogates.

    Lone ones are JSON (RFC 8259 section 8.2), and JavaScript sends them when it cuts an emoji in two, but msgspec
    refuses them. Escaped backslashes go first: what then looks like an escape is one.
    """
    return body.replace(rb"\\", b"__").replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")


_EMPTY_ARRAY = re.compile(rb"\[[ \t\n\r]*\]")
# msgspec decodes whole texts only, but tells where something follows a value: counted from 1, white space skipped.
_SOMETHING_FOLLOWS = re.compile(r"trailing characters \(byte (\d+)\)")


def _split_in_steps(body: bytes) -> Sequence[Message]:
    """The messages of a large body, each found in a call of its own."""
    if not body.startswith(b"[") or _EMPTY_ARRAY.fullmatch(body):
        return _split(body)
    view = memoryview(_without_surrogates(body) if _has_surrogates(body) else body)
    messages: list[bytes] = []
    position = 1
    while True:
        if len(messages) == JSON_MESSAGES_MAX:
            raise TooManyMessages(JSON_MESSAGES_MAX)
        end = _item_end(view, position)
        messages.append(body[position:end].strip(_WHITESPACE))
        position = end + 1
        if body[end:position] == b"]" and position == len(body):
            return messages
        if body[end:position] != b",":
            raise InvalidBody(f"invalid JSON: expected ',' or the end after byte {end}")


def _item_end(view: memoryview, start: int) -> int:
    try:
        _value_decoder.decode(view[start:])
    except msgspec.DecodeError as error:
        if match := _SOMETHING_FOLLOWS.search(str(error)):
            return start + int(match[1]) - 1
        raise
    raise InvalidBody("invalid JSON: the array does not end")


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_depth(message: Message) -> None:
    """msgspec stops at the interpreter's recursion limit, which differs between machines; ours must not."""
    raw = bytes(message)
    if raw.count(b"[") + raw.count(b"{") <= JSON_DEPTH_MAX:
        return
    depth = 0
    position = 0
    while position < len(raw):
        part = _STRING.sub(b"", raw[position : position + _SLICE_BYTES])
        position += _SLICE_BYTES
        if (quote := part.find(b'"')) >= 0:  # a string that this slice cuts: go on after it
            begin = min(position, len(raw)) - (len(part) - quote)
            string = _STRING.match(raw, begin)
            position = string.end() if string else len(raw)
            part = part[:quote]
        for bracket in part.translate(None, _NOT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > JSON_DEPTH_MAX:
                raise InvalidBody(f"JSON nested deeper than {JSON_DEPTH_MAX} levels")


def json_array(framed: bytes) -> bytes:
    """Turn framed messages into the JSON array that readers get."""
    # Each copy of a large page costs as much as all the rest of it, in page faults: one if it is a single message, two
    # if not.
    single = framed.find(SEPARATOR) == len(framed) - 1
    return b"".join((b"[", memoryview(framed if single else framed.replace(SEPARATOR, b","))[:-1], b"]"))


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
