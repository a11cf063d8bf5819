"""Behind either proxy, with its configuration in ``deploy/``: what must not be delayed, changed, held up or told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.deploy.proxies import FRONTS, Front, Proxy
from tests.engine.helpers import until
from tests.server.process import server_process
from tests.server.site import TEXT, begin, closed, offset, problem_code
from tests.server.sse import EventStream, parse_events
from unbroken.testing import (
    RawConnection,
    RawResponse,
    ServerProcess,
    connect,
    encode_request,
    live_server,
)


@pytest.fixture(params=FRONTS, ids=lambda front: front.__name__)
def front(request: pytest.FixtureRequest) -> Front:
    """Starts a proxy."""
    found: Front = request.param
    return found


@contextmanager
def deployed(tmp_path: Path, front: Front, *flags: str) -> Iterator[tuple[ServerProcess, Proxy]]:
    """A server behind a proxy."""
    with (
        ServerProcess(tmp_path / "data", *flags) as server,
        front(tmp_path / "proxy", server.address) as proxy,
    ):
        yield server, proxy


async def ask(connection: RawConnection, target: str) -> RawResponse:
    return await connection.request("GET", target)


# --- what must not be delayed ----------------------------------------------------------------------------------------


class _Chunked(EventStream):
    """Large events come in parts: a proxy has buffers of its own size."""

    async def read(self) -> bool:
        text = ""
        while not text.endswith("\n\n"):
            part = await self.connection.read_part()
            if not part:
                assert not text
                return False
            text += part.decode()
        self._events += parse_events(text)[0]
        return True


async def test_events_are_passed_on_as_they_come(tmp_path: Path, front: Front) -> None:
    """Each reaches the reader before the next is appended; data of any size, and the head before any data."""
    with deployed(tmp_path, front) as (server, proxy):
        async with connect(*server.address) as writer, connect(*proxy.plain) as reader:
            await writer.request("PUT", "/a", TEXT)
            response = await begin(reader, "GET", "/a?offset=-1&live=sse")
            assert (response.status, response["content-type"]) == (200, "text/event-stream")
            events = _Chunked(reader, response)
            assert (await events.batch())[0] is None
            for size_bytes in (1, 100, 20_000, 1, 300_000, 1):
                await writer.request("POST", "/a", TEXT, b"x" * size_bytes)
                await events.until_data("x" * size_bytes)


async def test_long_polls_are_answered_at_once(tmp_path: Path, front: Front) -> None:
    async with live_server() as server:
        with front(tmp_path / "proxy", server.address) as proxy:
            place = str((await server.engine.create("/a", content_type="text/plain")).next_offset)
            async with connect(*proxy.plain) as reader:
                for number in range(20):
                    poll = asyncio.create_task(ask(reader, f"/a?offset={place}&live=long-poll"))
                    await until(lambda: len(server.engine.waiters) == 1)
                    await server.engine.append("/a", b"%d" % number)
                    answer = await poll
                    assert (answer.status, answer.body) == (200, b"%d" % number)
                    place = answer["stream-next-offset"]


async def test_uploads_are_as_large_as_the_server_allows(tmp_path: Path, front: Front) -> None:
    with deployed(tmp_path, front, "--max-body=8MiB") as (_, proxy):
        content = b"x" * 8 * 1024 * 1024
        async with connect(*proxy.plain) as client:
            assert (await client.request("PUT", "/a", TEXT)).status == 201
            assert (await client.request("POST", "/a", TEXT, content)).status == 204
        async with connect(*proxy.plain) as client:
            refused = await client.request("POST", "/a", TEXT, content + b"x")
            assert problem_code(refused) == (413, "body-too-large")
        async with connect(*proxy.plain) as client:
            assert (await ask(client, "/a?offset=now"))["stream-next-offset"] == offset(1, len(content))


# --- what goes away --------------------------------------------------------------------------------------------------


async def test_an_upload_that_is_broken_off_is_not_appended(tmp_path: Path, front: Front) -> None:
    """It is passed on as it comes: the server has the beginning, and hears that there is no end."""
    async with server_process(tmp_path) as server:
        with front(tmp_path / "proxy", server.address) as proxy:
            before = server.open_files
            async with connect(*server.address) as client:
                await client.request("PUT", "/a", TEXT)
            await until(lambda: server.open_files <= before)
            async with connect(*proxy.plain) as client:
                await client.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000"}, b"x" * 500))
                await until(lambda: server.open_files > before)
                client.abort()
            await until(lambda: server.open_files <= before)
            async with connect(*proxy.plain) as client:
                assert (await ask(client, "/a?offset=now"))["stream-next-offset"] == offset(1, 0)


async def test_a_follower_that_goes_away_is_gone_at_the_server(tmp_path: Path, front: Front) -> None:
    async with live_server() as server:
        with front(tmp_path / "proxy", server.address) as proxy:
            await server.engine.create("/a", content_type="text/plain")
            async with connect(*proxy.plain) as client:
                await begin(client, "GET", "/a?offset=-1&live=sse")
                await until(lambda: len(server.engine.waiters) == 1)
                client.abort()
                await until(lambda: len(server.engine.waiters) == 0)
            async with connect(*proxy.plain) as client:
                await client.send(encode_request("GET", "/a?offset=now&live=long-poll"))
                await until(lambda: len(server.engine.waiters) == 1)
                client.abort()
                await until(lambda: len(server.engine.waiters) == 0)


async def test_readers_go_on_where_they_were_after_a_restart(tmp_path: Path, front: Front) -> None:
    """By event stream and by long-poll, with 502 in between, every byte once."""
    content = b"".join(b"%d;" % number for number in range(60))
    with deployed(tmp_path, front) as (server, proxy):
        async with connect(*server.address) as writer:
            await writer.request("PUT", "/a", TEXT)
        seen: list[int] = []
        following = [asyncio.create_task(follow(proxy, live, seen)) for live in ("sse", "long-poll")]
        for life in range(3):
            async with connect(*server.address) as writer:
                for number in range(20 * life, 20 * life + 20):
                    await writer.request("POST", "/a", TEXT, b"%d;" % number)
                if life == 2:
                    await writer.request("POST", "/a", closed())
            if life < 2:
                refused = seen.count(502)
                server.kill()
                await until(lambda refused=refused: seen.count(502) >= refused + 2)  # type: ignore[misc]
                server.start()
        assert await asyncio.gather(*following) == [content] * 2
    assert 200 in seen


async def follow(proxy: Proxy, live: str, seen: list[int]) -> bytes:
    """Read to the end of a stream, whatever comes between; ``seen`` gets the statuses."""
    data, place = b"", "-1"
    while True:
        with suppress(EOFError, ConnectionError):
            async with connect(*proxy.plain) as connection:
                response = await begin_anything(connection, f"/a?offset={place}&live={live}")
                seen.append(response.status)
                if response.status == 502:
                    await asyncio.sleep(0.02)
                elif live == "long-poll":
                    data += await connection.read_rest()
                    place = response["stream-next-offset"]
                    if response.get("stream-closed"):
                        return data
                else:
                    events = EventStream(connection, response)
                    while True:
                        text, control = await events.batch()
                        data += (text or "").encode()
                        place = control["streamNextOffset"]
                        if control.get("streamClosed"):
                            return data


async def begin_anything(connection: RawConnection, target: str) -> RawResponse:
    """Also an answer of nginx's own."""
    await connection.send(encode_request("GET", target))
    return await connection.read_head()


