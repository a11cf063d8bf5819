"""``unbroken bench``: what a server of the protocol can do from here."""

from __future__ import annotations

import asyncio
import base64
import itertools
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from unbroken.cli.load import BenchFailed, Connection, Site
from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Token, run
from unbroken.cli.terminal import Progress, print_json

__all__ = ["bench"]

_PAGES_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 512 * 1024
_READERS = 4


class _Figures(msgspec.Struct, omit_defaults=True):
    """What one measurement found.

    Args:
        name: what was measured.
        operations: how many were done.
        seconds: in how long.
        per_second: operations, or MiB.
        unit: of ``per_second``.
        p50_ms, p99_ms, longest_ms: how long one took.
        client_busy: share of the time that this program computed, 0 to 1. Near 1 it was the limit, not the server.
    """

    name: str
    operations: int
    seconds: float
    per_second: float
    unit: str
    p50_ms: float
    p99_ms: float
    longest_ms: float
    client_busy: float


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", envvar="UNBROKEN_URL", help="A server of the protocol.")] = (
        DEFAULT_URL
    ),
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long each measurement takes.")] = 3.0,
    size: Annotated[int, typer.Option(min=16, max=1024 * 1024, help="Bytes of an append.")] = 256,
    connections: Annotated[int, typer.Option("--connections", "-c", min=1, max=1000, help="Writers at once.")] = 64,
    streams: Annotated[int, typer.Option(min=1, max=100_000, help="Streams that they write to.")] = 100,
    followers: Annotated[int, typer.Option(min=1, max=1000, help="Live readers of one stream.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON for each measurement.")] = False,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Measure a server: latency and throughput of appends, catch-up reads, and live fan-out.

    Works with every server of the protocol. Makes streams below /bench-..., and deletes them in the end. A URL
    with a path is where the streams are: http://127.0.0.1:4437/v1/stream.

    Exit codes: 0 measured, 1 the server did something else than asked, 2 not understood, 3 it cannot be reached,
    130 interrupted.
    """
    remote = Remote.of(url, token, header)
    named = {**remote.headers, **({"authorization": f"Bearer {remote.token}"} if remote.token else {})}
    site = Site(
        urlsplit(remote.url), "".join(f"{name}: {value}\r\n" for name, value in named.items()).encode("latin-1")
    )
    plan = _Plan(site, f"/bench-{base64.b32encode(os.urandom(5)).decode().lower()}", seconds, size)

    async def work() -> None:
        found: list[_Figures] = []
        with Progress() as progress:
            async for figures in _measure(plan, connections, streams, followers, progress):
                found.append(figures)
                if json:
                    print_json(figures)
        if not json:
            _show(remote.url, found)

    run(work)


def _show(url: str, found: Sequence[_Figures]) -> None:
    table = Table(title=url, title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("rate", "p50 ms", "p99 ms", "max ms", "client"):
        table.add_column(column, justify="right", no_wrap=True)
    for figures in found:
        table.add_row(
            figures.name,
            f"{figures.per_second:,.0f} {figures.unit}",
            f"{figures.p50_ms:.2f}",
            f"{figures.p99_ms:.2f}",
            f"{figures.longest_ms:.2f}",
            f"{figures.client_busy:.0%}",
        )
    Console().print(table)


class _Plan(NamedTuple):
    """What is measured, and where.

    Args:
        site: the server.
        root: path below which the streams are.
        seconds: how long.
        size_bytes: of an append.
    """

    site: Site
    root: str
    seconds: float
    size_bytes: int

    def append(self, path: str, body: bytes | None = None) -> bytes:
        """A request that appends."""
        body = b"x" * self.size_bytes if body is None else body
        return self.site.request("POST", path, body, content_type="application/octet-stream")


class _Stopwatch:
    """Times operations, and what this program computed meanwhile."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin now."""
        self._took_s: list[float] = []
        self._begun, self._computed = time.perf_counter(), time.process_time()

    def add(self, took_s: float) -> None:
        """One more operation."""
        self._took_s.append(took_s)

    def figures(self, name: str, unit: str, amount: float | None = None) -> _Figures:
        """Sum up.

        Args:
            name: what was measured.
            unit: of the rate.
            amount: what to divide by the time; by default the number of operations.
        """
        seconds = time.perf_counter() - self._begun
        took = sorted(self._took_s) or [0.0]
        return _Figures(
            name=name,
            operations=len(self._took_s),
            seconds=round(seconds, 3),
            per_second=round((len(self._took_s) if amount is None else amount) / seconds, 1),
            unit=unit,
            p50_ms=_rank(took, 0.5),
            p99_ms=_rank(took, 0.99),
            longest_ms=_rank(took, 1.0),
            client_busy=round((time.process_time() - self._computed) / seconds, 2),
        )


def _rank(ordered: Sequence[float], share: float) -> float:
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 3)


