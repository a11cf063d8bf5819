"""Where a reader stands and what it asks for next: the one state machine of reading, without I/O, clock or chance.

A reader catches up by pages, which is the fastest way, until an answer says that it is up to date. Then it reads live:
by Server-Sent Events where these carry the stream well, else by long-polling. Whatever breaks, it goes on from its
offset.

    catch-up --- up to date ---> sse or long-poll --- connection broke ---> (pause) ---> catch-up
                                       |
                                       +--- ended in good order ---> (pause, if it was short) ---> the same again

A *round* is one request with all that its answer brings. Rounds in a row that bring no data are counted, and each is
followed by a pause that grows with their number, less the time that the round itself took: a long-poll that waited its
30 seconds goes on at once, and a server, or a cache, that answers at once and with nothing is not asked in a hot loop.

Data whose end is not after its beginning is refused: a reader that went on would get it again and again.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Literal, NamedTuple

from unbroken.client.positions import BEGINNING, NOW, SINCE, Position
from unbroken.client.retry import Retry, is_passing
from unbroken.errors import AnswerTooLarge, InvalidOffset, OffsetLoop, ProtocolViolation, TimedOut, UnbrokenError
from unbroken.protocol.content import is_json, is_text, whole_characters

__all__ = ["SSE_START_S", "Characters", "Deadlines", "Live", "Mode", "Progress", "Reading", "Silence"]

Live = Literal["auto", "sse", "long-poll", False]

SSE_START_S = 5.0
"""A server sends its first event at once. One that does not come in this time is held up by a proxy that buffers."""
SHORT_CONNECTIONS_MAX = 3
"""So many event streams in a row that ended early and brought nothing: something on the way does not like them."""
VIOLATIONS_MAX = 8
"""A page cut short by a proxy, or a server that for a moment knows less than it has shown before, may look broken; what
does it again and again, over some seconds, is.
"""
_SHORT_S = 1.0


class Mode(Enum):
    """How a reader asks."""

    CATCH_UP = "catch-up"
    SSE = "sse"
    LONG_POLL = "long-poll"


class Progress(NamedTuple):
    """How far an answer, or a control event, gets its reader.

    Args:
        next_offset: where to go on.
        has_data: whether it came with data.
        up_to_date: it reached the present end.
        closed: it reached the end of a closed stream.
        cursor: to be echoed in the next live request.
    """

    next_offset: str
    has_data: bool
    up_to_date: bool = False
    closed: bool = False
    cursor: str | None = None


class Reading:
    """Where a reader stands.

    Args:
        start: where to begin.
        live: how to read on once caught up; False ends there.
        retry: how long pauses are.

    Attributes:
        at: the offset to ask from, and what to skip there.
        mode: how to ask.
        content_type: the stream's, once known.
        in_character: what was read ends inside a character of text. Events, which are text, cannot begin there.
        done: everything was read: the stream is closed, or, without live reading, the end was reached.
    """

    def __init__(self, start: Position, live: Live, retry: Retry) -> None:
        self.at = start
        self.mode = Mode.CATCH_UP
        self.content_type = ""
        self.in_character = False
        self.done = False
        self._live = live
        self._retry = retry
        self._cursor: str | None = None
        self._events_fail = False
        self._empty_rounds = 0
        self._short_connections = 0
        self._violations = 0

    @property
    def params(self) -> dict[str, str]:
        """The query of the next request."""
        offset = self.at.offset
        if offset.startswith(SINCE):
            return {"since": offset.removeprefix(SINCE)}
        params = {"offset": offset}
        if self.mode is not Mode.CATCH_UP:
            params["live"] = self.mode.value
            if self._cursor is not None:
                params["cursor"] = self._cursor
        return params

    def check(self, progress: Progress) -> None:
        """Make sure that data gets the reader on, before it is handed over.

        Raises:
            OffsetLoop: the data ends where it began, or before.
            ProtocolViolation: without data, an earlier end than that where the reader stands.
        """
        offset, end = self.at.offset, progress.next_offset
        if end > offset or offset in {BEGINNING, NOW} or offset.startswith(SINCE):
            return
        if progress.has_data:
            what = "data that ends where it began" if end == offset else "data that ends before that"
            error: ProtocolViolation = OffsetLoop(f"the server answered offset {offset} with {what}: {end}")
        elif end < offset:
            error = ProtocolViolation(f"the server answered offset {offset} with an end before that: {end}")
        else:
            return
        error.offset = offset
        raise error

    def advance(self, progress: Progress, at: Position | None = None) -> None:
        """Go on, after the data has been taken.

        Args:
            progress: what the server said.
            at: where to go on, if not at the offset it gave.

        Raises:
            InvalidOffset: the stream has less than what is to be skipped.
        """
        moved = progress.next_offset != self.at.offset
        self.at = at or Position(progress.next_offset)
        if progress.cursor is not None:
            self._cursor = progress.cursor
        if progress.has_data:
            self._empty_rounds = self._short_connections = 0
        self._violations = 0
        caught_up = progress.up_to_date or progress.closed or not (moved or progress.has_data)
        if at is not None and at.offset != progress.next_offset:
            self.mode = Mode.CATCH_UP  # in the middle of what came: what follows is read again
        elif caught_up:
            self._caught_up(closed=progress.closed)

    def _caught_up(self, *, closed: bool) -> None:
        if self.at.skip:
            error = InvalidOffset(f"the stream ends before position {self.at}: it is not the one that was read before")
            error.offset = str(self.at)
            raise error
        if closed or not self._live:
            self.done = True
        elif self.mode is not Mode.SSE:
            self.mode = self._live_mode()

    def _live_mode(self) -> Mode:
        """By events goes JSON exactly. Of text they lose which line ends it has, and bytes grow by a third."""
        wanted = self._live == "sse" or (self._live == "auto" and is_json(self.content_type))
        return Mode.SSE if wanted and not self._events_fail and not self.in_character else Mode.LONG_POLL

    def give_up_events(self) -> None:
        """Events do not get through: go on by long-polling, for as long as this reader lives."""
        self._events_fail = True
        if self.mode is Mode.SSE:
            self.mode = Mode.LONG_POLL

    def round_ended(self, mode: Mode, took_s: float, *, had_data: bool) -> float:
        """An answer ended in good order.

        Args:
            mode: how it was asked for.
            took_s: from the request to the end of the answer, in seconds.
            had_data: whether there was data in it.

        Returns:
            Seconds to pause before the next request.
        """
        if had_data or (mode is Mode.CATCH_UP and self.mode is not mode):
            return 0.0
        if mode is Mode.SSE:
            self._short_connections = self._short_connections + 1 if took_s < _SHORT_S else 0
            if self._short_connections >= SHORT_CONNECTIONS_MAX:
                self.give_up_events()
        return self._pause_s(took_s, None)

    def failed(self, error: UnbrokenError, took_s: float) -> float:
        """A request failed, or its answer broke off.

        Args:
            error: why.
            took_s: from the request to the failure, in seconds.

        Returns:
            Seconds to pause before the next request.

        Raises:
            UnbrokenError: the error itself, if asking again cannot help.
        """
        error.offset = error.offset or str(self.at)
        if isinstance(error, ProtocolViolation):
            self._violations += 1
            if (
                isinstance(error, OffsetLoop | AnswerTooLarge)
                or error.status < 400
                or self._violations >= VIOLATIONS_MAX
            ):
                raise error
            if self.mode is Mode.SSE:
                self.give_up_events()
        elif not is_passing(error):
            raise error
        self.mode = Mode.CATCH_UP
        return self._pause_s(took_s, error.retry_after_s)

    def _pause_s(self, took_s: float, retry_after_s: float | None) -> float:
        if took_s > self._retry.cap_s:
            self._empty_rounds = 0
        self._empty_rounds += 1
        pause_s = self._retry.pause_s(self._empty_rounds, retry_after_s)
        return max(0.0, pause_s if retry_after_s else pause_s - took_s)


class Deadlines:
    """How long a reader may take. All times are on the monotonic clock, in seconds.

    Args:
        item_s: how long the next message may take to come; None for ever.
        total_s: how long everything may take; None for ever.
        give_up_after_s: how long requests may go on failing; None for ever.
        now_s: the time.
    """

    def __init__(
        self, item_s: float | None, total_s: float | None, give_up_after_s: float | None, *, now_s: float
    ) -> None:
        self._item_s = item_s
        self._give_up_after_s = give_up_after_s
        self._item_end_s = math.inf
        self._end_s = math.inf if total_s is None else now_s + total_s
        self._failing_since_s: float | None = None

    def waiting(self, now_s: float) -> None:
        """The reader asks for another message."""
        if self._item_s is not None:
            self._item_end_s = now_s + self._item_s

    def left_s(self, now_s: float) -> float:
        """Seconds until the time is up, perhaps infinite, not negative."""
        return max(0.0, min(self._end_s, self._item_end_s) - now_s)

    def check(self, now_s: float) -> None:
        """Make sure that the time is not up.

        Raises:
            TimedOut: it is.
        """
        if now_s >= self._end_s:
            raise TimedOut("the time for reading is up")
        if now_s >= self._item_end_s:
            raise TimedOut(f"no message came in {self._item_s:g} seconds")

    def failed(self, error: UnbrokenError, now_s: float) -> None:
        """A request failed that may succeed later.

        Raises:
            UnbrokenError: the error itself, if requests have been failing for too long.
        """
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if self._give_up_after_s is not None and now_s - self._failing_since_s >= self._give_up_after_s:
            raise error

    def succeeded(self) -> None:
        """A request succeeded."""
        self._failing_since_s = None


class Silence:
    """How long a live connection may be silent before its other end counts as dead. It is learned: servers send
    heartbeats while there is no data, or end a long-poll after the same time again and again.

    Args:
        fixed_s: this long, and nothing is learned.
    """

    UNKNOWN_S = 75.0
    """Until something is learned: servers wait 60 s at most, as far as is known."""

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._longest_s = 0.0

    def heard(self, after_s: float) -> None:
        """A sign of life without data came after so many seconds of silence."""
        self._longest_s = max(self._longest_s, after_s)

    @property
    def limit_s(self) -> float:
        """Seconds: two and a half times the longest silence that was normal, and some for a slow network."""
        if self._fixed_s is not None:
            return self._fixed_s
        return min(self.UNKNOWN_S, 2.5 * self._longest_s + 5) if self._longest_s >= 1 else self.UNKNOWN_S


class Characters:
    """Cuts text between characters: a page may end in the middle of one, which then comes with the next page.

    Args:
        content_type: what is not ``text/*`` passes unchanged.
    """

    def __init__(self, content_type: str) -> None:
        self._is_text = is_text(content_type)
        self._held = b""
        self._held_at: Position | None = None

    @property
    def holds(self) -> bool:
        """Whether the beginning of a character is held back."""
        return bool(self._held)

    def take(self, data: bytes, start: Position, end: Position, *, last: bool) -> tuple[bytes, Position, Position]:
        """What can be shown, where it begins, and where to go on after it.

        Args:
            data: the bytes from ``start`` to ``end``.
            start: where they begin.
            end: where they end.
            last: nothing will follow, so nothing is held back.
        """
        if not self._is_text:
            return data, start, end
        if self._held_at is not None:
            data, start = self._held + data, self._held_at
        size = len(data) if last else whole_characters(data)
        self._held = data[size:]
        self._held_at = start.after(size) if self._held else None
        return data[:size], start, self._held_at or end
