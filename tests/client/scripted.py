"""A server that answers what it is told, byte for byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

HOLD = object()
"""In an answer: from here on nothing comes, and the connection stays open until the client ends it."""


class Reached(asyncio.Event):
    """In an answer: set when it has come so far."""


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Scripted:
    """What the server is to answer, one after the other. When nothing is left the connection is cut."""

    def __init__(self, answers: list[list[object]]) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.answers = answers

    @property
    def params(self) -> list[dict[str, str]]:
        """The queries of all requests."""
        return [asked.params for asked in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await _read(reader))
            for part in self.answers.pop(0) if self.answers else []:
                if part is HOLD:
                    await reader.read()
                elif isinstance(part, Reached):
                    part.set()
                else:
                    assert isinstance(part, bytes)
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Asked(method, parts.path, dict(parse_qsl(parts.query)), headers, body)


@asynccontextmanager
async def scripted(*answers: list[object] | bytes) -> AsyncIterator[Scripted]:
    """Such a server. At the end everything was asked for."""
    script = Scripted([[answer] if isinstance(answer, bytes) else list(answer) for answer in answers])
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(script.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert not script.answers


def answer(status: int = 200, body: bytes = b"", *, length: bool = True, **fields: Any) -> bytes:
    """An answer. Names of headers with underscores for hyphens."""
    lines = [f"HTTP/1.1 {status} X", "connection: close"]
    if length and status != 204:
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def page(body: bytes, end: str, *, content_type: str = "application/json", **fields: Any) -> bytes:
    """A page that ends at an offset."""
    return answer(200, body, content_type=content_type, stream_next_offset=end, **fields)


def tail(end: str, body: bytes = b"[]", *, content_type: str = "application/json", **fields: Any) -> bytes:
    """A page that reaches the end."""
    return page(body, end, content_type=content_type, stream_up_to_date="true", **fields)


def events(*parts: object, **fields: Any) -> list[object]:
    """An event stream."""
    return [answer(200, length=False, content_type="text/event-stream", **fields), *parts]


def data(text: str) -> bytes:
    """A data event."""
    return f"event: data\ndata:{text}\n\n".encode()


def control(end: str, *, closed: bool = False, up_to_date: bool = True) -> bytes:
    """A control event."""
    more = ',"streamClosed":true' if closed else ',"streamCursor":"7"' + (',"upToDate":true' if up_to_date else "")
    return f'event: control\ndata:{{"streamNextOffset":"{end}"{more}}}\n\n'.encode()
