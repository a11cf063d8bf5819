"""The one error tree.

    UnbrokenError
     +- InvalidRequest (400)        +- InvalidPath, InvalidOffset, InvalidHeader, InvalidBody
     +- Unauthorized (401)          +- InvalidToken
     +- Forbidden (403)             +- StaleEpoch, OriginNotAllowed, InsufficientScope, AccessNotConfigured
     +- StreamNotFound (404)
     +- MethodNotAllowed (405)
     +- RequestTimeout (408)
     +- Conflict (409)              +- StreamExists, ContentTypeMismatch, StreamClosed, SequenceRegression,
     |                                 ProducerGap, EpochInUse, SourceGone, ForkTooDeep
     +- Gone (410)                  +- StreamGone, OffsetGone
     +- TooLarge (413)              +- BodyTooLarge, TooManyMessages, StreamFull, TooManyProducers
     +- HostNotAllowed (421)
     +- TooManyRequests (429)       +- RateLimited, TooManyLiveReads, TooManyWrongTokens
     +- HeadTooLarge (431)
     +- Unavailable (503)           +- OutcomeUnknown, StoreReadOnly, Draining, Overloaded, TooManyConnections,
     |  |                              KeysUnavailable
     |  +- StorageFull (507)
     |  +- QuotaExceeded (507)      +- TooManyStreams, TotalSizeExceeded, PathQuotaExceeded
     +- StoreError (500)            the store cannot be opened, or bytes that must be there cannot be read
     +- ConnectionLost (502)        +- NotConnected, NoAnswer        seen by clients only, like the rest of these
     +- ProtocolViolation (502)     +- OffsetLoop, InvalidMessage, AnswerTooLarge
     +- TimedOut (504)

Each class has a stable ``code``, an HTTP ``status`` and, on the instance, the facts a caller needs for the next move.
The rules in ``unbroken.protocol`` return these as values; the engine raises them. ``headers()`` is what goes over the
wire beside the problem body (RFC 9457). The client raises the same classes, with the request that failed and the offset
it stood at.
"""

from __future__ import annotations

from unbroken.errors.base import FailedRequest, UnbrokenError
from unbroken.errors.client import (
    AnswerTooLarge,
    ConnectionLost,
    InvalidMessage,
    NoAnswer,
    NotConnected,
    OffsetLoop,
    ProtocolViolation,
    TimedOut,
)

__all__ = [
    "AccessNotConfigured",
    "AnswerTooLarge",
    "BodyTooLarge",
    "Conflict",
    "ConnectionLost",
    "ContentTypeMismatch",
    "Draining",
    "EpochInUse",
    "FailedRequest",
    "Forbidden",
    "ForkTooDeep",
    "Gone",
    "HeadTooLarge",
    "HostNotAllowed",
    "InsufficientScope",
    "InvalidBody",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidOffset",
    "InvalidPath",
    "InvalidRequest",
    "InvalidToken",
    "KeysUnavailable",
    "MethodNotAllowed",
    "NoAnswer",
    "NotConnected",
    "OffsetGone",
    "OffsetLoop",
    "OriginNotAllowed",
    "OutcomeUnknown",
    "Overloaded",
    "PathQuotaExceeded",
    "ProducerGap",
    "ProtocolViolation",
    "QuotaExceeded",
    "RateLimited",
    "RequestTimeout",
    "SequenceRegression",
    "SourceGone",
    "StaleEpoch",
    "StorageFull",
    "StoreError",
    "StoreReadOnly",
    "StreamClosed",
    "StreamExists",
    "StreamFull",
    "StreamGone",
    "StreamNotFound",
    "TimedOut",
    "TooLarge",
    "TooManyConnections",
    "TooManyLiveReads",
    "TooManyMessages",
    "TooManyProducers",
    "TooManyRequests",
    "TooManyStreams",
    "TooManyWrongTokens",
    "TotalSizeExceeded",
    "Unauthorized",
    "Unavailable",
    "UnbrokenError",
]


