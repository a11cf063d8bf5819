"""What a client asked for, and what it is told.

Commands are values: an adapter parses them, the engine queues them, `unbroken.protocol.stream` decides them.
"""

from __future__ import annotations

import msgspec

from unbroken.errors import UnbrokenError
from unbroken.protocol.content import EMPTY, Content
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import Producer, ProducerStamp

__all__ = [
    "Append",
    "Appended",
    "Command",
    "Create",
    "Created",
    "Delete",
    "Deleted",
    "ForkRequest",
    "Outcome",
    "Reclaim",
    "Release",
]


class ForkRequest(msgspec.Struct, frozen=True):
    """Where a new stream branches off.

    Args:
        source_path: the stream to fork.
        anchor: byte position that ``Stream-Fork-Offset`` names; None for the source's tail at that moment.
        sub_offset: messages (JSON) or bytes past the anchor, as requested.
        source_number: creation number of the source that the anchor was resolved against; 0 if there was none.
        point: the byte position that anchor and sub-offset come to; None for the tail, or if there was no source.
        fault: what is wrong with anchor or sub-offset; reported after everything that ranks before it.
    """

    source_path: str
    anchor: int | None = None
    sub_offset: int = 0
    source_number: int = 0
    point: int | None = None
    fault: UnbrokenError | None = None


class Create(msgspec.Struct, frozen=True):
    """Create a stream, or confirm an identical one."""

    path: str
    content_type: str | None = None
    lifetime: Lifetime | None = None
    closed: bool = False
    content: Content = EMPTY
    fork: ForkRequest | None = None


class Append(msgspec.Struct, frozen=True):
    """Append to a stream, close it, or both in one step.

    ``fault`` is a malformed header, reported only if the stream exists.
    """

    path: str
    content_type: str | None = None
    content: Content = EMPTY
    close: bool = False
    stream_seq: str | None = None
    producer: ProducerStamp | None = None
    fault: UnbrokenError | None = None


class Delete(msgspec.Struct, frozen=True):
    """Delete a stream."""

    path: str


class Reclaim(msgspec.Struct, frozen=True):
    """Delete the stream with this creation number if its lifetime is over (sent by the server itself)."""

    path: str
    number: int


class Release(msgspec.Struct, frozen=True):
    """Drop a deleted fork's hold on its source (sent by the server itself)."""

    path: str
    number: int
    fork: int


Command = Create | Append | Delete | Reclaim | Release


class Created(msgspec.Struct, frozen=True):
    """The stream is there; ``existed`` if it was there before, with the same configuration."""

    content_type: str
    next_offset: Offset
    closed: bool
    existed: bool


class Appended(msgspec.Struct, frozen=True):
    """The append is durable, now or (``duplicate``) since an earlier delivery of the same request.

    Args:
        next_offset: the tail after it.
        closed: whether the stream is closed.
        duplicate: nothing was appended, because it had been before.
        producer: for a producer's append, the highest sequence accepted.
    """

    next_offset: Offset
    closed: bool
    duplicate: bool = False
    producer: Producer | None = None


class Deleted(msgspec.Struct, frozen=True):
    """The stream is deleted."""


Outcome = Created | Appended | Deleted | UnbrokenError
