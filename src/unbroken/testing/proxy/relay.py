"""A proxy between any HTTP client and any server of the loopback interface, that does to requests what a plan says.

Each request gets a connection to the server of its own, so a fault of one is none of another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from unbroken.testing.live import Address, close_listener
from unbroken.testing.proxy.faults import (
    PASS,
    Answer,
    Buffer,
    Cut,
    Delay,
    Fault,
    Plan,
    ProxiedRequest,
    Side,
    Stall,
    Trickle,
    Truncate,
    Twice,
)
from unbroken.testing.proxy.messages import READ_AHEAD_BYTES, End, Message
from unbroken.testing.raw import encode_chunk
from unbroken.testing.threads import in_thread

__all__ = ["FaultyProxy", "threaded_proxy"]

_BROKEN = (ConnectionError, EOFError, ValueError, OSError)
_REASONS = {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}


def _pass(_: ProxiedRequest) -> Fault:
    return PASS


class _Interrupted(Exception):
    """As much of a message was passed on as was to be."""


class FaultyProxy:
    """Listens on a free loopback port while it is used as an async context manager.

    Args:
        upstream: origin of the server, such as ``http://127.0.0.1:9999``.
        plan: what happens to which request; nothing by default. It is called in the event loop of the proxy.

    Attributes:
        upstream: may be changed at any time, for the requests to come.
        plan: may be changed at any time, for the requests to come.
        counts: how often each kind of fault has happened. Requests that the server was not there for are counted as
            ``unreachable``, those that it left in the middle as ``lost``, and those that the client left as ``left``.
    """

    def __init__(self, upstream: str, plan: Plan = _pass) -> None:
        self.upstream = upstream
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self._numbers = 0
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[asyncio.Task[None], End] = {}
        self._failures: list[BaseException] = []

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self._listener is not None, "the proxy does not run"
        host, port = self._listener.sockets[0].getsockname()[:2]
        return Address(host, port)

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return self.address.url

    @property
    def requests(self) -> int:
        """How many have come so far."""
        return self._numbers

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._clients)

    async def wait_idle(self) -> None:
        """Wait until no client is connected. Only in the event loop of the proxy."""
        while self._clients:
            await asyncio.wait(list(self._clients))

    def cut_all(self) -> None:
        """Reset every connection that there is now. May be called from any thread."""
        assert self._loop is not None, "the proxy does not run"
        self._loop.call_soon_threadsafe(self._cut_all)

    def _cut_all(self) -> None:
        for client in self._clients.values():
            client.reset()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_AHEAD_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        await close_listener(self._listener)
        self._cut_all()
        tasks = list(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = End(reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._clients[task] = client
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._clients[task]
        if not task.cancelled() and (error := task.exception()):
            self._failures.append(error)

    async def _serve(self, client: End) -> None:
        """All requests of a connection, one after the other."""
        try:
            while (head := await client.head()) is not None:
                message = Message(head, client)
                request = ProxiedRequest(self._numbers, head.words[0], head.words[1], head.fields)
                self._numbers += 1
                exchange = _Exchange(self, client, message, self.plan(request))
                if not await exchange.run():
                    await client.finish()
                    break
        except _BROKEN:
            self.counts["left"] += 1
        finally:
            client.reset()

    async def connect(self) -> End:
        """Open a connection to the server.

        Raises:
            OSError: it is not there.
        """
        origin = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(origin.hostname, origin.port, limit=READ_AHEAD_BYTES)
        return End(reader, writer)


class _Exchange:
    """One request and its response."""

    def __init__(self, proxy: FaultyProxy, client: End, request: Message, fault: Fault) -> None:
        self._proxy = proxy
        self._client = client
        self._request = request
        self._fault = fault

    def _count(self, kind: str | None = None) -> None:
        self._proxy.counts[kind or self._fault.kind] += 1

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count it from the beginning, unless it fails: whoever has all of the response may look at once."""
        counts, kind = self._proxy.counts, self._fault.kind
        counts[kind] += 1
        try:
            yield
        except BaseException:
            counts[kind] -= 1
            if not counts[kind]:
                del counts[kind]
            raise

    async def run(self) -> bool:
        """Do it.

        Returns:
            Whether the client's connection can be used for another one.
        """
        raw = b""
        match self._fault:
            case Answer(after=False):
                await self._request.rest()
                return await self._answer(self._fault)
            case Answer() | Twice():
                raw = self._request.head.raw + await self._request.rest()
                if not await self._try_once(raw):
                    return await self._unreachable()
                if isinstance(self._fault, Answer):
                    return await self._answer(self._fault)
            case Delay(seconds=seconds):
                await asyncio.sleep(seconds)
        try:
            server = await self._proxy.connect()
        except OSError:
            await self._request.rest()
            return await self._unreachable()
        try:
            return await self._relay(server, raw)
        finally:
            server.reset()

    async def _try_once(self, raw: bytes) -> bool:
        """Have the server do it, and drop its response; of a live one only the head is waited for."""
        try:
            server = await self._proxy.connect()
        except OSError:
            return False
        try:
            await server.send(raw)
            response = await self._response(server, pass_interim=False)
            if "live=" not in self._request.head.words[1]:
                await response.rest()
        except _BROKEN:
            return False
        finally:
            server.reset()
        return True

    async def _answer(self, answer: Answer) -> bool:
        self._count()
        return await self._say(answer.status, answer.retry_after)

    async def _unreachable(self) -> bool:
        self._count("unreachable")
        return await self._say(502)

    async def _say(self, status: int, retry_after: str | None = None) -> bool:
        reason = _REASONS.get(status, "Status")
        body = f"<html><body><h1>{status} {reason}</h1></body></html>\n"
        lines = [f"HTTP/1.1 {status} {reason}", "content-type: text/html", f"content-length: {len(body)}"]
        if retry_after is not None:
            lines.append(f"retry-after: {retry_after}")
        body = "" if self._request.head.words[0] == "HEAD" else body
        await self._client.send("\r\n".join([*lines, "", body]).encode())
        return self._request.is_reusable

    async def _relay(self, server: End, raw: bytes) -> bool:
        """Pass the request on, and the response back, each at the pace of who takes it.

        Args:
            server: where to.
            raw: the request, if it has been read already.
        """
        outward = asyncio.create_task(self._outward(server, raw))
        inward = asyncio.create_task(self._inward(server))
        try:
            await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
            if not inward.done() and outward.exception() is None and not outward.result():
                await asyncio.wait((inward,))  # the client began its next request before it had the response
        finally:
            for task in (outward, inward):
                task.cancel()
            ends = await asyncio.gather(outward, inward, return_exceptions=True)
        errors = [end for end in ends if isinstance(end, Exception)]
        if ends[1] is True or ends[1] is False:
            return ends[1] and self._request.is_over
        if not errors:
            self._count("left")
            return False
        return await self._conclude(errors[0], server)

    async def _conclude(self, error: Exception, server: End) -> bool:
        if isinstance(error, _Interrupted):
            self._count()
            if isinstance(self._fault, Stall):
                server.reset()
                await self._client.ended()
            elif isinstance(self._fault, Cut) and self._fault.reset:
                self._client.reset()
            else:
                await server.finish()
        elif isinstance(error, _BROKEN):
            self._count("lost")
            self._client.reset()
        else:
            raise error
        return False

    async def _outward(self, server: End, raw: bytes) -> bool:
        """Pass the request on, then wait until the client ends the connection, or begins the next request.

        Returns:
            Whether it ended.
        """
        if raw:
            await server.send(raw)
        else:
            await self._pass_on(self._request, server, "request")
        return await self._client.left()

    async def _inward(self, server: End) -> bool:
        """Pass the response back.

        Returns:
            Whether another one may follow.
        """
        response = await self._response(server, pass_interim=True)
        match self._fault:
            case Truncate(at_bytes=at_bytes) if response.has_body and response.head.status == 200:
                await self._truncate(response, at_bytes)
                return True
            case Buffer(head=with_head):
                await self._hold(response, with_head=with_head)
            case Trickle():
                self._count()
                await self._trickle(response, self._fault)
            case _:
                with self._counted():
                    await self._pass_on(response, self._client, "response")
        return response.is_reusable

    async def _response(self, server: End, *, pass_interim: bool) -> Message:
        """The final response; interim ones (1xx) are passed on at once."""
        while (head := await server.head()) is not None:
            if head.status >= 200:
                without_body = self._request.head.words[0] == "HEAD" or head.status in (204, 304)
                return Message(head, server, without_body=without_body)
            if pass_interim:
                await self._client.send(head.raw)
        raise EOFError("the server ended the connection")

    async def _pass_on(self, message: Message, to: End, side: Side) -> None:
        """Pass a message on.

        Raises:
            _Interrupted: up to where the fault says.
        """
        match self._fault:
            case Cut() | Stall() if self._fault.side == side:
                await _pass_some(message, to, self._fault.at_bytes, in_head=self._fault.part == "head")
                raise _Interrupted
        await to.send(message.head.raw)
        while part := await message.part():
            await to.send(message.encode(part))
        await to.send(message.ending)

    async def _truncate(self, response: Message, at_bytes: int) -> None:
        """The beginning of the body, in chunks of our own, and an end in good order."""
        lines = response.head.raw.split(b"\r\n")[:-2]
        kept = [line for line in lines if not line.lower().startswith((b"content-length:", b"transfer-encoding:"))]
        await self._client.send(b"\r\n".join([*kept, b"transfer-encoding: chunked", b"", b""]))
        while at_bytes > 0 and (part := await response.part()):
            await self._client.send(encode_chunk(part[:at_bytes]))
            at_bytes -= len(part)
        self._count("pass" if at_bytes > 0 else None)
        await self._client.send(encode_chunk(b""))

    async def _hold(self, response: Message, *, with_head: bool) -> None:
        self._count()
        if not with_head:
            await self._client.send(response.head.raw)
        body = await response.rest()
        await self._client.send(response.head.raw + body if with_head else body)

    async def _trickle(self, response: Message, fault: Trickle) -> None:
        await self._drip(response.head.raw, fault, fault.for_bytes)
        left = fault.for_bytes
        while part := await response.part():
            await self._drip(response.encode(part), fault, left)
            left = max(0, left - len(part))
        await self._client.send(response.ending)

    async def _drip(self, data: bytes, fault: Trickle, at_most: int) -> None:
        for start in range(0, min(len(data), at_most), fault.piece_bytes):
            await self._client.send(data[start : min(start + fault.piece_bytes, at_most)])
            await asyncio.sleep(fault.pause_s)
        await self._client.send(data[at_most:])


async def _pass_some(message: Message, to: End, at_bytes: int, *, in_head: bool) -> None:
    raw = message.head.raw
    if in_head or not message.has_body:
        await to.send(raw[: at_bytes % len(raw)])
        return
    left = at_bytes if message.length is None else at_bytes % message.length
    await to.send(raw)
    while left > 0 and (part := await message.part()):
        piece = message.encode(part)
        await to.send(piece[:left])
        left -= len(piece)


@contextmanager
def threaded_proxy(upstream: str, plan: Plan = _pass) -> Iterator[FaultyProxy]:
    """A proxy in a thread of its own, for code that is not asynchronous.

    Args:
        upstream: see `FaultyProxy`.
        plan: see `FaultyProxy`.
    """
    with in_thread(lambda: FaultyProxy(upstream, plan), "unbroken-faulty-proxy") as proxy:
        yield proxy
