"""A server that streams what models of OpenAI and Anthropic stream, for their own packages to read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from unbroken.testing import serve_asgi

__all__ = ["ModelServer", "Speaker", "chat_chunk", "model_server", "speaker"]


class ModelServer:
    """Answers every request with the same events.

    Args:
        events: what is sent: mappings go as JSON, with their ``type`` as the event's name; text goes as it is.
        wait: go on for ever after the last event.

    Attributes:
        url: where it is.
        requests: the bodies that came.
        gone: a client went away in the middle.
    """

    def __init__(self, events: list[Any], *, wait: bool = False) -> None:
        self.events = events
        self.url = ""
        self.requests: list[Any] = []
        self.gone = asyncio.Event()
        self._wait = wait

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        self.requests.append(json.loads(await _body(receive)))
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for event in self.events:
            await send({"type": "http.response.body", "body": _encode(event), "more_body": True})
            await asyncio.sleep(0)
        if self._wait:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
            return
        await send({"type": "http.response.body", "body": b""})


def _encode(event: Any) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def chat_chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": choices, **more}


@asynccontextmanager
async def model_server(*events: Any, wait: bool = False) -> AsyncIterator[ModelServer]:
    """A running one."""
    server = ModelServer(list(events), wait=wait)
    async with serve_asgi(server, grace_s=0.1) as address:
        server.url = address.url
        yield server


_FAILURE = "failure"


class Speaker:
    """Speaks as chat completions do, what a test says from another thread.

    Attributes:
        url: where it is.
        requests: the bodies that came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Any] = []
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._said: list[asyncio.Queue[str | None]] = []
        self._ended = 0

    def say(self, text: str, *, end: bool = False) -> None:
        """Go on with the latest answer, which is waited for."""
        self.wait_asked(1)
        said = self._said[-1]
        for piece in (text, None) if end else (text,):
            self._loop.call_soon_threadsafe(said.put_nowait, piece)

    def fail(self) -> None:
        """Break the latest answer off with an error."""
        self._loop.call_soon_threadsafe(self._said[-1].put_nowait, _FAILURE)

    def wait_asked(self, count: int) -> None:
        """Wait until so many answers have been asked for."""
        self._wait(lambda: len(self._said) >= count)

    def wait_ended(self, count: int) -> None:
        """Wait until so many answers are over, or their clients gone."""
        self._wait(lambda: self._ended >= count)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=20)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        request = await _body(receive)
        said: asyncio.Queue[str | None] = asyncio.Queue()
        with self._changed:
            self.requests.append(json.loads(request))
            self._said.append(said)
            self._changed.notify_all()
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        speaking, leaving = asyncio.create_task(_speak(said, send)), asyncio.create_task(receive())
        await asyncio.wait((speaking, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (speaking, leaving):
            task.cancel()
        await asyncio.wait((speaking, leaving))
        with self._changed:
            self._ended += 1
            self._changed.notify_all()


async def _speak(said: asyncio.Queue[str | None], send: Any) -> None:
    while (text := await said.get()) is not None:
        chunk = {"error": {"message": "overloaded"}} if text is _FAILURE else chat_chunk({"content": text})
        await send({"type": "http.response.body", "body": _encode(chunk), "more_body": True})
    await send({"type": "http.response.body", "body": _encode(chat_chunk({}, "stop")) + _encode("[DONE]")})


async def _lifespan(receive: Any, send: Any) -> None:
    for name in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{name}.complete"})


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


@asynccontextmanager
async def speaker() -> AsyncIterator[Speaker]:
    """A running one; for a test that is no coroutine, by way of `in_thread`."""
    model = Speaker()
    async with serve_asgi(model, grace_s=0.1) as address:
        model.url = address.url
        yield model
