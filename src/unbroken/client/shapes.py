"""What a reader hands out: batches of messages, or pages."""

from __future__ import annotations

from typing import Any

from unbroken.client.batches import Batch, byte_batch, json_batch
from unbroken.client.codec import decoder_of
from unbroken.client.pieces import Piece, piece_of
from unbroken.client.positions import BEGINNING, Position
from unbroken.client.reading import Characters, Reading
from unbroken.client.values import Answer, Page
from unbroken.errors import ProtocolViolation
from unbroken.protocol.content import is_json, split_json

__all__ = ["Messages", "batch_before", "joined", "page_of"]


class Messages:
    """Makes batches of messages: JSON values, or pieces of bytes or text.

    Args:
        kind: what JSON messages are; None for plain values.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decode = decoder_of(kind)
        self._characters: Characters | None = None

    def __call__(self, piece: Piece, reading: Reading) -> tuple[Batch[Any], Position | None]:
        """The batch, and where to go on if that is not where the piece ends.

        Raises:
            ProtocolViolation: JSON is announced, but something else came.
            ValueError: messages of a type are wanted of a stream that is not JSON.
        """
        if is_json(reading.content_type):
            return self._json_batch(piece, reading)
        if self._kind is not None:
            raise ValueError(f"a stream of {reading.content_type} has no messages to decode: leave out the type")
        return self._byte_batch(piece, reading)

    def _json_batch(self, piece: Piece, reading: Reading) -> tuple[Batch[Any], Position | None]:
        progress = piece.progress
        flags = {"up_to_date": progress.up_to_date, "closed": progress.closed}
        batch, count = json_batch(piece.data or b"[]", reading.at, progress.next_offset, self._decode, **flags)
        if reading.at.skip > count:
            batch.end = Position(progress.next_offset, reading.at.skip - count)
        return batch, batch.end

    def _byte_batch(self, piece: Piece, reading: Reading) -> tuple[Batch[Any], Position | None]:
        if self._characters is None:
            self._characters = Characters(reading.content_type)
        progress = piece.progress
        data = piece.data if isinstance(piece.data, bytes) else piece.data.encode()
        left = max(0, reading.at.skip - len(data))
        after = Position(progress.next_offset, left)
        shown, start, end = self._characters.take(data[reading.at.skip :], reading.at, after, last=progress.closed)
        reading.in_character = self._characters.holds
        return byte_batch(shown, start, end, up_to_date=progress.up_to_date, closed=progress.closed), after


def page_of(piece: Piece, reading: Reading) -> tuple[Page, Position | None]:
    """A page, without what is to be skipped of it.

    Raises:
        InvalidBody: JSON is announced, but something else came.
    """
    progress = piece.progress
    data = piece.data if isinstance(piece.data, bytes) else piece.data.encode()
    json = is_json(reading.content_type)
    skip, count = reading.at.skip, 0
    if skip and data:
        messages = split_json(data) if json else []
        count = len(messages) if json else len(data)
        data = b"[%b]" % b",".join(messages[skip:]) if json else data[skip:]
    page = Page(
        data or (b"[]" if json else b""),
        progress.next_offset,
        progress.up_to_date,
        progress.closed,
        reading.content_type,
    )
    return page, Position(progress.next_offset, max(0, skip - count))


def batch_before(answer: Answer, *, at_end: bool) -> Batch[Any]:
    """The batch that ends where it was asked to.

    Args:
        answer: to a request for the page before a place.
        at_end: that place is the end of the stream.

    Raises:
        ProtocolViolation: the server does not know what to page back is: it sent the first page, which is not the last.
    """
    content_type = answer.headers.get("content-type", "")
    piece = piece_of(answer, content_type)
    start, progress = Position(answer.headers.get("stream-previous-offset", BEGINNING)), piece.progress
    if at_end and not progress.up_to_date:
        raise ProtocolViolation(f"{answer.request.url} cannot be read backwards: its server does not know how")
    data = piece.data if isinstance(piece.data, bytes) else piece.data.encode()
    flags = {"up_to_date": progress.up_to_date, "closed": progress.closed}
    if is_json(content_type):
        return json_batch(data or b"[]", start, progress.next_offset, decoder_of(None), **flags)[0]
    return byte_batch(data, start, Position(progress.next_offset), **flags)


def joined(pages: list[bytes], content_type: str) -> bytes:
    """The data of pages as one: bytes, or one JSON array."""
    if not is_json(content_type):
        return b"".join(pages)
    inner = (page.strip()[1:-1].strip() for page in pages)
    return b"[%b]" % b",".join(part for part in inner if part)
