"""``unbroken append``: from a file, a pipe or the command line into a stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from unbroken.cli.bar import Transfer
from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, run
from unbroken.cli.terminal import fail
from unbroken.client import AsyncStream
from unbroken.errors import InvalidBody, StreamNotFound
from unbroken.protocol.content import SEPARATOR, frame_json, is_json

__all__ = ["append"]

_PART_BYTES = 256 * 1024
_PARTS_AHEAD = 4
_LAST_WORDS_S = 5.0


def append(
    stream: Target,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="What to append. (standard input)")] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="TEXT", help="Append this text instead.", show_default=False)
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", "-l", help="Each line as it comes: one message each, if the stream is JSON.")
    ] = False,
    close: Annotated[bool, typer.Option("--close", help="Close the stream with it.")] = False,
    create: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Create the stream first if it is not there.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Append a file, standard input or a text to a stream. What fails on the way is repeated, and never doubled.

    Standard input is appended as it comes, so it may never end: tail -F app.log | unbroken append /log --lines. To a
    JSON stream without --lines, the whole is one JSON text: a message, or an array of messages.

    Exit codes: 0 all appended, 1 refused or not there, 2 not understood, 3 the server cannot be reached,
    130 interrupted.
    """
    remote = Remote.of(url, token, header).at(stream)
    if file is not None and data is not None:
        fail("give either a FILE or --data", 2)
    if file is None and data is None and sys.stdin.isatty():
        typer.echo("unbroken: appending what you type; Ctrl-D ends it", err=True)
    what = _Source(file, None if data is None else data.encode())

    async def work() -> None:
        async with remote.client() as client, what as source:
            handle = client.stream(stream)
            json = is_json(await _content_type(handle, create))
            messages = _json_lines(source) if json and lines else _whole(source) if json else _pieces(source, lines)
            async with handle.producer(f"cli-{secrets.token_hex(8)}") as producer:
                try:
                    async for message in messages:
                        await producer.send(message)
                except (InvalidBody, asyncio.CancelledError):
                    # What was read is not lost by what comes after it.
                    async with asyncio.timeout(_LAST_WORDS_S):
                        await producer.flush()
                    raise
                if close:
                    await producer.close_stream()

    run(work)


async def _content_type(stream: AsyncStream, create: str | None) -> str:
    try:
        return (await stream.head()).content_type
    except StreamNotFound:
        if create is None:
            raise
        return (await stream.ensure(content_type=create)).content_type


async def _pieces(source: AsyncIterator[bytes], lines: bool) -> AsyncIterator[bytes]:
    """As it comes; with lines, a piece ends with a line, so that readers never see half of one."""
    rest = b""
    async for part in source:
        data = rest + part
        cut = data.rfind(b"\n") + 1 if lines else len(data)
        rest = data[cut:]
        if cut:
            yield data[:cut]
    if rest:
        yield rest


async def _json_lines(source: AsyncIterator[bytes]) -> AsyncIterator[msgspec.Raw]:
    """Each line is one message, also one that is an array."""
    number = 0
    async for piece in _pieces(source, lines=True):
        for line in piece.splitlines():
            number += 1
            if line := line.strip():
                try:
                    frame_json(line)
                except InvalidBody as error:
                    raise InvalidBody(f"line {number}: {error}; all lines before it are appended") from None
                yield msgspec.Raw(line)


async def _whole(source: AsyncIterator[bytes]) -> AsyncIterator[msgspec.Raw]:
    """One JSON text: one message, or an array of them."""
    text = b"".join([part async for part in source])
    for message in frame_json(text).split(SEPARATOR)[:-1]:
        yield msgspec.Raw(message)


class _Source:
    """What is to be appended, part by part. A context manager; shows how far it is, if somebody watches.

    A file or a pipe is read in a thread of its own, a few parts ahead: standard input may block for ever, and whoever
    interrupts the command does not want to wait for it.

    Args:
        file: None for standard input.
        data: in place of both.
    """

    def __init__(self, file: Path | None, data: bytes | None) -> None:
        self._file = file
        self._data = data
        self._parts: asyncio.Queue[bytes | OSError | None] = asyncio.Queue(_PARTS_AHEAD)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        if self._data is not None:
            return _once(self._data)
        descriptor = 0 if self._file is None else os.open(self._file, os.O_RDONLY)
        size = self._file.stat().st_size if self._file is not None and self._file.is_file() else None
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._pump, args=(descriptor, loop), daemon=True, name="unbroken-input").start()
        self._transfer = Transfer("appending", size)
        return self._read()

    async def __aexit__(self, *_: object) -> None:
        if self._data is None:
            self._transfer.__exit__()

    async def _read(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if isinstance(part, OSError):
                raise part
            self._transfer.add(len(part))
            yield part

    def _pump(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        def put(part: bytes | OSError | None) -> None:
            asyncio.run_coroutine_threadsafe(self._parts.put(part), loop).result()

        with contextlib.suppress(RuntimeError, CancelledError):  # the command has ended
            try:
                # Not through an object with a lock, which the end of the command would wait for.
                while part := os.read(descriptor, _PART_BYTES):
                    put(part)
            except OSError as error:
                put(error)
            put(None)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
