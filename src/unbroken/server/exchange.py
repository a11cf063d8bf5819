"""A request that is answered past ASGI, and its answer: written to the connection by whoever has it, without a task.

A live read is one small object that the stream's change is told to, and that writes what is new, the same bytes for all
readers, to the connection. If the client takes its answers more slowly than they come, nothing is taken from the body
until it has: then it gets a larger page.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from unbroken.protocol.headers import Fields
from unbroken.server.app import App
from unbroken.server.http import Headers, LiveBody, Request, Response, Then

__all__ = ["Exchange", "WholeRequest", "encode", "sender"]

_log = logging.getLogger("unbroken.server")
_COPIED_BYTES_MAX = 16 * 1024
"""A body up to this is put into one block with its head; a larger one is not copied."""
_SHARED_BYTES_MAX = 2 * 1024 * 1024
_LAST_CHUNK = b"0\r\n\r\n"
_NO_ROOTS = ("",)


class WholeRequest(Request):
    """A request that has arrived with its body."""

    def __init__(
        self, method: str, url: bytes, scheme: str, fields: Fields, body: bytes, client: tuple[str, int] | None
    ) -> None:
        target, _, query = url.partition(b"?")
        super().__init__(method, target, _NO_ROOTS, query, scheme, fields, body)
        self._client = client
        self._on_lost: Callable[[], None] | None = None
        self._is_lost = False

    @property
    def client(self) -> str | None:
        return None if self._client is None else self._client[0]

    async def next_part(self) -> None:
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self._on_lost = callback
        if self._is_lost:
            callback()

    def lost(self) -> None:
        """The client has gone."""
        self._is_lost = True
        if self._on_lost is not None:
            self._on_lost()


def sender(
    app: object, fields: Fields, scheme: str, client: tuple[str, int] | None
) -> tuple[str, tuple[str, int] | None]:
    """By which scheme a request came, and from where: what a proxy in front says of it, if uvicorn trusts that.

    Args:
        app: what uvicorn would call: its middleware for proxies, or something else where none is trusted.
        fields: the headers; of schemes only ``http`` and ``https`` may be there.
        scheme: of the connection.
        client: the other end of it.
    """
    forwarded, forwarded_scheme = fields.get(b"x-forwarded-for"), fields.get(b"x-forwarded-proto")
    if not isinstance(app, ProxyHeadersMiddleware) or client is None or client[0] not in app.trusted_hosts:
        return scheme, client
    if forwarded_scheme is not None:
        scheme = forwarded_scheme.decode("ascii")
    if forwarded is not None:
        found = app.trusted_hosts.get_trusted_client_address(forwarded.decode("latin-1"))
        client = found if found[0] else client
    return scheme, client


class _Chunk:
    """A part of a body in chunked coding (RFC 9112 section 7.1), made once for all to whom the same part is sent."""

    def __init__(self) -> None:
        self._part = self._chunk = b""

    def of(self, part: bytes) -> bytes:
        """The chunk that has this part."""
        if part is self._part:
            return self._chunk
        chunk = b"%x\r\n%b\r\n" % (len(part), part)
        if len(part) <= _SHARED_BYTES_MAX:
            self._part, self._chunk = part, chunk
        return chunk


_chunk = _Chunk()


class Exchange:
    """A request and its answer: what uvicorn's protocol sees in place of its own ``RequestResponseCycle``.

    A connection has one for all its requests that take the short cut, since they come one after the other.

    Attributes:
        disconnected: the client has gone; set by the protocol.
        keep_alive: the connection lives on after the answer; cleared by the protocol when the server ends.
        response_complete: the next request may be answered.
        message_event: set by the protocol at the end; nobody waits for it.
        more_body: never.
        response_started: never, until it is complete.
    """

    message_event = asyncio.Event()
    more_body = False
    response_started = False

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, server: ServerState, on_response: Callable[[], None]
    ) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = True
        self._transport = transport
        self._flow = flow
        self._server = server
        self._on_response = on_response
        self._request: WholeRequest | None = None
        self._body: LiveBody | None = None
        self._asking: asyncio.Handle | None = None
        self._loading = False

    @property
    def under_way(self) -> object:
        """What is being answered, or sent, if it takes longer than an append; for comparison."""
        return self._request or self._body

    def run(self, app: App, request: WholeRequest) -> None:
        """Answer what takes longer."""
        self._request = request
        self._start(self._answer(app, request))

    async def _answer(self, app: App, request: Request) -> None:
        self.send(await app.handle(request))

    def _start(self, steps: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(steps)
        task.add_done_callback(self._done)
        self._server.tasks.add(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._server.tasks.discard(task)
        if task.cancelled():  # the server ends by force
            self._transport.abort()
        elif (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        _log.error("an answer could not be sent", exc_info=error)
        self._transport.abort()

    def send(self, response: Response) -> None:
        """Send the answer, if there is still somebody to send it to."""
        self._request = None
        if self.disconnected:
            if isinstance(response.body, LiveBody):
                response.body.close()  # whoever logs it waits for its end
            return
        # Looked up each time: the date is among them.
        head, body = encode(response, self._server.default_headers, keep_alive=self.keep_alive)
        if isinstance(response.body, LiveBody):
            self._transport.write(head)
            self._body = response.body
            self._body.begin(self.go_on)
            self.go_on()
            return
        if len(body) < _COPIED_BYTES_MAX:
            self._transport.write(head + body)
        else:
            # Not together: `writelines` of some releases of asyncio does not tell that the client is slow to take them.
            self._transport.write(head)
            self._transport.write(body)
        self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_response()

    def lost(self) -> None:
        """The client has gone."""
        if self._request is not None:
            self._request.lost()
        self._end_body()

    # --- live reads --------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Send what is new of a live read, if the client can take it."""
        body = self._body
        if body is None or self._flow.write_paused or self._loading:
            return
        try:
            part = body.take()
            if part:
                self._transport.write(_chunk.of(part))
            if body.then is not Then.WAIT:
                self._then(body)
        except Exception as error:
            self._failed(error)

    def _then(self, body: LiveBody) -> None:
        if body.then is Then.END:
            self._end_body()
            self._transport.write(_LAST_CHUNK)
            self._complete()
        elif body.then is Then.LOAD:
            self._loading = True
            self._start(self._load(body))
        elif self._asking is None:
            self._asking = asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        self._asking = None
        self.go_on()

    async def _load(self, body: LiveBody) -> None:
        try:
            await body.load()
        finally:
            self._loading = False
        self.go_on()

    def _end_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def encode(response: Response, default_headers: Headers, *, keep_alive: bool) -> tuple[bytes, bytes]:
    """The head of a response, and its body; nothing for one that is still to come, in chunks."""
    lines = [STATUS_LINE[response.status]]
    for name, value in (*default_headers, *response.headers):
        lines += (name, b": ", value, b"\r\n")
    body = response.body
    if isinstance(body, LiveBody):
        lines.append(b"transfer-encoding: chunked\r\n")
        body = b""
    elif response.status not in (204, 304):
        lines.append(b"content-length: %d\r\n" % len(body))
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines), body
