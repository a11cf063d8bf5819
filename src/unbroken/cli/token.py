"""``unbroken token``: make, list and revoke static tokens."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from unbroken.cli.terminal import fail, format_moment, print_json
from unbroken.protocol.scopes import ScopeError, grant
from unbroken.server.guard import TOKENS_FILE_NAME

__all__ = ["application", "create", "ls", "revoke"]

_NAME_CHARS_MAX = 100
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

DataDir = Annotated[
    Path, typer.Option(envvar="UNBROKEN_DATA_DIR", help="Data directory of the server that is to accept them.")
]
File = Annotated[
    Path | None, typer.Option("--file", envvar="UNBROKEN_TOKENS_FILE", help="Where they are kept. (tokens.json there)")
]
Globs = list[str] | None
DATA_DIR = Path("unbroken-data")


def create(
    name: Annotated[str, typer.Argument(help="What it is for, in words: 'nightly import'.")],
    read: Annotated[Globs, typer.Option(help="Streams it may read: /chats/7, /chats/*, /chats/**. Repeatable.")] = None,
    append: Annotated[Globs, typer.Option(help="Streams it may append to and close.")] = None,
    create: Annotated[Globs, typer.Option(help="Streams it may create.")] = None,
    delete: Annotated[Globs, typer.Option(help="Streams it may delete.")] = None,
    admin: Annotated[Globs, typer.Option(help="Streams it may do everything to, list, and delete by prefix.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: 12h, 90d. (never)")] = None,
    data_dir: DataDir = DATA_DIR,
    file: File = None,
) -> None:
    """Make a token and print it. It cannot be shown again: only its hash is kept.

    In a glob, * stands for one segment of a path, ** at its end for everything below.
    """
    from unbroken.tokens.static import TokenFile, TokenFileError  # noqa: PLC0415

    path = file or data_dir / TOKENS_FILE_NAME
    first = not path.exists()
    try:
        if not name.isprintable() or not 0 < len(name) <= _NAME_CHARS_MAX:
            raise ScopeError(f"a name has 1 to {_NAME_CHARS_MAX} printable characters")
        scopes = grant(
            create=create or (), append=append or (), read=read or (), delete=delete or (), admin=admin or ()
        )
        if not scopes.entries:
            raise ScopeError("say what it may do: --read '/chats/**', or --admin '/**' for everything")
        now_s = time.time()
        expires_at = None if expires is None else int(now_s) + _seconds(expires)
        token, kept = TokenFile(path).create(name, scopes, now_s=now_s, expires_at=expires_at)
    except ScopeError as error:
        fail(str(error), 2)
    except TokenFileError as error:
        fail(str(error), 1)
    typer.echo(token)
    notes = [f"{kept.id} ({name}) may: {scopes}"]
    if first:
        notes.append("It is the first one: a server on this data directory asks for tokens from its next start on.")
    if sys.stdout.isatty():
        notes.append("Keep it now; it is not stored and cannot be shown again.")
    typer.echo("\n".join(notes), err=True)


def ls(
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_dir: DataDir = DATA_DIR,
    file: File = None,
) -> None:
    """List the tokens: what they are for, what they may do, when they end. Never the tokens themselves."""
    from unbroken.tokens.static import TokenFile, TokenFileError  # noqa: PLC0415

    try:
        tokens = TokenFile(file or data_dir / TOKENS_FILE_NAME).read()
    except TokenFileError as error:
        fail(str(error), 1)
    if json:
        for token in tokens:
            listed = {"id": token.id, "name": token.name, "scope": token.scope, "createdAt": _moment(token.created_at)}
            print_json({**listed, "expiresAt": _moment(token.expires_at)})
        return
    if not tokens:
        typer.echo("There are no tokens. Make one with: unbroken token create", err=True)
        return
    rows = [("ID", "NAME", "EXPIRES", "SCOPE")]
    rows += [(token.id, token.name, _moment(token.expires_at) or "never", token.scope) for token in tokens]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        typer.echo("  ".join([*(row[at].ljust(widths[at]) for at in range(3)), row[3]]))


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As token ls shows it.")],
    data_dir: DataDir = DATA_DIR,
    file: File = None,
) -> None:
    """Revoke a token. A running server forgets it within a second, and ends its live reads."""
    from unbroken.tokens.static import TokenFile, TokenFileError  # noqa: PLC0415

    try:
        found = TokenFile(file or data_dir / TOKENS_FILE_NAME).revoke(token_id)
    except TokenFileError as error:
        fail(str(error), 1)
    if not found:
        fail(f"there is no token {token_id}; unbroken token ls shows those there are", 1)
    typer.echo(f"revoked {token_id}", err=True)


def _seconds(duration: str) -> int:
    match = _DURATION.fullmatch(duration.strip())
    if match is None or not int(match[1]):
        fail(f"--expires must be such as 30m, 12h or 90d, not {duration!r}", 2)
    return int(match[1]) * _SECONDS[match[2]]


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else format_moment(seconds * 1000)


application = typer.Typer(help="Static tokens: for those who may use the server.", no_args_is_help=True)
for _command in (create, ls, revoke):
    application.command(_command.__name__)(_command)
