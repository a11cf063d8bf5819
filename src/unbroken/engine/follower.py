"""A live read: where one reader of a stream stands, and how it waits for more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from unbroken.engine.expiry import Expiry
from unbroken.engine.follow import resolve
from unbroken.engine.pages import Page
from unbroken.errors import OffsetGone
from unbroken.protocol.stream import StreamState

if TYPE_CHECKING:
    from unbroken.engine.engine import Engine

__all__ = ["Follower"]


class Follower:
    """A live read: where one reader of a stream stands. Use it as a context manager.

    While it is open, a sliding lifetime does not end.
    """

    def __init__(self, engine: Engine, state: StreamState, position: int, expiry: Expiry) -> None:
        self.state = state
        self.position = position
        self._engine = engine
        self._expiry = expiry
        self._begun = False
        self._stopped = False
        self._woken: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._expiry.reader_came(self.state)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._expiry.reader_left(self.state)

    @property
    def ended(self) -> bool:
        """Whether waiting is over for good, because the server drains or `stop` was called."""
        return self._stopped or self._engine.draining

    def stop(self) -> None:
        """End a wait under way, and all later ones at once: the reader has gone."""
        self._stopped = True
        if self._woken is not None:
            resolve(self._woken)

    def listen(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called when `poll` may find something new; see `Waiters.add`. Once, until `unlisten`."""
        self._engine.waiters.add(self.state.number, listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Have it not called any more."""
        self._engine.waiters.remove(self.state.number, listener)

    def poll(self) -> Page | None:
        """The next page, without waiting.

        Returns:
            The page, which is empty if there is nothing new; None if it has to be read from the disk: `next` does that.

        Raises:
            StreamNotFound, StreamGone, OffsetGone: the stream was deleted meanwhile, or another one took its path.
        """
        state = self.state = self._look()
        page = self._engine.at_hand.page(state, self.position)
        if page is not None:
            self.position = page.end
        return page

    async def next(self, timeout_s: float) -> Page | None:
        """The next page. The first call returns at once; later ones wait for data or closure.

        Args:
            timeout_s: how long to wait at most, in seconds.

        Returns:
            The page, which is empty only at first and at closure; None if the time ran out or waiting is over.

        Raises:
            StreamNotFound, StreamGone, OffsetGone: the stream was deleted meanwhile, or another one took its path.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            page = self.poll() or await self._engine.page(self.state, self.position)
            if page.data or page.closed or not self._begun:
                self._begun = True
                self.position = page.end
                return page
            left_s = deadline_s - loop.time()
            if self.ended or left_s <= 0:
                return None
            self._woken = loop.create_future()
            await self._engine.waiters.wait(self.state.number, self._woken, left_s)

    def _look(self) -> StreamState:
        state = self._engine.lookup(self.state.path).live()
        if state.number != self.state.number:
            raise OffsetGone("the stream was deleted, and another one took its path")
        return state
