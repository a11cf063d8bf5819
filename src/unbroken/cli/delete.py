"""``unbroken delete``: delete a stream, or all below a prefix."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import Annotated
from urllib.parse import quote, urlsplit

import msgspec
import typer

from unbroken.cli.terminal import fail

__all__ = ["delete"]

_TIMEOUT_S = 120.0


class _Deletion(msgspec.Struct):
    deleted: int
    more: bool


def delete(
    target: Annotated[str, typer.Argument(help="URL of a stream, or its path on the server: /chats/7.")],
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Delete every stream whose path begins with this one: /chats/.")
    ] = False,
    server: Annotated[
        str, typer.Option(envvar="UNBROKEN_URL", help="Where paths are looked up.")
    ] = "http://127.0.0.1:9999",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting many.")] = False,
) -> None:
    """Delete a stream, or all whose path begins with a prefix.

    Exit codes: 0 deleted, 1 refused or not there, 2 not understood, 3 the server cannot be reached.
    """
    base, path = _split(target, server)
    try:
        if not prefix:
            _send(base + quote(path, safe="/%~!$&'()*+,;=:@-._"))
            return
        if not yes and sys.stdin.isatty():
            typer.confirm(f"Delete every stream of {base} whose path begins with {path}?", abort=True)
        count = _delete_all(base, path)
        typer.echo(f"deleted {count} {'stream' if count == 1 else 'streams'}")
    except urllib.error.HTTPError as error:
        fail(f"{target}: {_reason(error)}", 1)
    except (OSError, http.client.HTTPException) as error:
        fail(f"{base} cannot be reached ({error}): is the server running there?", 3)


def _split(target: str, server: str) -> tuple[str, str]:
    """The server's base URL and the path below it."""
    if target.startswith("/"):
        return server.rstrip("/"), target
    url = urlsplit(target)
    if url.scheme not in ("http", "https") or not url.netloc or not url.path:
        fail(f"{target!r} is neither a path such as /chats/7 nor a URL such as http://127.0.0.1:9999/chats/7", 2)
    base = server.rstrip("/")
    if target.startswith(f"{base}/"):
        return base, target.removeprefix(base)
    return f"{url.scheme}://{url.netloc}", url.path


def _delete_all(base: str, prefix: str) -> int:
    deleted = 0
    while True:
        answer = msgspec.json.decode(_send(f"{base}/-/streams?prefix={quote(prefix, safe='')}"), type=_Deletion)
        deleted += answer.deleted
        if not answer.more:
            return deleted


def _send(url: str) -> bytes:
    request = urllib.request.Request(url, method="DELETE")  # noqa: S310 (the scheme was checked)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        body: bytes = response.read()
        return body


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        problem = msgspec.json.decode(error.read(), type=dict[str, object])
    except msgspec.DecodeError:
        return f"{error.code} {error.reason}"
    return f"{problem.get('detail') or problem.get('title')} ({error.code})"
