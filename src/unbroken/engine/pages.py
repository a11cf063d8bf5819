"""Pages: what one read returns, cut so that every reader at the same offset gets the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from unbroken.errors import InvalidOffset, StoreError
from unbroken.protocol.content import SEPARATOR, json_array
from unbroken.protocol.offsets import Offset
from unbroken.protocol.stream import StreamState, offset_at
from unbroken.store.base import Store

__all__ = ["COUNTED_BYTES_MAX", "Page", "PagesAtHand", "fork_point", "read_page", "read_page_before"]

COUNTED_BYTES_MAX = 256 * 1024 * 1024
"""How far `_count_messages` goes: half a second's reading, not the whole of a stream that may be a terabyte."""

_STEP_BYTES_MIN = 4 * 1024
_STEP_BYTES_MAX = 1024 * 1024


class Page(NamedTuple):
    """A piece of a stream, ``[start, end)`` in byte positions.

    Args:
        state: the stream when the page was cut.
        start: position of the first byte.
        end: position after the last byte.
        data: the stored bytes; in JSON mode each message with its separator.
    """

    state: StreamState
    start: int
    end: int
    data: bytes

    @property
    def offset(self) -> Offset:
        """Where it begins."""
        return offset_at(self.state, self.start)

    @property
    def next_offset(self) -> Offset:
        """Where to go on."""
        return offset_at(self.state, self.end)

    @property
    def up_to_date(self) -> bool:
        """Whether the page reaches the tail."""
        return self.end == self.state.tail

    @property
    def closed(self) -> bool:
        """Whether nothing will ever come after this page."""
        return self.state.closed and self.up_to_date

    @property
    def body(self) -> bytes:
        """What a reader gets: in JSON mode one array of the messages, else the bytes."""
        return json_array(self.data) if self.state.json else self.data

    @property
    def messages(self) -> list[bytes]:
        """The messages of a JSON stream, byte for byte as they were sent."""
        return self.data.split(SEPARATOR)[:-1]


def _segments(state: StreamState, start: int, end: int) -> list[tuple[int, int, int]]:
    """Whose own bytes make up ``[start, end)``: (number, start, end) in order."""
    if start >= state.own_start:
        return [(state.number, start, end)]
    found: list[tuple[int, int, int]] = []
    begin = 0
    for number, finish in (*state.lineage, (state.number, state.tail)):
        low, high = max(start, begin), min(end, finish)
        if low < high:
            found.append((number, low, high))
        begin = finish
    return found


async def _read(store: Store, state: StreamState, start: int, end: int) -> bytes:
    parts: list[bytes] = []
    for number, low, high in _segments(state, start, end):
        part = store.read_cached(number, low, high)
        parts.append(await store.read(number, low, high) if part is None else part)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(data) != end - start:
        raise StoreError(f"bytes {start} to {end} of stream {state.number} are missing")
    return data


