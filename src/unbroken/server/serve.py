"""The standalone server: uvicorn around the ASGI app, with an orderly start and a prompt end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import uvicorn

from unbroken.errors import StoreError
from unbroken.server.app import App
from unbroken.server.asgi import AsgiApp
from unbroken.server.connection import Connection
from unbroken.server.factory import create_app
from unbroken.server.guard import check_exposure, with_tokens_file
from unbroken.server.listener import TlsListener
from unbroken.server.logs import configure_logging
from unbroken.server.process import allow_open_files, collect_garbage_seldom, keep_freed_memory
from unbroken.server.settings import Settings
from unbroken.server.systemd import notify
from unbroken.server.tls import Certificate, certificate

__all__ = ["run"]

_log = logging.getLogger("unbroken.server")
_GRACE_S = 2
_OTHER_FILES = 128
"""What is open besides connections: the database, its log, threads' own views of them, who is just being refused."""
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn's server, told when to stop by us: its own handlers would wait for live reads to end by themselves."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    app: App
    on_started: Callable[[], None]
    handshake_timeout_s: float

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own cannot be told how long a TLS handshake may take, and how many there may be."""
        config = self.config
        factory = partial(Connection, config, self.server_state, self.lifespan.state)
        for listener in sockets or ():
            if config.ssl is None:
                loop = asyncio.get_running_loop()
                self.servers.append(await loop.create_server(factory, sock=listener, backlog=config.backlog))
            else:
                server = TlsListener(listener, config.ssl, factory, self.app, self.handshake_timeout_s)
                self.servers.append(server)  # type: ignore[arg-type]
        self.started = True
        self.on_started()


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 after an orderly end, 1 if the server could not start.

    Raises:
        SettingsError: other machines could reach the server, and it would ask nobody who they are; or a key cannot be
            read.
    """
    settings = with_tokens_file(settings)
    check_exposure(settings)
    tls = certificate(settings)
    configure_logging(settings.log_level, settings.log_format, access_log=settings.access_log)
    keep_freed_memory()
    settings = _with_open_files(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_serve(settings, tls))
        except StoreError:
            return 1  # the app has said why
        except OSError as error:
            _log.error("cannot listen on %s port %d: %s", settings.host, settings.port, error.strerror or error)
            return 1
    return 0


def _with_open_files(settings: Settings) -> Settings:
    """The settings, with no more connections than there can be."""
    allowed = allow_open_files(settings.max_connections + _OTHER_FILES) - _OTHER_FILES
    if allowed >= settings.max_connections:
        return settings
    _log.warning("the system allows no more than %d connections (ulimit -n)", allowed)
    return replace(settings, max_connections=max(1, allowed))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, tls: Certificate | None) -> None:
    app = create_app(settings, watch_signals=False)
    # Listening comes after the store is open: whoever connects is served.
    async with app.lifespan():
        collect_garbage_seldom()
        listener = _listen(settings.host, settings.port)
        server = _Server(
            uvicorn.Config(
                app,
                http=Connection,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_GRACE_S,
                forwarded_allow_ips=list(settings.trusted_proxies),
                ssl_context_factory=None if tls is None else lambda *_: tls.context,
            )
        )
        if app.app.access is None and settings.insecure:
            _log.warning("everybody who can reach %s is served without being asked who they are", settings.host)
        server.app, server.servers, server.handshake_timeout_s = app.app, [], settings.head_timeout
        server.on_started = lambda: _greet(settings, listener, guarded=app.app.access is not None)
        _stop_on_signals(server, app)
        if tls is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tls.reload)
        await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def _stop_on_signals(server: uvicorn.Server, app: AsgiApp) -> None:
    """The first signal ends live reads and lets everything else finish; a second one does not wait for that."""

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        app.engine.drain()
        notify("STOPPING=1")

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _greet(settings: Settings, listener: socket.socket, *, guarded: bool) -> None:
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.tls_cert is None else "https"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    token = ' -H "Authorization: Bearer $TOKEN"' if guarded else ""
    where = f"data in {settings.data_dir.resolve()}"
    if settings.store == "memory":
        where = "data in memory only: it is gone when the server ends"
    sys.stdout.write(
        f"Unbroken listening on {url}\n"
        f"{where}\n"
        "Try:\n"
        f"  curl{token} -X PUT -H 'Content-Type: text/plain' -d 'hello' {url}/hello\n"
        f"  curl{token} {url}/hello\n"
    )
    sys.stdout.flush()
    notify("READY=1")
