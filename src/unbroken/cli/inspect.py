"""``unbroken head`` and ``unbroken ls``: what is there."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, run
from unbroken.cli.terminal import fail, print_json
from unbroken.client import ListedStream
from unbroken.errors import StreamNotFound

__all__ = ["head", "ls"]


def head(
    stream: Target,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of text.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Show a stream's content type, next offset, state and lifetime.

    Exit codes: 0 shown, 1 refused or not there, 2 not understood, 3 the server cannot be reached.
    """
    remote = Remote.of(url, token, header).at(stream)

    async def work() -> None:
        async with remote.client() as client:
            info = await client.stream(stream).head()
        if json:
            print_json(
                {
                    "content_type": info.content_type,
                    "next_offset": info.next_offset,
                    "closed": info.closed,
                    "ttl_s": info.ttl_s,
                    "expires_at": info.expires_at,
                }
            )
            return
        typer.echo(f"content type  {info.content_type}")
        typer.echo(f"next offset   {info.next_offset}")
        typer.echo(f"state         {'closed' if info.closed else 'open'}")
        if info.ttl_s is not None:
            typer.echo(f"expires       {info.ttl_s} s after it was last used")
        if info.expires_at is not None:
            typer.echo(f"expires       {info.expires_at}")

    run(work)


def ls(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only streams whose path begins so: /chats/.")] = "/",
    long: Annotated[bool, typer.Option("--long", "-l", help="Creation, state, type and next offset as well.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each stream.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many. (all)", show_default=False)] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """List the streams of a server, in the order of their paths.

    Exit codes: 0 listed, 1 refused, or this server does not list, 2 not understood, 3 the server cannot be reached.
    """
    remote = Remote.of(url, token, header)

    async def work() -> None:
        async with remote.client() as client:
            try:
                async with aclosing(client.streams(prefix)) as streams:
                    shown = 0
                    async for listed in streams:
                        _show(listed, long=long, json=json)
                        shown += 1
                        if shown == limit:
                            break
            except StreamNotFound:
                fail(f"{remote.url} does not list its streams", 1)

    run(work)


def _show(stream: ListedStream, *, long: bool, json: bool) -> None:
    if json:
        print_json(stream)
    elif long:
        condition = "closed" if stream.closed else "open"
        typer.echo(f"{stream.created_at}  {condition:6}  {stream.next_offset}  {stream.content_type:24}  {stream.path}")
    else:
        typer.echo(stream.path)