async def _measure(
    plan: _Plan, connections: int, streams: int, followers: int, progress: Progress
) -> AsyncIterator[_Figures]:
    """One measurement after the other."""
    paths = [f"{plan.root}-{number}" for number in range(streams)]
    try:
        async with _connected(plan.site, min(connections, 16)) as several:
            progress("creating streams")
            await _each(several, (plan.site.request("PUT", path) for path in paths), 201)
        progress("appends, one connection")
        yield await _appends(plan, "appends, 1 connection", paths[:1], 1)
        progress(f"appends, {connections} connections")
        yield await _appends(plan, f"appends, {connections} over {streams} streams", paths, connections)
        progress("catch-up reads")
        yield await _catch_up(plan, f"{plan.root}-pages")
        progress(f"{followers} live readers")
        yield await _fan_out(plan, f"{plan.root}-live", followers)
    finally:
        progress("deleting streams")
        async with _connected(plan.site, min(connections, 16)) as several:
            every = (*paths, f"{plan.root}-pages", f"{plan.root}-live")
            await _each(several, (plan.site.request("DELETE", path) for path in every), 204, 404)


@asynccontextmanager
async def _connected(site: Site, count: int) -> AsyncIterator[list[Connection]]:
    several: list[Connection] = []
    try:
        several += [await site.connect() for _ in range(count)]
        yield several
    finally:
        for connection in several:
            connection.close()


async def _each(several: list[Connection], requests: Iterable[bytes], *expected: int) -> None:
    """Send requests, over all connections together."""
    pending = iter(requests)

    async def work(connection: Connection) -> None:
        for request in pending:
            await connection.ask(request, *expected)

    await _together(work(connection) for connection in several)


async def _together(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all; the first failure ends them and is raised by itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* (BenchFailed, OSError) as failures:
        raise failures.exceptions[0] from None


async def _appends(plan: _Plan, name: str, paths: Sequence[str], connections: int) -> _Figures:
    """Every connection appends as fast as it is answered, to one stream after the other."""
    requests = itertools.cycle([plan.append(path) for path in paths])
    async with _connected(plan.site, connections) as several:
        watch = _Stopwatch()
        end = time.perf_counter() + plan.seconds

        async def work(connection: Connection) -> None:
            while (before := time.perf_counter()) < end:
                await connection.ask(next(requests), 200, 204)
                watch.add(time.perf_counter() - before)

        await _together(work(connection) for connection in several)
        return watch.figures(name, "/s")


async def _catch_up(plan: _Plan, path: str) -> _Figures:
    """A few readers read a stream from the beginning, page by page, again and again."""
    pieces = [plan.append(path, os.urandom(_PIECE_BYTES)) for _ in range(_PAGES_BYTES // _PIECE_BYTES)]
    async with _connected(plan.site, _READERS) as several:
        await several[0].ask(plan.site.request("PUT", path), 201)
        for piece in pieces:
            await several[0].ask(piece, 200, 204)
        watch, read_bytes = _Stopwatch(), 0
        end = time.perf_counter() + plan.seconds

        async def work(connection: Connection) -> None:
            nonlocal read_bytes
            offset = "-1"
            while (before := time.perf_counter()) < end:
                answer = await connection.ask(plan.site.request("GET", f"{path}?offset={offset}"), 200)
                watch.add(time.perf_counter() - before)
                read_bytes += len(answer.body)
                whole = b"stream-up-to-date" in answer.headers
                offset = "-1" if whole else answer.headers[b"stream-next-offset"].decode("latin-1")

        await _together(work(connection) for connection in several)
        return watch.figures(f"catch-up, {_READERS} connections", "MiB/s", read_bytes / 2**20)


class _Listener:
    """A live reader that recognises numbered messages."""

    _NUMBER = re.compile(rb"<(\d{8})>")

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard
        self._rest = b""
        self.ready = asyncio.Event()

    def take(self, part: bytes) -> None:
        """Some of the event stream came."""
        self.ready.set()
        data = self._rest + part
        end = 0
        for found in self._NUMBER.finditer(data):
            self._heard(int(found[1]))
            end = found.end()
        self._rest = data[max(end, len(data) - 9) :]


async def _fan_out(plan: _Plan, path: str, followers: int) -> _Figures:
    """One writer; the next message is sent when every reader has the last one."""
    async with _connected(plan.site, followers + 1) as (writer, *readers):
        await writer.ask(plan.site.request("PUT", path, content_type="text/plain"), 201)
        watch = _Stopwatch()
        missing, sent_s, all_heard = 0, 0.0, asyncio.Event()

        def heard(_: int) -> None:
            nonlocal missing
            missing -= 1
            watch.add(time.perf_counter() - sent_s)
            if not missing:
                all_heard.set()

        listeners = [_Listener(heard) for _ in readers]
        for reader, listener in zip(readers, listeners, strict=True):
            reader.listen(plan.site.request("GET", f"{path}?offset=now&live=sse"), listener.take)
        async with asyncio.timeout(30):
            for listener in listeners:
                await listener.ready.wait()
        watch.restart()
        end = time.perf_counter() + plan.seconds
        for number in itertools.count():
            if time.perf_counter() >= end:
                break
            missing, sent_s = followers, time.perf_counter()
            all_heard.clear()
            body = b"<%08d>" % number + b"x" * (plan.size_bytes - 10)
            await writer.ask(plan.site.request("POST", path, body, content_type="text/plain"), 200, 204)
            async with asyncio.timeout(30):
                await all_heard.wait()
        return watch.figures(f"deliveries to {followers} live readers", "/s")