class InvalidRequest(UnbrokenError):
    """The request cannot be understood; sending it again unchanged cannot help."""

    code = "invalid-request"
    status = 400
    title = "Invalid request"


class InvalidPath(InvalidRequest):
    """The stream path breaks the rules of path identity."""

    code = "invalid-path"
    title = "Invalid stream path"


class InvalidOffset(InvalidRequest):
    """The offset is malformed, beyond the tail, inside a message, or not one this stream ever gave out."""

    code = "invalid-offset"
    title = "Invalid offset"


class InvalidHeader(InvalidRequest):
    """A protocol header or query parameter has a malformed value."""

    code = "invalid-header"
    title = "Invalid header"


class InvalidBody(InvalidRequest):
    """The body is empty where it must not be, or is not what its content type says."""

    code = "invalid-body"
    title = "Invalid body"


class Unauthorized(UnbrokenError):
    """Who asks is not known: the request needs a token, and has none."""

    code = "unauthorized"
    status = 401
    title = "Unauthorized"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="unbroken"'}


class InvalidToken(Unauthorized):
    """The token is malformed, not signed by a known key, expired, not yet valid, revoked, or for somebody else."""

    code = "invalid-token"
    title = "Invalid token"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="unbroken", error="invalid_token"'}


class Forbidden(UnbrokenError):
    """Understood, and refused."""

    code = "forbidden"
    status = 403
    title = "Forbidden"


class StaleEpoch(Forbidden):
    """A newer incarnation of this producer is known: this one is fenced off."""

    code = "stale-producer-epoch"
    title = "Stale producer epoch"

    def __init__(self, current_epoch: int) -> None:
        super().__init__(f"the producer's current epoch is {current_epoch}")
        self.current_epoch = current_epoch

    def headers(self) -> dict[str, str]:
        return {"Producer-Epoch": str(self.current_epoch)}


class OriginNotAllowed(Forbidden):
    """A page of an origin that is not allowed tried to write."""

    code = "origin-not-allowed"
    title = "Origin not allowed"


class InsufficientScope(Forbidden):
    """The token does not allow this. ``scope`` is the one that is missing."""

    code = "insufficient-scope"
    title = "Insufficient scope"

    def __init__(self, detail: str = "", *, scope: str = "") -> None:
        super().__init__(detail or f"the token lacks the scope {scope}")
        self.scope = scope

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": f'Bearer realm="unbroken", error="insufficient_scope", scope="{self.scope}"'}


class AccessNotConfigured(Forbidden):
    """The server can be reached from other machines, but asks nobody who they are; so it answers nobody."""

    code = "access-not-configured"
    title = "Access is not configured"


class StreamNotFound(UnbrokenError):
    """No stream lives at this path (never created, deleted or expired)."""

    code = "stream-not-found"
    status = 404
    title = "Stream not found"


class MethodNotAllowed(UnbrokenError):
    """The method is not one of the protocol's."""

    code = "method-not-allowed"
    status = 405
    title = "Method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"allowed methods: {allow}")
        self.allow = allow

    def headers(self) -> dict[str, str]:
        return {"Allow": self.allow}


class RequestTimeout(UnbrokenError):
    """The request took too long to arrive, or stopped arriving."""

    code = "request-timeout"
    status = 408
    title = "Request timeout"

    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class Conflict(UnbrokenError):
    """The request contradicts the stream's present state."""

    code = "conflict"
    status = 409
    title = "Conflict"


class StreamExists(Conflict):
    """The path is taken by a stream with another configuration, or blocked by a deleted one that has forks."""

    code = "stream-exists"
    title = "Stream exists"


class ContentTypeMismatch(Conflict):
    """The content type is not the stream's."""

    code = "content-type-mismatch"
    title = "Content type mismatch"


