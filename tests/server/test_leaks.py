"""Clients that go away, at every stage of every kind of request: nothing is left of them, and nothing is half done.

What a server counts comes back to zero, each of the bodies that they began is there once or not at all, and whoever
tries again is told so.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.server.process import ServerProcess, server_process
from tests.server.site import JSON, TEXT, producer
from tests.server.tokens import SECRET, bearer, key_file
from unbroken import tokens
from unbroken.store.sqlite.check import check
from unbroken.testing import RawConnection, connect, encode_chunk, encode_request

NAMES = ("ann", "ben", "eve")
TOKENS = {name: tokens.mint(SECRET, admin="/**", subject=name) for name in NAMES}
LIMITS = (
    *("--max-body", "3MiB", "--max-bodies-size", "4MiB", "--max-stream-size", "20MiB", "--max-live-reads", "12"),
    *("--principal-live-reads", "5", "--principal-append-rate", "50"),
)
"""Each of them is met now and then."""
ZERO = ("live_reads", "bodies_bytes", "queued_writes", "waiting_readers", "untaken_bytes")
AT_A_TIME = 40
MEBIBYTE = 1024 * 1024


class Storm:
    """Requests whose clients go away somewhere in the middle.

    Args:
        server: what they go to.
        seed: of everything that is left to chance.
    """

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self.appends: dict[str, tuple[str, bytes]] = {}

    async def blow(self, count: int) -> None:
        """Make so many requests, some at a time."""
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                with suppress(ConnectionError, EOFError, TimeoutError):
                    await self._leave(self._request(number))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(client())

    async def _leave(self, request: bytes) -> None:
        """Send some of it, perhaps read some of the answer, and go."""
        chance = self._random
        async with connect(*self._server.address, read_ahead_bytes=1024, timeout_s=0.5) as connection:
            whole = chance.random() < 0.6
            cut = len(request) if whole else chance.randrange(len(request) + 1)
            at = chance.randrange(cut + 1)
            for part in (request[:at], request[at:cut]):
                await connection.send(part)
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            if whole and chance.random() < 0.7:
                await connection.read_head(head=request.startswith(b"HEAD"))
                for _ in range(chance.randrange(3)):
                    await connection.read_part()
            if chance.random() < 0.5:
                connection.abort()

    def _request(self, number: int) -> bytes:
        chance = self._random
        fields = bearer(TOKENS[chance.choice(NAMES)])
        kinds = (self._append, self._read, self._create, self._several, self._other)
        return chance.choice(kinds)(number, fields)

    def _append(self, number: int, fields: dict[str, str]) -> bytes:
        """By a producer of its own, so that it can be repeated later. A few are large enough to be stored in pieces."""
        size = self._random.choice((10, 10, 1000, 100_000, 2 * MEBIBYTE))
        body = b'{"n":%d,"x":"%b"}' % (number, b"x" * size)
        path = f"/json/{self._random.randrange(3)}"
        self.appends[f"p{number}"] = (path, body)
        fields |= {**JSON, **producer(f"p{number}", 0, 0)}
        if self._random.random() < 0.3:
            head = encode_request("POST", path, {**fields, "transfer-encoding": "chunked"})
            return head + encode_chunk(body[:9]) + encode_chunk(body[9:]) + encode_chunk(b"")
        if self._random.random() < 0.2:
            fields |= {"expect": "100-continue"}
        return encode_request("POST", path, fields, body)

    def _read(self, number: int, fields: dict[str, str]) -> bytes:
        query = self._random.choice(
            (
                *("", "?before=now", "?offset=now", "?since=2026-01-01T00:00:00Z", "?limit=1"),
                *("?offset=-1&live=sse", "?offset=now&live=sse", "?offset=-1&live=long-poll"),
                *("?offset=now&live=long-poll", "?offset=now&live=long-poll&timeout=0", "?offset=bad&live=sse"),
            )
        )
        path = self._random.choice(("/json/0", "/json/1", "/json/2", "/closed", "/missing"))
        if self._random.random() < 0.2:
            fields |= {"last-event-id": "now"}
        return encode_request("GET", path + query, fields)

    def _create(self, number: int, fields: dict[str, str]) -> bytes:
        if self._random.random() < 0.5:
            fields |= {"stream-forked-from": f"/json/{self._random.randrange(3)}"}
            return encode_request("PUT", f"/forks/{number}", {**fields, **JSON}, b"[1,2]")
        body = b"x" * self._random.choice((0, 100, 50_000, 4 * MEBIBYTE))
        return encode_request("PUT", f"/text/{number}", {**fields, **TEXT}, body)

    def _several(self, number: int, fields: dict[str, str]) -> bytes:
        """Sent ahead, one behind the other, a live read among them."""
        one = self._read(number, dict(fields))
        return one + self._append(number, dict(fields)) + self._read(number, dict(fields))

    def _other(self, number: int, fields: dict[str, str]) -> bytes:
        return self._random.choice(
            (
                encode_request("HEAD", "/json/0", fields),
                encode_request("DELETE", f"/forks/{self._random.randrange(number + 1)}", fields),
                encode_request("GET", "/-/streams", fields),
                encode_request("GET", "/-/metrics", fields),
                encode_request("OPTIONS", "/json/0"),
                encode_request("POST", "/json/0", JSON, b"[1]"),  # nobody
                encode_request("POST", "/json/0", {**fields, **JSON}, b"not JSON" * 10_000),
                encode_request("POST", "/closed", {**fields, **TEXT}, b"too late"),
                encode_request("GET", "/json/0", {**fields, "upgrade": "h2c", "connection": "upgrade"}),
                b"GARBAGE\r\n\r\n",
            )
        )


async def _measured(connection: RawConnection) -> dict[str, float]:
    response = await connection.request("GET", "/-/metrics", bearer(TOKENS["ann"]))
    lines = [line for line in response.body.decode().splitlines() if line.startswith("unbroken_") and "{" not in line]
    return {name.removeprefix("unbroken_"): float(value) for name, value in map(str.split, lines)}


async def _refusals(connection: RawConnection) -> set[str]:
    response = await connection.request("GET", "/-/metrics", bearer(TOKENS["ann"]))
    return set(re.findall(r'refusals_total{code="([a-z-]+)"}', response.body.decode()))


async def _calm(server: ServerProcess) -> None:
    """Wait until nothing is counted any more but whoever asks."""
    left: dict[str, float] = {}
    try:
        async with connect(*server.address) as connection, asyncio.timeout(30):
            while True:
                found = await _measured(connection)
                left = {name: found[name] for name in ZERO if found[name]}
                if not left and found["connections"] == 1:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"something is left: {left}, {found['connections']:.0f} connections") from None


async def _repeat(server: ServerProcess, appends: dict[str, tuple[str, bytes]]) -> list[bytes]:
    """Repeat every append until it is told what became of it; the bodies that are there."""
    taken: list[bytes] = []
    async with connect(*server.address, timeout_s=60) as connection:
        names = itertools.cycle(NAMES)
        for name, (path, body) in appends.items():
            while True:
                fields = {**bearer(TOKENS[next(names)]), **JSON, **producer(name, 0, 0)}
                response = await connection.request("POST", path, fields, body)
                if response.status != 429:
                    break
                await asyncio.sleep(0.05)
            if response.status != 413:
                assert response.status in (200, 204), response
                taken.append(body)
    return taken


async def _messages(server: ServerProcess) -> list[bytes]:
    """All that are there."""
    found: list[bytes] = []
    async with connect(*server.address, timeout_s=60) as connection:
        for number in range(3):
            offset: str | None = "-1"
            while offset is not None:
                page = await connection.request("GET", f"/json/{number}?offset={offset}", bearer(TOKENS["ann"]))
                found += page.body[1:-1].replace(b'"},{"', b'"}\n{"').splitlines()
                offset = None if page.get("stream-up-to-date") else page["stream-next-offset"]
    return found


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.full)])
async def test_nothing_is_left_of_clients_that_go_away(
    tmp_path: Path, report_fact: Callable[[str], None], count: int
) -> None:
    async with server_process(tmp_path, "--jwt-keys", key_file(tmp_path), *LIMITS) as server:
        async with connect(*server.address) as connection:
            fields = bearer(TOKENS["ann"])
            for number in range(3):
                await connection.request("PUT", f"/json/{number}", {**fields, **JSON})
            await connection.request("PUT", "/closed", {**fields, **TEXT, "stream-closed": "true"}, b"all")
        await _calm(server)
        files = server.open_files
        storm = Storm(server, seed=count)
        await storm.blow(count)
        await _calm(server)
        assert server.open_files <= files + 8, "threads that read have opened the database, and nothing else is new"
        async with AsyncExitStack() as stack:
            for name in NAMES:
                for _ in range(4):
                    reader = await stack.enter_async_context(connect(*server.address))
                    await reader.send(encode_request("GET", "/json/0?offset=now&live=sse", bearer(TOKENS[name])))
                    assert (await reader.read_head()).status == 200, "all live reads have been given back"
        await _calm(server)
        taken = await _repeat(server, storm.appends)
        assert len(taken) > count / 10
        assert sorted(await _messages(server)) == sorted(taken), "each once, and whole"
        async with connect(*server.address) as connection:
            refusals = await _refusals(connection)
    report_fact(f"{count} requests whose clients went away; refused meanwhile: {', '.join(sorted(refusals))}")
    assert refusals >= {"body-too-large", "invalid-body", "invalid-request", "stream-closed", "unauthorized"}
    assert check(tmp_path / "data") == []
