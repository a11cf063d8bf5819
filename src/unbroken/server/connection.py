"""One HTTP/1.1 connection: uvicorn's httptools protocol, with the limits that it leaves open and a short cut.

Whoever connects has to send a head in time, and the next one before long; an answer that is under way is never hurried.
What a client sends ahead, before it has its answers, is not read further than the first request that has to wait. Where
nothing is read, that the client has gone shows nowhere: then the socket is asked for it now and then.

A POST or a PUT whose body comes in one packet with its head, as small appends do, is answered past ASGI: taking a body
and a short answer through its messages cost more than deciding and storing them. So is a GET, of a page or live: to
wake a task for each event, and have it send a message, costs several times what the event itself does. Whatever is out
of the ordinary (a body that is still to come, an upgrade, a request before it that is not answered yet) goes uvicorn's
way.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import sys
import termios
from collections.abc import Callable
from typing import cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from unbroken.errors import HeadTooLarge, InvalidRequest, RequestTimeout, TooManyConnections, UnbrokenError
from unbroken.protocol.headers import Fields
from unbroken.server.app import App
from unbroken.server.asgi import AsgiApp
from unbroken.server.cors import ALWAYS
from unbroken.server.crowd import Crowd, Guest
from unbroken.server.exchange import Exchange, WholeRequest, encode, sender
from unbroken.server.http import ConnectionLimits, join_fields
from unbroken.server.metrics import Metrics
from unbroken.server.problems import problem
from unbroken.server.sliced import Sliced
from unbroken.server.untaken import Untaken

__all__ = ["HEAD_BYTES_MAX", "Connection"]

HEAD_BYTES_MAX = 64 * 1024

_PARSED_BYTES = 4 * 1024
"""So much is parsed before it is looked whether a request has to wait: it may be some seventy requests."""
_PARSED_BODY_BYTES = 16 * 1024
_LOOK_S = 1.0
"""So often it is looked whether a client is still there of which nothing is read."""
_HAS_LEFT = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only a connection that broke is noticed
_FIELD_COST_BYTES = 128
"""What a field costs in memory beside its bytes: a head of thousands of empty ones would be ten times its size."""
_FORWARDED = {b"x-forwarded-for", b"x-forwarded-proto"}
_UNUSUAL = {b"expect", b"transfer-encoding", b"upgrade", *_FORWARDED}


class _HeadIsTooLarge(Exception):
    """Raised through the parser, which has no other way to stop."""


class Connection(HttpToolsProtocol):
    """Bounds the head of a request, and does not lose the body of one that offers an upgrade.

    The parser takes whatever follows an ``Upgrade`` offer for the other protocol, so a body would be dropped, or run as
    a request of its own. An offer without a body is declined by ignoring it (RFC 9110 section 7.8).
    """

    _app: App | None = None
    """What answers those who take the short cut; None if nobody is to."""
    came_as: Guest | None = None
    """What it was counted as before, if it was."""
    _limits = ConnectionLimits()
    _crowd: Crowd | None = None
    _metrics: Metrics | None = None
    _untaken: Untaken | None = None
    _overhead_bytes = 0
    _held: Fields | None = None
    """The headers of a request that uvicorn does not know of yet: its body may be about to come."""
    _held_body = b""
    _later = b""
    """What arrived behind a request that has to wait."""
    _in_head = False
    _in_body = False
    _running: RequestResponseCycle | Exchange | None = None
    """The request that is being answered, or was last."""
    _waits_since_s: float | None = None
    """Since when the client is waited for; None while it waits for us."""
    _patience_s = 0.0
    _looked_at: object = None
    """The request that was being answered when it was looked last whether the client is there."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        if transport.get_extra_info("sslcontext") is not None:
            transport = cast("asyncio.Transport", Sliced(transport))
        super().connection_made(transport)
        self.flow = _Flow(transport, self._has_more_to_do)
        self._exchange = Exchange(transport, self.flow, self.server_state, self.on_response_complete)
        app = self.config.app
        if isinstance(app, AsgiApp):
            self._limits = app.app.connection_limits
            self._metrics = app.app.metrics
            self._metrics.connected()
            self._untaken = app.app.untaken
            self._crowd = app.app.crowd
            if not (self.access_log or self.root_path or app.app.decides_by_scope):
                self._app = app.app
        if self._crowd is not None:
            try:
                self._crowd.enter(self, self.came_as)
            except TooManyConnections as error:
                self._refuse(error)
                return
        self._wait_for_client(self._limits.head_timeout_s)
        self._watch(min(self._limits.head_timeout_s, self._limits.idle_timeout_s))

    @property
    def idle_since_s(self) -> float | None:
        """Since when its client is waited for; None if it is not."""
        return None if self.transport.is_closing() else self._waits_since_s

    def give_way(self) -> None:
        """Somebody else has come to ask something."""
        if _has_taken_all(self.transport):
            self.transport.abort()  # TLS would say goodbye, and wait half a minute for an answer to that
        else:
            self.transport.close()
            self._see_off()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived. What is not a body's data is overhead: head, chunk framing, trailers."""
        size_bytes = len(data)
        self._overhead_bytes += size_bytes
        if self.transport.is_closing():
            return
        if self._overhead_bytes > HEAD_BYTES_MAX + size_bytes:
            self._refuse(HeadTooLarge())
        elif self._later or self.pipeline:
            self._later += data  # it was on its way when reading was paused
        elif size_bytes <= _PARSED_BYTES:
            self._parse(data)
        else:
            self._parse_in_slices(data)
        if self._held is not None:
            self._release()
        if self._in_head and self._waits_since_s is None and self._is_idle:
            self._begin_watching_head()

    def _parse_in_slices(self, data: bytes) -> None:
        """Parse up to the first request that has to wait; the rest is for later."""
        at = 0
        while at < len(data) and not self.transport.is_closing():
            if self.pipeline:
                self._later = data[at:]
                self.flow.pause_reading()
                return
            end = at + (_PARSED_BODY_BYTES if self._in_body else _PARSED_BYTES)
            self._parse(data[at:end])
            at = end

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # declined, by going on without
        except httptools.HttpParserError as error:
            too_large = isinstance(error.__context__, _HeadIsTooLarge)
            self._refuse(HeadTooLarge() if too_large else InvalidRequest("this is not HTTP/1.1 as it should be"))

    def _go_on_parsing(self) -> None:
        """The requests that had to wait are under way: look at what came after them."""
        if self.pipeline or not self._later or self.transport.is_closing():
            return
        data, self._later = self._later, b""
        self._parse_in_slices(data)
        if self._held is not None:
            self._release()
        if self._has_more_to_do():
            return
        self.flow.resume_reading()
        if self._waits_since_s is None and self._is_idle:
            if self._in_head:
                self._begin_watching_head()
            else:  # a body of which the rest is still to come was refused
                self._wait_for_client(self._limits.idle_timeout_s)

    def _has_more_to_do(self) -> bool:
        return bool(self.pipeline or self._later)

    @property
    def _is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._running is None or self._running.response_complete

    def _refuse(self, error: UnbrokenError) -> None:
        """Answer what is no request, or none that can be served, and close.

        What was asked before is answered first, and then this is not told.
        """
        if self._metrics is not None:
            self._metrics.refused(error.code)
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # it will never be whole
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete or (last.more_body and not last.response_started):
            response = problem(error)
            response.headers[:] = [*(field for field in response.headers if field[0] != b"connection"), *ALWAYS]
            self.transport.write(b"".join(encode(response, self.server_state.default_headers, keep_alive=False)))
            self.transport.close()
            return
        self._later = b""
        self.flow.pause_reading()
        last.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """A request begins. Uvicorn is told in `_go_the_long_way`, if it is to know at all."""
        self._overhead_bytes, self._fields_bytes = 0, 0
        self._in_head, self._waits_since_s = True, None
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read, or a trailer."""
        self._fields_bytes += len(name) + len(value) + _FIELD_COST_BYTES
        if self._fields_bytes > HEAD_BYTES_MAX:
            raise _HeadIsTooLarge
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head was read."""
        self._in_head, self._in_body, self._waits_since_s = False, True, None
        parser: httptools.HttpRequestParser = self.parser
        fields = join_fields(self.headers)
        if parser.should_upgrade() and (b"content-length" in fields or b"transfer-encoding" in fields):
            raise ValueError("a request that offers an upgrade must not have a body")
        if self._takes_short_cut(parser, fields):
            self._held, self._held_body = fields, b""
        else:
            self._go_the_long_way()

    def _takes_short_cut(self, parser: httptools.HttpRequestParser, fields: Fields) -> bool:
        if self.cycle and not self.cycle.response_complete:
            return False
        method = parser.get_method()
        return (
            (method in (b"POST", b"PUT") or (method == b"GET" and not self.url.startswith(b"/-")))
            and self._app is not None
            and (_UNUSUAL.isdisjoint(fields) or _is_merely_forwarded(fields))
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
        if len(self.pipeline) == 1:
            self._unwatch()
            self._watch(_LOOK_S)

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
        self._in_body = False
        if self._held is None:
            super().on_message_complete()
            return
        assert self._app is not None
        method = self.parser.get_method().decode("ascii")
        scheme: str = self.scheme or "http"
        client = self.client
        if b"x-forwarded-for" in self._held or b"x-forwarded-proto" in self._held:
            scheme, client = sender(self.app, self._held, scheme, client)
        request = WholeRequest(method, self.url, scheme, self._held, self._held_body, client)
        self._held, self._held_body = None, b""
        exchange = self._exchange
        exchange.response_complete = False
        self.cycle = self._running = exchange  # type: ignore[assignment]
        if method == "GET" or not self._app.handle_write(request, exchange.send):
            exchange.run(self._app, request)

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
        elif not self._later:
            self._wait_for_client(self._limits.head_timeout_s if self._in_head else self._limits.idle_timeout_s)
        if self._later and not self.pipeline:
            self.loop.call_soon(self._go_on_parsing)

    # --- waiting for the client --------------------------------------------------------------------------------------

    def _wait_for_client(self, patience_s: float) -> None:
        """The timer is not touched: to start it anew would cost as much as to parse a request."""
        self._waits_since_s, self._patience_s = self.loop.time(), patience_s

    def _begin_watching_head(self) -> None:
        """Some of a head has arrived. Only a slow client, or one that wants to be, sends it in pieces."""
        self._wait_for_client(self._limits.head_timeout_s)
        self._unwatch()
        self._watch(self._patience_s)

    def _watch(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def _unwatch(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def _unset_keepalive_if_required(self) -> None:
        """The timer runs on as long as the connection lives."""

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if the client was waited for long enough; if not, look again when that might be."""
        if self.transport.is_closing():
            self._see_off()
            return
        if self._waits_since_s is None:
            self._look_after_client()
            return
        left_s = self._waits_since_s + self._patience_s - self.loop.time()
        if left_s > 0:
            self._watch(left_s)
        elif self._in_head:
            self._refuse(RequestTimeout(f"the head did not arrive within {self._limits.head_timeout_s:g} s"))
            self._see_off()
        else:
            self.transport.close()
            self._see_off()

    def _look_after_client(self) -> None:
        """It waits for us. If nothing is read from it meanwhile, it may have left, and its live read would go on.

        What is answered soon is answered: some send all they have to ask, and say then that there is no more.
        """
        if not self._has_more_to_do():
            self._watch(min(self._limits.head_timeout_s, self._limits.idle_timeout_s))
            return
        running = self._running
        under_way = running.under_way if isinstance(running, Exchange) else running
        if under_way is not None and under_way is self._looked_at and _has_left(self.transport):
            self.transport.abort()
            return
        self._looked_at = under_way
        self._watch(_LOOK_S)

    # --- waiting for it to take its answers --------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client takes its answers more slowly than they come."""
        super().pause_writing()
        if self._untaken is not None:
            self._untaken.begin(self.transport)

    def resume_writing(self) -> None:
        """It has taken most of it."""
        super().resume_writing()
        if not self.transport.is_closing():
            if self._untaken is not None:
                self._untaken.end(self.transport)
            self._exchange.go_on()

    def _see_off(self) -> None:
        """A connection that is closed lives on until its client has taken what is left: that must not be for ever."""
        if self._untaken is not None and self.transport.get_write_buffer_size():
            self._untaken.begin(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or the connection was closed."""
        self._unwatch()
        if self._untaken is not None:
            self._untaken.end(self.transport)
        if self._metrics is not None:
            self._metrics.disconnected()
        if self._crowd is not None:
            self._crowd.leave(self)
        self._later, self._looked_at = b"", None
        if self._running is not None and not self._running.response_complete:
            # Uvicorn tells only the request that came last.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._exchange.lost()


def _has_left(transport: asyncio.Transport) -> bool:
    """Whether the other end of a connection is closed, even if there is something left to be read before that."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _HAS_LEFT)
    return bool(poll.poll(0))


def _has_taken_all(transport: asyncio.Transport) -> bool:
    """Whether the other end has all that was sent; False where the system does not tell."""
    if sys.platform != "linux":
        return False
    # Over TLS the transport does not tell what waits below it; but nothing does while the system's own queue is empty.
    return not any(fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)))


def _is_merely_forwarded(fields: Fields) -> bool:
    """Whether all that is unusual is that a proxy stands in front, and speaks of HTTP."""
    unusual = _UNUSUAL & fields.keys()
    return unusual <= _FORWARDED and fields.get(b"x-forwarded-proto", b"http") in (b"http", b"https")


class _Flow(FlowControl):
    """Reads nothing more as long as there is something to do first.

    Args:
        transport: of the connection.
        is_busy: says whether there is.
    """

    def __init__(self, transport: asyncio.Transport, is_busy: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_busy = is_busy

    def resume_reading(self) -> None:
        if self.read_paused and not self._is_busy():
            super().resume_reading()
