"""How many connections there may be, in all and from one address, also before anything was said on them."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from socket import create_connection, create_server

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.certificates import Certificate, make_certificate
from tests.server.conftest import Serve
from tests.server.site import TEXT, check_always, problem_code, until
from unbroken.errors import TooManyConnections
from unbroken.server.asgi import AsgiApp
from unbroken.server.connection import Connection
from unbroken.server.crowd import Crowd
from unbroken.server.factory import create_app
from unbroken.server.listener import TlsListener
from unbroken.server.settings import Settings
from unbroken.server.shares import Places
from unbroken.server.tls import certificate
from unbroken.testing import Address, connect, encode_request

MEBIBYTE = 1024 * 1024


class Somebody:
    """A connection as the crowd sees it; it is idle or not, as the test says."""

    def __init__(self, address: str, *, idle: bool = False) -> None:
        self.client: tuple[str, int] | None = (address, 1)
        self.idle = idle
        self.looked_at = 0
        self.gave_way = False

    @property
    def idle_since_s(self) -> float | None:
        self.looked_at += 1
        return 0.0 if self.idle and not self.gave_way else None

    def give_way(self) -> None:
        self.gave_way = True


@pytest.fixture
def all_idle_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.server.crowd._IDLE_GIVES_WAY_S", float("-inf"))
    monkeypatch.setattr("unbroken.server.crowd._LOOK_S", 0.0)


async def test_one_idle_in_a_crowd_is_found(all_idle_give_way: None) -> None:
    """However many are busy."""
    crowd = Crowd(Settings(max_connections=1000, address_connections=None))
    guests = [Somebody("192.0.2.1", idle=number == 777) for number in range(1000)]
    for guest in guests:
        crowd.enter(guest)
    newcomer = Somebody("192.0.2.1")
    crowd.enter(newcomer)
    assert [guest.gave_way for guest in guests].index(True) == 777
    crowd.leave(guests[777])
    with pytest.raises(TooManyConnections):
        crowd.enter(Somebody("192.0.2.1"))


async def test_a_crowd_at_the_door_costs_little(all_idle_give_way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those inside are looked at once, not for each who wants to come in."""
    monkeypatch.setattr("unbroken.server.crowd._LOOK_S", 1000.0)
    crowd = Crowd(Settings(max_connections=100))
    guests = [Somebody("192.0.2.1", idle=number < 50) for number in range(100)]
    for guest in guests:
        crowd.enter(guest)
    for number in range(200):
        newcomer = Somebody("192.0.2.2")
        if number < 50:
            crowd.enter(newcomer)
            continue
        with pytest.raises(TooManyConnections):
            crowd.enter(newcomer)
    assert all(guest.gave_way for guest in guests[:50])
    assert max(guest.looked_at for guest in guests) <= 4


