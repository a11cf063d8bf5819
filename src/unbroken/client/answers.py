"""What answers mean: errors by code where there is one, else by status and headers; and the facts of a success."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from unbroken import errors
from unbroken.client.retry import parse_retry_after
from unbroken.client.values import Answer, Appended, StreamInfo
from unbroken.errors import FailedRequest, ProtocolViolation, UnbrokenError

__all__ = ["appended", "error_of", "is_true", "next_offset", "stream_info"]

Headers = Mapping[str, str]

_CLIENTS_OWN = (errors.ConnectionLost, errors.ProtocolViolation, errors.TimedOut, errors.EpochInUse)
"""No server has a say in these."""
_CLASSES: dict[str, type[UnbrokenError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, UnbrokenError) and not issubclass(kind, _CLIENTS_OWN)
}
_BY_STATUS: dict[int, type[UnbrokenError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.StreamNotFound,
    408: errors.RequestTimeout,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    429: errors.TooManyRequests,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
    507: errors.StorageFull,
}
_WITH_FACTS = {errors.ProducerGap, errors.StaleEpoch, errors.StreamClosed}
"""What these say stands in headers. A code alone does not make one."""
_DETAIL_CHARS_MAX = 300
_SCOPE = re.compile(r'error="insufficient_scope", scope="([^"]*)"')


def is_true(headers: Headers, name: str) -> bool:
    """Whether a flag header is there and ``true``."""
    return headers.get(name, "").strip().lower() == "true"


def error_of(answer: Answer, now_s: float) -> UnbrokenError:
    """The error that an answer stands for.

    Args:
        answer: one that is not a success.
        now_s: the wall clock, Unix seconds, for a ``Retry-After`` that is a date.
    """
    problem = _problem(answer)
    code, detail = problem.get("code"), problem.get("detail")
    if not isinstance(detail, str) or not detail:
        detail = _plain_text(answer)
    error = _error(answer, code if isinstance(code, str) else "", detail)
    error.status = answer.status
    error.request = answer.request
    error.retry_after_s = parse_retry_after(answer.headers.get("retry-after"), now_s)
    return error


def _problem(answer: Answer) -> dict[str, Any]:
    """The problem document (RFC 9457), if there is one."""
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/problem+json":
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(answer.body, type=dict[str, Any])
    return {}


def _plain_text(answer: Answer) -> str:
    """What the server says for people, or just the status: pages of proxies are not for a message of one line."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = answer.body.decode(errors="replace").strip() if kind == "text/plain" else ""
    said = f": {text}" if 0 < len(text) <= _DETAIL_CHARS_MAX and text.isprintable() else ""
    return f"{answer.request} was answered {answer.status}{said}"


def _error(answer: Answer, code: str, detail: str) -> UnbrokenError:
    if answer.status < 400:
        target = f" to {answer.headers['location']}" if "location" in answer.headers else ""
        return ProtocolViolation(f"{answer.request} was answered {answer.status}{target}, which is not followed")
    headers = answer.headers
    if answer.status == 403 and (epoch := _integer(headers, "producer-epoch")) is not None:
        return errors.StaleEpoch(epoch)
    if answer.status == 409:
        if is_true(headers, "stream-closed"):
            return errors.StreamClosed(headers.get("stream-next-offset", ""))
        expected, received = _integer(headers, "producer-expected-seq"), _integer(headers, "producer-received-seq")
        if expected is not None:
            return errors.ProducerGap(expected, -1 if received is None else received)
    kind = _CLASSES.get(code)
    if kind is None or _CLASSES[code].status != answer.status:
        kind = _BY_STATUS.get(answer.status) or (errors.InvalidRequest if answer.status < 500 else UnbrokenError)
    return _made(kind, detail, headers)


def _made(kind: type[UnbrokenError], detail: str, headers: Headers) -> UnbrokenError:
    """An error of this class, whatever facts its constructor asks for: what headers do not tell is not known."""
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed(headers.get("allow", ""))
    if kind is errors.InsufficientScope:
        missing = _SCOPE.search(headers.get("www-authenticate", ""))
        return errors.InsufficientScope(detail, scope=missing[1] if missing else "")
    if kind in _WITH_FACTS:
        kind = next(base for base in kind.__mro__[1:] if base not in _WITH_FACTS)
    error = kind()
    error.detail = detail
    error.args = (detail,)
    return error


def _integer(headers: Headers, name: str) -> int | None:
    value = headers.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() else None


def next_offset(answer: Answer) -> str:
    """The offset that an answer gives.

    Raises:
        ProtocolViolation: it gives none, so it is not from a server of this protocol.
    """
    offset = answer.headers.get("stream-next-offset", "")
    if not offset:
        raise _violation(answer.request, f"{answer.request} was answered {answer.status} without Stream-Next-Offset")
    return offset


def _violation(request: FailedRequest, detail: str) -> ProtocolViolation:
    error = ProtocolViolation(detail)
    error.request = request
    return error


def appended(answer: Answer) -> Appended:
    """What an append, or a close, has done. Servers need not tell the offset of a duplicate."""
    headers = answer.headers
    duplicate = answer.status == 204 and "producer-seq" in headers and "stream-closed" not in headers
    return Appended(headers.get("stream-next-offset", ""), is_true(headers, "stream-closed"), duplicate)


def stream_info(answer: Answer, asked: Headers | None = None) -> StreamInfo:
    """What a creation or a HEAD tells of a stream.

    Args:
        answer: what came.
        asked: the headers of the request, if it created the stream: what they say holds, and answers need not repeat
            it.

    Raises:
        ProtocolViolation: there is no offset.
    """
    headers = {**(asked or {}), **answer.headers}
    return StreamInfo(
        content_type=headers.get("content-type", ""),
        next_offset=next_offset(answer),
        closed=is_true(headers, "stream-closed"),
        ttl_s=_integer(headers, "stream-ttl"),
        expires_at=headers.get("stream-expires-at"),
    )
