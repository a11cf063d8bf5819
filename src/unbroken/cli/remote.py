"""What the commands that speak to a server share: which server, as whom, and what is said when it goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import typer

from unbroken.cli.terminal import fail, reported
from unbroken.client import AsyncClient, Retry
from unbroken.errors import ConnectionLost, StreamNotFound, UnbrokenError

__all__ = ["DEFAULT_URL", "Headers", "Remote", "Target", "Token", "Url", "check_target", "run"]

DEFAULT_URL = "http://127.0.0.1:9999"

Target = Annotated[str, typer.Argument(metavar="STREAM", help="URL of a stream, or its path on the server: /chats/7.")]
Url = Annotated[str, typer.Option("--url", envvar="UNBROKEN_URL", help="The server that paths are looked up on.")]
Token = Annotated[
    str | None, typer.Option("--token", envvar="UNBROKEN_TOKEN", show_envvar=True, help="Sent as bearer token.")
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="One more request header; repeatable."),
]

_PATIENCE_S = 2.0
"""How long single requests are tried again. Who follows or appends waits for a server that comes back."""

_HINTS = {
    "stream-exists": "`--exist-ok` takes it as it is, `unbroken head` shows it",
    "stream-closed": "it takes nothing more; `unbroken fork` goes on in a new one",
    "offset-gone": "read again from the beginning: --offset -1",
    "content-type-mismatch": "`unbroken head` shows the type of the stream",
    "unauthorized": "give a token with --token or UNBROKEN_TOKEN",
}
"""What to do next, by code of the error."""


class Remote(NamedTuple):
    """A server, and how to appear there.

    Args:
        url: its base, without a slash at the end.
        token: bearer token.
        headers: to send with every request.
    """

    url: str
    token: str | None
    headers: dict[str, str]

    @classmethod
    def of(cls, url: str, token: str | None, headers: list[str] | None) -> Remote:
        """What the options say; ends the command if they make no sense."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            fail(f"{url!r} is not the URL of a server, such as {DEFAULT_URL}", 2)
        named = {}
        for header in headers or ():
            name, colon, value = header.partition(":")
            if not colon or not name.strip():
                fail(f"{header!r} is not a header such as 'X-Tenant: 7'", 2)
            named[name.strip()] = value.strip()
        return cls(url.rstrip("/"), token, named)

    def at(self, target: str) -> Remote:
        """The server that a stream is on: this one, unless its URL is of another; ends the command if it is neither a
        path nor a URL. Whoever names another server by a URL wants the token to go there.
        """
        if check_target(target).startswith("/") or f"{target}/".startswith(f"{self.url}/"):
            return self
        parts = urlsplit(target)
        return self._replace(url=f"{parts.scheme}://{parts.netloc}")

    def client(self) -> AsyncClient:
        """A client for it; to be used as a context manager."""
        return AsyncClient(self.url, token=self.token, headers=self.headers, retry=Retry(give_up_after_s=_PATIENCE_S))


def check_target(target: str) -> str:
    """The stream that is meant; ends the command if it is neither a path nor a URL."""
    parts = urlsplit(target)
    if not target.startswith("/") and not (
        parts.scheme in ("http", "https") and parts.netloc and parts.path.strip("/")
    ):
        fail(f"{target!r} is neither a path such as /chats/7 nor a URL such as {DEFAULT_URL}/chats/7", 2)
    return target


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Do what a command does, in an event loop; Ctrl-C ends it with exit code 130 and without a word."""

    async def main() -> None:
        await work()

    with reported(), _answers_told():
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@contextmanager
def _answers_told() -> Iterator[None]:
    """Turns an answer of the server, or none, into one line and an exit code."""
    try:
        yield
    except ConnectionLost as error:
        fail(f"{error}: is the server running there? `unbroken serve` starts one", 3)
    except StreamNotFound as error:
        where = "there" if error.request is None else f"at {error.request.url}"
        fail(f"there is no stream {where} (`unbroken create` makes one)", 1)
    except UnbrokenError as error:
        hint = _HINTS.get(error.code)
        fail(f"{error}{f' ({hint})' if hint else ''}", 1)
