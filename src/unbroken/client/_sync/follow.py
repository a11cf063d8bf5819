"""Following a stream: its messages, one after the other, whatever breaks."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Generic, Self, TypeVar

from unbroken.client._sync.reader import Reader
from unbroken.client.batches import Batch, Message

__all__ = ["Follow"]

T = TypeVar("T")


class Follow(Generic[T]):
    """The messages of a stream. Made by `Stream.follow`; iterate over it once, best within ``with``: then
    nothing is left open when the block is left.

    It may be iterated again after an error, such as `TimedOut` or `InvalidMessage`: it goes on after the last message.
    """

    def __init__(self, reader: Reader[Batch[T]]) -> None:
        self._reader = reader
        self._messages: Generator[Message[T]] | None = None

    def __iter__(self) -> Generator[Message[T]]:
        if self._messages is None:
            self._messages = self._generate()
        return self._messages

    def _generate(self) -> Generator[Message[T]]:
        try:
            while (batch := self._reader.next()) is not None:
                for index, value in enumerate(batch.values):
                    yield Message(value, batch, index)
                batch.check()
        finally:
            self._messages = None

    def batches(self) -> Generator[Batch[T]]:
        """The same in batches, as they come. Some are empty: they tell that the reader is up to date."""
        while (batch := self._reader.next()) is not None:
            yield batch

    def close(self) -> None:
        """Let go of the connection. Iterating again makes another one."""
        if self._messages is not None:
            self._messages.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
