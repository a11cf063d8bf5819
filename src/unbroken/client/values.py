"""What calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unbroken.errors import FailedRequest

__all__ = ["Answer", "Appended", "Page", "StreamInfo"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is there as a whole.

    Args:
        status: such as 200.
        headers: by lower-case name.
        body: decoded from any content coding.
        request: what it answers.
        unsure: an earlier attempt of the same request may have been done already.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    request: FailedRequest
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream's metadata.

    Args:
        content_type: as given at its creation.
        next_offset: its end.
        closed: nothing can be appended any more.
        ttl_s: seconds that it lives after its last use, if that is limited.
        expires_at: when it ends (RFC 3339), if that is limited.
    """

    content_type: str
    next_offset: str
    closed: bool = False
    ttl_s: int | None = None
    expires_at: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append has done.

    Args:
        next_offset: the stream's end after it; empty if the server did not tell.
        closed: the stream is closed now.
        duplicate: a producer's request that had been done before; nothing was added.
    """

    next_offset: str
    closed: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a stream, as one answer brought it.

    Args:
        data: bytes; of a JSON stream, an array of messages.
        next_offset: where to go on.
        up_to_date: it reached the present end.
        closed: it reached the end of a closed stream: nothing will follow.
        content_type: the stream's.
    """

    data: bytes
    next_offset: str
    up_to_date: bool = False
    closed: bool = False
    content_type: str = ""
