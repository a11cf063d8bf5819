"""One SSE response: what its reader is sent, and when.

It has no task of its own and no queue. It is asked for its next part when there may be one, because the stream changed,
a timer ran out, or the reader took the last part; see `unbroken.server.http.LiveBody`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple, Protocol

from unbroken.engine.follower import Follower
from unbroken.engine.pages import Page
from unbroken.errors import UnbrokenError
from unbroken.protocol.sse import HEARTBEAT
from unbroken.server.http import LiveBody, Request, Then
from unbroken.server.sse import Batches
from unbroken.server.untaken import Untaken

__all__ = ["Common", "Endings", "Events", "Permit"]

_log = logging.getLogger("unbroken.server")
_MOMENT_S = 0.5
_TICK_S = 0.001
"""Timers are no more exact than this: one that has so little left to run is not started."""


class Permit(AbstractContextManager["Permit"], Protocol):
    """How long somebody may read on."""

    @property
    def over(self) -> bool:
        """Whether nothing more may be sent."""
        ...


class Endings:
    """Logs that live reads ended: all of a stream that end at the same time, and for the same reason, in one line."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, path: str, error: UnbrokenError, request_id: str) -> None:
        """One ended."""
        self._counts[path, error.code] += 1
        if self._counts[path, error.code] == 1:
            asyncio.get_running_loop().call_later(_MOMENT_S, self._tell, path, error, request_id)

    def _tell(self, path: str, error: UnbrokenError, request_id: str) -> None:
        count = self._counts.pop((path, error.code))
        facts = {"request_id": request_id, "path": path, "code": error.code, "readers": count}
        text = "live reads of %s that ended: %d: %s, id of the first %s"
        _log.info(text, path, count, error, request_id, extra={"facts": facts})


class Common(NamedTuple):
    """What all responses have in common.

    Args:
        lifetime_s: seconds until one is ended.
        heartbeat_s: seconds of silence until a comment is sent.
        untaken: knows whether there is room for another large part.
        endings: told of those that end by an error.
    """

    lifetime_s: float
    heartbeat_s: float
    untaken: Untaken
    endings: Endings


class Events(LiveBody):
    """The body of one SSE response.

    Args:
        request: what it answers.
        follower: where the reader stands.
        batches: makes events of pages.
        first: the page to begin with.
        common: see there.
        lease: makes the permit to read; given what to call when it is over.
        counted: entered as long as the response is sent.
    """

    def __init__(
        self,
        request: Request,
        follower: Follower,
        batches: Batches,
        first: Page | None,
        common: Common,
        lease: Callable[[Callable[[], None]], Permit],
        counted: AbstractContextManager[None],
    ) -> None:
        self._request = request
        self._follower = follower
        self._batches = batches
        self._page = first
        self._untaken = common.untaken
        self._endings = common.endings
        self._lease = lease
        self._counted = counted
        self._clock = asyncio.get_running_loop().time
        self._heartbeat_s = common.heartbeat_s
        self._sent_s = self._clock()
        self._end_s = self._sent_s + common.lifetime_s
        self._error: UnbrokenError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._entered = ExitStack()
        self._on_news: Callable[[], None] = lambda: None

    def begin(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        enter = self._entered.enter_context
        enter(self._follower)
        self._permit = enter(self._lease(on_news))
        enter(self._counted)
        self._follower.listen(on_news)
        self._entered.callback(self._follower.unlisten, on_news)
        self._start_timer()

    def take(self) -> bytes:
        try:
            part = self._take()
        except UnbrokenError as error:
            # Deleted, most likely. The status is long sent; whoever connects again is told.
            self._endings.note(self._follower.state.path, error, self._request.id)
            self.then = Then.END
            return b""
        self.sent_bytes += len(part)
        return part

    def _take(self) -> bytes:
        """What there is to send, and then what; the order is that of importance."""
        self.then = Then.END
        if self._permit.over or (self._follower.ended and self._page is None):
            return self._batches.farewell()
        page = self._next_page()
        if page is None:
            self.then = Then.LOAD
            return b""
        now_s = self._clock()
        if page.data or page.closed or self._page is page:
            return self._batch(page, now_s)
        if now_s >= self._end_s:
            return b""
        self.then = Then.WAIT
        if now_s - self._sent_s < self._heartbeat_s:
            return b""
        self._sent_s = now_s
        return HEARTBEAT

    def _next_page(self) -> Page | None:
        """The page at hand, which may be empty; None if it has to be loaded."""
        if self._error is not None:
            raise self._error
        return self._follower.poll() if self._page is None else self._page

    def _batch(self, page: Page, now_s: float) -> bytes:
        # What was read a while ago may have been the end then.
        is_news = self._page is None
        # A reader that waits holds no page, nor what became of it.
        self._page = None
        self._untaken.check(len(page.data))
        self._sent_s = now_s
        if page.closed or now_s >= self._end_s:
            self.then = Then.END
        elif is_news and page.up_to_date and not self._follower.ended:
            self.then = Then.WAIT
        else:
            self.then = Then.ASK
        return self._batches.encode(page)

    async def load(self) -> None:
        try:
            self._page = await self._follower.next(0)
        except UnbrokenError as error:
            self._error = error

    def stop(self) -> None:
        self._follower.stop()
        self._on_news()

    def close(self) -> None:
        self._page = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._entered.close()
        if self.on_close is not None:
            self.on_close()

    def _start_timer(self) -> None:
        """For the next heartbeat or the end, whichever is first.

        What is sent meanwhile does not touch it: to start one anew would cost as much as to send.
        """
        now_s = self._clock()
        left_s = min(self._sent_s + self._heartbeat_s, self._end_s) - now_s
        if left_s <= 0:
            left_s = self._heartbeat_s  # it is late: the reader has not taken yet what came before
        self._timer = asyncio.get_running_loop().call_later(max(left_s, _TICK_S), self._on_timer)

    def _on_timer(self) -> None:
        now_s = self._clock()
        if now_s >= self._end_s or now_s - self._sent_s >= self._heartbeat_s:
            self._on_news()
        if self._timer is not None:
            self._start_timer()
