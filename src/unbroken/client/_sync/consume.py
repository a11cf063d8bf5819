"""Consuming a stream: following it, with the position kept across restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Generic, Self, TypeVar

from unbroken.client._sync import io
from unbroken.client._sync.follow import Follow
from unbroken.client.batches import Message
from unbroken.client.offsets import OffsetStore
from unbroken.client.positions import Position

__all__ = ["Consumer"]

T = TypeVar("T")


class Consumer(Generic[T]):
    """The messages of a stream, from where this consumer was. Made by `Stream.consume`; iterate over it, best
    within ``with``.

    A message counts as handled when the next one is asked for. What is handled is saved whenever the end of the stream
    is reached, otherwise from time to time, and when the block is left: so after a crash some messages come again, but
    none is left out. Positions that are saved in between by a `SqliteOffsets.transaction` are left as they are.
    """

    def __init__(
        self,
        follow: Callable[[str | None], Follow[T]],
        offsets: OffsetStore,
        key: str,
        save_every_s: float,
    ) -> None:
        self.key = key
        self._follow = follow
        self._offsets = offsets
        self._save_every_s = save_every_s
        self._messages: Generator[Message[T]] | None = None
        self._current: Message[T] | None = None
        self._handled: Position | None = None
        self._known: str | None = None
        self._saved_s = 0.0

    def __iter__(self) -> Generator[Message[T]]:
        if self._messages is None:
            self._messages = self._generate()
        return self._messages

    def _generate(self) -> Generator[Message[T]]:
        self._saved_s = time.monotonic()
        self._known = io.call(self._offsets.load, self.key)
        follow = self._follow(self._known)
        try:
            with follow, closing(follow.batches()) as batches:
                for batch in batches:
                    for message in batch:
                        self._current = message
                        yield message
                        self._handled = message.position
                        if time.monotonic() - self._saved_s >= self._save_every_s:
                            self._save()
                    self._handled = batch.end
                    if batch.up_to_date:
                        self._save()
        finally:
            self._messages = self._current = None
            self._save()

    def save(self) -> None:
        """Save now, with the present message as handled."""
        if self._current is not None:
            self._handled = self._current.position
        self._save()

    def _save(self) -> None:
        """Save what is handled, unless somebody has saved a position meanwhile: a transaction that is further."""
        handled, self._handled = self._handled, None
        if handled is None:
            return
        known, self._known = self._known, io.call(self._offsets.load, self.key)
        if self._known == known and self._known != str(handled):
            self._known = str(handled)
            io.call(self._offsets.save, self.key, self._known)
        self._saved_s = time.monotonic()

    def close(self) -> None:
        """Save what is handled, and let go of the connection. Iterating again goes on from there."""
        if self._messages is not None:
            self._messages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
