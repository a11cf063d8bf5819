"""What one SSE response sends: a batch of events for each page, shared with all readers who stand where it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unbroken.engine.follow import FrameCache
from unbroken.engine.pages import Page
from unbroken.protocol.content import is_text, whole_characters
from unbroken.protocol.sse import encode_base64, encode_control, encode_text
from unbroken.protocol.stream import StreamState, offset_at

__all__ = ["Batches", "Frames"]

_SHARED_BYTES_MAX = 2 * 1024 * 1024
"""Larger batches are not kept: a message may have 64 MiB."""


class _Batch(NamedTuple):
    """What came of a page: its events, for all readers that hold the same back and have no greater cursor."""

    page: Page
    held_before: bytes
    cursor: int
    events: bytes
    position: int
    held: bytes


class Frames:
    """What readers share: frames with data, and the whole batch that was sent last.

    Args:
        cursor: tells the present cursor.
    """

    def __init__(self, cursor: Callable[[], int]) -> None:
        self.data = FrameCache()
        self.cursor = cursor
        self.last: _Batch | None = None


class Batches:
    """Turns the pages of one live read into events.

    Text is never split inside a character: bytes of one that is still incomplete are held back, and the offsets sent
    do not count them, so that a reader that resumes gets them again.

    Args:
        state: the stream.
        start: byte position where the read begins.
        frames: shared with the other readers.
        cursor: the first cursor to send; later ones are never lower.
    """

    def __init__(self, state: StreamState, start: int, frames: Frames, cursor: int) -> None:
        self._text = not state.json and is_text(state.content_type)
        self._frames = frames
        self._cursor = cursor
        self._held = b""
        self._state = state
        self._position = start

    def encode(self, page: Page) -> bytes:
        """The events for the next page: data if there is any, then where the reader stands."""
        last = self._frames.last
        if last is None or last.page is not page or last.held_before != self._held or last.cursor < self._cursor:
            last = self._batch(page)
        elif page.data:
            self._frames.data.hits += 1
        self._state = page.state
        self._cursor, self._position, self._held = last.cursor, last.position, last.held
        return last.events

    def _batch(self, page: Page) -> _Batch:
        now = self._frames.cursor()
        cursor = max(self._cursor, now)
        start = page.start - len(self._held)
        data = self._held + page.data if self._held else page.data
        whole = whole_characters(data) if self._text and not page.closed else len(data)
        held = data[whole:]
        position = start + whole
        control = encode_control(
            str(offset_at(page.state, position)),
            cursor=cursor,
            up_to_date=page.up_to_date and not held,
            closed=page.closed,
            with_id=not whole,
        )
        events = self._frame(page, start, position, data[:whole]) + control if whole else control
        batch = _Batch(page, self._held, cursor, events, position, held)
        if cursor == now and len(events) <= _SHARED_BYTES_MAX:
            # Whoever is ahead by its own cursor shares no more than the frame.
            self._frames.last = batch
        return batch

    def farewell(self) -> bytes:
        """The last event of a response that the server ends early."""
        offset = str(offset_at(self._state, self._position))
        return encode_control(offset, cursor=self._cursor, up_to_date=False, closed=False, with_id=True)

    def _frame(self, page: Page, start: int, end: int, data: bytes) -> bytes:
        key = (page.state.number, start, end)
        frame = self._frames.data.get(key)
        if frame is None:
            frame = self._encode(page, data, str(offset_at(page.state, end)))
            self._frames.data.put(key, frame)
        return frame

    def _encode(self, page: Page, data: bytes, next_offset: str) -> bytes:
        if page.state.json:
            return encode_text(page.body, next_offset)
        if not self._text:
            return encode_base64(data, next_offset)
        return encode_text(data if _is_utf8(data) else data.decode("utf-8", "replace").encode(), next_offset)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
