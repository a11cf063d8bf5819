"""The ASGI adapter: from (scope, receive, send) to a neutral request and back.

Runs under any ASGI server, on its own or mounted below a prefix of another application.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import quote

from unbroken.engine.engine import Engine
from unbroken.errors import StoreError, UnbrokenError
from unbroken.server.access import Authorize, hide_token
from unbroken.server.app import App
from unbroken.server.guard import create_access, host_policy
from unbroken.server.http import ClientGone, Request, Response, join_fields
from unbroken.server.settings import Settings
from unbroken.server.signals import on_stop_signal
from unbroken.server.untaken import STALLED_S

__all__ = ["AsgiApp", "AsgiRequest", "Receive", "Scope", "Send", "run_lifespan", "send_parts"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("unbroken.server")
# `unbroken serve` cuts off whoever takes nothing by itself, and earlier: other servers might wait for ever.
_STALLED_S = STALLED_S + 10


class AsgiApp:
    """An Unbroken server as an ASGI application.

    Mount it, and give the outer application its lifespan:

        streams = create_app(data_dir="streams")
        app = FastAPI(lifespan=streams.lifespan)
        app.mount("/streams", streams)

    Args:
        engine: started and stopped by the lifespan.
        settings: limits, times and keys.
        authorize: the application's own way to say who somebody is; see `create_app`.
        watch_signals: end live reads as soon as SIGINT or SIGTERM arrives. Servers announce their end only after the
            last response has ended, and a live read would hold them up.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        authorize: Authorize | None = None,
        watch_signals: bool = True,
    ) -> None:
        self.engine = engine
        self._access = create_access(settings, engine.clock, authorize)
        self.app = App(engine, settings, self._access, host_policy(settings, open_to_all=self._access is None))
        self._watch_signals = watch_signals

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start the engine, and stop it in the end; usable as the lifespan of FastAPI and Starlette.

        Raises:
            StoreError: the store cannot be opened. The reason is logged too: servers bury it in a traceback.
        """
        try:
            await self.engine.start()
        except StoreError as error:
            _log.error("%s", error)
            raise
        if self._access is not None:
            self._access.start()
        self.app.started = True
        restore = on_stop_signal(self.engine.drain) if self._watch_signals else None
        try:
            yield
        finally:
            if restore is not None:
                restore()
            self.app.started = False
            if self._access is not None:
                await self._access.stop()
            await self.engine.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(self.lifespan(), receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise RuntimeError(f"unsupported ASGI scope type {scope['type']!r}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = AsgiRequest(scope, receive)
        if self._access is not None:
            # Whoever logs requests below or above us does so from here, uvicorn for one.
            scope["query_string"] = hide_token(request.query)
        try:
            await _send_response(request, await self.app.handle(request), send)
        except ClientGone:
            pass
        finally:
            request.finish()


class AsgiRequest(Request):
    """A request out of an ASGI scope."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(
            scope["method"],
            scope.get("raw_path") or quote(scope["path"]).encode(),
            _roots(scope) if scope.get("root_path") else _NO_ROOTS,
            scope["query_string"],
            scope.get("scheme", "http"),
            join_fields(scope["headers"]),
        )
        self._scope = scope
        self._receive = receive
        self._complete = False
        self._watcher: asyncio.Task[None] | None = None

    @property
    def scope(self) -> Scope:
        return self._scope

    @property
    def server(self) -> tuple[str, int | None] | None:
        return self._scope.get("server")

    @property
    def client(self) -> str | None:
        client = self.scope.get("client")
        return None if client is None else str(client[0])

    async def next_part(self) -> bytes | None:
        while not self._complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._complete = not message.get("more_body", False)
            if body := message.get("body", b""):
                return bytes(body)
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(callback))

    async def _watch(self, callback: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        callback()

    def finish(self) -> None:
        """The response has been sent, or never will be."""
        if self._watcher is not None:
            self._watcher.cancel()


_NO_ROOTS = ("",)


def _roots(scope: Scope) -> tuple[str, ...]:
    """The prefixes under which the application may be mounted.

    Behind a proxy that strips its prefix, Starlette's mounts count that prefix in root_path although the path does not
    have it; what it was before the mount is in app_root_path.
    """
    root: str = scope["root_path"].rstrip("/")
    return (root, root.removeprefix(scope.get("app_root_path", "").rstrip("/")))


async def _send_response(request: AsgiRequest, response: Response, send: Send) -> None:
    body = response.body
    headers = response.headers
    if isinstance(body, bytes):
        # HEAD announces no length: what a GET would send depends on its offset.
        if response.status not in (204, 304) and request.method != "HEAD":
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    request.on_disconnect(body.stop)
    await send_parts(body.parts(), send)


async def send_parts(body: AsyncIterator[bytes], send: Send) -> None:
    """Send a body part by part, at the pace of the client; one that takes nothing for too long is cut off."""
    async with contextlib.aclosing(body) as parts:  # type: ignore[type-var]
        async for part in parts:
            try:
                async with asyncio.timeout(_STALLED_S):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                _log.info("a reader took nothing for %g s and is cut off", _STALLED_S)
                return
            del part  # what is sent is not held until there is more
    await send({"type": "http.response.body", "body": b""})


async def run_lifespan(lifespan: AbstractAsyncContextManager[None], receive: Receive, send: Send) -> None:
    """Speak ASGI's lifespan protocol, for an application that has its lifespan as a context manager."""
    await receive()
    try:
        await lifespan.__aenter__()
    except UnbrokenError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await lifespan.__aexit__(None, None, None)
    await send({"type": "lifespan.shutdown.complete"})
