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
    _idle_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._exchange = _Exchange(transport, self.server_state.default_headers, self.on_response_complete)
        app = self.config.app
        if isinstance(app, AsgiApp) and not (self.access_log or self.root_path or app.app.decides_by_scope):
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

    def on_message_begin(self) -> None:
        """A request begins. Uvicorn is told in `_go_the_long_way`, if it is to know at all."""
        self._overhead_bytes, self._fields_bytes = 0, 0
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read, or a trailer."""
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head is too large")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head was read."""
        parser: httptools.HttpRequestParser = self.parser
        fields = join_fields(self.headers)
        if parser.should_upgrade() and (b"content-length" in fields or b"transfer-encoding" in fields):
            raise ValueError("a request that offers an upgrade must not have a body")
        if parser.get_method() == b"POST" and self._takes_short_cut(parser, fields):
            self._held, self._held_body = fields, b""
        else:
            self._go_the_long_way()

    def _takes_short_cut(self, parser: httptools.HttpRequestParser, fields: Fields) -> bool:
        if self.cycle and not self.cycle.response_complete:
            return False
        return (
            self._app is not None
            and _UNUSUAL.isdisjoint(fields)
            and self.url.startswith(b"/")
            and self.url.isascii()
            and b"#" not in self.url
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not self.flow.write_paused
        )

    def _go_the_long_way(self) -> None:
        """Have uvicorn see to this request: tell it all that came so far."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Part of a body arrived."""
        self._overhead_bytes = 0
        if self._held is None:
            super().on_body(body)
        else:
            self._held_body += body

    def on_message_complete(self) -> None:
        """The body was read, and the trailers."""
        self._overhead_bytes = 0
        if self._held is None:
            super().on_message_complete()
            return
        assert self._app is not None
        request = _Post(self.url, self.scheme or "http", self._held, self._held_body)
        self._held, self._held_body = None, b""
        exchange = self._exchange
        exchange.response_complete = False
        self.cycle = exchange  # type: ignore[assignment]
        if not self._app.handle_append(request, exchange.send):
            task = self.loop.create_task(exchange.run(self._app, request))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _release(self) -> None:
        """The rest of the body is still to come: let uvicorn see to it."""
        body, self._held, self._held_body = self._held_body, None, b""
        if not self.transport.is_closing():
            self._go_the_long_way()
            if body:
                super().on_body(body)

    def on_response_complete(self) -> None:
        """A request was answered: go on with the next one, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """It is not idle any more. The timer runs on: to start it anew would cost as much as to parse a request."""
        self._idle_since_s = None

    def _watch(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough; if not, look again when it might have been."""
        idle_s = 0.0 if self._idle_since_s is None else self.loop.time() - self._idle_since_s
        if idle_s < self.timeout_keep_alive:
            self._watch(self.timeout_keep_alive - idle_s)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or the connection was closed."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)


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
        target, _, query = url.partition(b"?")
        super().__init__("POST", target, _NO_ROOTS, query, scheme, fields, body)

    async def next_part(self) -> None:
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        raise AssertionError("a POST is answered, whether or not anybody waits for it")


class _Exchange:
    """A request and its answer: what uvicorn's protocol sees in place of its own ``RequestResponseCycle``.

    A connection has one for all its requests that take the short cut, since they come one after the other.

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
        self.response_complete = True
        self._transport = transport
        self._default_headers = default_headers
        self._on_response = on_response

    async def run(self, app: App, request: Request) -> None:
        """Answer what takes longer."""
        try:
            self.send(await app.handle(request))
        except BaseException:  # most likely the server ends by force
            self._transport.abort()
            raise

    def send(self, response: Response) -> None:
        """Send the answer, if there is still somebody to send it to."""
        if self.disconnected:
            return
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
