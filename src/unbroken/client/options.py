"""What a client is set up with."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TypeAlias
from urllib.parse import urlsplit

from unbroken.errors import FailedRequest

__all__ = ["Ask", "Repeat", "Secret", "Values", "creation_headers", "join_url", "plain_url", "rfc3339", "same_origin"]

Secret: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or what gives it: a function, which may be a coroutine function in the asynchronous client."""

Values: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]] | Callable[[], Awaitable[Mapping[str, str]]]
"""Headers or query parameters, or what gives them; it is called for each request."""


class Repeat(Enum):
    """When a request may be sent again."""

    FREELY = "freely"
    """The server recognises it, or it changes nothing."""
    HARMLESSLY = "harmlessly"
    """Only if the failed one has certainly done nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Args:
        method: such as ``GET``.
        url: of the stream.
        params: query parameters of the protocol.
        headers: headers of the protocol.
        body: its body; an iterator's can be sent once only.
    """

    method: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] | Iterable[bytes] | None = None

    def facts(self, *, sent: bool = True) -> FailedRequest:
        """What an error tells of it. Query and user info stay out: they may hold secrets."""
        return FailedRequest(self.method, plain_url(self.url), sent)


def plain_url(url: str) -> str:
    """A URL without user info, query and fragment."""
    scheme, separator, rest = url.partition("#")[0].partition("?")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def join_url(base: str, url: str) -> str:
    """The URL of a stream.

    Args:
        base: a client's URL, or nothing.
        url: a full URL, or a path that comes after the base's own.
    """
    if "://" in url or not base:
        return url
    base, mark, query = base.partition("?")
    joined = f"{base.rstrip('/')}{'' if url.startswith('/') else '/'}{url}"
    return f"{joined}{'&' if '?' in url else '?'}{query}" if mark and query else joined


def same_origin(url: str, other: str) -> bool:
    """Whether two URLs are of the same server: scheme, host and port (RFC 6454)."""
    parts, others = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (parts.scheme, parts.hostname, parts.port or ports.get(parts.scheme)) == (
        *(others.scheme, others.hostname),
        others.port or ports.get(others.scheme),
    )


def creation_headers(
    content_type: str, ttl_s: int | None, expires_at: datetime | str | None, *, closed: bool = False
) -> dict[str, str]:
    """The headers of a request that creates a stream.

    Raises:
        ValueError: two lifetimes, or a time without a time zone.
    """
    headers = {"content-type": content_type} if content_type else {}
    if ttl_s is not None and expires_at is not None:
        raise ValueError("ttl_s and expires_at exclude each other")
    if ttl_s is not None:
        headers["stream-ttl"] = str(ttl_s)
    if expires_at is not None:
        headers["stream-expires-at"] = expires_at if isinstance(expires_at, str) else rfc3339(expires_at)
    if closed:
        headers["stream-closed"] = "true"
    return headers


def rfc3339(time: datetime) -> str:
    """A time as text, to the millisecond.

    Raises:
        ValueError: it has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError("the time needs a time zone")
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
