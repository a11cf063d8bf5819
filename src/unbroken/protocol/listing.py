"""What Unbroken's own servers tell of many streams together, as JSON; other servers of the protocol do not list."""

from __future__ import annotations

import msgspec

__all__ = ["Deletion", "ListedQuota", "ListedStream", "Listing"]


class ListedStream(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
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


class ListedQuota(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """What streams at or below a prefix hold together, and what they may.

    Args:
        prefix: where they are.
        pattern: of the quota.
        streams: how many there are.
        total_bytes: their size.
        max_streams: how many there may be, if that is limited.
        max_total_bytes: how large they may be, if that is limited.
    """

    prefix: str
    pattern: str
    streams: int
    total_bytes: int
    max_streams: int | None = None
    max_total_bytes: int | None = None


class Listing(msgspec.Struct, omit_defaults=True, frozen=True):
    """A part of a list.

    Args:
        streams: in the order of their paths.
        next: what to go on after; None at the end.
        quotas: of the streams below the prefix that was asked for.
    """

    streams: list[ListedStream]
    next: str | None = None
    quotas: list[ListedQuota] = []


class Deletion(msgspec.Struct, frozen=True):
    """What one request to delete many has done.

    Args:
        deleted: how many.
        more: whether some may be left.
    """

    deleted: int
    more: bool