# --- the front door --------------------------------------------------------------------------------------------------


async def test_what_is_named_is_what_the_server_decides_about(tmp_path: Path, front: Front) -> None:
    """Targets reach it as they were sent: nothing is merged, decoded or resolved on the way."""
    targets = ["//a", "/a//b", "/a/../b", "/a/./b", "/%2e%2e/b", "/a%2Fb", "/a/", "/a%00", "/a%5Cb", "/%ff", "/a\\b"]
    with deployed(tmp_path, front) as (_, proxy):
        for target in targets:
            for method in ("PUT", "GET"):
                async with connect(*proxy.plain) as client:
                    assert (await client.request(method, target, TEXT)).status == 400, target
        async with connect(*proxy.plain) as client:
            assert (await client.request("PUT", "/%c3%a4%20b", TEXT)).status == 201
            assert (await client.request("PUT", "/%C3%A4%20%62", TEXT)).status == 200


async def test_http_2_with_tls(tmp_path: Path, front: Front) -> None:
    async with live_server() as server:
        with front(tmp_path / "proxy", server.address) as proxy:
            trust = ssl.create_default_context(cafile=str(proxy.certificate.chain))
            trust.set_alpn_protocols(["h2"])
            _, writer = await asyncio.open_connection("localhost", proxy.tls.port, ssl=trust)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.transport.abort()  # it has begun to speak, and would not stop at once


async def test_tokens_are_not_logged(tmp_path: Path, front: Front) -> None:
    """Not even when the server is down, of which a proxy has much to say."""
    with deployed(tmp_path, front) as (server, proxy):
        async with connect(*proxy.plain) as client:
            await client.request("PUT", "/a?token=s3cret", TEXT, b"some")
            for target in ("/a?token=s3cret", "/a?offset=-1&live=long-poll&t%6fken=s3cret", "//a?token=s3cret"):
                await ask(client, target)
            server.kill()
            assert (await client.request("GET", "/a?token=s3cret")).status == 502
            assert (await client.request("GET", "/a", {"authorization": "Bearer s3cret"})).status == 502
            assert (await client.request("GET", "/a", {"referer": "http://x/?token=s3cret"})).status == 502
    assert proxy.logs
    assert "s3cret" not in proxy.logs
