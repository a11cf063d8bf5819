"""Request bodies: read with limits, checked while they arrive."""

from __future__ import annotations

import asyncio

from unbroken.errors import BodyTooLarge, InvalidBody, Overloaded, RequestTimeout
from unbroken.server.http import Request

__all__ = ["IDLE_TIMEOUT_S", "Body", "BodyReader"]

IDLE_TIMEOUT_S = 30.0
_IN_FLIGHT_BYTES_MIN = 256 * 1024 * 1024


class BodyReader:
    """Reads bodies, each up to a limit, and all that are in flight together up to another.

    Args:
        max_bytes: greatest size of one body.
        idle_timeout_s: seconds without a byte after which a body is given up.
    """

    def __init__(self, max_bytes: int, *, idle_timeout_s: float = IDLE_TIMEOUT_S) -> None:
        self.max_bytes = max_bytes
        self._in_flight_bytes_max = max(_IN_FLIGHT_BYTES_MIN, 4 * max_bytes)
        self._in_flight_bytes = 0
        self._idle_timeout_s = idle_timeout_s

    async def read(self, request: Request) -> Body:
        """Read the whole body. Use the result as a context manager until it is dealt with.

        Raises:
            BodyTooLarge: over the limit; noticed from Content-Length, or as soon as it is exceeded.
            RequestTimeout: it stopped arriving.
            Overloaded: too many bytes of other bodies are in flight.
            ClientGone: the client went away.
        """
        declared = request.fields.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.max_bytes):
            raise BodyTooLarge(self.max_bytes)
        body = Body(self)
        try:
            if request.arrived is not None:
                # Nothing to wait for, so no timer, which would cost as much as all the rest of this.
                body.add(request.arrived)
            else:
                await self._receive(request, body)
            self._check_whole(request, declared, body)
        except BaseException:
            body.release()
            raise
        return body

    @staticmethod
    def _check_whole(request: Request, declared: bytes, body: Body) -> None:
        """Some parsers take the body of a request that offers an upgrade for the other protocol (httptools does)."""
        short = declared.isdigit() and int(declared) != len(body.data)
        lost = b"upgrade" in request.fields and b"transfer-encoding" in request.fields and not body.data
        if short or lost:
            raise InvalidBody("the body did not arrive; send the request without an Upgrade header")

    async def _receive(self, request: Request, body: Body) -> None:
        now_s = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._idle_timeout_s) as patience:
                while (part := await request.next_part()) is not None:
                    body.add(part)
                    patience.reschedule(now_s() + self._idle_timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"no byte of the body arrived for {self._idle_timeout_s:g} s") from None

    def reserve(self, size_bytes: int) -> None:
        """Count bytes as in flight.

        Raises:
            Overloaded: there are too many already.
        """
        if self._in_flight_bytes + size_bytes > self._in_flight_bytes_max:
            raise Overloaded("too many request bodies are in flight")
        self._in_flight_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Count bytes as dealt with."""
        self._in_flight_bytes -= size_bytes


class Body:
    """A body in flight."""

    __slots__ = ("_data", "_reader", "_size_bytes")

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self._data: bytes | bytearray = b""
        self._size_bytes = 0

    def add(self, part: bytes) -> None:
        """Take one more part."""
        if self._size_bytes + len(part) > self._reader.max_bytes:
            raise BodyTooLarge(self._reader.max_bytes)
        self._reader.reserve(len(part))
        self._size_bytes += len(part)
        if not self._data:
            self._data = part
        else:
            # One buffer, not a list: a client that sends single bytes must not cost an object for each.
            if not isinstance(self._data, bytearray):
                self._data = bytearray(self._data)
            self._data += part

    @property
    def data(self) -> bytes:
        """All of it."""
        if isinstance(self._data, bytearray):
            self._data = bytes(self._data)
        return self._data

    def release(self) -> None:
        """It is dealt with."""
        self._reader.release(self._size_bytes)
        self._size_bytes = 0

    def __enter__(self) -> bytes:
        return self.data

    def __exit__(self, *_: object) -> None:
        self.release()
