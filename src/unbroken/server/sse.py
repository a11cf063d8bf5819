"""One SSE response's batches: a shared data frame, then a control frame of its own."""

from __future__ import annotations

from unbroken.engine.follow import FrameCache
from unbroken.engine.pages import Page
from unbroken.protocol.content import is_text, whole_characters
from unbroken.protocol.sse import encode_base64, encode_control, encode_text
from unbroken.protocol.stream import StreamState, offset_at

__all__ = ["Batches"]


class Batches:
    """Turns the pages of one live read into events.

    Text is never split inside a character: bytes of one that is still incomplete are held back, and the offsets sent
    do not count them, so that a reader that resumes gets them again.

    Args:
        state: the stream.
        start: byte position where the read begins.
        frames: encoded data frames, shared with the stream's other readers.
        cursor: the first cursor to send; later ones are never lower.
    """

    def __init__(self, state: StreamState, start: int, frames: FrameCache, cursor: int) -> None:
        self._text = not state.json and is_text(state.content_type)
        self._frames = frames
        self._cursor = cursor
        self._held = b""
        self._state = state
        self._position = start

    def encode(self, page: Page, cursor: int) -> bytes:
        """The events for the next page: data if there is any, then where the reader stands."""
        self._cursor = max(self._cursor, cursor)
        self._state = page.state
        start = page.start - len(self._held)
        data = self._held + page.data if self._held else page.data
        whole = whole_characters(data) if self._text and not page.closed else len(data)
        self._held = data[whole:]
        self._position = start + whole
        frame = self._frame(page, start, data[:whole]) if whole else b""
        return frame + self._control(up_to_date=page.up_to_date, closed=page.closed, with_id=not whole)

    def farewell(self) -> bytes:
        """The last event of a response that the server ends early."""
        return self._control(up_to_date=False, closed=False, with_id=True)

    def _frame(self, page: Page, start: int, data: bytes) -> bytes:
        key = (page.state.number, start, self._position)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._encode(page, data, str(offset_at(page.state, self._position)))
            self._frames.put(key, frame)
        return frame

    def _encode(self, page: Page, data: bytes, next_offset: str) -> bytes:
        if page.state.json:
            return encode_text(page.body, next_offset)
        if not self._text:
            return encode_base64(data, next_offset)
        return encode_text(data if _is_utf8(data) else data.decode("utf-8", "replace").encode(), next_offset)

    def _control(self, *, up_to_date: bool, closed: bool, with_id: bool) -> bytes:
        return encode_control(
            str(offset_at(self._state, self._position)),
            cursor=self._cursor,
            up_to_date=up_to_date and not self._held,
            closed=closed,
            with_id=with_id,
        )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
