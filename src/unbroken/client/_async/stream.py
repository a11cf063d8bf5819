"""The handle of one stream: everything that can be done with it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from datetime import datetime
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from unbroken.client import answers
from unbroken.client._async.consume import AsyncConsumer
from unbroken.client._async.follow import AsyncFollow
from unbroken.client._async.producer import AsyncProducer
from unbroken.client._async.reader import Reader, read_pages
from unbroken.client._async.requests import Pieces, Requests
from unbroken.client.batches import Batch
from unbroken.client.codec import encode_json, joined_messages
from unbroken.client.offsets import AsyncOffsetStore, OffsetStore
from unbroken.client.options import Ask, Repeat, creation_headers, join_url, plain_url
from unbroken.client.pipeline import Sizes
from unbroken.client.positions import BEGINNING, NOW, Position, position_of
from unbroken.client.reading import Deadlines, Live, Reading
from unbroken.client.shapes import Messages, batch_before, joined
from unbroken.client.values import Answer, Appended, Page, StreamInfo
from unbroken.errors import OutcomeUnknown, SequenceRegression, StreamExists, StreamGone, StreamNotFound

__all__ = ["AsyncStream"]

T = TypeVar("T")


class AsyncStream:
    """One stream. Made by `AsyncClient.stream`; it holds nothing open, so it needs no closing.

    Attributes:
        url: where it is.
    """

    def __init__(self, requests: Requests, base: str, url: str) -> None:
        self.url = url
        self._requests = requests
        self._base = base
        self._content_type: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({Ask('', self.url).facts().url!r})"

    async def create(
        self,
        *,
        content_type: str = "application/octet-stream",
        ttl_s: int | None = None,
        expires_at: datetime | str | None = None,
        data: bytes | str = b"",
        closed: bool = False,
    ) -> StreamInfo:
        """Create it.

        Args:
            content_type: of what it will hold; ``application/json`` makes it a stream of messages.
            ttl_s: how many seconds it lives after its last use.
            expires_at: when it ends, whatever happens; a datetime with a time zone, or RFC 3339 text.
            data: its first content.
            closed: this is all that it will ever have.

        Raises:
            StreamExists: there is one already.
            UnbrokenError: anything else; after `ConnectionLost` it may have been created.
        """
        headers = creation_headers(content_type, ttl_s, expires_at, closed=closed)
        answer = await self._requests.call(Ask("PUT", self.url, headers=headers, body=_bytes(data)), Repeat.HARMLESSLY)
        if answer.status != 201:
            error = StreamExists("there is a stream like this already")
            error.request = answer.request
            raise error
        return self._known(answer, headers)

    async def ensure(
        self,
        *,
        content_type: str = "application/octet-stream",
        ttl_s: int | None = None,
        expires_at: datetime | str | None = None,
    ) -> StreamInfo:
        """Create it, or make sure that there is one like this already.

        Args:
            content_type: see `create`.
            ttl_s: see `create`.
            expires_at: see `create`.

        Raises:
            StreamExists: there is another one.
        """
        headers = creation_headers(content_type, ttl_s, expires_at)
        return self._known(await self._put(headers), headers)

    async def _put(self, headers: dict[str, str]) -> Answer:
        return await self._requests.call(Ask("PUT", self.url, headers=headers), Repeat.FREELY)

    def _known(self, answer: Answer, asked: dict[str, str] | None = None) -> StreamInfo:
        info = answers.stream_info(answer, asked)
        self._content_type = info.content_type or None
        return info

    async def head(self) -> StreamInfo:
        """Its metadata. Does not count as a use that prolongs its life.

        Raises:
            StreamNotFound: there is none.
        """
        return self._known(await self._requests.call(Ask("HEAD", self.url), Repeat.FREELY))

    async def _type(self) -> str:
        """Its content type, which an append has to repeat. It never changes, so it is asked for once."""
        if self._content_type is None:
            await self.head()
        return self._content_type or "application/octet-stream"

    async def append(
        self, data: bytes | str | AsyncIterable[bytes | str], *, close: bool = False, seq: str | None = None
    ) -> Appended:
        """Append to it, in one step.

        Sent again only if it has certainly not been done: no connection could be made, or the server refused it for the
        moment. With ``seq`` it is sent again after anything that may pass.

        Args:
            data: bytes, text, or an iterator of either, which is sent as it comes; of a JSON stream, a message or an
                array of messages.
            close: nothing will follow.
            seq: must be greater, bytewise, than that of any append before: two writers cannot overtake each other.

        Raises:
            StreamClosed: it is closed.
            SequenceRegression: ``seq`` is not greater.
            ConnectionLost: whether it was done is not known.
            OutcomeUnknown: the same; the server does not know.
        """
        body = _bytes(data) if isinstance(data, bytes | bytearray | memoryview | str) else Pieces(data)
        return await self._append(body, close=close, seq=seq)

    async def append_json(self, *values: object, close: bool = False, seq: str | None = None) -> Appended:
        """Append messages to a JSON stream, all in one step.

        Args:
            values: each becomes one message: what msgspec encodes, dataclasses and structs too, and pydantic models.
                JSON text goes in a ``msgspec.Raw``.
            close: see `append`.
            seq: see `append`.

        Raises:
            TypeError: a value cannot be JSON.
            ValueError: no values.
            UnbrokenError: see `append`.
        """
        if not values:
            raise ValueError("append_json needs at least one value")
        self._content_type = self._content_type or "application/json"
        return await self._append(
            joined_messages([encode_json(value) for value in values], json=True), close=close, seq=seq
        )

    async def _append(self, body: bytes | Pieces, *, close: bool, seq: str | None) -> Appended:
        headers = {"content-type": await self._type()}
        if close:
            headers["stream-closed"] = "true"
        if seq is not None:
            headers["stream-seq"] = seq
        ask = Ask("POST", self.url, headers=headers, body=body)
        try:
            answer = await self._requests.call(ask, Repeat.HARMLESSLY if seq is None else Repeat.FREELY)
        except SequenceRegression as error:
            if error.request is None or not error.request.unsure:
                raise
            unknown = OutcomeUnknown(f"an earlier attempt to append with Stream-Seq {seq} may have been accepted")
            unknown.request = error.request
            raise unknown from error
        return answers.appended(answer)

    async def close(self) -> Appended:
        """Close it: nothing can be appended any more. Closing a closed stream does nothing.

        Raises:
            StreamNotFound: there is none.
        """
        ask = Ask("POST", self.url, headers={"stream-closed": "true"})
        return answers.appended(await self._requests.call(ask, Repeat.FREELY))

    async def delete(self) -> None:
        """Delete it.

        Raises:
            StreamNotFound: there is none.
        """
        try:
            await self._requests.call(Ask("DELETE", self.url), Repeat.FREELY)
        except (StreamNotFound, StreamGone) as error:
            if error.request is None or not error.request.unsure:  # else an earlier attempt has done it
                raise
        self._content_type = None

    async def fork(
        self,
        url: str,
        *,
        offset: str | Position | None = None,
        sub_offset: int = 0,
        ttl_s: int | None = None,
        expires_at: datetime | str | None = None,
    ) -> AsyncStream:
        """Create a stream that begins with this one's data. Nothing is copied.

        Args:
            url: of the new stream; a path, or a full URL on the same server.
            offset: where it branches off: an offset or a position, by default the end.
            sub_offset: so many messages (JSON) or bytes after the offset.
            ttl_s: see `create`; by default like this one.
            expires_at: see `create`; by default like this one.

        Returns:
            The new stream's handle.

        Raises:
            StreamNotFound: there is no stream to fork.
            StreamExists: there is another one at the new URL.
        """
        fork = AsyncStream(self._requests, self._base, join_url(self._base, url))
        headers = creation_headers("", ttl_s, expires_at)
        headers["stream-forked-from"] = urlsplit(self.url).path
        if offset is not None:
            at = Position.parse(offset) if isinstance(offset, str) else offset
            headers["stream-fork-offset"] = at.offset
            if skip := at.skip + sub_offset:
                headers["stream-fork-sub-offset"] = str(skip)
        elif sub_offset:
            raise ValueError("sub_offset needs an offset")
        fork._known(await fork._put(headers))
        return fork

    async def pages(self, offset: str | Position = BEGINNING) -> AsyncGenerator[Page]:
        """Read it in pages, from a position to its present end.

        Args:
            offset: where to begin: an offset or a position.

        Raises:
            StreamNotFound: there is none.
            OffsetGone: what is at the offset is gone.
        """
        async for page in read_pages(self._requests, self.url, position_of(offset)):
            self._content_type = page.content_type or None
            yield page

    async def backwards(self, *, page_bytes: int = 65_536) -> AsyncGenerator[Batch[Any]]:
        """Its messages from the present end back to the beginning: batches, the newest first, the messages of each in
        their order. So the last few are found without reading all that is before them.

        Args:
            page_bytes: about how much to read at once. A batch has at least one message.

        Raises:
            ProtocolViolation: there is more than one page, and the server, not one of Unbroken's own, cannot page back.
        """
        before: str | None = NOW
        while before is not None:
            ask = Ask("GET", self.url, {"before": before, "limit": str(page_bytes)})
            batch = batch_before(await self._requests.call(ask, Repeat.FREELY), at_end=before == NOW)
            before = batch.start.offset if batch.start != Position() else None
            yield batch

    async def read(self, offset: str | Position = BEGINNING) -> bytes:
        """All that there is now, from a position on; of a JSON stream, one array.

        Args:
            offset: where to begin: an offset or a position.
        """
        parts = [page.data async for page in self.pages(offset)]
        return joined(parts, self._content_type or "")

    async def read_text(self, offset: str | Position = BEGINNING) -> str:
        """All that there is now, as text; what is not UTF-8 becomes U+FFFD."""
        return (await self.read(offset)).decode(errors="replace")

    @overload
    async def read_json(self, offset: str | Position = BEGINNING) -> list[Any]: ...

    @overload
    async def read_json(self, offset: str | Position = BEGINNING, *, type: type[T]) -> list[T]: ...

    @overload
    async def read_json(self, offset: str | Position = BEGINNING, *, type: Any) -> list[Any]: ...

    async def read_json(self, offset: str | Position = BEGINNING, *, type: Any = None) -> list[Any]:  # noqa: A002
        """All messages that there are now.

        Args:
            offset: where to begin: an offset or a position.
            type: what each is: a type of msgspec's, a dataclass, a pydantic model. Plain values by default.

        Raises:
            InvalidMessage: a message is not of the type.
        """
        async with self.follow(offset, live=False, type=type) as messages:
            return [message.value async for message in messages]

    @overload
    def follow(
        self,
        offset: str | Position = BEGINNING,
        *,
        live: Live = "auto",
        since: datetime | str | None = None,
        item_timeout_s: float | None = None,
        total_timeout_s: float | None = None,
        give_up_after_s: float | None = None,
        silence_s: float | None = None,
    ) -> AsyncFollow[Any]: ...

    @overload
    def follow(
        self,
        offset: str | Position = BEGINNING,
        *,
        type: type[T] | None,
        live: Live = "auto",
        since: datetime | str | None = None,
        item_timeout_s: float | None = None,
        total_timeout_s: float | None = None,
        give_up_after_s: float | None = None,
        silence_s: float | None = None,
    ) -> AsyncFollow[T]: ...

    @overload
    def follow(
        self,
        offset: str | Position = BEGINNING,
        *,
        type: Any,
        live: Live = "auto",
        since: datetime | str | None = None,
        item_timeout_s: float | None = None,
        total_timeout_s: float | None = None,
        give_up_after_s: float | None = None,
        silence_s: float | None = None,
    ) -> AsyncFollow[Any]: ...

    def follow(
        self,
        offset: str | Position = BEGINNING,
        *,
        type: Any = None,  # noqa: A002 (the word for it)
        live: Live = "auto",
        since: datetime | str | None = None,
        item_timeout_s: float | None = None,
        total_timeout_s: float | None = None,
        give_up_after_s: float | None = None,
        silence_s: float | None = None,
    ) -> AsyncFollow[Any]:
        """Read it, message by message, and go on with what is appended, until it is closed. Nothing is lost or doubled
        when connections break or servers restart. To be used within ``async with``.

        Args:
            offset: where to begin: an offset, ``now``, or a position that was kept.
            type: what each message of a JSON stream is: a type of msgspec's, a dataclass, a pydantic model. Plain
                values by default.
            live: how to read on at the end: ``sse`` or ``long-poll``; ``auto`` takes Server-Sent Events for JSON, and
                long-polling for the rest, which events would not carry byte for byte, or only as base64. Where events
                do not get through it is long-polling in any case. False stops at the end.
            since: in place of an offset: begin with what was committed at this time or later. Not all servers know it.
            item_timeout_s: how many seconds the next message may take to come.
            total_timeout_s: how many seconds everything may take.
            give_up_after_s: how many seconds requests may go on failing; None for ever.
            silence_s: how many seconds a live connection may be silent before it counts as dead; learned by default.

        Raises:
            StreamNotFound: there is no stream, or no longer. Raised while iterating, like all others.
            TimedOut: a time limit is over.
        """
        if live not in {"auto", "sse", "long-poll", False}:
            raise ValueError("live is auto, sse, long-poll or False")
        reading = Reading(position_of(offset, since), live, self._requests.retry)
        deadlines = Deadlines(item_timeout_s, total_timeout_s, give_up_after_s, now_s=time.monotonic())
        return AsyncFollow(Reader(self._requests, self.url, reading, Messages(type), deadlines, silence_s))

    @overload
    def consume(
        self,
        offsets: OffsetStore | AsyncOffsetStore,
        *,
        key: str | None = None,
        start: str | Position = BEGINNING,
        live: Live = "auto",
        save_every_s: float = 1.0,
        silence_s: float | None = None,
    ) -> AsyncConsumer[Any]: ...

    @overload
    def consume(
        self,
        offsets: OffsetStore | AsyncOffsetStore,
        *,
        type: type[T] | None,
        key: str | None = None,
        start: str | Position = BEGINNING,
        live: Live = "auto",
        save_every_s: float = 1.0,
        silence_s: float | None = None,
    ) -> AsyncConsumer[T]: ...

    @overload
    def consume(
        self,
        offsets: OffsetStore | AsyncOffsetStore,
        *,
        type: Any,
        key: str | None = None,
        start: str | Position = BEGINNING,
        live: Live = "auto",
        save_every_s: float = 1.0,
        silence_s: float | None = None,
    ) -> AsyncConsumer[Any]: ...

    def consume(
        self,
        offsets: OffsetStore | AsyncOffsetStore,
        *,
        key: str | None = None,
        type: Any = None,  # noqa: A002
        start: str | Position = BEGINNING,
        live: Live = "auto",
        save_every_s: float = 1.0,
        silence_s: float | None = None,
    ) -> AsyncConsumer[Any]:
        """Follow it from where this consumer was when it ran last, and keep where it is. To be used within ``async
        with``.

        Args:
            offsets: keeps the position: `FileOffsets`, `SqliteOffsets`, or something of one's own.
            key: the name of the position in it; the stream's URL by default.
            type: see `follow`.
            start: where to begin the first time: an offset, ``now``, or a position.
            live: see `follow`.
            save_every_s: how many seconds of handled messages may come again after a crash, while there is much to
            read. silence_s: see `follow`.
        """

        def follow(position: str | None) -> AsyncFollow[Any]:
            return self.follow(start if position is None else position, type=type, live=live, silence_s=silence_s)

        return AsyncConsumer(follow, offsets, key or plain_url(self.url), save_every_s)

    def producer(
        self,
        producer_id: str,
        *,
        epoch: int = 0,
        auto_claim: bool = False,
        linger_s: float = 0.005,
        max_batch_bytes: int = 128 * 1024,
        max_batch_messages: int = 10_000,
        max_in_flight: int = 2,
        buffer_bytes: int = 16 * 1024 * 1024,
        deadline_s: float | None = None,
    ) -> AsyncProducer:
        """Write to it, each message exactly once and in order. To be used within ``async with``.

        Failed appends are sent again with the same number, which the server recognises, for as long as it takes.

        Args:
            producer_id: its name: one writer of this stream. 1 to 256 characters.
            epoch: its incarnation: a writer that starts again takes a higher one, which fences off the one before. It
                must not have been used before.
            auto_claim: take an epoch above the one that the server knows, at the start and whenever another writer with
                this name does the same. Of two that run at the same time, each takes over from the other.
            linger_s: how many seconds a message may wait for others to go with it.
            max_batch_bytes: size at which an append goes out; a larger message goes alone.
            max_batch_messages: the same in messages.
            max_in_flight: how many appends may be under way at once.
            buffer_bytes: how much may be waiting and under way; then `AsyncProducer.send` waits.
            deadline_s: how many seconds an append may take; None for ever.

        Raises:
            ValueError: an epoch below 0, or a size below 1.
        """
        if epoch < 0:
            raise ValueError("an epoch is at least 0")
        sizes = Sizes(max_batch_bytes, max_batch_messages, max_in_flight, buffer_bytes, linger_s)
        return AsyncProducer(
            self._requests,
            self.url,
            producer_id,
            epoch=epoch,
            sizes=sizes,
            auto_claim=auto_claim,
            deadline_s=deadline_s,
        )


def _bytes(data: bytes | bytearray | memoryview | str) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)
