"""Path identity: which stream a request target names.

Decoded exactly once and compared byte for byte, so that routing, storage and authorisation can never disagree about
what ``//``, ``%2e`` or ``%2F`` mean: such spellings are refused instead of normalised.
"""

from __future__ import annotations

import re
from functools import lru_cache

from unbroken.errors import InvalidPath

__all__ = ["PATH_BYTES_MAX", "PATH_SEGMENTS_MAX", "decode_target", "parse_path"]

PATH_BYTES_MAX = 1024
PATH_SEGMENTS_MAX = 32

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_RESERVED = ("-", "__ds")


def decode_target(raw: bytes) -> str:
    """Decode the path of a request target (percent-escapes once, then UTF-8).

    Raises:
        InvalidPath: a broken escape, an encoded slash, or bytes that are not UTF-8.
    """
    if b"%" in raw:
        raw = _ESCAPE.sub(_unescape, raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidPath("the path is not UTF-8") from None


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise InvalidPath("broken percent-escape")
    if digits.lower() == b"2f":
        raise InvalidPath("an encoded slash (%2F) is not allowed")
    return bytes((int(digits, 16),))


@lru_cache(maxsize=8192)
def parse_path(path: str) -> str:
    """Check a decoded path (``/a/b``) and return it: the key under which the stream is stored.

    Raises:
        InvalidPath: control characters, backslash, empty or dot segments, a trailing slash, a reserved first segment
            (``-``, ``__ds``), over 1,024 bytes or 32 segments, lone surrogates.
    """
    try:
        size_bytes = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidPath("the path has lone surrogates, which UTF-8 cannot carry") from None
    if size_bytes > PATH_BYTES_MAX:
        raise InvalidPath(f"the path is over {PATH_BYTES_MAX} bytes")
    if not path.startswith("/") or path == "/":
        raise InvalidPath("a stream path begins with / and has at least one segment")
    if _CONTROL.search(path):
        raise InvalidPath("control characters and backslashes are not allowed")
    segments = path[1:].split("/")
    if len(segments) > PATH_SEGMENTS_MAX:
        raise InvalidPath(f"the path has more than {PATH_SEGMENTS_MAX} segments")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise InvalidPath("empty and dot segments and a trailing slash are not allowed")
    if segments[0] in _RESERVED:
        raise InvalidPath(f"paths below /{segments[0]} are reserved")
    return path
