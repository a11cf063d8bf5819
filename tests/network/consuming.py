"""Seeded runs of consumers, see `tests.network.runs`: processes that are killed, and that die by their own hand."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from random import Random

import msgspec

from tests.network.consumer import Order
from tests.network.feeds import Ledger
from tests.network.runs import Scene, write

__all__ = ["consume_at_least", "consume_exactly"]

HANDLED_MAX = 30
"""A consumer that dies by its own hand has handled fewer messages than this."""


async def consume_exactly(scene: Scene) -> None:
    """Consume a stream while it is written; what comes is kept together with the position."""
    feed = scene.run.feed()
    file = scene.folder / f"{scene.writer.path.rpartition('/')[2]}.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE seen (data)")

        def look() -> Ledger:
            ledger = Ledger(feed)
            for (data,) in database.execute("SELECT data FROM seen ORDER BY rowid"):
                ledger.add(json.loads(data) if feed.kind == "json" else data)
            return ledger

        order = Order(scene.url, scene.run.live, scene.run.sync, feed.kind, database=str(file))
        await _consume(scene, order, lambda _: None, look)
        look().check()


async def consume_at_least(scene: Scene) -> None:
    """Consume a stream while it is written; the position is kept in a file. Only for JSON."""
    file = scene.folder / f"{scene.writer.path.rpartition('/')[2]}.json"
    order = Order(scene.url, scene.run.live, scene.run.sync, "json", file=str(file))
    handled = 0
    is_fresh = True

    def check(count: int) -> None:
        nonlocal handled, is_fresh
        assert count == handled + 1 or (is_fresh and count <= handled), f"after message {handled} came {count}"
        handled, is_fresh = count, False

    def restart() -> None:
        nonlocal is_fresh
        is_fresh = True

    await _consume(scene, order, check, restart)
    assert handled == scene.run.count
    await _live(order, None, _refuse)


def _refuse(count: int) -> None:
    raise AssertionError(f"all was handled, and message {count} came again")


async def _consume(scene: Scene, order: Order, check: Callable[[int], None], between: Callable[[], object]) -> None:
    """Run consumers, one after the other dies, while the stream is written, until one comes to its end.

    Args:
        scene: where.
        order: what they do.
        check: is told what each of them tells.
        between: called when one has ended.
    """
    chance = Random(f"die {scene.run.seed}")
    counts = [0]

    def take(count: int) -> None:
        counts.append(max(count, counts[-1]))
        check(count)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(scene, scene.run.feed(), lambda: counts[-1]))
        for stop in scene.run.draw("leave", scene.run.leaves, scene.run.feed().size):
            await _live(order, stop, take)
            between()
            await _live(replace(order, die_at=chance.randrange(1, HANDLED_MAX)), None, take)
            between()
        assert await _live(order, None, take) == 0


async def _live(order: Order, stop: int | None, take: Callable[[int], None]) -> int:
    """Run a consumer; kill it when it has told of so much.

    Returns:
        Its exit code.
    """
    command = (sys.executable, "-m", "tests.network.consumer", msgspec.json.encode(order).decode())
    consumer = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert consumer.stdout is not None
    is_killed = False
    try:
        async for line in consumer.stdout:
            take(int(line))
            if stop is not None and not is_killed and int(line) >= stop:
                consumer.kill()
                is_killed = True
        code = await consumer.wait()
    except BaseException:
        if not is_killed:
            consumer.kill()
        await consumer.wait()
        raise
    assert code in (0, -signal.SIGKILL), code
    return code
