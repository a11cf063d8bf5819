"""Listens for connections that speak TLS, and counts each from the moment it is there.

asyncio's own server tells nobody of a connection before its handshake is over: those that never end theirs would take
all the files that there are, and no limit would be met.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from unbroken.errors import TooManyConnections
from unbroken.server.app import App
from unbroken.server.connection import Connection

__all__ = ["TlsListener"]

_ACCEPTED_AT_A_TIME = 100
_PAUSE_S = 1.0


class TlsListener:
    """Accepts connections until it is closed. It has what uvicorn wants of an `asyncio.Server`.

    Args:
        listener: where to listen.
        context: with the certificate.
        factory: makes what speaks HTTP.
        app: what is served; counts who is there.
        timeout_s: how long a handshake may take, in seconds.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        factory: Callable[[], Connection],
        app: App,
        timeout_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._context = context
        self._factory = factory
        self._app = app
        self._timeout_s = timeout_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept nobody any more, and end the handshakes that are under way."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Wait until the last handshake has ended."""
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_A_TIME):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No more open files. The one that waits would wake us again at once.
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE_S, self._listen)
                return
            accepted.setblocking(False)
            self._greet(accepted, (address[0], address[1]))

    def _greet(self, accepted: socket.socket, client: tuple[str, int]) -> None:
        handshake = _Handshake(client, self._loop.time())
        try:
            self._app.crowd.enter(handshake)
        except TooManyConnections as error:
            self._app.metrics.refused(error.code)
            self._app.crowd.leave(handshake)
            accepted.close()
            return
        handshake.task = self._loop.create_task(self._shake_hands(accepted, handshake))
        self._handshakes.add(handshake.task)
        handshake.task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, handshake: _Handshake) -> None:
        def made() -> Connection:
            connection = self._factory()
            connection.came_as = handshake
            return connection

        try:
            # What fails here is the client's fault, and it is told as TLS does.
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(
                    made, accepted, ssl=self._context, ssl_handshake_timeout=self._timeout_s
                )
        finally:
            self._app.crowd.leave(handshake)


class _Handshake:
    """A connection that is no more than that yet."""

    def __init__(self, client: tuple[str, int], now_s: float) -> None:
        self.client: tuple[str, int] | None = client
        self.idle_since_s: float | None = now_s
        self.task: asyncio.Task[None] | None = None

    def give_way(self) -> None:
        self.idle_since_s = None
        if self.task is not None:
            self.task.cancel()
