"""The server, sent near misses of HTTP: it answers or hangs up, never fails, never hangs, and keeps what it was given.

Each connection gets a few requests, mutated, in random packets, and is then watched until the server has closed it.
Meanwhile somebody else appends, and finds everything again. Find more, or again what failed:

    UNBROKEN_FUZZ_SEED=7 pytest tests/fuzz/test_http.py
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutator import FIRST_SEED, Mutator, cut
from tests.server.process import ServerProcess, server_process
from unbroken.store.sqlite.check import check
from unbroken.testing import connect, encode_chunk, encode_request

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
CONNECTIONS = 5_000
CONNECTIONS_IN_FULL = 25_000
AT_ONCE = 40
FLAGS = (
    *("--head-timeout", "0.3", "--idle-timeout", "0.3", "--body-timeout", "0.3", "--upload-timeout", "1"),
    *("--long-poll-timeout", "0.2", "--sse-lifetime", "0.4", "--sse-heartbeat", "0.1"),
    *("--page-size", "4KiB", "--max-body", "64KiB"),
)
HANG_S = 20.0
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")

PRODUCER = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
CHUNKED = {**TEXT, "transfer-encoding": "chunked"}
CORPUS = [
    encode_request("PUT", "/a", TEXT, b"hello"),
    encode_request("PUT", "/j", JSON, b"[1,2]"),
    encode_request("PUT", "/t", {**TEXT, "stream-ttl": "60", "stream-closed": "true"}, b"x"),
    encode_request("PUT", "/e", {**TEXT, "stream-expires-at": "2099-01-01T00:00:00Z"}),
    encode_request(
        "PUT", "/f", {"stream-forked-from": "/a", "stream-fork-offset": "-1", "stream-fork-sub-offset": "1"}
    ),
    encode_request("PUT", "/c", CHUNKED) + encode_chunk(b"hello") + encode_chunk(b" world") + encode_chunk(b""),
    encode_request("POST", "/a", TEXT, b"more"),
    encode_request("POST", "/a", {**TEXT, **PRODUCER, "stream-seq": "5"}, b"more"),
    encode_request("POST", "/j", JSON, b'{"n":[1,{"s":"\\u00e9"}]}'),
    encode_request("POST", "/a", {**TEXT, "expect": "100-continue"}, b"more"),
    encode_request("POST", "/c", CHUNKED) + b"5;x=y\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n",
    encode_request("POST", "/c", {"stream-closed": "true"}, b""),
    encode_request("GET", "/a"),
    encode_request("GET", "/a?offset=-1", {"if-none-match": '"x", *'}),
    encode_request("GET", "/a?offset=0000000000000001_0000000000000002&live=long-poll&cursor=5&timeout=0.1"),
    encode_request("GET", "/a?offset=-1&live=sse", {"last-event-id": "0000000000000001_0000000000000002"}),
    encode_request("GET", "/j?since=2026-01-01T00:00:00Z"),
    encode_request("GET", "/a?before=now&limit=10"),
    encode_request(
        "GET", "/a", {"connection": "upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQ"}
    ),
    encode_request("HEAD", "/a"),
    encode_request("OPTIONS", "/a", {"origin": "http://localhost", "access-control-request-method": "POST"}),
    encode_request("DELETE", "/f"),
    encode_request("DELETE", "/a"),
    encode_request("GET", "/-/streams?prefix=/&after=/a&limit=2"),
    encode_request("DELETE", "/-/streams?prefix=/j"),
    encode_request("GET", "/-/metrics"),
    encode_request("GET", "/-/health"),
    encode_request("GET", "http://localhost/a"),
    b"GET /a HTTP/1.0\r\n\r\n",
]
WORDS = [
    word.replace(b"~", b"\r\n")
    for line in (
        b"~~|~|0~~|5~hello~|fffffffffffffffff~|-1~|0x5~|;ext~|Transfer-Encoding: chunked~|Transfer-Encoding : chunked~",
        b"Transfer-Encoding: gzip, chunked~|Content-Length: 5~|Content-Length: 0~|Content-Length: +5~| folded~|Host:~",
        b"Content-Length: 99999999999999999999~|Expect: 100-continue~|Connection: close~|Connection: upgrade~|PRI * ",
        b"Upgrade: websocket~|Host: evil.example~|Stream-Closed: true~|X-Forwarded-Proto: https~|Range: bytes=0-1~",
        b" HTTP/1.1| HTTP/1.0| HTTP/2.0| HTTP/0.9|GET |POST |PATCH |CONNECT |TRACE |/-/|/__ds/|%2e%2e|*|?offset=",
        b"&live=sse|&live=long-poll|_0000000000000000|text/plain|Authorization: Bearer x~|X-Request-Id: a~",
    )
    for word in line.split(b"|")
]


class Fuzzing:
    """Some connections, and what came of them."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.answers: Counter[int] = Counter()
        self._address = server.address
        self._seed = seed
        self._failures: list[str] = []

    async def run(self, count: int) -> None:
        numbers = iter(range(self._seed * 1_000_000, self._seed * 1_000_000 + count))

        async def work() -> None:
            for number in numbers:
                await self._try(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        assert not self._failures, "\n".join(self._failures[:5])

    async def _try(self, number: int) -> None:
        chance = Random(number)
        mutator = Mutator(chance, CORPUS, WORDS)
        requests = b"".join(mutator.next() for _ in range(chance.choice((1, 1, 2, 3, 6))))
        came = b""
        try:
            async with connect(*self._address, timeout_s=HANG_S) as connection:
                with contextlib.suppress(ConnectionError):
                    for piece in cut(chance, requests[:200_000]):
                        await connection.send(piece)
                        if chance.random() < 0.2:
                            await asyncio.sleep(0)
                if chance.random() < 0.1:
                    with contextlib.suppress(OSError):  # the server was first
                        connection.abort()
                    return
                with contextlib.suppress(ConnectionError):
                    came = await connection.read_eof()
        except TimeoutError:
            self._failures.append(f"number {number}: a connection hangs after {requests!r}")
        for status in STATUS.findall(came):
            self.answers[int(status)] += 1
            if int(status) >= 500:
                self._failures.append(f"number {number}: {status.decode()} to {requests!r}")


class Bystander:
    """Appends small numbers, each on a connection of its own."""

    def __init__(self, server: ServerProcess) -> None:
        self._address = server.address
        self._count = 0
        self.done = asyncio.Event()

    async def run(self) -> None:
        while not self.done.is_set():
            status = await self._append()
            if status == 404:  # one of the others may have asked to delete everything
                async with connect(*self._address, timeout_s=HANG_S) as connection:
                    assert (await connection.request("PUT", "/safe/bystander", JSON)).status == 201
                self._count = 0
            else:
                assert status == 204
                self._count += 1

    async def _append(self) -> int:
        async with connect(*self._address, timeout_s=HANG_S) as connection:
            return (await connection.request("POST", "/safe/bystander", JSON, b"%d" % self._count)).status

    async def check(self) -> None:
        """What was acknowledged is there, once and in order."""
        found: list[int] = []
        offset, up_to_date = "-1", None
        async with connect(*self._address) as connection:
            while up_to_date is None:
                page = await connection.request("GET", f"/safe/bystander?offset={offset}")
                found += page.json()
                offset, up_to_date = page["stream-next-offset"], page.get("stream-up-to-date")
        assert found == list(range(self._count))


async def fuzz(tmp_path: Path, count: int) -> Counter[int]:
    async with server_process(tmp_path, *FLAGS) as server:
        bystander, fuzzing = Bystander(server), Fuzzing(server, FIRST_SEED)
        async with asyncio.TaskGroup() as group:
            group.create_task(bystander.run())
            await fuzzing.run(count)
            bystander.done.set()
        await bystander.check()
        assert server.open_files < 100
        server.send_signal(signal.SIGTERM)
        code, log = await server.wait()
    assert code == 0
    assert "Traceback" not in log, log
    assert " ERROR " not in log, log
    assert check(tmp_path / "data") == []
    return fuzzing.answers


@pytest.mark.timeout(300)
async def test_near_misses_of_http(tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    answers = await fuzz(tmp_path, CONNECTIONS)
    assert answers[200] > 50, "near misses are sometimes hits"
    assert answers[400] > 50
    report_fact(f"HTTP fuzzing: {CONNECTIONS} connections, {sum(answers.values())} answers, {len(answers)} statuses")


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_many_near_misses_of_http(tmp_path: Path) -> None:
    await fuzz(tmp_path, CONNECTIONS_IN_FULL)
