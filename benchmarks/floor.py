"""Servers that do nothing, to know what is left above ours.

asgi     the ASGI server of `unbroken serve`, set up in the same way, around an application that reads the body and
         answers 204; a GET gets 1 MiB, and an SSE reader gets what is posted, without any store, rules or offsets
parser   uvloop and the same HTTP parser without an ASGI server: what a native adapter could come near to
socket   answers every packet with the same bytes: what the load generator itself can drive
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import httptools
import uvicorn
import uvloop

__all__ = ["main"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NEXT_OFFSET = (b"stream-next-offset", b"0000000000000001_0000000000000256")
_PAGE = b"x" * 1024 * 1024
_CONTROL = b'event: control\ndata:{"streamNextOffset":"0000000000000001_0000000000000256","upToDate":true}\n\n'


class Application:
    """The least that an ASGI application can do."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if scope["method"] != "GET":
            if self._waiting:
                self._publish(body)
            await send({"type": "http.response.start", "status": 204, "headers": [_NEXT_OFFSET]})
            await send({"type": "http.response.body", "body": b""})
        elif b"live=sse" in scope["query_string"]:
            await self._follow(send)
        else:
            headers = [_NEXT_OFFSET, (b"content-length", b"%d" % len(_PAGE))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": _PAGE})

    def _publish(self, body: bytes) -> None:
        self._frames.append(b"event: data\ndata:%b\n\n%b" % (body, _CONTROL))
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_result(None)

    async def _follow(self, send: Send) -> None:
        position = len(self._frames)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _CONTROL, "more_body": True})
        while True:
            while position == len(self._frames):
                future = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            frames, position = self._frames[position:], len(self._frames)
            await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})


class _Answer(asyncio.Protocol):
    """One packet in, one answer out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


class _Parse(_Answer):
    """One request in, its target, headers and body put together, one answer out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._target, self._body = b"", b""
        self._fields: dict[bytes, bytes] = {}

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n%b: %b\r\n\r\n" % _NEXT_OFFSET)


async def _serve_asgi(listener: socket.socket) -> None:
    # The same settings as in unbroken.server.serve.
    config = uvicorn.Config(
        Application(),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


async def _serve_protocol(listener: socket.socket, protocol: type[_Answer]) -> None:
    server = await asyncio.get_running_loop().create_server(protocol, sock=listener)
    await server.serve_forever()


def main(kind: str) -> None:
    """Serve until the process is ended. ``kind`` is ``asgi``, ``parser`` or ``socket``."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        if kind == "asgi":
            uvloop.run(_serve_asgi(listener))
        else:
            uvloop.run(_serve_protocol(listener, _Parse if kind == "parser" else _Answer))


if __name__ == "__main__":
    main(sys.argv[1])
