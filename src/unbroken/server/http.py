"""HTTP as the application sees it, without a server underneath: neutral requests and responses.

An adapter (`unbroken.server.asgi`) turns what its server hands it into a `Request` and sends a `Response` back.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, MutableMapping, Sequence
from enum import Enum
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from unbroken.protocol.headers import Fields
from unbroken.protocol.scopes import Principal

__all__ = ["ClientGone", "ConnectionLimits", "Headers", "LiveBody", "Request", "Response", "Then", "join_fields"]

Headers = list[tuple[bytes, bytes]]


def join_fields(headers: Sequence[tuple[bytes, bytes]]) -> Fields:
    """Headers by name; the values of a repeated one joined (RFC 9110 section 5.3)."""
    fields = dict(headers)
    if len(fields) == len(headers):
        return fields
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(several) for name, several in values.items()}


_LOOPBACK = ("127.0.0.1", 0)


_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)


class ClientGone(Exception):
    """The client went away before its request had arrived whole. There is nobody to answer."""


class Request(ABC):
    """One request.

    Args:
        method: in upper case.
        target: the path of the request target exactly as received, percent-escapes and all.
        roots: the prefixes, decoded, one of which may stand before the stream's path; the first as clients see it.
        query: what follows the question mark, raw.
        scheme: ``http`` or ``https``.
        fields: the headers.
        arrived: the whole body, if it is there already; `next_part` is not to be called then.

    Attributes:
        begun_s: `time.perf_counter` when it was there.
        principal: who sent it, once that is known; None as long as nobody is asked who they are.
        refusal: the code of the error that it was answered with, if it was.
    """

    principal: Principal | None = None
    refusal: str | None = None
    _id: str | None = None

    def __init__(
        self,
        method: str,
        target: bytes,
        roots: tuple[str, ...],
        query: bytes,
        scheme: str,
        fields: Fields,
        arrived: bytes | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.roots = roots
        self.query = query
        self.scheme = scheme
        self.fields = fields
        self.arrived = arrived
        self.begun_s = perf_counter()

    @property
    def id(self) -> str:
        """What it is called in logs: the client's ``X-Request-Id`` if it has a sane one, else a name of our own."""
        if self._id is None:
            given = self.fields.get(b"x-request-id", b"")
            self._id = given.decode("ascii") if _SANE_ID.fullmatch(given) else f"{_ID_PREFIX}-{next(_ids):x}"
        return self._id

    @property
    def client(self) -> str | None:
        """The address that it came from."""
        return None

    @property
    def scope(self) -> MutableMapping[str, Any]:
        """The ASGI scope that it came in; empty if it came another way."""
        return {}

    @property
    def server(self) -> tuple[str, int | None] | None:
        """The address at which it came in: host and port."""
        return _LOOPBACK

    @abstractmethod
    async def next_part(self) -> bytes | None:
        """The next part of the body; None after the last.

        Raises:
            ClientGone: the client disconnected before the end.
        """

    @abstractmethod
    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called if the client goes away from now on. The body must have been read."""


class Then(Enum):
    """What is to be done after a part of a body was taken."""

    WAIT = "until there is news"
    ASK = "again, when others had their turn"
    LOAD = "the next part, which takes a while"
    END = "the response: that was all"


class LiveBody(ABC):
    """A body that comes to be while it is sent, for as long as somebody reads.

    Whoever sends it, a task or a connection, takes a part when the client can take one and there may be something new.
    So nothing is ever queued for a client.

    Attributes:
        then: what is to be done next.
        sent_bytes: how much was taken so far.
        on_close: called in the end.
    """

    then = Then.ASK
    sent_bytes = 0
    on_close: Callable[[], None] | None = None

    @abstractmethod
    def begin(self, on_news: Callable[[], None]) -> None:
        """It is about to be sent. From now to `close`, ``on_news`` is called when there may be something to take."""

    @abstractmethod
    def take(self) -> bytes:
        """What can be sent now, which may be nothing; sets ``then``. It does not raise."""

    @abstractmethod
    async def load(self) -> None:
        """Get ready for `take` what is not at hand."""

    @abstractmethod
    def stop(self) -> None:
        """The client has gone: bring it to its end."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is taken."""

    async def parts(self) -> AsyncGenerator[bytes]:
        """All of it, for a task that sends it."""
        news = asyncio.Event()
        try:
            self.begin(news.set)
            while True:
                news.clear()
                if part := self.take():
                    yield part
                    del part  # what is sent is not held until there is more
                if self.then is Then.END:
                    return
                if self.then is Then.LOAD:
                    await self.load()
                elif self.then is Then.WAIT:
                    await news.wait()
                else:
                    await asyncio.sleep(0)
        finally:
            self.close()


class Response(msgspec.Struct):
    """One response."""

    status: int
    headers: Headers
    body: bytes | LiveBody = b""


class ConnectionLimits(NamedTuple):
    """How long a connection may take.

    Args:
        head_timeout_s: seconds until the head of a request must have arrived.
        idle_timeout_s: seconds that a connection stays open between two requests.
    """

    head_timeout_s: float = 20.0
    idle_timeout_s: float = 75.0
