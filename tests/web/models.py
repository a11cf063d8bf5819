"""A server that streams what models of OpenAI and Anthropic stream, for their own packages to read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from unbroken.testing import serve_asgi

__all__ = ["ModelServer", "chat_chunk", "model_server"]


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
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append(json.loads(body))
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
