"""Request bodies and the memory for all of them: who gets it, and who has to make way."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, Site, problem_code, until
from tests.server.tokens import bearer, key_file, mint
from unbroken.errors import Overloaded
from unbroken.server.bodies import BodyReader
from unbroken.server.http import Request
from unbroken.server.settings import Settings
from unbroken.server.shares import place_of
from unbroken.testing import RawConnection, encode_chunk, encode_request

HELD_BYTES = 999
CHUNKED = {**TEXT, "transfer-encoding": "chunked"}
"""A body of which nobody knows how much is still to come."""


class Uploads:
    """A stream, and clients that send it bodies but not their last byte."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self.site = site
        self._stack = stack

    def fields(self, name: str) -> dict[str, str]:
        return bearer(mint(self.site, admin="/**", subject=name))

    async def hold(self, name: str, count: int) -> list[RawConnection]:
        """So many bodies more, of which all is there but one byte."""
        before = self.site.app.app.bodies_bytes
        begun = [await self.begin(name) for _ in range(count)]
        await until(lambda: self.site.app.app.bodies_bytes == before + count * HELD_BYTES)
        return begun

    async def begin(self, name: str) -> RawConnection:
        upload = await self._stack.enter_async_context(self.site.connect())
        head = encode_request("POST", "/a", {**TEXT, **self.fields(name), "content-length": str(HELD_BYTES + 1)})
        await upload.send(head + b"x" * HELD_BYTES)
        return upload

    async def whole(self, name: str) -> tuple[int, str]:
        """Send one more at once, of the same size; what came of it."""
        body = encode_chunk(b"x" * HELD_BYTES) + encode_chunk(b"")
        async with self.site.connect() as upload:
            await upload.send(encode_request("POST", "/a", {**CHUNKED, **self.fields(name)}) + body)
            response = await upload.read_response()
        return (response.status, "") if response.status == 204 else problem_code(response)


@asynccontextmanager
async def uploads(serve: Serve, tmp_path: Path) -> AsyncIterator[Uploads]:
    """There is room for four bodies."""
    settings = {"max_body": 1000, "max_bodies_size": 4000, "jwt_keys": (key_file(tmp_path),)}
    async with serve(**settings) as site, AsyncExitStack() as stack:
        found = Uploads(site, stack)
        assert (await site.put("/a", {**TEXT, **found.fields("ann")})).status == 201
        yield found


async def finish(upload: RawConnection) -> int:
    """Send the last byte; the status."""
    await upload.send(b"x")
    return (await upload.read_response()).status


async def told(held: list[RawConnection]) -> tuple[RawConnection, tuple[int, str]]:
    """The first of several uploads that is answered, and how."""
    answers = {asyncio.create_task(upload.read_response()): upload for upload in held}
    (first,), others = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return answers[first], problem_code(first.result())


async def test_who_holds_most_makes_way(serve_memory: Serve, tmp_path: Path) -> None:
    """However fast that client sends."""
    async with uploads(serve_memory, tmp_path) as clients:
        held = await clients.hold("ann", 4)
        assert await clients.whole("ben") == (204, "")
        given_up, answer = await told(held)
        assert answer == (503, "overloaded")
        for upload in held:
            assert upload is given_up or await finish(upload) == 204
    assert clients.site.app.app.bodies_bytes == 0


async def test_nobody_drives_others_out_beyond_their_share(serve_memory: Serve, tmp_path: Path) -> None:
    async with uploads(serve_memory, tmp_path) as clients:
        of_ann = await clients.hold("ann", 3)
        of_ben = await clients.hold("ben", 1)
        of_ben.append(await clients.begin("ben"))
        given_up, _ = await told(of_ann)
        await until(lambda: clients.site.app.app.bodies_bytes == 4 * HELD_BYTES)
        assert await clients.whole("ben") == (503, "overloaded")
        assert await clients.whole("ann") == (503, "overloaded")
        assert await clients.whole("eve") == (204, "")
        of_ann.remove(given_up)
        given_up, _ = await told(of_ann + of_ben)
        for upload in of_ann + of_ben:
            assert upload is given_up or await finish(upload) == 204


