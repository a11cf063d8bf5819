"""The live path: wake followers, and let them share what they are sent.

A publish wakes waiters and carries no data: each follower pulls a page from where it stands, so one that is slow is
paused by its own socket, finds a bigger page later, and nothing is ever queued for it. Followers that stand at the same
position ask for the same frame, which is encoded once.

Who is woken has a turn later, some in each turn of the event loop: a writer is not kept waiting by those who read, and
what happens while they have their turns wakes them only once more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from time import perf_counter

__all__ = ["FrameCache", "Waiters", "resolve"]

_TURNS = 128
"""So many have their turn before others of the event loop do: they take about a millisecond."""
_TURNS_S = 0.002
"""And no more than fit into this, since some are sent large pages."""


class Waiters:
    """Who waits for something to happen to which stream."""

    def __init__(self) -> None:
        self._listeners: dict[int, dict[Callable[[], None], None]] = {}
        self._woken: dict[int, None] = {}
        self._turns: deque[Callable[[], None]] = deque()
        self._soon: asyncio.Handle | None = None

    def add(self, number: int, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, until it is removed, after each change of the stream with this creation number.

        It may be called once more than that, and once after it was removed. It must not raise.
        """
        self._listeners.setdefault(number, {})[listener] = None

    def remove(self, number: int, listener: Callable[[], None]) -> None:
        """Have it not called any more."""
        listeners = self._listeners[number]
        del listeners[listener]
        if not listeners:
            del self._listeners[number]

    async def wait(self, number: int, woken: asyncio.Future[None], timeout_s: float) -> None:
        """Wait until the stream with this number changes, ``woken`` is resolved by its owner, or the time is over.

        Args:
            number: the stream's creation number.
            woken: a new future, resolved when the wait is over.
            timeout_s: how long at most, in seconds.
        """
        listener = partial(resolve, woken)
        self.add(number, listener)
        timer = asyncio.get_running_loop().call_later(timeout_s, listener)
        try:
            await woken
        finally:
            timer.cancel()
            self.remove(number, listener)

    def wake(self, number: int) -> None:
        """The stream changed."""
        if number in self._listeners:
            self._woken[number] = None
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_soon(self._go_on)

    def wake_all(self) -> None:
        """Something concerns everybody, such as the end of the server: all have their turn before this returns."""
        self._woken = dict.fromkeys(self._listeners)
        while self._take_turns():
            pass

    def _go_on(self) -> None:
        more = True
        try:
            more = self._take_turns()
        finally:  # whatever a listener does, the others go on
            self._soon = asyncio.get_running_loop().call_soon(self._go_on) if more else None

    def _take_turns(self) -> bool:
        """Let some have their turn.

        Returns:
            Whether there are others.
        """
        while self._woken and len(self._turns) < _TURNS:
            number = next(iter(self._woken))
            del self._woken[number]
            self._turns += self._listeners.get(number, ())
        turns = self._turns
        end_s = perf_counter() + _TURNS_S
        for _ in range(min(_TURNS, len(turns))):
            turns.popleft()()
            if perf_counter() > end_s:
                break
        return bool(turns or self._woken)

    def __len__(self) -> int:
        return sum(len(listeners) for listeners in self._listeners.values())


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
