"""Consuming a stream: following it, with the position kept across restarts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Self, TypeVar

from unbroken.client._async import io
from unbroken.client._async.follow import AsyncFollow
from unbroken.client.batches import Message
from unbroken.client.offsets import AsyncOffsetStore, OffsetStore
from unbroken.client.positions import Position

__all__ = ["AsyncConsumer"]

T = TypeVar("T")


class AsyncConsumer(Generic[T]):
    """The messages of a stream, from where this consumer was. Made by `AsyncStream.consume`; iterate over it, best
    within ``async with``.

    A message counts as handled when the next one is asked for. What is handled is saved whenever the end of the stream
    is reached, otherwise from time to time, and when the block is left: so after a crash some messages come again, but
    none is left out. Positions that are saved in between by a `SqliteOffsets.transaction` are left as they are.
    """

    def __init__(
        self,
        follow: Callable[[str | None], AsyncFollow[T]],
        offsets: OffsetStore | AsyncOffsetStore,
        key: str,
        save_every_s: float,
    ) -> None:
        self.key = key
        self._follow = follow
        self._offsets = offsets
        self._save_every_s = save_every_s
        self._messages: AsyncGenerator[Message[T]] | None = None
        self._current: Message[T] | None = None
        self._handled: Position | None = None
        self._known: str | None = None
        self._saved_s = 0.0

    def __aiter__(self) -> AsyncGenerator[Message[T]]:
        if self._messages is None:
            self._messages = self._generate()
        return self._messages

    async def _generate(self) -> AsyncGenerator[Message[T]]:
        self._saved_s = time.monotonic()
        self._known = await io.call(self._offsets.load, self.key)
        follow = self._follow(self._known)
        try:
            async with follow, aclosing(follow.batches()) as batches:
                async for batch in batches:
                    for message in batch:
                        self._current = message
                        yield message
                        self._handled = message.position
                        if time.monotonic() - self._saved_s >= self._save_every_s:
                            await self._save()
                    self._handled = batch.end
                    if batch.up_to_date:
                        await self._save()
        finally:
            self._messages = self._current = None
            await self._save()

    async def save(self) -> None:
        """Save now, with the present message as handled."""
        if self._current is not None:
            self._handled = self._current.position
        await self._save()

    async def _save(self) -> None:
        """Save what is handled, unless somebody has saved a position meanwhile: a transaction that is further."""
        handled, self._handled = self._handled, None
        if handled is None:
            return
        known, self._known = self._known, await io.call(self._offsets.load, self.key)
        if self._known == known and self._known != str(handled):
            self._known = str(handled)
            await io.call(self._offsets.save, self.key, self._known)
        self._saved_s = time.monotonic()

    async def close(self) -> None:
        """Save what is handled, and let go of the connection. Iterating again goes on from there."""
        if self._messages is not None:
            await self._messages.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
