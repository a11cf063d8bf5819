"""Reading, with I/O: does what `unbroken.client.reading.Reading` says."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

import httpx2

from unbroken.client._async import io
from unbroken.client._async.requests import Requests
from unbroken.client.options import Ask
from unbroken.client.pieces import EventPieces, Piece, piece_of
from unbroken.client.positions import Position
from unbroken.client.reading import SSE_START_S, Deadlines, Mode, Reading, Silence
from unbroken.client.shapes import page_of
from unbroken.client.transport import translated
from unbroken.client.values import Page
from unbroken.errors import InvalidRequest, NoAnswer, UnbrokenError
from unbroken.protocol.content import is_json

__all__ = ["Reader", "read_pages"]

T = TypeVar("T")

Shape = Callable[[Piece, Reading], tuple[T, Position | None]]
"""Makes of a piece what the reader hands out. Returns it, and where to go on, if that is not at the piece's own end."""


class Reader(Generic[T]):
    """Brings what a stream holds, one answer or event after the other, whatever breaks.

    Args:
        requests: sends them.
        url: of the stream.
        reading: where it stands.
        shape: makes what is handed out.
        deadlines: how long it may take.
        silence_s: how long a live connection may be silent; learned by default.
    """

    def __init__(
        self,
        requests: Requests,
        url: str,
        reading: Reading,
        shape: Shape[T],
        deadlines: Deadlines,
        silence_s: float | None = None,
    ) -> None:
        self.reading = reading
        self._requests = requests
        self._url = url
        self._shape = shape
        self._deadlines = deadlines
        self._event_silence = Silence(silence_s)
        self._poll_silence = Silence(silence_s)
        self._events: _Events | None = None
        self._resume_s = 0.0
        self._began_s = 0.0
        self._waits_on = False

    async def next(self) -> T | None:
        """What comes next, which may be without data; None when everything was read.

        Raises:
            UnbrokenError: it cannot go on.
            TimedOut: the time is up; it may be asked again.
        """
        if not self._waits_on:
            self._deadlines.waiting(time.monotonic())
        self._waits_on = False
        while not self.reading.done:
            await self._pause()
            try:
                piece = await (self._event_piece() if self.reading.mode is Mode.SSE else self._page())
                if piece is not None:
                    return self._taken(piece)
            except UnbrokenError as error:
                await self._failed(error)
        return None

    async def _pause(self) -> None:
        now_s = time.monotonic()
        self._deadlines.check(now_s)
        if self._resume_s > now_s:
            await io.sleep(min(self._resume_s - now_s, self._deadlines.left_s(now_s)))
            self._deadlines.check(time.monotonic())

    async def _failed(self, error: UnbrokenError) -> None:
        await self.close()
        now_s = time.monotonic()
        if isinstance(error, NoAnswer):
            self._deadlines.check(now_s)
        self._resume_s = now_s + self.reading.failed(error, now_s - self._began_s)
        self._deadlines.failed(error, now_s)

    def _taken(self, piece: Piece) -> T:
        reading, mode = self.reading, self.reading.mode
        reading.check(piece.progress)
        result, at = self._shape(piece, reading)
        reading.advance(piece.progress, at)
        self._deadlines.succeeded()
        self._waits_on = not piece.progress.has_data
        if mode is not Mode.SSE:
            self._round_ended(mode, had_data=piece.progress.has_data)
        return result

    def _round_ended(self, mode: Mode, *, had_data: bool) -> None:
        now_s = time.monotonic()
        self._resume_s = now_s + self.reading.round_ended(mode, now_s - self._began_s, had_data=had_data)

    async def _page(self) -> Piece:
        await self._close_events()
        reading = self.reading
        polling = reading.mode is Mode.LONG_POLL
        self._began_s = time.monotonic()
        left_s = self._deadlines.left_s(self._began_s)
        limit_s = self._poll_silence.limit_s if polling else self._requests.timeout_s
        try:
            async with io.limit(left_s):
                answer = await self._requests.once(self._ask(), timeout_s=min(limit_s, left_s))
        except TimeoutError:
            raise self._no_answer() from None
        if answer.status == 204:
            self._poll_silence.heard(time.monotonic() - self._began_s)
        else:
            reading.content_type = answer.headers.get("content-type", "")
        return piece_of(answer, reading.content_type)

    def _ask(self, **headers: str) -> Ask:
        return Ask("GET", self._url, params=self.reading.params, headers=headers)

    def _no_answer(self) -> NoAnswer:
        error = NoAnswer(f"nothing came from {self._ask().facts().url} for too long")
        error.request = self._ask().facts()
        return error

    async def _event_piece(self) -> Piece | None:
        """The next piece of the event stream; None if there is none yet, or not in this way."""
        if self._events is None:
            self._events = await self._opened_events()
        events = self._events
        if events is None:
            return None
        if not events.pieces:
            await self._feed(events)
        return events.pieces.popleft() if events.pieces else None

    async def _feed(self, events: _Events) -> None:
        limit_s = self._event_silence.limit_s if events.started else self._start_s
        left_s = self._deadlines.left_s(time.monotonic())
        try:
            with translated(self._ask()):
                chunk = await io.next_chunk(events.chunks, events.response, min(limit_s, left_s))
        except (TimeoutError, NoAnswer):
            if not events.started and left_s > limit_s:
                await self._no_events()
                return
            raise self._no_answer() from None
        now_s = time.monotonic()
        if chunk is None:
            await self.close()
            self._round_ended(Mode.SSE, had_data=events.had_data)
            return
        events.pieces.extend(events.decoder.feed(chunk))
        events.started = events.started or bool(events.pieces)
        if any(piece.progress.has_data for piece in events.pieces):
            events.had_data = True
        elif events.started:
            self._event_silence.heard(now_s - events.heard_s)
        events.heard_s = now_s

    @property
    def _start_s(self) -> float:
        """How long the first event may take."""
        return min(SSE_START_S, self._event_silence.limit_s)

    async def _no_events(self) -> None:
        await self._close_events()
        self.reading.give_up_events()

    async def _opened_events(self) -> _Events | None:
        reading = self.reading
        self._began_s = time.monotonic()
        left_s = self._deadlines.left_s(self._began_s)
        # Compression would make a proxy, or the server, hold events back.
        ask = self._ask(**{"accept": "text/event-stream", "accept-encoding": "identity"})
        stack = AsyncExitStack()
        try:
            async with io.limit(min(self._start_s, left_s)):
                opening = self._requests.open(ask, timeout_s=min(self._start_s, left_s))
                response = await stack.enter_async_context(opening)
        except (TimeoutError, NoAnswer):
            await stack.aclose()
            if left_s <= self._start_s:
                raise self._no_answer() from None
            await self._no_events()
            return None
        except InvalidRequest as error:
            if error.status != 400:
                raise
            await self._no_events()  # a server without them; if it is something else, polling will tell
            return None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            await stack.aclose()
            await self._no_events()
            return None
        io.unlimit(response)
        return _Events(stack, response, reading, self._requests.body_bytes_max, self._began_s)

    async def close(self) -> None:
        """Let go of the connection. Reading may go on: then another one is made."""
        await self._close_events()

    async def _close_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            await events.chunks.aclose()
            await events.stack.aclose()


async def read_pages(requests: Requests, url: str, start: Position) -> AsyncGenerator[Page]:
    """The pages of a stream from a position to its present end."""
    deadlines = Deadlines(None, None, requests.retry.give_up_after_s, now_s=time.monotonic())
    reader = Reader(requests, url, Reading(start, False, requests.retry), page_of, deadlines)
    while (page := await reader.next()) is not None:
        yield page


class _Events:
    """An event stream that is being read."""

    def __init__(
        self, stack: AsyncExitStack, response: httpx2.Response, reading: Reading, size_max: int, now_s: float
    ) -> None:
        self.stack = stack
        self.response = response
        self.chunks = io.chunks_of(response)
        self.decoder = EventPieces(
            json=is_json(reading.content_type),
            base64_=response.headers.get("stream-sse-data-encoding", "").strip().lower() == "base64",
            size_max=size_max,
        )
        self.pieces: deque[Piece] = deque()
        self.started = False
        self.had_data = False
        self.heard_s = now_s
