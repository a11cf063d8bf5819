"""Clients of a server that is killed again and again. Each knows what it was promised, and checks it afterwards.

A party acts (`act`) until its connection is lost, and looks (`look`) when the server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from tests.crash.payloads import Payload, make_payload, parse_payloads
from tests.crash.serving import TEXT, Lost, dialled, read_all, send
from unbroken.protocol.sse import EventDecoder
from unbroken.testing import Address, RawConnection, RawResponse

__all__ = ["Party", "PlainWriters", "ProducerWriter", "Reader", "Soloist"]

SHARED = "/shared"


class Party(Protocol):
    """One who acts, and looks."""

    async def act(self, address: Address, promised: Callable[[], None]) -> None:
        """Go on until the server is gone; call ``promised`` whenever it has acknowledged something."""
        ...

    async def look(self, connection: RawConnection) -> None:
        """Check that all promises are kept."""
        ...


def position_of(offset: str) -> int:
    return int(offset.partition("_")[2])


# --- plain appends -------------------------------------------------------------------------------------------------


class PlainWriters:
    """Several writers that append to one stream, each body once, and never repeat one whose answer was lost."""

    def __init__(self, chance: Random, writers: int) -> None:
        self._chance = chance
        self._writers = writers
        self._tried: set[tuple[str, int]] = set()
        self._ends: dict[tuple[str, int], str] = {}
        self._counts = [0] * writers
        self.data = b""

    async def act(self, address: Address, promised: Callable[[], None]) -> None:
        async with dialled(address) as connection:
            created = await send(connection, "PUT", SHARED, TEXT)
            assert created.status in (200, 201)
        async with asyncio.TaskGroup() as writers:
            for writer in range(self._writers):
                writers.create_task(self._write(address, writer, promised))

    async def _write(self, address: Address, writer: int, promised: Callable[[], None]) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                while True:
                    self._counts[writer] += 1
                    key = (f"plain-{writer}", self._counts[writer])
                    self._tried.add(key)
                    response = await send(connection, "POST", SHARED, TEXT, make_payload(self._chance, *key))
                    assert response.status == 204, response
                    self._ends[key] = response["stream-next-offset"]
                    promised()

    async def look(self, connection: RawConnection) -> None:
        if not self._tried:
            return
        before, self.data = self.data, await read_all(connection, SHARED)
        assert self.data.startswith(before), "bytes that were read before a crash have changed"
        found = parse_payloads(self.data)
        keys = [(payload.writer, payload.serial) for payload in found]
        assert len(keys) == len(set(keys)), "something is there twice"
        assert set(keys) <= self._tried, "something is there that nobody sent"
        assert self._ends.keys() <= set(keys), f"lost although acknowledged: {self._ends.keys() - set(keys)}"
        for writer in range(self._writers):
            counts = [count for name, count in keys if name == f"plain-{writer}"]
            assert counts == sorted(counts), "a writer's bodies changed places"
        await self._look_at_offsets(connection, {(payload.writer, payload.serial): payload for payload in found})

    async def _look_at_offsets(self, connection: RawConnection, found: dict[tuple[str, int], Payload]) -> None:
        for key, offset in self._ends.items():
            assert found[key].end == position_of(offset)
        for key in self._chance.sample(sorted(self._ends), min(3, len(self._ends))):
            assert await read_all(connection, SHARED, self._ends[key]) == self.data[found[key].end :]


class Reader:
    """Follows the shared stream, by SSE or long-poll. What it has seen must never go away."""

    def __init__(self, writers: PlainWriters, live: str) -> None:
        self._writers = writers
        self._live = live
        self._offset = "-1"
        self._start = 0
        self._seen = b""

    async def act(self, address: Address, promised: Callable[[], None]) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                await send(connection, "PUT", SHARED, TEXT)
                if self._live == "sse":
                    await self._follow(connection)
                else:
                    await self._poll(connection)

    async def _poll(self, connection: RawConnection) -> None:
        while True:
            page = await send(connection, "GET", f"{SHARED}?offset={self._offset}&live=long-poll")
            assert page.status in (200, 204), page
            self._seen += page.body
            self._offset = page["stream-next-offset"]

    async def _follow(self, connection: RawConnection) -> None:
        request = f"GET {SHARED}?offset={self._offset}&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n"
        await connection.send(request.encode())
        assert (await connection.read_head()).status == 200
        decoder = EventDecoder()
        text = ""
        while part := await connection.read_part():
            for event in decoder.feed(part):
                if event.type == "data":
                    text = event.data
                else:  # it says where the data before it ends
                    self._seen += text.encode()
                    self._offset = json.loads(event.data)["streamNextOffset"]
                    text = ""

    async def look(self, connection: RawConnection) -> None:
        if self._offset == "-1":
            return
        data = await read_all(connection, SHARED)
        assert data.startswith(self._seen), "a live reader has seen bytes that are gone"
        assert position_of(self._offset) == len(self._seen)
        assert await read_all(connection, SHARED, self._offset) == data[len(self._seen) :]


# --- idempotent producers --------------------------------------------------------------------------------------------


class ProducerWriter:
    """Sends each body until it is acknowledged, over as many lives of the server as it takes. Every so many it closes
    the stream with one, and goes on with the next.
    """

    def __init__(self, chance: Random, name: str) -> None:
        self._chance = chance
        self._name = name
        self._streams = 0
        self._epoch = 0
        self._seq = 0
        self._pending: tuple[bytes, bool] | None = None
        self._sent: list[bytes] = []
        self._closed: dict[str, bytes] = {}

    @property
    def _path(self) -> str:
        return f"/{self._name}/{self._streams}"

    async def act(self, address: Address, promised: Callable[[], None]) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                await self._create(connection)
                while True:
                    if self._pending is None:
                        closes = len(self._sent) >= 12
                        self._pending = (make_payload(self._chance, self._name, len(self._sent)), closes)
                    await self._deliver(connection, *self._pending)
                    promised()

    async def _create(self, connection: RawConnection) -> None:
        response = await send(connection, "PUT", self._path, TEXT)
        # Once it is closed, a confirmation is refused: its closing append was not acknowledged yet.
        assert response.status in (200, 201) or (response.status == 409 and self._pending is not None), response

    async def _deliver(self, connection: RawConnection, body: bytes, closes: bool) -> None:
        fields = {
            **TEXT,
            "producer-id": self._name,
            "producer-epoch": str(self._epoch),
            "producer-seq": str(self._seq),
        }
        if closes:
            fields["stream-closed"] = "true"
        response = await send(connection, "POST", self._path, fields, body)
        assert response.status in (200, 204), f"neither new nor a duplicate: {response}"
        assert response["producer-seq"] == str(self._seq)
        assert response.get("stream-closed") == ("true" if closes else None)
        self._pending = None
        self._sent.append(body)
        self._seq += 1
        if closes:
            self._closed[self._path] = b"".join(self._sent)
            self._streams += 1
            self._sent, self._seq = [], 0
            await self._create(connection)
        elif self._chance.random() < 0.1:
            self._epoch, self._seq = self._epoch + 1, 0

    async def look(self, connection: RawConnection) -> None:
        for path, expected in self._closed.items():
            assert await read_all(connection, path) == expected
            assert (await send(connection, "HEAD", path)).get("stream-closed") == "true"
            assert (await send(connection, "POST", path, TEXT, b"more")).status == 409
        if (await send(connection, "HEAD", self._path)).status == 404:
            assert not self._sent
            return
        data = await read_all(connection, self._path)
        parse_payloads(data)
        acknowledged = b"".join(self._sent)
        tried = b"" if self._pending is None else self._pending[0]
        assert data in (acknowledged, acknowledged + tried)


# --- everything else that can happen to a stream -------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A stream as its only writer knows it.

    Args:
        data: all of it, what it inherited included.
        closed: for ever.
        source: path of the stream it was forked from.
        gone: deleted, and kept for its forks.
    """

    data: bytes
    closed: bool = False
    source: str | None = None
    gone: bool = False