class StreamClosed(Conflict):
    """The stream is closed; nothing can be appended any more."""

    code = "stream-closed"
    title = "Stream closed"

    def __init__(self, next_offset: str) -> None:
        super().__init__(f"the stream is closed at {next_offset}")
        self.next_offset = next_offset

    def headers(self) -> dict[str, str]:
        return {"Stream-Closed": "true", "Stream-Next-Offset": self.next_offset}


class SequenceRegression(Conflict):
    """``Stream-Seq`` is not greater than the last one accepted."""

    code = "sequence-regression"
    title = "Sequence regression"


class ProducerGap(Conflict):
    """The producer skipped a sequence number: an earlier request has not arrived."""

    code = "producer-sequence-gap"
    title = "Producer sequence gap"

    def __init__(self, expected_seq: int, received_seq: int) -> None:
        super().__init__(f"expected Producer-Seq {expected_seq}, received {received_seq}")
        self.expected_seq = expected_seq
        self.received_seq = received_seq

    def headers(self) -> dict[str, str]:
        return {"Producer-Expected-Seq": str(self.expected_seq), "Producer-Received-Seq": str(self.received_seq)}


class EpochInUse(Conflict):
    """Something was written with this producer's id and epoch before: what is sent now would count as a repetition.

    Raised by a producer that may not claim an epoch of its own.
    """

    code = "producer-epoch-in-use"
    title = "Producer epoch in use"

    def __init__(self, epoch: int) -> None:
        super().__init__(f"something was written with this producer id and epoch {epoch} before: take a higher epoch")
        self.epoch = epoch


class SourceGone(Conflict):
    """The stream to fork from is deleted and only lives on in its forks."""

    code = "fork-source-gone"
    title = "Fork source gone"


class ForkTooDeep(Conflict):
    """The chain of forks is at its greatest length."""

    code = "fork-too-deep"
    title = "Fork too deep"


class Gone(UnbrokenError):
    """It was here and will not come back."""

    code = "gone"
    status = 410
    title = "Gone"


class StreamGone(Gone):
    """The stream is deleted; its data is kept only for its forks."""

    code = "stream-gone"
    title = "Stream gone"


class OffsetGone(Gone):
    """The offset belongs to an earlier stream at this path."""

    code = "offset-gone"
    title = "Offset gone"


class TooLarge(UnbrokenError):
    """The request is over a limit of this server."""

    code = "too-large"
    status = 413
    title = "Too large"


class BodyTooLarge(TooLarge):
    """The body is over the server's limit."""

    code = "body-too-large"
    title = "Body too large"

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__("the body is over this server's limit" + (f" of {limit_bytes} bytes" if limit_bytes else ""))
        self.limit_bytes = limit_bytes


class TooManyMessages(TooLarge):
    """One request holds more messages than the server takes at once."""

    code = "too-many-messages"
    title = "Too many messages"

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(f"one request may hold at most {limit} messages" if limit else "too many messages at once")
        self.limit = limit


class StreamFull(TooLarge):
    """The stream would grow past the greatest size that this server allows."""

    code = "stream-full"
    title = "Stream is full"

    def __init__(self, detail: str = "", *, limit_bytes: int | None = None) -> None:
        super().__init__(detail or f"a stream may have at most {limit_bytes} bytes here")
        self.limit_bytes = limit_bytes


class TooManyProducers(TooLarge):
    """The stream knows as many producers as it may, and this is a new one. Those that it knows go on."""

    code = "too-many-producers"
    title = "Too many producers"

    def __init__(self, detail: str = "", *, limit: int | None = None) -> None:
        instead = "use an id that it knows, with a higher epoch, or none, or go on in a new stream"
        super().__init__(detail or f"this stream knows {limit} producers and takes no new ones: {instead}")
        self.limit = limit


class TooManyRequests(UnbrokenError):
    """This client asks for more than its share; ``retry_after_s`` says when to ask again."""

    code = "too-many-requests"
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class HostNotAllowed(UnbrokenError):
    """The request names a host that is not this server: most likely a page that was led here by DNS rebinding."""

    code = "host-not-allowed"
    status = 421
    title = "Host not allowed"


