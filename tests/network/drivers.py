"""Our clients, doing what a run asks of them: the asynchronous one, and the other one beside it, call by call.

Leaving means to end in the middle, with all that there is in memory, and to go on with a client that knows no more than
what was kept: a position.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

from tests.network.feeds import Feed, Ledger
from unbroken import AsyncClient, Client
from unbroken.client import Retry
from unbroken.errors import NotConnected, UnbrokenError

__all__ = [
    "OPTIONS",
    "SILENCE_S",
    "Live",
    "Outcome",
    "append",
    "append_sync",
    "follow",
    "follow_sync",
    "produce",
    "produce_sync",
    "read",
    "read_sync",
    "read_whole",
    "read_whole_sync",
]

Live = Literal["auto", "sse", "long-poll", False]

OPTIONS: dict[str, Any] = {"timeout_s": 0.2, "retry": Retry(base_s=0.005, cap_s=0.05, give_up_after_s=60)}
"""An impatient client, so that a run with hundreds of faults takes seconds."""
SILENCE_S = 0.15
PRODUCER: dict[str, Any] = {"linger_s": 0.001, "max_batch_bytes": 2000, "max_in_flight": 5}
"""Small batches: many requests."""


def _take(ledger: Ledger, message: Any, stop: int | None) -> str:
    """Add a message to the ledger, or only so many of its bytes that the reader can leave.

    Returns:
        The position after that.
    """
    if ledger.feed.kind == "json":
        ledger.add(message.value)
        return str(message.position)
    data = message.data
    count = len(data) if stop is None else min(len(data), stop - ledger.size)
    ledger.add(data[:count])
    return str(message.position_after(count))


async def follow(url: str, live: Live, ledger: Ledger, leave_at: Iterable[int]) -> None:
    """Follow a stream to its end; leave when so much has been taken."""
    position = "-1"
    for stop in [*leave_at, None]:
        async with (
            AsyncClient(**OPTIONS) as client,
            client.stream(url).follow(offset=position, live=live, silence_s=SILENCE_S) as messages,
        ):
            async for message in messages:
                position = _take(ledger, message, stop)
                if ledger.size == stop:
                    break


def follow_sync(url: str, live: Live, ledger: Ledger, leave_at: Iterable[int]) -> None:
    position = "-1"
    for stop in [*leave_at, None]:
        with (
            Client(**OPTIONS) as client,
            client.stream(url).follow(offset=position, live=live, silence_s=SILENCE_S) as messages,
        ):
            for message in messages:
                position = _take(ledger, message, stop)
                if ledger.size == stop:
                    break


def _add_page(ledger: Ledger, data: bytes) -> None:
    for piece in json.loads(data) if ledger.feed.kind == "json" else [data]:
        ledger.add(piece)


async def read(url: str, ledger: Ledger) -> None:
    """Read all pages of a stream."""
    async with AsyncClient(**OPTIONS) as client:
        async for page in client.stream(url).pages():
            _add_page(ledger, page.data)


def read_sync(url: str, ledger: Ledger) -> None:
    with Client(**OPTIONS) as client:
        for page in client.stream(url).pages():
            _add_page(ledger, page.data)


async def read_whole(url: str, ledger: Ledger) -> None:
    """Read a stream with one call."""
    async with AsyncClient(**OPTIONS) as client:
        stream = client.stream(url)
        if ledger.feed.kind == "json":
            for value in await stream.read_json():
                ledger.add(value)
        elif ledger.feed.kind == "text":
            ledger.add((await stream.read_text()).encode())
        else:
            ledger.add(await stream.read())


class Outcome(Enum):
    """What a writer knows of an append."""

    DONE = "done"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


def _outcome(error: UnbrokenError) -> Outcome:
    """What an error says: a refusal by the server itself says that nothing was done."""
    is_certain = isinstance(error, NotConnected) or error.status == 429
    return Outcome.NOT_DONE if is_certain else Outcome.UNKNOWN


async def append(url: str, feed: Feed) -> list[Outcome]:
    """Append the messages of a feed one by one."""
    outcomes = []
    async with AsyncClient(**OPTIONS) as client:
        stream = client.stream(url)
        for item in feed.items:
            try:
                await stream.append_json(item)
            except UnbrokenError as error:
                outcomes.append(_outcome(error))
            else:
                outcomes.append(Outcome.DONE)
    return outcomes


def append_sync(url: str, feed: Feed) -> list[Outcome]:
    outcomes = []
    with Client(**OPTIONS) as client:
        stream = client.stream(url)
        for item in feed.items:
            try:
                stream.append_json(item)
            except UnbrokenError as error:
                outcomes.append(_outcome(error))
            else:
                outcomes.append(Outcome.DONE)
    return outcomes


def read_whole_sync(url: str, ledger: Ledger) -> None:
    with Client(**OPTIONS) as client:
        stream = client.stream(url)
        if ledger.feed.kind == "json":
            for value in stream.read_json():
                ledger.add(value)
        elif ledger.feed.kind == "text":
            ledger.add(stream.read_text().encode())
        else:
            ledger.add(stream.read())


def _shifts(feed: Feed, leave_at: Iterable[int]) -> Iterator[tuple[int, list[Any], bool]]:
    """For each producer its epoch, what it sends, and whether it is the last."""
    ends = [0, *leave_at, len(feed.items)]
    for epoch, (start, end) in enumerate(pairwise(ends)):
        yield epoch, feed.items[start:end], end == len(feed.items)


async def produce(url: str, feed: Feed, leave_at: Iterable[int]) -> None:
    """Send all messages of a feed and close the stream; another producer goes on when so many have been sent."""
    for epoch, items, is_last in _shifts(feed, leave_at):
        async with AsyncClient(**OPTIONS) as client:
            stream = client.stream(url)
            async with stream.producer("run", epoch=epoch, **PRODUCER) as producer:
                for item in items:
                    await producer.send(item)
                if is_last:
                    await producer.close_stream()


def produce_sync(url: str, feed: Feed, leave_at: Iterable[int]) -> None:
    for epoch, items, is_last in _shifts(feed, leave_at):
        with Client(**OPTIONS) as client:
            stream = client.stream(url)
            with stream.producer("run", epoch=epoch, **PRODUCER) as producer:
                for item in items:
                    producer.send(item)
                if is_last:
                    producer.close_stream()
