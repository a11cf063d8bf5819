"""What a handler returns: a response for any ASGI server, of which a framework's own responses are made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qs

from unbroken.errors import UnbrokenError
from unbroken.server.asgi import Receive, Scope, Send, send_parts
from unbroken.server.http import join_fields
from unbroken.server.problems import problem

__all__ = ["HasScope", "Reader", "Reply", "RequestLike", "Unfinished", "failure"]


class Unfinished(Exception):
    """A body has to end before it is complete. Its reader is to see a broken connection, and not the end."""


class HasScope(Protocol):
    """A request of a framework on ASGI: Starlette's, FastAPI's, Litestar's, or Django's under ASGI."""

    @property
    def scope(self) -> Any:
        """The ASGI scope."""


RequestLike: TypeAlias = HasScope | Scope
"""A framework's request, or an ASGI scope."""


class Reader:
    """What is to be known of a reader: where it is, and what it accepts.

    Args:
        request: of the reader; by default it begins at the beginning and accepts everything.

    Attributes:
        offset: where to resume: ``Last-Event-ID``, which a browser's EventSource sends by itself, or ``offset`` in the
            query.
        accept: its ``Accept`` header.
    """

    def __init__(self, request: RequestLike | None = None) -> None:
        self.offset: str | None = None
        self.accept = ""
        if request is not None:
            scope: Scope = request if isinstance(request, MutableMapping) else request.scope
            fields = join_fields(scope["headers"])
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
            self.offset = fields.get(b"last-event-id", b"").decode("latin-1") or query.get("offset", [None])[-1]
            self.accept = fields.get(b"accept", b"").decode("latin-1")


class Reply:
    """A response. It is itself an ASGI application, to be called with the request's scope, receive and send.

    Args:
        status: HTTP status.
        headers: names in lower case.
        body: bytes, or an iterator of them that is sent at the pace of the client.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes | AsyncIterator[bytes] = b""
    ) -> None:
        self.status = status
        self.headers = dict(headers or {})
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        body = b"" if scope["method"] == "HEAD" else self.body
        if isinstance(body, bytes):
            if self.status != 204 and scope["method"] != "HEAD":
                headers.append((b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        sending = asyncio.create_task(send_parts(body, send))
        watching = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.wait((sending, watching))
        if not sending.cancelled():
            # An OSError is how some servers say that the client has gone. A response that is left unfinished makes the
            # server break the connection.
            with contextlib.suppress(OSError, Unfinished):
                sending.result()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def failure(error: UnbrokenError) -> Reply:
    """The reply that tells a client of an error, as an Unbroken server does."""
    response = problem(error)
    assert isinstance(response.body, bytes)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    return Reply(response.status, headers, response.body)
