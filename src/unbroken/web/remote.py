"""Answers on a server elsewhere: an Unbroken, or any other server of the protocol.

Whether this process created a stream is told by its first message, which names the run: a request that was sent again
because its answer was lost finds its own. Appends carry a Stream-Seq that only the run's writer uses: one that turns
out to be there already was its own, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TypeVar
from urllib.parse import quote

import msgspec

from unbroken.client import Appended, AsyncClient, AsyncFollow, AsyncStream
from unbroken.client.batches import Batch as ClientBatch
from unbroken.engine.follow import resolve
from unbroken.errors import (
    ConnectionLost,
    InvalidOffset,
    OutcomeUnknown,
    SequenceRegression,
    StreamClosed,
    StreamExists,
    StreamGone,
    StreamNotFound,
)
from unbroken.web.backend import Batch, Reading, State, Writer

__all__ = ["RemoteBackend"]

T = TypeVar("T")

_JSON = "application/json"
_ATTEMPTS = 5
_PAUSE_S = 0.1
_GIVE_UP_S = 30.0


class RemoteBackend:
    """Streams of a server.

    Args:
        client: how to reach it. Closed with the answers.
    """

    embedded = False

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._client.close()

    def _stream(self, path: str) -> AsyncStream:
        return self._client.stream(quote(path, safe="/~!$&'()*+,;=:@"))

    async def create(self, path: str, first: bytes, *, ttl_s: int | None) -> bool:
        stream = self._stream(path)
        try:
            await _insist(lambda: stream.create(content_type=_JSON, ttl_s=ttl_s, data=b"[%b]" % first))
        except StreamExists:
            messages = (await self.page(path, None)).messages
            return bool(messages) and messages[0][1] == first
        return True

    async def append(self, path: str, message: bytes, *, ttl_s: int | None) -> None:
        stream = self._stream(path)
        with suppress(StreamExists):
            await stream.ensure(content_type=_JSON, ttl_s=ttl_s)
        await _insist(lambda: stream.append_json(msgspec.Raw(message)))

    async def close(self, path: str, last: bytes) -> bool:
        stream, attempts = self._stream(path), 0

        def attempt() -> Awaitable[Appended]:
            nonlocal attempts
            attempts += 1
            return stream.append_json(msgspec.Raw(last), close=True)

        try:
            await _insist(attempt)
        except StreamClosed:
            return attempts > 1  # then it was most likely an attempt whose answer was lost
        return True

    async def seal(self, path: str) -> None:
        await self._stream(path).close()

    def writer(self, path: str) -> Writer:
        return _RemoteWriter(self._stream(path))

    async def state(self, path: str) -> State | None:
        try:
            info = await self._stream(path).head()
        except (StreamNotFound, StreamGone):
            return None
        return State(not info.closed, info.next_offset)

    async def page(self, path: str, offset: str | None) -> Batch:
        async with self._follow(path, offset, live=False) as follow:
            async for batch in follow.batches():
                return _batch(batch)
        raise StreamNotFound

    @asynccontextmanager
    async def reading(self, path: str, offset: str) -> AsyncIterator[Reading]:
        async with self._follow(path, offset, live=True) as follow:
            reading = _RemoteReading(follow)
            try:
                yield reading
            finally:
                await reading.end()

    def _follow(self, path: str, offset: str | None, *, live: bool) -> AsyncFollow[msgspec.Raw]:
        try:
            return self._stream(path).follow(
                offset or "-1",
                type=msgspec.Raw,
                live="auto" if live else False,
                give_up_after_s=None if live else _GIVE_UP_S,
            )
        except ValueError as error:
            raise InvalidOffset(str(error)) from None

    async def delete(self, path: str) -> bool:
        try:
            await self._stream(path).delete()
        except (StreamNotFound, StreamGone):
            return False
        return True

    async def open_streams(self, prefix: str) -> AsyncIterator[str]:
        """None: which of a server's open streams have lost their writer is told by silence alone."""
        return
        yield ""


class _RemoteWriter:
    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream
        self._seq = 0

    async def append(self, messages: Sequence[bytes], *, close: bool = False) -> None:
        if not messages:
            await self._stream.close()
            return
        self._seq += 1
        try:
            await self._stream.append_json(*map(msgspec.Raw, messages), close=close, seq=f"{self._seq:016}")
        except OutcomeUnknown as error:
            if not isinstance(error.__cause__, SequenceRegression):
                raise  # else an attempt whose answer was lost has done it: nobody else uses these numbers


class _RemoteReading:
    def __init__(self, follow: AsyncFollow[msgspec.Raw]) -> None:
        self._batches = follow.batches()
        self._next: asyncio.Task[ClientBatch[msgspec.Raw]] | None = None
        self._stopped = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        return self._stopped.done()

    def stop(self) -> None:
        resolve(self._stopped)

    async def next(self, timeout_s: float) -> Batch | None:
        if self._next is None:
            self._next = asyncio.create_task(anext(self._batches))
        await asyncio.wait((self._next, self._stopped), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._next.done():
            return None  # it goes on, and with it the connection
        done, self._next = self._next, None
        return _batch(done.result())

    async def end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        async with aclosing(self._batches):
            pass


def _batch(batch: ClientBatch[msgspec.Raw]) -> Batch:
    messages = [(str(batch.position(index)), bytes(raw)) for index, raw in enumerate(batch.values)]
    return Batch(messages, str(batch.end), batch.closed)


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """Do what may be done twice, again if it is not known whether it was done."""
    for attempt in range(_ATTEMPTS):
        try:
            return await call()
        except (ConnectionLost, OutcomeUnknown):
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(_PAUSE_S * 2**attempt)
    raise AssertionError
