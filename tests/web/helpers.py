"""A model that says what a test tells it to, and readers of what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.engine.helpers import until
from unbroken.client import AsyncClient
from unbroken.engine import Engine
from unbroken.protocol.sse import EventDecoder
from unbroken.store.memory import MemoryStore
from unbroken.testing import live_server
from unbroken.web import Answers, Reply
from unbroken.web.connecting import Streams

__all__ = ["KINDS", "Event", "Home", "Model", "collect", "events", "home", "open_tasks", "request", "text_of", "until"]


class Model:
    """A source of one answer, whose items a test says.

    Attributes:
        begun: how often it was asked to begin.
        ended: it was let go.
    """

    def __init__(self, *items: Any, done: bool = False) -> None:
        self.begun = 0
        self.ended = asyncio.Event()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.say(*items)
        if done:
            self.done()

    def say(self, *items: Any) -> None:
        for item in items:
            self._queue.put_nowait(item)

    def done(self) -> None:
        self.say(StopAsyncIteration)

    def fail(self, error: BaseException) -> None:
        self.say(error)

    async def __call__(self) -> AsyncIterator[Any]:
        self.begun += 1
        return self._generate()

    async def _generate(self) -> AsyncIterator[Any]:
        try:
            while (item := await self._queue.get()) is not StopAsyncIteration:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.ended.set()


class Home:
    """Where answers live in a test.

    Args:
        engine: the engine under all, in this event loop.
        connect: gives what answers are put on: to be called once for each process that a test plays.
    """

    def __init__(self, engine: Engine, connect: Callable[[], Streams]) -> None:
        self.engine = engine
        self.connect = connect

    @asynccontextmanager
    async def answers(self, **options: Any) -> AsyncIterator[Answers]:
        """Answers as one process has them."""
        answers = Answers(self.connect(), **{"linger_s": 0.0, "grace_s": 0.0, "watch_signals": False, **options})
        async with answers.lifespan():
            yield answers

    async def written(self, key: str, text: str) -> None:
        """Wait until a text is in the stream of an answer."""
        async with asyncio.timeout(10):
            while text.encode() not in (await self.engine.read(f"/answers/{key}")).body:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def home(kind: str) -> AsyncIterator[Home]:
    """Streams in this process, or on a server."""
    if kind == "embedded":
        async with Engine(MemoryStore()) as engine:
            yield Home(engine, lambda: engine)
    else:
        async with live_server() as server:
            yield Home(server.engine, lambda: AsyncClient(server.url))


KINDS = pytest.mark.parametrize("kind", ["embedded", "remote"])


def open_tasks() -> list[str]:
    """Names of the tasks of answers that are under way."""
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("unbroken-answer"))


class Event(NamedTuple):
    """A Server-Sent Event."""

    type: str
    data: Any
    id: str


async def collect(reply: Reply) -> bytes:
    """The whole body."""
    if isinstance(reply.body, bytes):
        return reply.body
    return b"".join([part async for part in reply.body])


def events(body: bytes) -> list[Event]:
    """Events whose data is JSON, or ``[DONE]``."""
    return [
        Event(event.type, event.data if event.data == "[DONE]" else json.loads(event.data), event.id)
        for event in EventDecoder().feed(body)
    ]


def text_of(body: bytes) -> str:
    """The text in the events of an answer."""
    return "".join(event.data["delta"] for event in events(body) if "delta" in event.data)


def request(query: str = "", **fields: str) -> dict[str, Any]:
    """The ASGI scope of a GET; field names with underscores."""
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return {"type": "http", "method": "GET", "headers": headers, "query_string": query.encode()}
