"""A tiny HTTP/1.1 client that sends exactly what it is told and reads only when it is told.

Client libraries normalise targets (``//a``, ``%2F``), insist on whole bodies and read ahead. Tests of a server need the
opposite: any bytes, half-sent bodies, readers that stop reading. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["RawConnection", "RawResponse", "connect", "encode_chunk", "encode_request"]

_LINE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class RawResponse:
    """A response as it came.

    Args:
        status: such as 200.
        fields: header names in lower case, and values, in order.
        body: what followed, freed from chunked coding. Empty if only the head was read.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""

    def __getitem__(self, name: str) -> str:
        """A header's value, repeated ones joined by a comma.

        Raises:
            KeyError: there is none of this name.
        """
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str) -> str | None:
        """A header's value, repeated ones joined by a comma, or None."""
        values = [value for key, value in self.fields if key == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def encode_request(
    method: str, target: str | bytes, fields: Mapping[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """The bytes of a request.

    Args:
        method: such as ``PUT``.
        target: goes out as it is.
        fields: headers; ``Host`` is added where it is missing, and ``Content-Length`` where there is a body.
        body: the body.
    """
    given = {name.lower() for name in fields or {}}
    lines = [method.encode() + b" " + (target if isinstance(target, bytes) else target.encode()) + b" HTTP/1.1"]
    if "host" not in given:
        lines.append(b"host: localhost")
    lines += [f"{name}: {value}".encode("latin-1") for name, value in (fields or {}).items()]
    if body is not None and not given & {"content-length", "transfer-encoding"}:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def encode_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; an empty one ends it (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class RawConnection:
    """One TCP connection to an HTTP server. See `connect`.

    It reads no further ahead than ``read_ahead_bytes``, so a test that stops calling the read methods is a reader that
    stopped reading.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._chunked = False
        self._left_bytes: int | None = 0

    async def send(self, data: bytes) -> None:
        """Send bytes as they are, at the pace at which the server takes them.

        Raises:
            TimeoutError: it did not take them in time.
            ConnectionError: it closed the connection.
        """
        async with asyncio.timeout(self._timeout_s):
            self._writer.write(data)
            await self._writer.drain()

    async def request(
        self,
        method: str,
        target: str | bytes,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> RawResponse:
        """Send a request (see `encode_request`) and read its whole response."""
        await self.send(encode_request(method, target, fields, body))
        return await self.read_response(head=method == "HEAD")

    async def read_response(self, *, head: bool = False) -> RawResponse:
        """Read a whole response.

        Args:
            head: it answers a HEAD request, so no body follows.
        """
        response = await self.read_head(head=head)
        return replace(response, body=await self.read_rest())

    async def read_head(self, *, head: bool = False) -> RawResponse:
        """Read a response up to its body; interim responses (1xx) are skipped.

        Raises:
            TimeoutError: it did not come in time.
            EOFError: the connection ended first.
        """
        while (response := await self._status_and_fields()).status < 200:
            pass
        self._expect_body(response, none=head or response.status in (204, 304))
        return response

    async def read_interim(self) -> RawResponse:
        """Read an interim response, such as the 100 with which a server says that it waits for the body.

        Raises:
            ValueError: a final response came instead.
        """
        response = await self._status_and_fields()
        if response.status >= 200:
            raise ValueError(f"not an interim response: {response.status}")
        return response

    async def _status_and_fields(self) -> RawResponse:
        version, _, rest = (await self._line()).partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ValueError(f"not a status line: {version!r}")
        fields: list[tuple[str, str]] = []
        while line := await self._line():
            name, _, value = line.decode("latin-1").partition(":")
            fields.append((name.lower(), value.strip(" \t")))
        return RawResponse(int(rest[:3]), tuple(fields))

    def _expect_body(self, response: RawResponse, *, none: bool) -> None:
        length = response.get("content-length")
        self._chunked = not none and response.get("transfer-encoding") == "chunked"
        self._left_bytes = 0 if none else None if length is None else int(length)

    async def read_part(self) -> bytes:
        """The next part of the body as the server sent it: a chunk, or what is there; empty at the end.

        Raises:
            TimeoutError: nothing came in time.
            EOFError: the connection ended in the middle.
        """
        if self._chunked:
            size_bytes = int(await self._line(), 16)
            part = await self._exactly(size_bytes)
            if await self._line():
                raise ValueError("a chunk does not end where it should")
            self._chunked = size_bytes > 0
            self._left_bytes = 0
            return part
        if self._left_bytes == 0:
            return b""
        async with asyncio.timeout(self._timeout_s):
            part = await self._reader.read(self._left_bytes or _LINE_BYTES_MAX)
        if self._left_bytes is not None:
            if not part:
                raise EOFError("the connection ended in the middle of a body")
            self._left_bytes -= len(part)
        elif not part:
            self._left_bytes = 0
        return part

    async def read_rest(self) -> bytes:
        """All that is left of the body."""
        parts = []
        while part := await self.read_part():
            parts.append(part)
        return b"".join(parts)

    async def read_eof(self) -> bytes:
        """Whatever comes until the server closes the connection."""
        async with asyncio.timeout(self._timeout_s):
            return await self._reader.read()

    def abort(self) -> None:
        """Vanish: the server sees a reset, not an orderly end."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection. What has not been sent or read is dropped."""
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _line(self) -> bytes:
        async with asyncio.timeout(self._timeout_s):
            line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the connection ended in the middle of a line")
        return line[:-2]

    async def _exactly(self, size_bytes: int) -> bytes:
        async with asyncio.timeout(self._timeout_s):
            return await self._reader.readexactly(size_bytes)


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    timeout_s: float = 10.0,
    read_ahead_bytes: int = _LINE_BYTES_MAX,
    receive_buffer_bytes: int | None = None,
    local_host: str | None = None,
) -> AsyncIterator[RawConnection]:
    """Open a connection; it is closed when the block is left.

    Args:
        host: where to.
        port: where to.
        timeout_s: how long one wait may take at most, in seconds.
        read_ahead_bytes: about how much is read before it is asked for.
        receive_buffer_bytes: the kernel's buffer for what arrives; small for a reader that is to stop soon.
        local_host: the address to come from, such as ``127.0.0.2``, which Linux has too; any by default.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if local_host is not None:
            sock.bind((local_host, 0))
        sock.setblocking(False)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=read_ahead_bytes)
    except BaseException:
        sock.close()
        raise
    connection = RawConnection(reader, writer, timeout_s)
    try:
        yield connection
    finally:
        await connection.close()
