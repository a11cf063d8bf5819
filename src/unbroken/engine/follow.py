"""The live path: wake followers, and let them share what they are sent.

A publish wakes waiters and carries no data: each follower pulls a page from where it stands, so one that is slow is
paused by its own socket, finds a bigger page later, and nothing is ever queued for it. Followers that stand at the same
position ask for the same frame, which is encoded once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["FrameCache", "Waiters", "resolve"]


class Waiters:
    """Who waits for something to happen to which stream."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    async def wait(self, number: int, woken: asyncio.Future[None], timeout_s: float) -> None:
        """Wait until the stream with this number changes, ``woken`` is resolved by its owner, or the time is over.

        Args:
            number: the stream's creation number.
            woken: a new future, resolved when the wait is over.
            timeout_s: how long at most, in seconds.
        """
        waiting = self._waiting.setdefault(number, set())
        waiting.add(woken)
        timer = asyncio.get_running_loop().call_later(timeout_s, resolve, woken)
        try:
            await woken
        finally:
            timer.cancel()
            waiting.discard(woken)
            if not waiting and self._waiting.get(number) is waiting:
                del self._waiting[number]

    def wake(self, number: int) -> None:
        """The stream changed."""
        if number in self._waiting:
            for woken in self._waiting.pop(number):
                resolve(woken)

    def wake_all(self) -> None:
        """Something concerns everybody, such as the end of the server."""
        for number in list(self._waiting):
            self.wake(number)

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())


def resolve(woken: asyncio.Future[None]) -> None:
    """End a wait, if it has not ended yet."""
    if not woken.done():
        woken.set_result(None)


class FrameCache:
    """Recently encoded frames, least recently used first to go.

    Args:
        size_bytes_max: how much to keep in all.

    Attributes:
        hits: how often a frame was there.
        misses: how often it was not.
    """

    def __init__(self, size_bytes_max: int = 16 * 1024 * 1024) -> None:
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._frames: OrderedDict[Hashable, bytes] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable) -> bytes | None:
        """The frame kept under this key."""
        frame = self._frames.get(key)
        if frame is None:
            self.misses += 1
        else:
            self.hits += 1
            self._frames.move_to_end(key)
        return frame

    def put(self, key: Hashable, frame: bytes) -> None:
        """Keep a frame. One frame is always kept, however large."""
        if (old := self._frames.pop(key, None)) is not None:
            self._size_bytes -= len(old)
        self._frames[key] = frame
        self._size_bytes += len(frame)
        while self._size_bytes > self._size_bytes_max and len(self._frames) > 1:
            _, dropped = self._frames.popitem(last=False)
            self._size_bytes -= len(dropped)
