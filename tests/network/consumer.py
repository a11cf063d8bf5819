"""``python -m tests.network.consumer``: consumes a stream until it is killed, or the stream ends.

For each message that is handled, a line with how much that makes goes to standard output.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.network.drivers import OPTIONS, SILENCE_S, Live
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
        database: where the position is kept together with what has come; exactly once.
        file: where the position is kept by itself; at least once.
    """

    url: str
    live: Live
    sync: bool
    database: str | None = None
    file: str | None = None


class Handling:
    """What a consumer does with messages.

    Args:
        order: with a database, messages go there, into a table that is there already.
    """

    def __init__(self, order: Order) -> None:
        self.offsets: Any
        if order.database is None:
            self.offsets = FileOffsets(order.file or "")
            return
        database = sqlite3.connect(order.database, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA synchronous = OFF")  # the machine stays on
        self.offsets = SqliteOffsets(database)

    def handle(self, message: Message[Any]) -> None:
        """Handle a message."""
        data = message.data
        is_exact = isinstance(self.offsets, SqliteOffsets)
        with self.offsets.transaction(KEY, message.position) if is_exact else nullcontext() as database:
            if database is not None:
                database.execute("INSERT INTO seen VALUES (?)", (data,))
        number = message.value["n"] if isinstance(message.value, dict) else len(data)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


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
