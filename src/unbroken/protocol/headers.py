"""Names of protocol headers and query parameters, and strict parsers of their values.

Requests come in as ``Fields``: lower-case names to raw values, repeated headers joined with a comma. A parser returns
the value or raises `InvalidHeader`; whether and when that is reported is decided in `unbroken.protocol.stream`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_plus

from unbroken.errors import InvalidHeader, InvalidOffset
from unbroken.protocol.lifetime import Lifetime, parse_time, parse_ttl
from unbroken.protocol.producers import PRODUCER_INTEGER_MAX, ProducerStamp

__all__ = [
    "ALLOWED_METHODS",
    "REQUEST_HEADERS",
    "RESPONSE_HEADERS",
    "Fields",
    "ReadQuery",
    "field",
    "is_true",
    "parse_content_type",
    "parse_integer",
    "parse_lifetime",
    "parse_producer",
    "parse_read_query",
    "parse_stream_seq",
]

Fields = Mapping[bytes, bytes]

ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
REQUEST_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, If-None-Match, Last-Event-ID, Producer-Epoch, Producer-Id, "
    "Producer-Seq, Stream-Closed, Stream-Expires-At, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Stream-Forked-From, "
    "Stream-Seq, Stream-TTL, X-Request-Id"
)
RESPONSE_HEADERS = (
    "ETag, Location, Producer-Epoch, Producer-Expected-Seq, Producer-Received-Seq, Producer-Seq, Retry-After, "
    "Stream-Closed, Stream-Cursor, Stream-Expires-At, Stream-Next-Offset, Stream-Previous-Offset, "
    "Stream-SSE-Data-Encoding, Stream-TTL, Stream-Up-To-Date, WWW-Authenticate, X-Request-Id"
)

_VALUE_CHARS_MAX = 256
_PARAMETERS = frozenset(("before", "cursor", "limit", "live", "offset", "since", "timeout"))
_PARAMETERS_MAX = 64
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(?:;[ -~\t]*)?", re.ASCII)


def field(fields: Fields, name: bytes) -> str | None:
    """A header's value as text (ISO 8859-1, RFC 9110 section 5.5), or None."""
    raw = fields.get(name)
    # Only space and tab surround a value. Stripped as text, 0xA0 and 0x85 would go too: the last byte of "à" in UTF-8.
    return None if raw is None else raw.strip(b" \t").decode("latin-1")


def is_true(fields: Fields, name: bytes) -> bool:
    """Whether a flag header is present with the value ``true`` in any case; every other value counts as absent."""
    value = fields.get(name)
    return value is not None and value.strip().lower() == b"true"


def parse_integer(text: str, name: str, *, maximum: int = PRODUCER_INTEGER_MAX) -> int:
    """Parse a non-negative decimal integer without sign or leading zero.

    Raises:
        InvalidHeader: anything else, or above the maximum.
    """
    if not _INTEGER.fullmatch(text) or (value := int(text)) > maximum:
        raise InvalidHeader(f"{name} must be a whole number from 0 to {maximum}")
    return value


def parse_content_type(fields: Fields) -> str | None:
    """The ``Content-Type`` as given, or None.

    Raises:
        InvalidHeader: not of the form type/subtype, or over 256 characters.
    """
    raw = fields.get(b"content-type")
    return None if raw is None else _media_type(raw)


@lru_cache(maxsize=256)
def _media_type(raw: bytes) -> str | None:
    """All requests name one of a few; errors are not remembered, so what is kept is short."""
    text = raw.strip(b" \t").decode("latin-1")
    if not text:
        return None
    if len(text) > _VALUE_CHARS_MAX or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidHeader("Content-Type must be a media type such as text/plain")
    return text


def parse_stream_seq(fields: Fields) -> str | None:
    """The ``Stream-Seq`` or None.

    Raises:
        InvalidHeader: empty, or over 256 characters.
    """
    text = field(fields, b"stream-seq")
    if text is not None and not 0 < len(text) <= _VALUE_CHARS_MAX:
        raise InvalidHeader(f"Stream-Seq must have 1 to {_VALUE_CHARS_MAX} characters")
    return text