World = dict[str, Stream]


class Soloist:
    """Creates, appends, closes, forks and deletes streams that nobody else touches, one request at a time. So after a
    crash the world is as it was before the last request, or as after it.
    """

    def __init__(self, chance: Random, name: str) -> None:
        self._chance = chance
        self._paths = [f"/{name}/{index}" for index in range(6)]
        self._worlds: list[World] = [{}]
        self._count = 0
        self._old_offsets: dict[str, str] = {}

    async def act(self, address: Address, promised: Callable[[], None]) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                while True:
                    await self._step(connection)
                    promised()

    async def _step(self, connection: RawConnection) -> None:
        (world,) = self._worlds
        path = self._chance.choice(self._paths)
        stream = world.get(path)
        self._count += 1
        body = make_payload(self._chance, "solo", self._count)
        if stream is None:
            await self._begin(connection, world, path, body)
        elif stream.gone:
            await self._refused(connection, path, stream)
        elif self._chance.random() < 0.3:
            await self._delete(connection, world, path)
        elif stream.closed:
            response = await send(connection, "POST", path, TEXT, body)
            assert (response.status, response.get("stream-closed")) == (409, "true")
        else:
            await self._append(connection, world, path, body)

    async def _try(self, connection: RawConnection, after: World, method: str, path: str, *rest: object) -> RawResponse:
        """Send a request that makes the world another one."""
        self._worlds.append(after)
        response = await send(connection, method, path, *rest)  # type: ignore[arg-type]
        self._worlds = [after]
        return response

    async def _begin(self, connection: RawConnection, world: World, path: str, body: bytes) -> None:
        sources = [source for source, stream in world.items() if not stream.gone]
        if sources and self._chance.random() < 0.6:
            source = self._chance.choice(sources)
            payloads = parse_payloads(world[source].data)
            point = self._chance.choice([0, *(payload.end for payload in payloads)])
            fields = {"stream-forked-from": source, "stream-fork-offset": "-1", "stream-fork-sub-offset": str(point)}
            stream = Stream(world[source].data[:point] + body, source=source)
        else:
            fields, stream = TEXT, Stream(body)
        response = await self._try(connection, {**world, path: stream}, "PUT", path, fields, body)
        assert response.status == 201, response
        if old := self._old_offsets.pop(path, None):
            assert (await send(connection, "GET", f"{path}?offset={old}")).status == 410
        if position_of(response["stream-next-offset"]) > 0:
            self._old_offsets[path] = response["stream-next-offset"]

    async def _refused(self, connection: RawConnection, path: str, stream: Stream) -> None:
        """Nothing can be done to a stream that is kept for its forks; nor does a refusal change anything."""
        assert (await send(connection, "PUT", path, TEXT, b"")).status == 409
        refused = await send(connection, "PUT", f"{path}-fork", {"stream-forked-from": path}, b"")
        assert refused.status == 409

    async def _append(self, connection: RawConnection, world: World, path: str, body: bytes) -> None:
        closes = self._chance.random() < 0.15
        stream = world[path]
        after = {**world, path: replace(stream, data=stream.data + body, closed=closes)}
        fields = {**TEXT, "stream-closed": "true"} if closes else TEXT
        response = await self._try(connection, after, "POST", path, fields, body)
        assert response.status == 204, response

    async def _delete(self, connection: RawConnection, world: World, path: str) -> None:
        response = await self._try(connection, without(world, path), "DELETE", path)
        assert response.status == 204, response
        (world,) = self._worlds
        # What a deleted fork held of its source is released right behind it.
        for other in self._paths:
            if other not in world and (await send(connection, "HEAD", other)).status != 404:
                await vanished(connection, other)

    async def look(self, connection: RawConnection) -> None:
        found: World = {}
        for path in self._paths:
            status = (await send(connection, "HEAD", path)).status
            if status == 200:
                head = await send(connection, "HEAD", path)
                found[path] = Stream(await read_all(connection, path), head.get("stream-closed") == "true")
            elif status == 410 and any(path in world for world in self._worlds):
                found[path] = Stream(b"", gone=True)
            elif status != 404:
                await vanished(connection, path)
        matching = [world for world in self._worlds if seen(world) == seen(found)]
        assert matching, f"found {summary(found)}, expected one of {[summary(world) for world in self._worlds]}"
        self._worlds = matching[-1:]


def without(world: World, path: str) -> World:
    """The world after a stream was deleted."""
    after = {name: stream for name, stream in world.items() if name != path}
    if any(stream.source == path for stream in after.values()):
        after[path] = replace(world[path], gone=True)
        return after
    source = world[path].source
    if source is not None and after[source].gone:
        return without(after, source)
    return after


def seen(world: World) -> dict[str, tuple[bytes, bool] | None]:
    """What a client can see of a world."""
    return {path: None if stream.gone else (stream.data, stream.closed) for path, stream in sorted(world.items())}


def summary(world: World) -> dict[str, object]:
    return {path: None if look is None else (len(look[0]), look[1]) for path, look in seen(world).items()}


async def vanished(connection: RawConnection, path: str) -> None:
    """Wait for a stream that nothing holds any more to go, which happens in the background."""
    async with asyncio.timeout(10):
        while (await send(connection, "HEAD", path)).status != 404:  # noqa: ASYNC110 (nothing tells us)
            await asyncio.sleep(0.01)
