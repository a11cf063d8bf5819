"""``unbroken read`` and ``unbroken follow``: what is in a stream, and what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import typer

from unbroken.cli.bar import Transfer
from unbroken.cli.output import Output, Piece, Shape, until_nobody_reads
from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, run
from unbroken.cli.terminal import fail, parse_moment
from unbroken.client import AsyncStream, Batch, FileOffsets, Position
from unbroken.errors import ProtocolViolation

__all__ = ["follow", "read"]

_PATIENCE_S = 30.0
"""How long what is there is tried to be read. News is waited for as long as it takes."""

Live = Literal["auto", "sse", "long-poll"]

_Offset = Annotated[
    str | None,
    typer.Option("--offset", "-o", help="Where to begin: -1 is the beginning, now the end. (-1)", show_default=False),
]
_Last = Annotated[
    int | None,
    typer.Option("--last", "-n", min=0, metavar="N", help="Only the last N messages, or lines.", show_default=False),
]
_Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="What came since then: 2026-11-01T12:00:00Z, or 5m, 2h, 7d.", show_default=False
    ),
]
_Json = Annotated[
    bool, typer.Option("--json", "-j", help="A line of JSON for each message or piece, with the position after it.")
]
_Raw = Annotated[bool, typer.Option("--raw", "-r", help="All bytes as they are, also binary ones on a terminal.")]


def read(
    stream: Target,
    offset: _Offset = None,
    last: _Last = None,
    since: _Since = None,
    json: _Json = False,
    raw: _Raw = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Print what is in a stream, and end there. Messages of a JSON stream come one a line.

    Exit codes: 0 read, 1 refused or not there, 2 not understood, 3 the server cannot be reached, 130 interrupted.
    """
    begin, shape = _Begin.of(offset, last, since), _shape(json, raw)

    async def work(source: AsyncStream) -> None:
        output = Output(shape, (await source.head()).content_type)
        with until_nobody_reads(), Transfer("reading", hidden=output.on_terminal) as transfer:
            if begin.last is not None:
                output.print(await _last(source, begin.last, json=output.json))
                return
            async for batch in _batches(source, begin, live=False, json=output.json):
                transfer.add(output.print(batch))

    _with_stream(Remote.of(url, token, header), stream, work)


def follow(
    stream: Target,
    offset: _Offset = None,
    last: _Last = None,
    since: _Since = None,
    json: _Json = False,
    raw: _Raw = False,
    live: Annotated[Live, typer.Option(help="How to wait for news.")] = "auto",
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the position in this file; go on from there.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Print what is in a stream and then what comes, until the stream is closed. Reconnects by itself.

    With --resume the command may be ended and started again, and goes on where it was; what it printed in the last
    moment before a kill -9 or a power cut may come again.

    Exit codes: 0 the stream is closed, 1 refused or not there, 2 not understood, 3 the server cannot be reached,
    130 interrupted.
    """
    begin, shape = _Begin.of(offset, last, since), _shape(json, raw)

    async def work(source: AsyncStream) -> None:
        output = Output(shape, (await source.head()).content_type)
        offsets = None if resume is None else FileOffsets(resume)
        kept = None if offsets is None else _kept(offsets, source.url)
        where = begin if kept is None else _Begin(kept)
        with until_nobody_reads():
            if where.last is not None:
                found = await _last(source, where.last, json=output.json)
                output.print(found)
                where = _Begin(str(found[-1].position) if found else "-1" if where.last else "now")
            async for batch in _batches(source, where, live=live, json=output.json):
                output.print(batch)
                if offsets is not None and (reached := str(batch.end)) != kept:
                    kept = reached
                    offsets.save(source.url, kept)

    _with_stream(Remote.of(url, token, header), stream, work)


def _kept(offsets: FileOffsets, key: str) -> str | None:
    try:
        return offsets.load(key)
    except ValueError as error:
        fail(f"--resume: {error}", 1)


def _with_stream(server: Remote, target: str, work: Callable[[AsyncStream], Awaitable[None]]) -> None:
    remote = server.at(target)

    async def main() -> None:
        async with remote.client() as client:
            await work(client.stream(target))

    run(main)


def _shape(json: bool, raw: bool) -> Shape:
    if json and raw:
        fail("give either --json or --raw", 2)
    return Shape.JSON if json else Shape.RAW if raw else Shape.PLAIN


class _Begin(NamedTuple):
    """Where to begin: at an offset, at a time, or so many messages before the end."""

    offset: str = "-1"
    since: datetime | None = None
    last: int | None = None

    @classmethod
    def of(cls, offset: str | None, last: int | None, since: str | None) -> _Begin:
        """What the options say; ends the command if they contradict each other."""
        if sum(given is not None for given in (offset, last, since)) > 1:
            fail("give one of --offset, --last and --since", 2)
        try:
            Position.parse(offset or "-1")
        except ValueError:
            fail(f"--offset: {offset!r} is neither an offset nor a position", 2)
        return cls(offset or "-1", None if since is None else parse_moment(since, "--since"), last)


async def _batches(
    stream: AsyncStream, begin: _Begin, *, live: Live | Literal[False], json: bool
) -> AsyncIterator[Batch[Any]]:
    """What is there, as it comes. Messages stay the text that they are."""
    options: dict[str, Any] = {"offset": begin.offset} if begin.since is None else {"since": begin.since}
    if not live:
        options["give_up_after_s"] = _PATIENCE_S
    async with stream.follow(live=live, type=msgspec.Raw if json else None, **options) as messages:
        async for batch in messages.batches():
            yield batch


async def _last(stream: AsyncStream, count: int, *, json: bool) -> list[Piece]:
    """The last messages, or pieces that together are the last lines, up to the present end."""
    if not count:
        return []
    try:
        return await _last_backwards(stream, count, json=json)
    except ProtocolViolation:  # another server, which can only be read from the beginning
        return await _last_of_all(stream, count, json=json)


async def _last_backwards(stream: AsyncStream, count: int, *, json: bool) -> list[Piece]:
    kept: list[Piece] = []
    async with aclosing(stream.backwards()) as batches:
        async for batch in batches:
            kept[:0] = [Piece(message.data, message.position) for message in batch]
            if (len(kept) if json else _line_count(kept)) >= count:
                break
    return kept[-count:] if json else _last_lines(kept, count)


async def _last_of_all(stream: AsyncStream, count: int, *, json: bool) -> list[Piece]:
    kept: deque[Piece] = deque(maxlen=count if json else None)
    async for batch in _batches(stream, _Begin(), live=False, json=json):
        kept.extend(Piece(message.data, message.position) for message in batch)
        while not json and len(kept) > 1 and _line_count(list(kept)[1:]) >= count:
            kept.popleft()
    return list(kept) if json else _last_lines(list(kept), count)


def _line_count(pieces: list[Piece]) -> int:
    """How many lines there are, the last of which need not be complete."""
    count = sum(piece.data.count(b"\n") for piece in pieces)
    return count + (bool(pieces) and not pieces[-1].data.endswith(b"\n"))


def _last_lines(pieces: list[Piece], count: int) -> list[Piece]:
    if not pieces:
        return []
    skip = max(0, _line_count(pieces) - count)
    text = b"".join(piece.data for piece in pieces)
    return [Piece(_without_lines(text, skip), pieces[-1].position)]


def _without_lines(data: bytes, skip: int) -> bytes:
    """What is left without so many lines at the beginning."""
    begin = 0
    for _ in range(skip):
        begin = data.index(b"\n", begin) + 1
    return data[begin:]
