"""``unbroken create``, ``unbroken fork``, ``unbroken close``: what makes a stream and what ends it."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import typer

from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, check_target, run
from unbroken.cli.terminal import fail, parse_moment
from unbroken.errors import StreamExists

__all__ = ["close", "create", "fork"]

_TtlOption = Annotated[
    int | None, typer.Option("--ttl", min=0, metavar="SECONDS", help="Delete it so long after it was last used.")
]
_ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="Delete it then: 2027-01-01T00:00:00Z.")
]


def create(
    stream: Target,
    content_type: Annotated[
        str, typer.Option("--type", "-t", metavar="TYPE", help="Content type; application/json holds messages.")
    ] = "application/octet-stream",
    json: Annotated[bool, typer.Option("--json", "-j", help="Short for --type application/json.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Short for --type text/plain.")] = False,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="TEXT", help="First content; - reads standard input.")
    ] = None,
    ttl: _TtlOption = None,
    expires: _ExpiresOption = None,
    closed: Annotated[bool, typer.Option("--closed", help="Close it at once: --data is all there will be.")] = False,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="An identical stream that is there already is fine.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Create a stream, and print its next offset.

    Exit codes: 0 created, 1 refused or there already, 2 not understood, 3 the server cannot be reached.
    """
    if json and text:
        fail("give either --json or --text", 2)
    kind = "application/json" if json else "text/plain" if text else content_type
    remote, moment = Remote.of(url, token, header).at(stream), _moment(ttl, expires)
    body = sys.stdin.buffer.read() if data == "-" else (data or "").encode()

    async def work() -> None:
        async with remote.client() as client:
            handle = client.stream(stream)
            try:
                info = await handle.create(content_type=kind, ttl_s=ttl, expires_at=moment, data=body, closed=closed)
            except StreamExists:
                if not exist_ok:
                    raise
                info = await handle.ensure(content_type=kind, ttl_s=ttl, expires_at=moment)
            typer.echo(info.next_offset)

    run(work)


def _moment(ttl: int | None, expires: str | None) -> datetime | None:
    if ttl is not None and expires is not None:
        fail("give either --ttl or --expires", 2)
    return None if expires is None else parse_moment(expires, "--expires")


def fork(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="URL or path of the stream to begin with.")],
    stream: Target,
    offset: Annotated[
        str | None, typer.Option("--offset", "-o", help="Where to branch off. (the source's end)", show_default=False)
    ] = None,
    skip: Annotated[
        int, typer.Option("--skip", min=0, help="So many messages (JSON) or bytes past the offset.", show_default=False)
    ] = 0,
    ttl: _TtlOption = None,
    expires: _ExpiresOption = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Create a stream that begins with another one's data, without copying it, and print its next offset.

    Exit codes: 0 created, 1 refused, 2 not understood, 3 the server cannot be reached.
    """
    remote, moment = Remote.of(url, token, header).at(source), _moment(ttl, expires)
    check_target(stream)

    async def work() -> None:
        async with remote.client() as client:
            made = await client.stream(source).fork(
                stream, offset=offset, sub_offset=skip, ttl_s=ttl, expires_at=moment
            )
            typer.echo((await made.head()).next_offset)

    run(work)


def close(
    stream: Target,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Close a stream for ever: its readers learn that it is complete. Closing it again changes nothing.

    Exit codes: 0 closed, 1 refused or not there, 2 not understood, 3 the server cannot be reached.
    """
    remote = Remote.of(url, token, header).at(stream)

    async def work() -> None:
        async with remote.client() as client:
            await client.stream(stream).close()

    run(work)
