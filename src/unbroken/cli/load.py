"""Load for ``unbroken bench``: bare connections, so that what is measured is the server and not a client library."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult

import httptools

from unbroken.errors import NotConnected, UnbrokenError

__all__ = ["Answer", "BenchFailed", "Connection", "Site"]

_PATIENCE_S = 30.0


class BenchFailed(UnbrokenError):
    """The server did not do what a server of the protocol does, or stopped answering."""

    code = "bench-failed"


class Answer(NamedTuple):
    """A response: its status, its headers by lower-case name, its body."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Site(NamedTuple):
    """The server under load.

    Args:
        url: its base.
        headers: sent with every request, rendered.
    """

    url: SplitResult
    headers: bytes

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            NotConnected: there is none.
        """
        secure = self.url.scheme == "https"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection,
                self.url.hostname or "",
                self.url.port or (443 if secure else 80),
                ssl=ssl.create_default_context() if secure else None,
            )
        except OSError as error:
            raise NotConnected(f"no connection to {self.url.netloc}: {error}") from None
        return connection

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """A request as it goes over the wire.

        Args:
            method: in upper case.
            path: below the base, with its query.
            body: sent with its length, unless the method has none.
            headers: by name, with underscores for dashes.
        """
        lines = [f"{method} {self.url.path.rstrip('/')}{path} HTTP/1.1", f"host: {self.url.netloc.rpartition('@')[2]}"]
        lines += (f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
        if method in ("POST", "PUT"):
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n" + self.headers + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, which asks one thing at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[Answer] | None = None
        self._on_part: Callable[[bytes], None] | None = None
        self._start()

    def _start(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    async def ask(self, request: bytes, *expected: int) -> Answer:
        """Send a request, and wait for the whole answer.

        Args:
            request: see `Site.request`.
            expected: statuses that are fine.

        Raises:
            BenchFailed: another status, or none in 30 s.
        """
        answered = self._begin(request)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await answered
        except TimeoutError:
            raise BenchFailed(f"no answer within {_PATIENCE_S:g} s") from None
        if answer.status not in expected:
            raise BenchFailed(f"status {answer.status} to {request.split(b' HTTP', 1)[0].decode()}")
        return answer

    def listen(self, request: bytes, on_part: Callable[[bytes], None]) -> None:
        """Send a request whose answer does not end, and have each part of its body handed over as it comes."""
        self._on_part = on_part
        self._begin(request).add_done_callback(lambda ended: ended.exception())

    def _begin(self, request: bytes) -> asyncio.Future[Answer]:
        if self._transport is None or self._transport.is_closing():
            raise BenchFailed("the server closed the connection")
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's contract: it is connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's contract: bytes came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(BenchFailed(f"this is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's contract: it has ended."""
        self._fail(BenchFailed("the server closed the connection"))

    def _fail(self, error: BenchFailed) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of the parser's contract: a header was read."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Part of the parser's contract: some of the body was read."""
        if self._on_part is None:
            self._parts.append(body)
        else:
            self._on_part(body)

    def on_message_complete(self) -> None:
        """Part of the parser's contract: the answer was read."""
        answer = Answer(self._parser.get_status_code(), self._headers, b"".join(self._parts))
        self._start()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)
