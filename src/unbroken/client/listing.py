"""What Unbroken's own servers can tell of many streams together; other servers of the protocol do not list."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from unbroken.client.values import Answer
from unbroken.errors import ProtocolViolation

__all__ = ["Deletion", "ListedStream", "Listing", "read_deletion", "read_listing"]

T = TypeVar("T")


class ListedStream(msgspec.Struct, rename="camel", frozen=True):
    """One stream of a list.

    Args:
        path: of the stream.
        content_type: as given at its creation.
        next_offset: its end.
        created_at: when it was created (RFC 3339).
        closed: nothing can be appended any more.
        ttl_seconds: how long it lives after its last use, if that is limited.
        expires_at: when it ends (RFC 3339), if that is limited.
    """

    path: str
    content_type: str
    next_offset: str
    created_at: str
    closed: bool = False
    ttl_seconds: int | None = None
    expires_at: str | None = None


class Listing(msgspec.Struct, frozen=True):
    """A part of a list.

    Args:
        streams: in the order of their paths.
        next: what to go on after; None at the end.
    """

    streams: list[ListedStream]
    next: str | None = None


class Deletion(msgspec.Struct, frozen=True):
    """What one request to delete many has done.

    Args:
        deleted: how many.
        more: whether some may be left.
    """

    deleted: int
    more: bool


def read_listing(answer: Answer) -> Listing:
    """The list in an answer.

    Raises:
        ProtocolViolation: it is something else.
    """
    return _read(answer, Listing)


def read_deletion(answer: Answer) -> Deletion:
    """The count in an answer.

    Raises:
        ProtocolViolation: it is something else.
    """
    return _read(answer, Deletion)


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        violation = ProtocolViolation(f"the answer to {answer.request} is not what Unbroken sends ({error})")
        violation.request = answer.request
        raise violation from None