async def test_slow_uploads_are_driven_out_by_their_own_client_only(
    serve_memory: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by one that holds more than theirs."""
    monkeypatch.setattr("unbroken.server.bodies._SPAN_S", 0.1)
    async with uploads(serve_memory, tmp_path) as clients:
        of_ann, of_ben = await clients.hold("ann", 3), await clients.hold("ben", 1)
        await asyncio.sleep(0.2)  # so long that they are slow
        assert await clients.whole("ann") == (204, "")
        _, answer = await told(of_ann)
        assert answer == (408, "request-timeout")
        assert [await finish(upload) for upload in of_ben] == [204]


async def test_client_alone_does_not_drive_out_itself(serve_memory: Serve, tmp_path: Path) -> None:
    """What arrives well goes on; what comes is refused."""
    async with uploads(serve_memory, tmp_path) as clients:
        held = await clients.hold("ann", 4)
        assert await clients.whole("ann") == (503, "overloaded")
        assert [await finish(upload) for upload in held] == [204] * 4


@pytest.mark.parametrize("fields", [{}, {"x-forwarded-proto": "ws"}], ids=["past ASGI", "through ASGI"])
async def test_small_bodies_get_through(serve_memory: Serve, tmp_path: Path, fields: dict[str, str]) -> None:
    """Whoever sends them, and whoever holds how much."""
    async with uploads(serve_memory, tmp_path) as clients:
        held = await clients.hold("ann", 4)
        for method in ("POST", "PUT"):
            path = "/a" if method == "POST" else "/b"
            response = await clients.site.request(
                method, path, {**TEXT, **clients.fields("ann"), **fields}, b"y" * HELD_BYTES
            )
            assert response.status in (201, 204)
        assert [await finish(upload) for upload in held] == [204] * 4


async def test_small_bodies_that_do_not_end_get_no_more_than_others(serve_memory: Serve, tmp_path: Path) -> None:
    async with uploads(serve_memory, tmp_path) as clients:
        await clients.hold("ann", 4)
        upload = await clients.begin("ann")
        assert problem_code(await upload.read_response()) == (503, "overloaded")


class Upload(Request):
    """A body without a length, whose parts come when the test says so."""

    def __init__(self) -> None:
        super().__init__("POST", b"/a", ("",), b"", "http", {})
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()

    @property
    def client(self) -> str:
        return "192.0.2.1"

    async def next_part(self) -> bytes | None:
        return await self.parts.get()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        pass


async def test_body_that_makes_way_in_its_last_moment_is_not_taken_for_whole() -> None:
    reader = BodyReader(Settings(max_body=1000, max_bodies_size=2000), no_wait)
    upload = Upload()
    reading = asyncio.create_task(reader.read(upload))
    upload.parts.put_nowait(b"x" * 1000)
    await until(lambda: reader.in_flight_bytes == 1000)
    (body,) = reader._arriving
    body.give_up(asyncio.get_running_loop().time())
    upload.parts.put_nowait(None)
    with pytest.raises(Overloaded):
        await reading
    assert reader.in_flight_bytes == 0


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str, place: str) -> None:
    assert place_of(address) == place


async def no_wait() -> None:
    """Nobody is there to give way to."""


@pytest.mark.parametrize("part_bytes", [4096, 65_536, 1_000_000])
async def test_large_bodies_give_way_as_they_come(part_bytes: int) -> None:
    body_bytes = 8_000_000
    upload = Upload()
    for at in range(0, body_bytes, part_bytes):
        upload.parts.put_nowait(bytes([at % 251]) * min(part_bytes, body_bytes - at))
    upload.parts.put_nowait(None)
    left: list[int] = []

    async def give_way() -> None:
        left.append(upload.parts.qsize())

    reader = BodyReader(Settings(), give_way)
    with await reader.read(upload) as data:
        assert data == b"".join(bytes([at % 251]) * part_bytes for at in range(0, body_bytes, part_bytes))[:body_bytes]
    assert reader.in_flight_bytes == 0
    taken = [before - after for before, after in itertools.pairwise(left)]
    assert max(taken) * part_bytes <= max(part_bytes, 128 * 1024), "no more at a time"
    assert body_bytes - (left[0] - 1) * part_bytes >= 1024**2 - part_bytes, "a small one has no need to"


async def test_giving_way_is_not_the_silence_of_a_client() -> None:
    """Those who go first may have to wait long for the disk."""
    idle_s = 0.05

    async def give_way() -> None:
        await asyncio.sleep(2 * idle_s)

    upload = Upload()
    for part in (bytes(2 * 1024 * 1024), None):
        upload.parts.put_nowait(part)
    with await BodyReader(Settings(body_timeout=idle_s), give_way).read(upload) as data:
        assert len(data) == 2 * 1024 * 1024


async def test_small_bodies_do_not_give_way() -> None:
    async def give_way() -> None:
        raise AssertionError

    upload = Upload()
    for part in (b"x" * 1024 * 1023, b"y", None):
        upload.parts.put_nowait(part)
    with await BodyReader(Settings(), give_way).read(upload) as data:
        assert len(data) == 1024 * 1023 + 1


@pytest.mark.parametrize("body_bytes", [3, 70_000, 1_048_577, 1_100_000, 4_194_305, 5_000_000])
async def test_bodies_of_any_size_come_whole(body_bytes: int) -> None:
    sent = random.Random(body_bytes).randbytes(body_bytes)
    upload = Upload()
    for at in range(0, body_bytes, 60_000):
        upload.parts.put_nowait(sent[at : at + 60_000])
    upload.parts.put_nowait(None)
    with await BodyReader(Settings(), no_wait).read(upload) as data:
        assert data == sent
