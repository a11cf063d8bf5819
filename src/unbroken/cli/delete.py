"""``unbroken delete``: delete a stream, or all below a prefix."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, run

__all__ = ["delete"]


def delete(
    stream: Target,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Delete every stream whose path begins with this one: /chats/.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting many.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Delete a stream, or all whose path begins with a prefix.

    Exit codes: 0 deleted, 1 refused or not there, 2 not understood, 3 the server cannot be reached.
    """
    remote = Remote.of(url, token, header).at(stream)
    path = stream.removeprefix(remote.url)
    if prefix and not yes and sys.stdin.isatty():
        typer.confirm(f"Delete every stream of {remote.url} whose path begins with {path}?", abort=True)

    async def work() -> None:
        async with remote.client() as client:
            if not prefix:
                await client.stream(stream).delete()
                return
            count = await client.delete_streams(path)
            typer.echo(f"deleted {count} {'stream' if count == 1 else 'streams'}")

    run(work)
