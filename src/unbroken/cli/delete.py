"""``unbroken delete``: delete a stream, or all below a prefix."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Target, Token, Url, check_target, run

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
    target, base = check_target(stream), url.rstrip("/")
    if prefix and not target.startswith("/"):
        base, target = _split(target, base)
    remote = Remote.of(base, token, header)
    if prefix and not yes and sys.stdin.isatty():
        typer.confirm(f"Delete every stream of {base} whose path begins with {target}?", abort=True)

    async def work() -> None:
        async with remote.client() as client:
            if not prefix:
                await client.stream(target).delete()
                return
            count = await client.delete_streams(target)
            typer.echo(f"deleted {count} {'stream' if count == 1 else 'streams'}")

    run(work)


def _split(target: str, base: str) -> tuple[str, str]:
    """The server's base URL and the path below it."""
    if target.startswith(f"{base}/"):
        return base, target.removeprefix(base)
    parts = urlsplit(target)
    return f"{parts.scheme}://{parts.netloc}", parts.path