class RateLimited(TooManyRequests):
    """More is written than the rate that this server allows. Nothing was written."""

    code = "rate-limited"
    title = "Rate limited"


class TooManyLiveReads(TooManyRequests):
    """As many live reads as this client may have are open already."""

    code = "too-many-live-reads"
    title = "Too many live reads"


class TooManyWrongTokens(TooManyRequests):
    """From this address come too many tokens that are no good."""

    code = "too-many-wrong-tokens"
    title = "Too many wrong tokens"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(
            detail or "from this address come too many tokens that are no good", retry_after_s=retry_after_s
        )


class HeadTooLarge(UnbrokenError):
    """The head of the request is over the limit of 64 KiB."""

    code = "head-too-large"
    status = 431
    title = "Head too large"

    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class Unavailable(UnbrokenError):
    """The server cannot do it now; ``retry_after_s`` says when to ask again."""

    code = "unavailable"
    status = 503
    title = "Unavailable"
    retry_after_s: float | None = 1

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class OutcomeUnknown(Unavailable):
    """The commit failed: the change may or may not be durable, and only a restart tells."""

    code = "outcome-unknown"
    title = "Outcome unknown"
    retry_after_s: float | None = 5


class StoreReadOnly(Unavailable):
    """An earlier I/O error made the store read-only until the server is restarted."""

    code = "store-read-only"
    title = "Store is read-only"
    retry_after_s: float | None = 30


class Draining(Unavailable):
    """The server is shutting down."""

    code = "draining"
    title = "Server is shutting down"


class Overloaded(Unavailable):
    """Too much is in flight already."""

    code = "overloaded"
    title = "Server is overloaded"


class KeysUnavailable(Unavailable):
    """The keys that tokens are checked with could not be fetched."""

    code = "keys-unavailable"
    title = "Keys are unavailable"
    retry_after_s: float | None = 5


class TooManyConnections(Unavailable):
    """As many connections as this server takes, in all or from one address, are open already."""

    code = "too-many-connections"
    title = "Too many connections"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "Connection": "close"}


class StorageFull(Unavailable):
    """The disk is almost full. Reads and deletes go on."""

    code = "storage-full"
    status = 507
    title = "Storage full"
    retry_after_s: float | None = 30


class QuotaExceeded(Unavailable):
    """The server holds as much as it was told to hold. Reads and deletes go on."""

    code = "quota-exceeded"
    status = 507
    title = "Quota exceeded"
    retry_after_s = 30


class TooManyStreams(QuotaExceeded):
    """There are as many streams as this server was told to hold."""

    code = "too-many-streams"
    title = "Too many streams"

    def __init__(self, detail: str = "", *, limit: int | None = None) -> None:
        super().__init__(detail or f"this server holds at most {limit} streams")
        self.limit = limit


class TotalSizeExceeded(QuotaExceeded):
    """The streams together are as large as this server was told to hold."""

    code = "total-size-exceeded"
    title = "Total size exceeded"

    def __init__(self, detail: str = "", *, limit_bytes: int | None = None) -> None:
        super().__init__(detail or f"the streams of this server may have at most {limit_bytes} bytes in all")
        self.limit_bytes = limit_bytes


class PathQuotaExceeded(QuotaExceeded):
    """The streams at and below a path hold as much together as this server was told to hold there."""

    code = "path-quota-exceeded"
    title = "Quota of a path exceeded"

    def __init__(
        self, detail: str = "", *, prefix: str = "", limit: int | None = None, limit_bytes: int | None = None
    ) -> None:
        most = f"{limit_bytes} bytes in all" if limit is None else f"{limit} streams"
        super().__init__(detail or f"there may be at most {most} at and below {prefix}")
        self.prefix = prefix
        self.limit = limit
        self.limit_bytes = limit_bytes


class StoreError(UnbrokenError):
    """The store cannot be opened, is in use by another process, or is damaged."""

    code = "store-error"
    title = "Store error"
