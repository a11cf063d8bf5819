"""One HTTP/1.1 connection: uvicorn's httptools protocol, with the limits that it leaves open and a short cut.

A POST whose body comes in one packet with its head, as small appends do, is answered past ASGI: taking a body and a
short answer through its messages cost more than deciding and storing them. Whatever is out of the ordinary (a body
that is still to come, a proxy, an upgrade, a request before it that is not answered yet) goes uvicorn's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from unbroken.protocol.headers import Fields
from unbroken.server.app import App
from unbroken.server.asgi import AsgiApp
from unbroken.server.http import Headers, Request, Response, join_fields

__all__ = ["HEAD_BYTES_MAX", "Connection"]

HEAD_BYTES_MAX = 64 * 1024

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_UNUSUAL = {b"expect", b"transfer-encoding", b"upgrade", b"x-forwarded-proto"}


class Connection(HttpToolsProtocol):
    """Bounds the head of a request, and does not lose the body of one that offers an upgrade.

    The parser takes whatever follows an ``Upgrade`` offer for the other protocol, so a body would be dropped, or run as
    a request of its own. An offer without a body is declined by ignoring it (RFC 9110 section 7.8).
    """

    _app: App | None = None
    """What answers those who take the short cut; None if nobody is to."""
    _overhead_bytes = 0
    _held: Fields | None = None
    """The headers of a request that uvicorn does not know of yet: its body may be about to come."""
    _held_body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        app = self.config.app
        if isinstance(app, AsgiApp) and not (self.access_log or self.root_path):
            self._app = app.app

    def data_received(self, data: bytes) -> None:
        """Bytes arrived. What is not a body's data is overhead: head, chunk framing, trailers."""
        self._overhead_bytes += len(data)
        if self._overhead_bytes > HEAD_BYTES_MAX + len(data):
            self.transport.write(_TOO_LARGE)
            self.transport.close()
            return
        super().data_received(data)
        if self._held is not None:
            self._release()

    def on_body(self, body: bytes) -> None:
        """Part of a body arrived."""
        self._overhead_bytes = 0
        if self._held is None:
            super().on_body(body)
        else:
            self._held_body += body

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
        if parser.get_method() == b"POST" and self._takes_short_cut(parser):
            self._held, self._held_body = join_fields(self.headers), b""
            return
        super().on_headers_complete()
        if offers_upgrade:
            self.cycle.keep_alive = False

    def _takes_short_cut(self, parser: httptools.HttpRequestParser) -> bool:
        if self.cycle and not self.cycle.response_complete:
            return False
        return (
            self._app is not None
            and _UNUSUAL.isdisjoint([name for name, _ in self.headers])
            and self.url.startswith(b"/")
            and self.url.isascii()
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not self.flow.write_paused
        )

    def on_message_complete(self) -> None:
        """The body was read."""
        self._overhead_bytes = 0
        if self._held is None:
            super().on_message_complete()
            return
        assert self._app is not None
        request = _Post(self.url, self.scope["scheme"], self._held, self._held_body)
        self._held, self._held_body = None, b""
        exchange = _Exchange(self.transport, self.server_state.default_headers, self.on_response_complete)
        self.cycle = exchange  # type: ignore[assignment]
        task = self.loop.create_task(exchange.run(self._app, request))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _release(self) -> None:
        """The rest of the body is still to come: let uvicorn see to it."""
        body, self._held, self._held_body = self._held_body, None, b""
        if not self.transport.is_closing():
            super().on_headers_complete()
            if body:
                super().on_body(body)


class _Flow(FlowControl):
    """Reads nothing more as long as requests that were sent ahead wait for their turn.

    Args:
        transport: of the connection.
        pipeline: what waits.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Collection[object]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


_NO_ROOTS = ("",)


class _Post(Request):
    """A request whose body has arrived."""

    def __init__(self, url: bytes, scheme: str, fields: Fields, body: bytes) -> None:
        parts = httptools.parse_url(url)
        super().__init__("POST", parts.path, _NO_ROOTS, parts.query or b"", scheme, fields, body)

    async def next_part(self) -> None:
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        raise AssertionError("a POST is answered, whether or not anybody waits for it")


class _Exchange:
    """A request and its answer: what uvicorn's protocol sees in place of its own ``RequestResponseCycle``.

    Attributes:
        disconnected: the client has gone; set by the protocol.
        keep_alive: the connection lives on after the answer; cleared by the protocol when the server ends.
        response_complete: the next request may be answered.
        message_event: set by the protocol at the end; nobody waits for it.
    """

    message_event = asyncio.Event()

    def __init__(self, transport: asyncio.Transport, default_headers: Headers, on_response: Callable[[], None]) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self._transport = transport
        self._default_headers = default_headers
        self._on_response = on_response

    async def run(self, app: App, request: Request) -> None:
        """Answer."""
        try:
            response = await app.handle(request)
            if not self.disconnected:
                self._send(response)
        except BaseException:  # most likely the server ends by force
            self._transport.abort()
            raise

    def _send(self, response: Response) -> None:
        body = response.body
        assert isinstance(body, bytes)
        lines = [STATUS_LINE[response.status]]
        for name, value in (*self._default_headers, *response.headers):
            lines += (name, b": ", value, b"\r\n")
        if response.status != 204:
            lines.append(b"content-length: %d\r\n" % len(body))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        self.response_complete = True
        self._transport.write(b"".join(lines))
        if not self.keep_alive:
            self._transport.close()
        self._on_response()
