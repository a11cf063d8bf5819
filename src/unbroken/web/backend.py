"""Where the streams of answers are: the seam between answers and an engine in this process, or a server elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

__all__ = ["Backend", "Batch", "Reading", "State", "Writer"]


class Batch(NamedTuple):
    """Messages of a stream, in order.

    Args:
        messages: each with the position after it, where a reader can resume.
        position: after the last one.
        closed: nothing will follow.
    """

    messages: Sequence[tuple[str, bytes]]
    position: str
    closed: bool


class State(NamedTuple):
    """How a stream is.

    Args:
        open: whether something may follow.
        end: the position of its end.
    """

    open: bool
    end: str


class Reading(Protocol):
    """One reader of a stream."""

    async def next(self, timeout_s: float) -> Batch | None:
        """The next messages. The first call returns at once, perhaps with none; later ones wait.

        Args:
            timeout_s: how long to wait at most, in seconds.

        Returns:
            None if the time ran out, or reading cannot go on now because the server is shutting down (`ended`).

        Raises:
            StreamNotFound, StreamGone, OffsetGone: the stream was deleted meanwhile.
            UnbrokenError: it cannot be read.
        """

    @property
    def ended(self) -> bool:
        """Whether waiting is over for good, although the stream may go on."""

    def stop(self) -> None:
        """End waiting for good; `next` still returns what is there."""


class Writer(Protocol):
    """The one writer of a stream. What it appends arrives once, also if it has to be sent again."""

    async def append(self, messages: Sequence[bytes], *, close: bool = False) -> None:
        """Append messages, none only to close, and, in the same step, close the stream.

        Raises:
            StreamClosed, StaleEpoch: somebody else closed it.
            StreamNotFound, StreamGone: somebody deleted it.
            UnbrokenError: it could not be done.
        """


class Backend(Protocol):
    """Streams of JSON messages.

    Attributes:
        embedded: whether all writers of its streams are in this process.
    """

    embedded: bool

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Whatever has to be begun and ended around all use."""

    async def create(self, path: str, first: bytes, *, ttl_s: int | None) -> bool:
        """Create a stream that begins with a message.

        Returns:
            Whether this call did: False if the stream is there already, with another first message.

        Raises:
            InvalidPath: the path cannot be one.
            UnbrokenError: it could not be done.
        """

    async def append(self, path: str, message: bytes, *, ttl_s: int | None) -> None:
        """Append a message to a stream that is created if it is not there.

        Raises:
            UnbrokenError: it could not be done.
        """

    async def close(self, path: str, last: bytes) -> bool:
        """Close a stream, whoever writes it, with a last message.

        Returns:
            Whether this call did: False if it was closed already.

        Raises:
            StreamNotFound, StreamGone: there is none.
            UnbrokenError: it could not be done.
        """

    async def seal(self, path: str) -> None:
        """Close a stream without a message more, which is possible also where there is no room.

        Raises:
            StreamNotFound, StreamGone: there is none.
            UnbrokenError: it could not be done.
        """

    def writer(self, path: str) -> Writer:
        """The writer of a stream that was created here."""

    async def state(self, path: str) -> State | None:
        """How a stream is; None if there is none.

        Raises:
            UnbrokenError: it cannot be told.
        """

    async def page(self, path: str, offset: str | None) -> Batch:
        """The messages from a position on, as many as are given at once; perhaps none.

        Args:
            path: of the stream.
            offset: a position that a `Batch` named; from the beginning by default.

        Raises:
            StreamNotFound, StreamGone, InvalidOffset, OffsetGone.
            UnbrokenError: it cannot be read.
        """

    def reading(self, path: str, offset: str) -> AbstractAsyncContextManager[Reading]:
        """Begin a live read at a position.

        Raises:
            StreamNotFound, StreamGone, InvalidOffset, OffsetGone: here, or at the first `Reading.next`.
        """

    async def delete(self, path: str) -> bool:
        """Delete a stream; False if there was none."""

    def open_streams(self, prefix: str) -> AsyncIterator[str]:
        """The paths of open streams below a prefix, as far as it can be told."""
