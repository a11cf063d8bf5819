"""``python -m tests.network.consumer``: consumes a stream until it is killed, or the stream ends.

When a message is handled, a line with how much that makes in all goes to standard output: messages, or bytes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.network.drivers import OPTIONS, SILENCE_S, Live
from tests.network.feeds import Kind
from unbroken import AsyncClient, Client
from unbroken.client import FileOffsets, Message, SqliteOffsets

__all__ = ["KEY", "Order"]

KEY = "run"


@dataclass(frozen=True)
class Order:
    """What to do.

    Args:
        url: of the stream.
        live: how to follow it.
        sync: with the client that is not asynchronous.
        kind: of stream.
        die_at: it kills itself while it handles the message with this number, counted from 1 in each life.
        database: where the position is kept together with what has come; exactly once.
        file: where the position is kept by itself; at least once.
    """

    url: str
    live: Live
    sync: bool
    kind: Kind
    die_at: int | None = None
    database: str | None = None
    file: str | None = None


class Handling:
    """What a consumer does with messages.

    Args:
        order: with a database, messages go there, into a table that is there already.
    """

    def __init__(self, order: Order) -> None:
        self.offsets: Any = FileOffsets(order.file or "")
        self._order = order
        self._left = order.die_at or 0
        self._size = 0
        if order.database is not None:
            database = sqlite3.connect(order.database, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA synchronous = OFF")  # the machine stays on
            self.offsets = SqliteOffsets(database)
            size = "count(*)" if order.kind == "json" else "coalesce(sum(length(data)), 0)"
            (self._size,) = database.execute(f"SELECT {size} FROM seen").fetchone()

    def handle(self, message: Message[Any]) -> None:
        """Handle a message."""
        if self._order.database is None:
            self._maybe_die()
            self._size = message.value["n"] + 1
        else:
            with self.offsets.transaction(KEY, message.position) as database:
                database.execute("INSERT INTO seen VALUES (?)", (message.data,))
                self._maybe_die()
            self._size += 1 if self._order.kind == "json" else len(message.data)
        sys.stdout.write(f"{self._size}\n")
        sys.stdout.flush()

    def _maybe_die(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def consume(order: Order) -> None:
    """Consume with the asynchronous client."""
    handling = Handling(order)
    async with AsyncClient(**OPTIONS) as client:
        stream = client.stream(order.url)
        async with stream.consume(
            handling.offsets, key=KEY, live=order.live, save_every_s=0.02, silence_s=SILENCE_S
        ) as messages:
            async for message in messages:
                handling.handle(message)


def consume_sync(order: Order) -> None:
    """Consume with the other one."""
    handling = Handling(order)
    with Client(**OPTIONS) as client:
        stream = client.stream(order.url)
        with stream.consume(
            handling.offsets, key=KEY, live=order.live, save_every_s=0.02, silence_s=SILENCE_S
        ) as messages:
            for message in messages:
                handling.handle(message)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv[1], type=Order)
    if given.sync:
        consume_sync(given)
    else:
        asyncio.run(consume(given))
