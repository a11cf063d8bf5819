"""HTTP/1.1 messages as they are on the wire: read part by part, passed on byte by byte (RFC 9112)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from functools import cached_property

from unbroken.testing.raw import encode_chunk

__all__ = ["READ_AHEAD_BYTES", "End", "Head", "Message"]

READ_AHEAD_BYTES = 256 * 1024
"""The longest head that is understood, and about how much is read before it is asked for."""

_PART_BYTES = 64 * 1024
_LINGER_S = 1.0


@dataclass(frozen=True)
class Head:
    """Everything before a message's body.

    Args:
        raw: as it came, with the empty line.
    """

    raw: bytes

    @cached_property
    def words(self) -> tuple[str, str, str]:
        """The three parts of the first line."""
        first, second, third = [*self.raw.partition(b"\r\n")[0].decode("latin-1").split(" ", 2), "", ""][:3]
        return first, second, third

    @cached_property
    def fields(self) -> dict[str, str]:
        """Names in lower case, and values; of several with one name the last."""
        lines = self.raw.decode("latin-1").split("\r\n")[1:-2]
        pairs = (line.partition(":") for line in lines)
        return {name.lower(): value.strip(" \t") for name, _, value in pairs}

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.words[1])


class End:
    """One end of the proxy: a connection to a client or to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._kept = b""
        writer.transport.set_write_buffer_limits(0)  # what was sent has left when `send` returns

    async def send(self, data: bytes) -> None:
        """Send bytes at the pace at which they are taken.

        Raises:
            ConnectionError: the connection is gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> Head | None:
        """Read a message's head; None if the connection ends before it begins.

        Raises:
            EOFError: it ended in the middle.
            ValueError: it is too long.
            ConnectionError: the connection was reset.
        """
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial or self._kept:
                raise EOFError("the connection ended in the middle of a head") from error
            return None
        except asyncio.LimitOverrunError as error:
            raise ValueError("the head is too long") from error
        raw, self._kept = self._kept + raw, b""
        return Head(raw)

    async def some(self, at_most: int) -> bytes:
        """Read what there is; empty at the end of the connection."""
        return await self._reader.read(at_most)

    async def line(self) -> bytes:
        """Read a line, without its end."""
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the connection ended in the middle of a line")
        return line[:-2]

    async def left(self) -> bool:
        """Wait until the other side ends the connection, or begins a new message.

        Returns:
            Whether it ended.
        """
        if self._kept:
            return False
        try:
            self._kept = await self._reader.read(1)
        except ConnectionError:
            return True
        return not self._kept

    async def ended(self) -> None:
        """Wait until the other side ends the connection; what it sends is dropped."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(_PART_BYTES):
                pass

    async def finish(self) -> None:
        """End the connection in good order, once the other side has all that was sent (FIN).

        What the other side still sends is read for a moment: to close on unread bytes would reset the connection.
        """
        with contextlib.suppress(ConnectionError, TimeoutError, RuntimeError):
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                await self.ended()
        self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection at once (RST)."""
        if self._writer.transport.is_closing():
            return
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._writer.transport.abort()


class Message:
    """A message whose head has come, and whose body is coming.

    Args:
        head: its head.
        end: where the rest comes from.
        without_body: it has none whatever its head says, as the response to HEAD.
    """

    def __init__(self, head: Head, end: End, *, without_body: bool = False) -> None:
        self.head = head
        self._end = end
        fields = head.fields
        is_response = head.words[0].startswith("HTTP/")
        self.chunked = not without_body and fields.get("transfer-encoding", "").lower().endswith("chunked")
        self.length: int | None = int(fields.get("content-length", 0))
        if without_body:
            self.length = 0
        elif self.chunked or (is_response and "content-length" not in fields):
            self.length = None
        self._left = self.length
        self._chunk_left = 0
        self.is_over = self.length == 0

    @property
    def has_body(self) -> bool:
        """Whether a body follows, be it an empty one."""
        return self.length != 0

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be used for another message when this one has been read."""
        is_bounded = self.chunked or self.length is not None
        is_old = "HTTP/1.0" in self.head.words
        return is_bounded and not is_old and self.head.fields.get("connection", "").lower() != "close"

    async def part(self) -> bytes:
        """The next part of the body, freed from chunked coding; empty at its end.

        Raises:
            EOFError: the connection ended in the middle.
            ConnectionError: it was reset.
        """
        if self.is_over:
            return b""
        if self.chunked and not self._chunk_left:
            self._chunk_left = int((await self._end.line()).partition(b";")[0], 16)
            if not self._chunk_left:
                while await self._end.line():
                    pass
                self.is_over = True
                return b""
        limit = self._chunk_left if self.chunked else self._left
        data = await self._end.some(_PART_BYTES if limit is None else min(limit, _PART_BYTES))
        await self._count(data)
        return data

    async def _count(self, data: bytes) -> None:
        if not data and (self.chunked or self._left):
            raise EOFError("the connection ended in the middle of a body")
        if self.chunked:
            self._chunk_left -= len(data)
            if not self._chunk_left:
                await self._end.line()
        elif self._left is not None:
            self._left -= len(data)
            self.is_over = not self._left
        else:
            self.is_over = not data

    async def rest(self) -> bytes:
        """All that is left of the body, as it goes over the wire."""
        parts = []
        while part := await self.part():
            parts.append(self.encode(part))
        return b"".join([*parts, self.ending])

    def encode(self, part: bytes) -> bytes:
        """A part as it goes over the wire."""
        return encode_chunk(part) if self.chunked else part

    @property
    def ending(self) -> bytes:
        """What ends the body on the wire."""
        return encode_chunk(b"") if self.chunked else b""
