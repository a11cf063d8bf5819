"""Seeded runs: a client of ours on one side of a proxy, a server on the other, thousands of messages through everything
that a network does, and exactly what was sent arrives: once and in order.

The plan of faults, the messages and the appends are the same for a seed. When two things happen at once is up to the
machine, so runs of one seed differ in that; what arrives may not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.network import drivers
from tests.network.decks import Deck
from tests.network.feeds import Feed, Kind, Ledger
from tests.network.servers import ServerKind, Writer, read_all, running
from unbroken.testing import ServerProcess
from unbroken.testing.proxy import KINDS, FaultyProxy

__all__ = ["Act", "Run", "Scene", "append", "follow", "produce", "read", "write"]

RUN_S = 100.0
PATH = "/v1/stream/"
READS = 2
LAG_MAX = 300
"""Messages that a reader may be behind: the writer waits for it then, so that both are live most of the time."""

T = TypeVar("T")
Act = Callable[["Scene"], Awaitable[None]]


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        server: which one.
        kind: of stream.
        seed: of everything that is drawn.
        live: how it is followed.
        sync: with the client that is not asynchronous.
        count: messages.
        leaves: how often the reader, or the producer, ends and another one goes on.
        kills: how often the server is killed and started again.
        rate: share of requests that meet a fault.
        kinds: of faults.
    """

    server: ServerKind
    kind: Kind = "json"
    live: drivers.Live = "auto"
    seed: int = 1
    sync: bool = False
    count: int = 1500
    leaves: int = 3
    kills: int = 0
    rate: float = 0.6
    kinds: Collection[str] = tuple(KINDS)

    def __str__(self) -> str:
        parts = [self.server, self.kind, str(self.live), "sync" if self.sync else "async", f"seed{self.seed}"]
        return "-".join([*parts, f"{self.kills}kills"] if self.kills else parts)

    @property
    def is_reference(self) -> bool:
        """Whether the server is not ours."""
        return self.server.startswith("reference")

    def feed(self) -> Feed:
        """What is sent. The reference server's events do not carry all text."""
        return Feed(self.kind, self.seed, self.count, plain=self.is_reference)

    def draw(self, purpose: str, count: int, end: int) -> list[int]:
        """So many different numbers from 1 up to the end, in order."""
        return sorted(Random(f"{purpose} {self.seed}").sample(range(1, end), count))

    async def go(self, folder: Path, act: Act) -> Counter[str]:
        """Do something again and again, each time with a stream of its own, until every kind of fault has happened.

        Returns:
            What happened to how many requests.
        """
        async with (
            asyncio.timeout(RUN_S),
            running(self.server, folder) as server,
            FaultyProxy(server.url, Deck(self.seed, self.kinds, self.rate)) as proxy,
        ):
            kills = self.kills
            for number in itertools.count():
                writer = Writer(server, f"{PATH}{number}", self.feed().content_type)
                await writer.create()
                await act(Scene(self, server, proxy, writer, kills, folder))
                await asyncio.wait_for(proxy.wait_idle(), 5)  # the clients have let go of all connections
                kills = 0
                if proxy.counts.keys() >= set(self.kinds):
                    break
        return proxy.counts


@dataclass(frozen=True)
class Scene:
    """What a run plays on.

    Args:
        run: the run.
        server: with an empty stream.
        proxy: before it.
        writer: for the stream, past the proxy.
        kills: how often the server is to be killed.
        folder: for files.
    """

    run: Run
    server: ServerProcess
    proxy: FaultyProxy
    writer: Writer
    kills: int
    folder: Path

    @property
    def url(self) -> str:
        """Of the stream, through the proxy."""
        return self.proxy.url + self.writer.path

    async def call(self, driver: Callable[..., Awaitable[T]], twin: Callable[..., T], *arguments: Any) -> T:
        """Have one client or the other do something."""
        if self.run.sync:
            return await asyncio.to_thread(twin, self.url, *arguments)
        return await driver(self.url, *arguments)

    async def check(self, feed: Feed) -> None:
        """Check that the server has a whole feed."""
        ledger = Ledger(feed)
        for page in await read_all(self.server, self.writer.path):
            for arrived in json.loads(page) if feed.kind == "json" else [page]:
                ledger.add(arrived)
        ledger.check()


