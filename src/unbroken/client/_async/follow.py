"""Following a stream: its messages, one after the other, whatever breaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Generic, Self, TypeVar

from unbroken.client._async.reader import Reader
from unbroken.client.batches import Batch, Message

__all__ = ["AsyncFollow"]

T = TypeVar("T")


class AsyncFollow(Generic[T]):
    """The messages of a stream. Made by `AsyncStream.follow`; iterate over it once, best within ``async with``: then
    nothing is left open when the block is left.

    It may be iterated again after an error, such as `TimedOut` or `InvalidMessage`: it goes on after the last message.
    """

    def __init__(self, reader: Reader[Batch[T]]) -> None:
        self._reader = reader
        self._messages: AsyncGenerator[Message[T]] | None = None

    def __aiter__(self) -> AsyncGenerator[Message[T]]:
        if self._messages is None:
            self._messages = self._generate()
        return self._messages

    async def _generate(self) -> AsyncGenerator[Message[T]]:
        try:
            while (batch := await self._reader.next()) is not None:
                for index, value in enumerate(batch.values):
                    yield Message(value, batch, index)
                batch.check()
        finally:
            self._messages = None

    async def batches(self) -> AsyncGenerator[Batch[T]]:
        """The same in batches, as they come. Some are empty: they tell that the reader is up to date."""
        while (batch := await self._reader.next()) is not None:
            yield batch

    async def close(self) -> None:
        """Let go of the connection. Iterating again makes another one."""
        if self._messages is not None:
            await self._messages.aclose()
        await self._reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