def parse_producer(fields: Fields) -> ProducerStamp | None:
    """The three producer headers, which come together or not at all.

    Raises:
        InvalidHeader: some are missing, the id is empty or over 256 characters, or a number is malformed.
    """
    if not (b"producer-id" in fields or b"producer-epoch" in fields or b"producer-seq" in fields):
        return None
    producer_id = field(fields, b"producer-id")
    epoch = field(fields, b"producer-epoch")
    seq = field(fields, b"producer-seq")
    if producer_id is None or epoch is None or seq is None:
        raise InvalidHeader("Producer-Id, Producer-Epoch and Producer-Seq come together or not at all")
    if not 0 < len(producer_id) <= _VALUE_CHARS_MAX:
        raise InvalidHeader(f"Producer-Id must have 1 to {_VALUE_CHARS_MAX} characters")
    return ProducerStamp(producer_id, parse_integer(epoch, "Producer-Epoch"), parse_integer(seq, "Producer-Seq"))


def parse_lifetime(fields: Fields) -> Lifetime | None:
    """The requested lifetime, or None if the request says nothing of it.

    Raises:
        InvalidHeader: a malformed value, or both headers at once.
    """
    ttl = field(fields, b"stream-ttl")
    expires_at = field(fields, b"stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise InvalidHeader("Stream-TTL and Stream-Expires-At exclude each other")
    if ttl is not None:
        return Lifetime(ttl_s=parse_ttl(ttl))
    if expires_at is not None:
        return Lifetime(expires_at_ms=parse_time(expires_at, "Stream-Expires-At"))
    return None


class ReadQuery(NamedTuple):
    """What a GET asks for.

    Args:
        offset: the token as sent, or None.
        live: None for a catch-up read, ``long-poll`` or ``sse``.
        cursor: as echoed by the client.
        timeout_s: how long a long-poll may wait at most, if the client wants it shorter.
        since_ms: instead of an offset: begin with what was committed at this time (Unix, milliseconds) or later.
        before: instead of an offset: where the page is to end.
        limit_bytes: the page's greatest size, if the client wants it smaller than the server makes it.
    """

    offset: str | None
    live: str | None
    cursor: str | None
    timeout_s: float | None
    since_ms: int | None = None
    before: str | None = None
    limit_bytes: int | None = None


_NO_QUERY = ReadQuery(None, None, None, None)
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)


def parse_read_query(query: bytes) -> ReadQuery:
    """Parse the query of a GET; unknown parameters are ignored.

    Raises:
        InvalidOffset: ``offset`` or ``before`` is empty or repeated.
        InvalidHeader: ``live``, ``timeout``, ``since`` or ``limit`` has an unknown value; one excludes another, or is
            repeated; or there are more than 64 parameters.
    """
    if not query:
        return _NO_QUERY
    values = _parameters(query)
    offset, live, timeout = values.get("offset"), values.get("live"), values.get("timeout")
    before, since, limit = values.get("before"), values.get("since"), values.get("limit")
    if "" in (offset, before):
        raise InvalidOffset("the offset is empty")
    if live is not None and live not in ("long-poll", "sse"):
        raise InvalidHeader("live must be long-poll or sse")
    if timeout is not None and not _SECONDS.fullmatch(timeout):
        raise InvalidHeader("timeout must be a number of seconds")
    if [offset, since, before].count(None) < 2:
        raise InvalidHeader("offset, since and before exclude each other")
    if before is not None and live is not None:
        raise InvalidHeader("what comes before an offset cannot be followed")
    if limit is not None and not parse_integer(limit, "limit"):
        raise InvalidHeader("limit must be at least 1")
    return ReadQuery(
        offset,
        live,
        values.get("cursor"),
        None if timeout is None else float(timeout),
        None if since is None else parse_time(since, "since"),
        before,
        None if limit is None else int(limit),
    )


def _parameters(query: bytes) -> dict[str, str]:
    if query.count(b"&") >= _PARAMETERS_MAX:
        raise InvalidHeader(f"the query has more than {_PARAMETERS_MAX} parameters")
    values: dict[str, str] = {}
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        name = unquote_plus(name)
        if name in _PARAMETERS and name in values:
            # Caches in front take the first of them, or the last, or both.
            error = InvalidOffset if name in ("offset", "before") else InvalidHeader
            raise error(f"{name} is given more than once")
        values[name] = unquote_plus(value)
    return values
