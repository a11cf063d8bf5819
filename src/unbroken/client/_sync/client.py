"""The client: what all requests have in common."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Self

import httpx2

from unbroken.client._sync.requests import Requests, Token
from unbroken.client._sync.stream import Stream
from unbroken.client.listing import read_deletion, read_listing
from unbroken.client.options import Ask, Repeat, Secret, Values, join_url, plain_url, same_origin
from unbroken.client.retry import Retry
from unbroken.client.transport import tls
from unbroken.protocol.listing import ListedStream

__all__ = ["Client"]

_CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=20, keepalive_expiry=4.0)
"""Many servers close a connection that was idle for 5 s: one that is older is not used again, since whether a request
on it was done would not be known."""


class Client:
    """A client for servers of the protocol. A context manager.

        with Client("http://127.0.0.1:9999") as client:
            stream = client.stream("/chats/7")

    Args:
        url: where the streams are: an origin, or a URL that their paths follow. Not needed if streams are always named
            by full URLs.
        token: sent as ``Authorization: Bearer``. A function is asked for it at the first
            request, and again after a 401.
        headers: more headers for every request: a mapping, or a function that is called for
        each. params: more query parameters for every request, in the same way.
        http: an ``httpx2.Client`` to use: for proxies, certificates, HTTP/2, cookies. It stays open.
        transport: an httpx2 transport to use, such as `unbroken.client.AsgiTransport`.
        timeout_s: how many seconds a server may take to connect, to begin its answer, or between two pieces of it. Live
            reads have limits of their own.
        retry: how requests are repeated that failed.
        body_bytes_max: an answer with a longer body is refused.

    Raises:
        ValueError: both ``http`` and ``transport``, or a time limit that is not above 0.
    """

    def __init__(
        self,
        url: str = "",
        *,
        token: Secret | None = None,
        headers: Values | None = None,
        params: Values | None = None,
        http: httpx2.Client | None = None,
        transport: httpx2.BaseTransport | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        body_bytes_max: int = 256 * 1024 * 1024,
    ) -> None:
        if http is not None and transport is not None:
            raise ValueError("give either http or transport")
        if timeout_s <= 0:
            raise ValueError("timeout_s must be above 0")
        self.url = url
        self._has_token = token is not None
        self._own_http = http is None
        self._http = http or httpx2.Client(transport=transport, limits=_CONNECTIONS, verify=tls())
        self._requests = Requests(
            self._http, Token(token), headers or {}, params or {}, timeout_s, retry or Retry(), body_bytes_max
        )

    def stream(self, url: str) -> Stream:
        """A handle of a stream, which may exist or not: nothing is sent.

        Args:
            url: a path below the client's URL, with what is special in URLs percent-encoded, or a full URL.

        Raises:
            ValueError: a full URL of another server than the client's, which would be sent the client's token.
        """
        joined = join_url(self.url, url)
        if self._has_token and self.url and not same_origin(joined, self.url):
            raise ValueError(f"the token of a client for {plain_url(self.url)} is not for {plain_url(joined)}")
        return Stream(self._requests, self.url, joined)

    def streams(self, prefix: str = "/") -> Generator[ListedStream]:
        """The streams below the client's URL, in the order of their paths. Only Unbroken's own servers list.

        Args:
            prefix: only those whose path begins with it, compared character by character.

        Raises:
            StreamNotFound: the server does not list.
        """
        url, after = join_url(self.url, "/-/streams"), ""
        while True:
            answer = self._requests.call(Ask("GET", url, {"prefix": prefix, "after": after}), Repeat.FREELY)
            listing = read_listing(answer)
            for stream in listing.streams:
                yield stream
            if listing.next is None:
                return
            after = listing.next

    def delete_streams(self, prefix: str) -> int:
        """Delete all streams whose path begins with a prefix. Only Unbroken's own servers know how.

        Args:
            prefix: compared character by character; ``/`` stands for all of them.

        Returns:
            How many were deleted, not counting those of a request that got no answer.

        Raises:
            StreamNotFound: the server does not know how.
        """
        deleted = 0
        while True:
            ask = Ask("DELETE", join_url(self.url, "/-/streams"), {"prefix": prefix})
            done = read_deletion(self._requests.call(ask, Repeat.FREELY))
            deleted += done.deleted
            if not done.more:
                return deleted

    def metrics(self) -> str:
        """What the server tells of itself, in the text format of Prometheus. Only Unbroken's own servers do.

        Raises:
            StreamNotFound: the server does not.
        """
        answer = self._requests.call(Ask("GET", join_url(self.url, "/-/metrics"), {}), Repeat.FREELY)
        return answer.body.decode(errors="replace")

    def close(self) -> None:
        """Close all connections, unless they belong to a client that was given."""
        if self._own_http:
            self._http.close()

    def __enter__(self) -> Self:
        if self._own_http:
            self._http.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own_http:
            self._http.__exit__(kind, error, trace)
