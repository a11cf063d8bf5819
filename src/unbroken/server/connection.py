"""One HTTP/1.1 connection: uvicorn's httptools protocol, with the limits that it leaves open."""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_BYTES_MAX", "Connection"]

HEAD_BYTES_MAX = 64 * 1024

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """Bounds the head of a request, and does not lose the body of one that offers an upgrade.

    The parser takes whatever follows an ``Upgrade`` offer for the other protocol, so a body would be dropped, or run as
    a request of its own. An offer without a body is declined by ignoring it (RFC 9110 section 7.8).
    """

    _overhead_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Bytes arrived. What is not a body's data is overhead: head, chunk framing, trailers."""
        self._overhead_bytes += len(data)
        if self._overhead_bytes > HEAD_BYTES_MAX + len(data):
            self.transport.write(_TOO_LARGE)
            self.transport.close()
            return
        super().data_received(data)

    def on_body(self, body: bytes) -> None:
        """Part of a body arrived."""
        self._overhead_bytes = 0
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read."""
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head is too large")
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._overhead_bytes, self._fields_bytes = 0, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head was read."""
        parser: httptools.HttpRequestParser = self.parser
        offers_upgrade = parser.should_upgrade()
        names = {name for name, _ in self.headers} if offers_upgrade else set()
        if names & {b"content-length", b"transfer-encoding"}:
            raise ValueError("a request that offers an upgrade must not have a body")
        super().on_headers_complete()
        if offers_upgrade:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The body was read."""
        self._overhead_bytes = 0
        super().on_message_complete()
