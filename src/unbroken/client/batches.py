"""What a reader gets: batches as the server sent them, made of messages, each with its position.

Positions are made when they are asked for: most readers never do, and a page holds thousands of messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from unbroken.client.codec import Decoder
from unbroken.client.positions import Position
from unbroken.errors import InvalidBody, InvalidMessage, ProtocolViolation
from unbroken.protocol.content import split_json

__all__ = ["Batch", "Message", "byte_batch", "json_batch"]

T = TypeVar("T")


class Batch(Generic[T]):
    """What one answer, or one event, brought. Iterate over it to get its messages.

    Attributes:
        values: the decoded messages; of a stream that is not JSON, its bytes as the only element.
        start: where it begins.
        end: where to go on after it.
        up_to_date: it reached the present end of the stream.
        closed: it reached the end of a closed stream: nothing will follow.
    """

    __slots__ = ("_data", "_fault", "_raw", "closed", "end", "start", "up_to_date", "values")

    def __init__(
        self,
        values: list[T],
        start: Position,
        end: Position,
        *,
        data: bytes | str = b"",
        up_to_date: bool = False,
        closed: bool = False,
        fault: InvalidMessage | None = None,
    ) -> None:
        self.values = values
        self.start = start
        self.end = end
        self.up_to_date = up_to_date
        self.closed = closed
        self._data = data
        self._fault = fault
        self._raw: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Message[T]]:
        """Its messages.

        Raises:
            InvalidMessage: after those that are of the type asked for, one is not.
        """
        for index, value in enumerate(self.values):
            yield Message(value, self, index)
        self.check()

    def check(self) -> None:
        """Make sure that all its messages are of the type asked for.

        Raises:
            InvalidMessage: the one after the last of ``values`` is not.
        """
        if self._fault is not None:
            raise self._fault

    def position(self, index: int) -> Position:
        """Where to go on after one of its messages."""
        last = index == len(self.values) - 1 and self._fault is None
        return self.end if last else self.start.after(index + 1)

    def data(self, index: int) -> bytes:
        """One of its messages as it was sent: JSON text, or the bytes."""
        value = self.values[index]
        if not self._data and isinstance(value, bytes):
            return value
        if self._raw is None:
            self._raw = split_json(_as_bytes(self._data))[self.start.skip :]
        return self._raw[index]


class Message(msgspec.Struct, Generic[T], frozen=True, eq=False, gc=False):
    """A message of a JSON stream, or a piece of any other.

    Attributes:
        value: the decoded message; bytes if the stream is not JSON.
    """

    value: T
    _batch: Batch[T]
    _index: int

    @property
    def data(self) -> bytes:
        """It as it was sent: JSON text byte for byte, or the bytes."""
        return self._batch.data(self._index)

    @property
    def text(self) -> str:
        """Its data as text. Pieces of ``text/*`` streams never end inside a character."""
        return self.data.decode(errors="replace")

    @property
    def position(self) -> Position:
        """Where to go on after it; ``str(message.position)`` is what to keep."""
        return self._batch.position(self._index)

    def position_after(self, count: int) -> Position:
        """Where to go on after only so many of its bytes. For streams that are not JSON.

        Args:
            count: from 0 to the size of its data.
        """
        return self.position if count == len(self.data) else self._batch.start.after(count)

    def __repr__(self) -> str:
        return f"Message(value={self.value!r}, position={str(self.position)!r})"


def json_batch(
    text: bytes | str,
    start: Position,
    next_offset: str,
    decode: Decoder,
    *,
    up_to_date: bool = False,
    closed: bool = False,
) -> tuple[Batch[Any], int]:
    """A batch of the messages of a JSON array.

    Args:
        text: the array, from the offset of ``start`` on.
        start: as many messages as it skips are left out.
        next_offset: where the array ends.
        decode: for the messages.
        up_to_date: see `Batch`.
        closed: see `Batch`.

    Returns:
        The batch, and how many messages the array has. If one of them is not of the type asked for, the batch ends
        after it.

    Raises:
        ProtocolViolation: it is not a JSON array.
    """
    end = Position(next_offset)
    try:
        values = decode(text)
    except (ValueError, RecursionError):  # those of msgspec and pydantic are ValueErrors
        return _checked_batch(text, start, end, decode, up_to_date=up_to_date, closed=closed)
    count = len(values)
    if start.skip:
        values = values[start.skip :]
    return Batch(values, start, end, data=text, up_to_date=up_to_date, closed=closed), count


def _checked_batch(
    text: bytes | str, start: Position, end: Position, decode: Decoder, *, up_to_date: bool, closed: bool
) -> tuple[Batch[Any], int]:
    """The messages one by one, up to the first that is not of the type asked for."""
    data = _as_bytes(text)
    try:
        raw = split_json(data)
        if not data.lstrip().startswith(b"["):
            raise InvalidBody("not an array")
    except InvalidBody as error:
        raise ProtocolViolation(f"the server sent what is not a JSON array ({error.detail})") from None
    values: list[Any] = []
    for message in raw[start.skip :]:
        try:
            values += decode(b"[%b]" % message)
        except (ValueError, RecursionError) as error:
            after = start.after(len(values) + 1)
            end = end if after.skip == len(raw) else after
            fault = InvalidMessage(str(error), data=message, position=str(end))
            fault.offset = str(start.after(len(values)))
            return Batch(values, start, end, data=data, fault=fault), len(raw)
    return Batch(values, start, end, data=data, up_to_date=up_to_date, closed=closed), len(raw)


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def byte_batch(
    data: bytes, start: Position, end: Position, *, up_to_date: bool = False, closed: bool = False
) -> Batch[bytes]:
    """A batch of bytes, or none if there are no bytes.

    Args:
        data: what comes after ``start``.
        start: where it begins.
        end: where it ends.
        up_to_date: see `Batch`.
        closed: see `Batch`.
    """
    return Batch([data] if data else [], start, end, up_to_date=up_to_date, closed=closed)