async def test_those_found_idle_are_remembered(all_idle_give_way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the house is not full for a moment."""
    monkeypatch.setattr("unbroken.server.crowd._LOOK_S", 1000.0)
    crowd = Crowd(Settings(max_connections=100))
    guests = [Somebody("192.0.2.1", idle=number < 50) for number in range(100)]
    for guest in guests:
        crowd.enter(guest)
    newcomer = Somebody("192.0.2.2")
    crowd.enter(newcomer)
    for gone in (newcomer, next(guest for guest in guests if guest.gave_way)):
        crowd.leave(gone)
    for _ in range(50):
        crowd.enter(Somebody("192.0.2.2"))
    assert all(guest.gave_way for guest in guests[:50])
    with pytest.raises(TooManyConnections):
        crowd.enter(Somebody("192.0.2.2"))


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (None, None),
        ("127.0.0.1", None),
        ("::ffff:127.0.0.1", None),
        ("10.1.2.3", None),
        ("fd00::1", None),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_proxies_that_are_trusted_are_no_place(address: str | None, place: str | None) -> None:
    assert Places(("127.0.0.1", "10.0.0.0/8", "fd00::1")).of(address) == place


async def test_connections_of_one_address_are_limited(serve_memory: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """And nobody else is turned away for it."""
    settings = {"address_connections": 2, "max_connections": 4, "trusted_proxies": ()}
    async with serve_memory(**settings) as site, AsyncExitStack() as stack:
        await site.create("/a", TEXT)
        await until(lambda: site.app.app.metrics.connections == 0)
        for _ in range(2):
            busy = await stack.enter_async_context(site.connect())
            await busy.send(encode_request("GET", "/a?offset=now&live=long-poll"))
        await until(lambda: len(site.engine.waiters) == 2)
        for _ in range(3):
            async with site.connect() as refused:
                response = await refused.read_response()
                check_always(response, "GET")
                assert problem_code(response) == (503, "too-many-connections")
                assert "this address has 2" in response.json()["detail"]
                assert await refused.read_eof() == b""
        async with site.connect(local_host="127.0.0.2") as other:
            assert (await other.request("GET", "/a")).status == 200
    assert [record.levelno for record in caplog.records if "--trusted-proxies" in record.message] == [logging.WARNING]


async def test_idle_connections_of_one_address_give_way_to_it(serve_memory: Serve, all_idle_give_way: None) -> None:
    """To its own, and to nobody else as long as there is room."""
    settings = {"address_connections": 1, "trusted_proxies": ()}
    async with serve_memory(**settings) as site, site.connect(local_host="127.0.0.2") as other:
        assert (await other.request("GET", "/-/health")).status == 200
        async with site.connect() as first, site.connect() as second:
            assert await first.read_eof() == b""
            assert (await second.request("GET", "/-/health")).status == 200
        assert (await other.request("GET", "/-/health")).status == 200


async def test_connections_of_proxies_are_not_limited(serve_memory: Serve) -> None:
    """This machine is one, unless it is said otherwise: so whoever develops here meets no limit either."""
    async with serve_memory(address_connections=1) as site, AsyncExitStack() as stack:
        for _ in range(5):
            connection = await stack.enter_async_context(site.connect())
            assert (await connection.request("GET", "/-/health")).status == 200


# --- handshakes ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _serving_tls(made: Certificate, **settings: int) -> AsyncIterator[tuple[Address, AsgiApp]]:
    app = create_app(Settings(store="memory", tls_cert=made.chain, tls_key=made.key, **settings), watch_signals=False)  # type: ignore[arg-type]
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    found = certificate(Settings(tls_cert=made.chain, tls_key=made.key))
    assert found is not None
    with closing(create_server(("127.0.0.1", 0))) as sock:
        async with app.lifespan():
            listener = TlsListener(sock, found.context, partial(Connection, config, state, {}), app.app, 10.0)
            yield Address(*sock.getsockname()), app
            listener.close()
            await listener.wait_closed()
            for connection in list(state.connections):
                connection.transport.abort()
            await until(lambda: not state.connections)


async def _ask(address: Address, made: Certificate, path: str = "/-/health") -> bytes:
    context = ssl.create_default_context(cafile=str(made.chain))
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.close()


async def test_handshakes_that_never_end_are_counted(tmp_path: Path) -> None:
    """Whoever is one too many is turned away at once, and they do not stay counted when they have gone."""
    made = make_certificate(tmp_path)
    async with _serving_tls(made, max_connections=3) as (address, app):
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connect(*address))
            await until(lambda: len(app.app.crowd) == 3)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await _ask(address, made)
        await until(lambda: len(app.app.crowd) == 0)
        assert b"200 OK" in await _ask(address, made)
        await until(lambda: len(app.app.crowd) == 0)


async def test_handshakes_that_never_end_give_way(tmp_path: Path, all_idle_give_way: None) -> None:
    made = make_certificate(tmp_path)
    async with _serving_tls(made, max_connections=1) as (address, app):
        for _ in range(3):
            async with connect(*address) as silent:
                await until(lambda: len(app.app.crowd) == 1)
                assert b"200 OK" in await _ask(address, made)
                assert await silent.read_eof() == b""
            await until(lambda: len(app.app.crowd) == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell whether an answer has arrived")
async def test_who_does_not_say_goodbye_gives_way_at_once(tmp_path: Path, all_idle_give_way: None) -> None:
    """A client that had an answer and is gone, or would rather stay."""
    made = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(made.chain))
    async with _serving_tls(made, max_connections=1) as (address, app):
        for _ in range(3):
            with closing(create_connection(address)) as sock:
                silent = await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost")
                with closing(silent):
                    silent.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert await asyncio.to_thread(silent.recv, 65536)
                    silent.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                    assert b"200 OK" in await _ask(address, made)
                    await until(lambda: len(app.app.crowd) == 0)


async def test_who_is_still_taking_an_answer_gets_all_of_it(tmp_path: Path, all_idle_give_way: None) -> None:
    """Over TLS too, and whoever comes meanwhile is served."""
    made = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(made.chain))
    async with _serving_tls(made, max_connections=1, page_size=8 * MEBIBYTE) as (address, app):
        await app.engine.create("/a", data=bytes(8 * MEBIBYTE))
        with closing(create_connection(address)) as sock:
            reader = await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost")
            with closing(reader):
                reader.sendall(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = await asyncio.to_thread(reader.recv, 16)
                assert b"200 OK" in await _ask(address, made)
                size_bytes = await asyncio.to_thread(_taken, reader)
    assert head == b"HTTP/1.1 200 OK\r"
    assert size_bytes > 8 * MEBIBYTE


def _taken(sock: ssl.SSLSocket, enough_bytes: int = 1 << 62) -> int:
    """How many bytes come until they are enough, or all."""
    size_bytes = 0
    while size_bytes < enough_bytes and (part := sock.recv(65536)):
        size_bytes += len(part)
    return size_bytes


async def test_what_is_not_taken_is_counted_over_tls_too(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(made.chain))
    async with _serving_tls(made, page_size=8 * MEBIBYTE, max_answers_size=MEBIBYTE) as (address, app):
        await app.engine.create("/a", data=bytes(8 * MEBIBYTE))
        with closing(create_connection(address)) as sock:
            reader = await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost")
            with closing(reader):
                reader.sendall(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: app.app.untaken.size_bytes)
                assert b"503 Service Unavailable" in await _ask(address, made, "/a")
                assert b"200 OK" in await _ask(address, made)
                assert await asyncio.to_thread(_taken, reader, 8 * MEBIBYTE) >= 8 * MEBIBYTE
                await until(lambda: not app.app.untaken.size_bytes)
                assert b"200 OK" in await _ask(address, made, "/a")