class PagesAtHand:
    """Pages of what is in memory. Those who ask for the same one, one after the other, share it.

    Args:
        store: where from.
        limit_bytes: greatest size of a page.
    """

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._last: Page | None = None

    def page(self, state: StreamState, start: int) -> Page | None:
        """What `read_page` would read; None if it has to be waited for.

        Raises:
            InvalidOffset: the position is inside a JSON message.
        """
        last = self._last
        if last is None or last.start != start or last.state is not state:
            last = self._last = self._page(state, start)
        return last

    def _page(self, state: StreamState, start: int) -> Page | None:
        end = min(start + self._limit_bytes, state.tail)
        if start == end:
            return Page(state, start, end, b"")
        lead = _lead(state, start)
        parts: list[bytes] = []
        for segment in _segments(state, start - lead, end):
            part = self._store.read_cached(*segment)
            if part is None:
                return None
            parts.append(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        # Bytes that are missing are looked into by whoever waits.
        return _cut(state, start, lead, data) if len(data) == end - start + lead else None


async def read_page(store: Store, state: StreamState, start: int, limit_bytes: int, turns: asyncio.Semaphore) -> Page:
    """Read the page that begins at a position.

    Args:
        store: where from.
        state: the stream.
        start: a position of it.
        limit_bytes: the page's greatest size. A JSON page ends on a message boundary and holds at least one message,
            however large.
        turns: for one of them is waited before a message that is larger than a page is read: it may be large indeed.

    Raises:
        InvalidOffset: the position is inside a JSON message.
        StoreError: bytes are missing, because the stream was deleted meanwhile or the store is damaged.
    """
    end = min(start + limit_bytes, state.tail)
    if start == end:
        return Page(state, start, end, b"")
    lead = _lead(state, start)
    data = await _read(store, state, start - lead, end)
    page = _cut(state, start, lead, data)
    if page is not None:
        return page
    del data  # thousands may wait, each with as much as a page
    async with turns:
        data = await _whole_message(store, state, start, end)
    return Page(state, start, start + len(data), data)


def _lead(state: StreamState, start: int) -> int:
    """How many bytes before a page have to be read with it: one tells whether it begins on a message boundary."""
    return 1 if state.json and start else 0


def _cut(state: StreamState, start: int, lead: int, data: bytes) -> Page | None:
    """The page that such bytes hold; None if they do not even hold one whole message."""
    if not state.json:
        return Page(state, start, start + len(data), data)
    if lead and data[:1] != SEPARATOR:
        raise InvalidOffset("the offset is inside a message")
    cut = data.rfind(SEPARATOR, lead) + 1
    return Page(state, start, start - lead + cut, data[lead:cut]) if cut else None


async def _whole_message(store: Store, state: StreamState, start: int, end: int) -> bytes:
    """A message that is larger than a page, its separator included.

    Whoever asks for pages of one byte does not decide by how much it is read: a message may have 64 MiB.

    Args:
        store: where from.
        state: its stream.
        start: where it begins.
        end: where the page ended that it did not fit into.
    """
    parts = [await _read(store, state, start, end)]
    for step_bytes in _steps():
        part = await _read(store, state, end, min(end + step_bytes, state.tail))
        if (found := part.find(SEPARATOR)) >= 0:
            parts.append(part[: found + 1])
            break
        parts.append(part)
        end += len(part)
    return b"".join(parts)


def _steps() -> Iterator[int]:
    """By how much to read on in search of a message's end: ever more, since it was not near."""
    step_bytes = _STEP_BYTES_MIN
    while True:
        yield step_bytes
        step_bytes = min(2 * step_bytes, _STEP_BYTES_MAX)


async def read_page_before(
    store: Store, state: StreamState, end: int, limit_bytes: int, turns: asyncio.Semaphore
) -> Page:
    """Read the page that ends at a position.

    Args:
        store: where from.
        state: the stream.
        end: a position of it.
        limit_bytes: the page's greatest size. A JSON page begins on a message boundary and holds at least one message,
            however large.
        turns: see `read_page`.

    Raises:
        InvalidOffset: the position is inside a JSON message.
        StoreError: bytes are missing, because the stream was deleted meanwhile or the store is damaged.
    """
    start = max(0, end - limit_bytes)
    if start == end:
        return Page(state, start, end, b"")
    # One byte more, before the page, tells whether it begins on a boundary.
    lead = 1 if state.json and start else 0
    data = await _read(store, state, start - lead, end)
    if not state.json:
        return Page(state, start, end, data)
    if data[-1:] != SEPARATOR:
        raise InvalidOffset("the offset is inside a message")
    if lead:
        cut = data.find(SEPARATOR, 0, -1) + 1
        if cut:
            data = data[cut:]
        else:
            del data  # see `read_page`
            async with turns:
                data = await _message_before(store, state, start - lead, end)
    return Page(state, end - len(data), end, data)


async def _message_before(store: Store, state: StreamState, start: int, end: int) -> bytes:
    """A message that is larger than a page, its separator included.

    Args:
        store: where from.
        state: its stream.
        start: where the page began that it did not fit into.
        end: where it ends.
    """
    parts = [await _read(store, state, start, end)]
    for step_bytes in _steps():
        end, start = start, max(0, start - step_bytes)
        part = await _read(store, state, start, end)
        found = part.rfind(SEPARATOR)
        parts.append(part[found + 1 :])
        if found >= 0 or not start:
            break
    return b"".join(reversed(parts))


async def _begins_message(store: Store, state: StreamState, position: int) -> bool:
    """Whether a position of a JSON stream is where a message begins, or will."""
    return not position or await _read(store, state, position - 1, position) == SEPARATOR


async def _count_messages(store: Store, state: StreamState, start: int, count: int) -> int | None:
    """The position ``count`` messages after ``start``, where one begins; None if the stream has fewer.

    Raises:
        InvalidOffset: it is more than ``COUNTED_BYTES_MAX`` away.
        StoreError: bytes are missing, because the stream was deleted meanwhile or the store is damaged.
    """
    position = start
    while count and position < state.tail:
        if position - start >= COUNTED_BYTES_MAX:
            raise InvalidOffset("Stream-Fork-Sub-Offset goes too far: name an offset that is nearer")
        end = min(position + _STEP_BYTES_MAX, state.tail)
        part = await _read(store, state, position, end)
        found = part.count(SEPARATOR)
        if found >= count:
            return position + _end_of_messages(part, count)
        count -= found
        position = end
    return None if count else position


def _end_of_messages(data: bytes, count: int) -> int:
    """How many bytes the first ``count`` messages take; there are as many. One after the other, a page of a million of
    them would keep everybody waiting.
    """
    low, high = 0, len(data)
    while high - low > 1:
        middle = (low + high) // 2
        found = data.count(SEPARATOR, low, middle)
        if found >= count:
            high = middle
        else:
            low, count = middle, count - found
    return high


async def fork_point(store: Store, state: StreamState, position: int, sub_offset: int, turns: asyncio.Semaphore) -> int:
    """The byte position that a position and a number of bytes, or of JSON messages, after it name.

    Args:
        store: where the stream is.
        state: of the stream.
        position: where counting begins.
        sub_offset: how many.
        turns: so many such counts go on at a time.

    Raises:
        InvalidOffset: it is beyond the tail, or counting would begin inside a message.
    """
    if not state.json:
        point: int | None = position + sub_offset
    elif await _begins_message(store, state, position):
        async with turns:
            point = await _count_messages(store, state, position, sub_offset)
    else:
        raise InvalidOffset("the offset is inside a message")
    if point is None or point > state.tail:
        raise InvalidOffset("Stream-Fork-Sub-Offset is beyond the source's tail")
    return point
