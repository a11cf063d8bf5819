"""Request bodies: read with limits, checked while they arrive.

A slow client is nothing bad: it may send what it makes as it makes it. But what it has sent takes up memory until the
end, so there is a limit to silence, to the time a body takes in all, and to the bytes of all bodies together. When
that last one is met, whoever comes does not pay for it: the client that holds most, if that is more than who comes
would hold then, loses its slowest body. So each client gets as much as the others, however fast it is and on however
many connections. Who comes to hold most may only drive out what is slow of its own.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable

from unbroken.errors import BodyTooLarge, InvalidBody, Overloaded, RequestTimeout, UnbrokenError
from unbroken.server.http import Request
from unbroken.server.settings import Settings
from unbroken.server.shares import share_of

__all__ = ["Body", "BodyReader"]

_SPAN_S = 5.0
"""How long a body is watched before it is called slow."""
_SLOW_BYTES_PER_S = 64 * 1024
_LARGE_BYTES = 1024 * 1024
_BYTES_AT_A_TIME = 128 * 1024
"""How much of a large body is taken before others have their turn."""
_MAPPED_BYTES = 4 * 1024 * 1024 + 1
"""Blocks of memory from this size on have pages of their own, which are moved, not copied, when the block grows (see
`unbroken.server.process`). One that grew to this size was copied when it had 20 MiB, in 8 ms.
"""
_SMALL_BYTES = 64 * 1024
"""A body up to this that is there as soon as it is looked at is never refused: it lies in memory already, and soon will
not."""


class BodyReader:
    """Reads bodies, each up to a limit, and all that are in flight together up to another.

    Args:
        settings: greatest sizes and times.
        give_way: waited for when some of a large body has come, so that others are served.
    """

    def __init__(self, settings: Settings, give_way: Callable[[], Awaitable[None]]) -> None:
        self._give_way = give_way
        self.max_bytes = settings.max_body
        self._in_flight_bytes_max = max(settings.max_bodies_size, settings.max_body)
        self._idle_timeout_s = settings.body_timeout
        self._timeout_s = settings.upload_timeout
        self.in_flight_bytes = 0
        self._held: Counter[str] = Counter()
        self._arriving: set[Body] = set()

    async def read(self, request: Request) -> Body:
        """Read the whole body. Use the result as a context manager until it is dealt with.

        Raises:
            BodyTooLarge: over the limit; noticed from Content-Length, or as soon as it is exceeded.
            RequestTimeout: it stopped arriving, or took too long.
            Overloaded: too many bytes of other bodies are in flight.
            ClientGone: the client went away.
        """
        declared = request.fields.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.max_bytes):
            raise BodyTooLarge(self.max_bytes)
        body = Body(self, share_of(request), int(declared) if declared.isdigit() else None)
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
        end_s = now_s() + self._timeout_s
        pause_bytes = _LARGE_BYTES
        self._arriving.add(body)
        try:
            async with asyncio.timeout(min(self._idle_timeout_s, self._timeout_s)) as patience:
                body.watch(now_s(), patience)
                while (part := await request.next_part()) is not None:
                    body.add(part)
                    if body.given_up is not None:
                        break
                    body.mark(now_s())
                    if body.size_bytes >= pause_bytes:
                        pause_bytes = body.size_bytes + _BYTES_AT_A_TIME
                        patience.reschedule(end_s)  # it is not the client now for whom is waited
                        await self._give_way()
                    patience.reschedule(min(now_s() + self._idle_timeout_s, end_s))
                if body.given_up is not None:  # perhaps in the moment in which the last of it came
                    raise TimeoutError
        except TimeoutError:
            if body.given_up is not None:
                raise body.given_up from None
            if now_s() >= end_s:
                raise RequestTimeout(f"the body did not arrive within {self._timeout_s:g} s") from None
            raise RequestTimeout(f"no byte of the body arrived for {self._idle_timeout_s:g} s") from None
        finally:
            self._arriving.discard(body)

    def reserve(self, body: Body, size_bytes: int) -> None:
        """Count bytes of a body as in flight.

        Raises:
            Overloaded: there are too many already.
        """
        small = size_bytes <= _SMALL_BYTES and size_bytes == body.declared_bytes
        while self.in_flight_bytes + size_bytes > self._in_flight_bytes_max and not small:
            if not self._make_room(body.client, self._held[body.client] + size_bytes):
                raise Overloaded("too many request bodies are in flight")
        self.in_flight_bytes += size_bytes
        self._held[body.client] += size_bytes

    def release(self, body: Body, size_bytes: int) -> None:
        """Count bytes of a body as dealt with."""
        self.in_flight_bytes -= size_bytes
        self._held[body.client] -= size_bytes
        if not self._held[body.client]:
            del self._held[body.client]

    def _make_room(self, client: str, wanted_bytes: int) -> bool:
        """Drop one of the bodies that are arriving, if any of them has to go.

        Args:
            client: who needs the room.
            wanted_bytes: how much it would hold then.
        """
        now_s = asyncio.get_running_loop().time()
        held = self._held
        bodies = [
            body
            for body in self._arriving
            if body.size_bytes
            and (held[body.client] > wanted_bytes or (body.client == client and body.rate(now_s) < _SLOW_BYTES_PER_S))
        ]
        if not bodies:
            return False
        body = min(bodies, key=lambda body: (-held[body.client], body.rate(now_s), -body.size_bytes))
        self._arriving.discard(body)
        body.give_up(now_s)
        return True


class Body:
    """A body in flight.

    Args:
        reader: counts its bytes.
        client: whose share they are of.
        declared_bytes: its size, as far as it was said.

    Attributes:
        given_up: what its client is told, if it had to go.
    """

    __slots__ = (
        "_data",
        "_growing_freely",
        "_mark_bytes",
        "_mark_s",
        "_patience",
        "_rate",
        "_reader",
        "_size_bytes",
        "client",
        "declared_bytes",
        "given_up",
    )

    def __init__(self, reader: BodyReader, client: str, declared_bytes: int | None) -> None:
        self.client = client
        self.declared_bytes = declared_bytes
        self._reader = reader
        self._data: bytes | io.BytesIO = b""
        self._growing_freely = False
        self._size_bytes = 0
        self._patience: asyncio.Timeout | None = None
        self._mark_s = 0.0
        self._mark_bytes = 0
        self._rate = float("inf")
        self.given_up: UnbrokenError | None = None

    def watch(self, now_s: float, patience: asyncio.Timeout) -> None:
        """It begins to arrive.

        Args:
            now_s: when.
            patience: ends the wait for more of it.
        """
        self._mark_s, self._patience = now_s, patience

    def mark(self, now_s: float) -> None:
        """Some of it arrived."""
        if now_s - self._mark_s >= _SPAN_S:
            self._rate = (self._size_bytes - self._mark_bytes) / (now_s - self._mark_s)
            self._mark_s, self._mark_bytes = now_s, self._size_bytes

    def rate(self, now_s: float) -> float:
        """About how many bytes a second arrived lately; infinitely many if it is too early to tell, or there are none
        to be had back.
        """
        if not self._size_bytes:
            return float("inf")
        span_s = now_s - self._mark_s
        return (self._size_bytes - self._mark_bytes) / span_s if span_s >= _SPAN_S else self._rate

    def give_up(self, now_s: float) -> None:
        """Let go of it, and end the wait for the rest."""
        if self.rate(now_s) < _SLOW_BYTES_PER_S:
            self.given_up = RequestTimeout("others need the memory, and this body was the slowest to arrive")
        else:
            self.given_up = Overloaded("others need the memory, of which this client has the most")
        self._data = b""
        self.release()
        if self._patience is not None:
            self._patience.reschedule(now_s)

    def add(self, part: bytes) -> None:
        """Take one more part."""
        if self._size_bytes + len(part) > self._reader.max_bytes:
            raise BodyTooLarge(self._reader.max_bytes)
        self._reader.reserve(self, len(part))
        if self.given_up is not None:  # to make room for itself
            self._reader.release(self, len(part))
            return
        self._size_bytes += len(part)
        if not self._data:
            self._data = part
            return
        # One buffer, not a list: a client that sends single bytes must not cost an object for each. And one that gives
        # all of it away without copying: of 64 MiB that took 20 ms, in which nobody else was served.
        if isinstance(self._data, bytes):
            self._data = _buffer(self._data, 0)
        elif self._size_bytes > _LARGE_BYTES and not self._growing_freely:
            self._growing_freely = True
            self._data = _buffer(self._data.getbuffer(), _MAPPED_BYTES)
        self._data.write(part)

    @property
    def size_bytes(self) -> int:
        """How much of it is here."""
        return self._size_bytes

    @property
    def data(self) -> bytes:
        """All of it."""
        if isinstance(self._data, io.BytesIO):
            self._data.truncate()
            self._data = self._data.getvalue()
        return self._data

    def release(self) -> None:
        """It is dealt with."""
        self._reader.release(self, self._size_bytes)
        self._size_bytes = 0

    def __enter__(self) -> bytes:
        return self.data

    def __exit__(self, *_: object) -> None:
        self.release()


def _buffer(first: bytes | memoryview, size_bytes: int) -> io.BytesIO:
    """A buffer with something in it, and room for more.

    Args:
        first: what is in it.
        size_bytes: how long it is at least; what is behind its position does not count.
    """
    buffer = io.BytesIO()
    if size_bytes:
        buffer.seek(size_bytes)
        buffer.write(b"\0")
        buffer.seek(0)
    buffer.write(first)
    return buffer
