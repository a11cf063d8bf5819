"""Requests to an ASGI application in the same process, without a network: for tests, and for clients of an embedded
server.

Answers stream: their parts come while the application goes on, and an application that sends faster than they are read
waits. A response that is let go of before its end is a client that went away: the application is told, and cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx2

__all__ = ["AsgiTransport"]

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_PARTS_AHEAD = 4
"""So many parts of a body may be sent before they are read."""


class AsgiTransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport that calls an ASGI application.

        async with AsyncClient("http://streams", transport=AsgiTransport(app)) as client:
            await client.stream("/a").create()

    Args:
        app: the application.
        lifespan: run its startup when the client is entered, and its shutdown at the end. False if somebody else does.
        root_path: the path below which it is mounted.
        client: host and port that the application sees as the client's.
        raise_app_exceptions: raise what it raises. If not, it is answered 500, or the connection ends, as with a
            server.
    """

    def __init__(
        self,
        app: App,
        *,
        lifespan: bool = True,
        root_path: str = "",
        client: tuple[str, int] = ("127.0.0.1", 0),
        raise_app_exceptions: bool = True,
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._client = client
        self._raises = raise_app_exceptions
        self._lifespan = _Lifespan(app) if lifespan else None
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._lifespan is not None:
            await self._lifespan.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is still running, and shut the application down if it was started here."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if self._lifespan is not None:
            await self._lifespan.stop()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Call the application.

        Raises:
            httpx2.ReadTimeout: it does not answer in the time that the request has.
            Exception: what it raised before it answered.
        """
        call = _Call(request, raises=self._raises)
        state: dict[str, Any] = {} if self._lifespan is None else self._lifespan.state
        call.task = asyncio.create_task(call.run(self._app, self._scope(request, state)), name="unbroken-asgi-call")
        self._calls.add(call.task)
        call.task.add_done_callback(self._calls.discard)
        try:
            status, headers = await call.head()
        except BaseException:
            await call.let_go()
            raise
        return httpx2.Response(status, headers=headers, stream=_Body(call))

    def _scope(self, request: httpx2.Request, state: dict[str, Any]) -> dict[str, Any]:
        raw_path, _, query = request.url.raw_path.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": self._root_path + request.url.path,
            "raw_path": self._root_path.encode() + raw_path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": self._client,
            "state": dict(state),
        }


class _Call:
    """One request, and the application's answer to it."""

    task: asyncio.Task[None]

    def __init__(self, request: httpx2.Request, *, raises: bool) -> None:
        self._request = request
        self._raises = raises
        self._head: asyncio.Future[tuple[int, Headers]] = asyncio.get_running_loop().create_future()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(_PARTS_AHEAD)
        self._uploaded = False
        self._over = asyncio.Event()  # the answer has been given, or nobody wants it any more
        self._failure: Exception | None = None
        self._late_failure: Exception | None = None
        self._body = aiter(cast(httpx2.AsyncByteStream, request.stream))

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        """What the application's task does."""
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            if self._over.is_set():
                self._late_failure = error
                # Told now: a task that nobody waits for would only tell when it is collected as garbage.
                context = {"message": "the application failed after its answer", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
                return
            failed = httpx2.RemoteProtocolError(f"the application failed: {error!r}")
            self._failure = error if self._raises else failed
        if self._over.is_set():
            return
        self._failure = self._failure or httpx2.RemoteProtocolError("the application ended without an answer")
        if self._head.done():
            await self._parts.put(None)
        elif self._raises:
            self._head.set_exception(self._failure)
        else:
            self._failure = None
            self._head.set_result((500, []))
            await self._parts.put(None)

    async def _receive(self) -> Message:
        if not self._uploaded:
            while (part := await anext(self._body, None)) == b"":
                pass
            self._uploaded = part is None
            return {"type": "http.request", "body": part or b"", "more_body": not self._uploaded}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._over.is_set():
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self._head.set_result((message["status"], list(message.get("headers", []))))
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            if part and self._request.method != "HEAD":
                await self._parts.put(bytes(part))
            if not message.get("more_body", False):
                await self._parts.put(None)
                self._over.set()

    async def head(self) -> tuple[int, Headers]:
        """Status and headers, as soon as they are there."""
        return await self._in_time(self._head)

    async def parts(self) -> AsyncIterator[bytes]:
        """The parts of the body, as they come."""
        while (part := await self._in_time(self._parts.get())) is not None:
            yield part
        if self._failure is not None:
            raise self._failure
        if self._raises and self._late_failure is not None:
            raise self._late_failure  # many applications answer 500 and then raise

    async def _in_time(self, waiting: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._request.extensions.get("timeout", {}).get("read")):
                return await waiting
        except TimeoutError:
            raise httpx2.ReadTimeout("the application is silent", request=self._request) from None

    async def let_go(self) -> None:
        """Nobody reads on. What an application does after its answer goes on."""
        if not self._over.is_set():
            self._over.set()
            self.task.cancel()
            await asyncio.wait({self.task})


class _Body(httpx2.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._call.parts():
            yield part

    async def aclose(self) -> None:
        await self._call.let_go()


class _Lifespan:
    """An application's startup and shutdown, if it has them."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        """Run the startup.

        Raises:
            RuntimeError: the application says that it failed.
        """
        self._task = asyncio.create_task(self._run(), name="unbroken-asgi-lifespan")
        await self._tell("startup")

    async def stop(self) -> None:
        """Run the shutdown.

        Raises:
            RuntimeError: the application says that it failed.
        """
        task, self._task = self._task, None
        if task is not None:
            if not task.done():
                await self._tell("shutdown")
            await task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        # An application that raises for this scope has no lifespan; it says so if its startup fails.
        with suppress(Exception):
            await self._app(scope, self._to_app.get, self._from_app.put)
        await self._from_app.put({"type": "ended"})

    async def _tell(self, what: str) -> None:
        await self._to_app.put({"type": f"lifespan.{what}"})
        answer = await self._from_app.get()
        if answer["type"] == f"lifespan.{what}.failed":
            raise RuntimeError(f"the application's {what} failed: {answer.get('message', '')}")