async def follow(scene: Scene) -> None:
    """Follow a stream while it is written, one reader after the other."""
    run, feed = scene.run, scene.run.feed()
    ledger = Ledger(feed)
    leave_at = run.draw("leave", run.leaves, feed.size)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(scene, feed, lambda: ledger.size))
        await scene.call(drivers.follow, drivers.follow_sync, run.live, ledger, leave_at)
        ledger.check()


async def write(scene: Scene, feed: Feed, read: Callable[[], int]) -> None:
    """Append everything, now as fast as it goes, now when all has been read. Kill the server in the middle of it.

    Args:
        scene: where.
        feed: what.
        read: how much has been read, as a ledger counts.
    """
    run, writer = scene.run, scene.writer
    chance = Random(f"write {run.seed}")
    bodies = list(feed.pieces())
    kill_at = set(run.draw("kill", scene.kills, len(bodies)))
    lag = LAG_MAX * feed.size // run.count
    held = 3 if feed.kind == "text" else 0  # of a character whose end is still to come
    sent = 0
    for number, body in enumerate(bodies):
        append = asyncio.create_task(writer.append(body))
        if number in kill_at:
            if run.is_reference:
                await append  # killed before it has answered, it may refuse the repetition
            await asyncio.sleep(chance.choice((0, 0.001)))
            await asyncio.to_thread(_kill, scene.server)
        await append
        sent += len(json.loads(body)) if feed.kind == "json" else len(body)
        due = sent - held if chance.random() < 0.2 else sent - lag
        await _until(read, due)
    await writer.close()


async def _until(count: Callable[[], int], due: int) -> None:
    while count() < due:  # noqa: ASYNC110 (what counts may be another thread)
        await asyncio.sleep(0.001)


def _kill(server: ServerProcess) -> None:
    server.kill()
    server.start()


async def produce(scene: Scene) -> None:
    """Produce a stream, one producer after the other, and read it past the proxy."""
    run, feed = scene.run, scene.run.feed()
    leave_at = run.draw("leave", run.leaves, run.count)
    async with asyncio.TaskGroup() as tasks:
        killing = tasks.create_task(_kill_at_requests(scene))
        await scene.call(drivers.produce, drivers.produce_sync, feed, leave_at)
        assert killing.done(), "the server was not killed as often as it was to be"
    await scene.check(feed)


async def _kill_at_requests(scene: Scene) -> None:
    """Kill the server when so many requests have been made."""
    for number in scene.run.draw("kill", scene.kills, scene.run.count // 100):
        await _until(lambda: scene.proxy.requests, number)
        await asyncio.to_thread(_kill, scene.server)


async def read(scene: Scene) -> None:
    """Read a stream that is there, page by page and as a whole."""
    feed = scene.run.feed()
    for body in feed.pieces():
        await scene.writer.append(body)
    for _ in range(READS):
        await scene.call(drivers.read, drivers.read_sync, ledger := Ledger(feed))
        ledger.check()
        await scene.call(drivers.read_whole, drivers.read_whole_sync, ledger := Ledger(feed))
        ledger.check()


async def append(scene: Scene) -> None:
    """Append one by one, without a producer. What was acknowledged is there once, all else once or not at all."""
    feed = scene.run.feed()
    outcomes = await scene.call(drivers.append, drivers.append_sync, feed)
    found = [value for page in await read_all(scene.server, scene.writer.path) for value in json.loads(page)]
    numbers = [value["n"] for value in found]
    assert numbers == sorted(set(numbers)), "something came twice, or not in order"
    assert all(value == feed.items[value["n"]] for value in found)
    for number, outcome in enumerate(outcomes):
        if outcome is not drivers.Outcome.UNKNOWN:
            assert (number in numbers) is (outcome is drivers.Outcome.DONE), (number, outcome)
    assert set(outcomes) >= {drivers.Outcome.DONE, drivers.Outcome.UNKNOWN}
