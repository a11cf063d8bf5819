"""Answers on an engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from unbroken.engine.engine import Engine, Follower
from unbroken.engine.pages import Page
from unbroken.errors import StreamClosed, StreamExists, StreamGone, StreamNotFound
from unbroken.protocol.offsets import Anchor
from unbroken.protocol.stream import Presence, offset_at
from unbroken.server.asgi import AsgiApp
from unbroken.web.backend import Batch, Reading, State, Writer

__all__ = ["EmbeddedBackend"]

_JSON = "application/json"
_LIST_LIMIT = 256


class EmbeddedBackend:
    """Streams of an engine in this process, which owns them.

    Args:
        streams: an engine that somebody else starts and stops, or an app, which is started and stopped with the answers
            unless it is started by then.
    """

    embedded = True

    def __init__(self, streams: AsgiApp | Engine) -> None:
        self._app = streams if isinstance(streams, AsgiApp) else None
        self._engine = streams if isinstance(streams, Engine) else streams.engine

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        if self._app is None or self._app.app.started:
            return nullcontext()
        return self._app.lifespan()

    async def create(self, path: str, first: bytes, *, ttl_s: int | None) -> bool:
        try:
            created = await self._engine.create(path, content_type=_JSON, ttl_s=ttl_s, data=_array([first]))
        except StreamExists:
            return False
        return not created.existed

    async def append(self, path: str, message: bytes, *, ttl_s: int | None) -> None:
        await self._engine.create(path, content_type=_JSON, ttl_s=ttl_s)
        await self._engine.append(path, _array([message]))

    async def close(self, path: str, last: bytes) -> bool:
        try:
            await self._engine.append(path, _array([last]), close=True)
        except StreamClosed:
            return False
        return True

    async def seal(self, path: str) -> None:
        await self._engine.close(path)

    def writer(self, path: str) -> Writer:
        return _EmbeddedWriter(self._engine, path)

    async def state(self, path: str) -> State | None:
        view = self._engine.lookup(path)
        if view.presence is not Presence.LIVE:
            return None
        state = view.live()
        return State(not state.closed, str(state.tail_offset))

    async def page(self, path: str, offset: str | None) -> Batch:
        return _batch(await self._engine.read(path, Anchor.BEGINNING if offset is None else offset))

    @asynccontextmanager
    async def reading(self, path: str, offset: str) -> AsyncIterator[Reading]:
        with self._engine.follower(path, offset) as follower:
            yield _EmbeddedReading(follower)

    async def delete(self, path: str) -> bool:
        try:
            await self._engine.delete(path)
        except (StreamNotFound, StreamGone):
            return False
        return True

    async def open_streams(self, prefix: str) -> AsyncIterator[str]:
        after = ""
        while found := self._engine.streams(prefix, after=after, limit=_LIST_LIMIT):
            for state in found:
                if not state.closed:
                    yield state.path
            after = found[-1].path
            await asyncio.sleep(0)  # there may be very many


class _EmbeddedWriter:
    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self._path = path

    async def append(self, messages: Sequence[bytes], *, close: bool = False) -> None:
        await self._engine.append(self._path, _array(messages) if messages else b"", close=close)


class _EmbeddedReading:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    @property
    def ended(self) -> bool:
        return self._follower.ended

    def stop(self) -> None:
        self._follower.stop()

    async def next(self, timeout_s: float) -> Batch | None:
        page = await self._follower.next(timeout_s)
        return None if page is None else _batch(page)


def _batch(page: Page) -> Batch:
    return Batch(list(_positions(page)), str(page.next_offset), page.closed)


def _positions(page: Page) -> Iterator[tuple[str, bytes]]:
    end = page.start
    for message in page.messages:
        end += len(message) + 1  # its separator
        yield str(offset_at(page.state, end)), message


def _array(messages: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(messages)
