"""Requests: made up, sent, answered, and repeated where that cannot do harm."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import httpx2

from unbroken.client._sync import io
from unbroken.client.answers import error_of
from unbroken.client.options import Ask, Repeat, Secret, Values
from unbroken.client.retry import Retry, did_nothing, may_repeat
from unbroken.client.transport import translated
from unbroken.client.values import Answer
from unbroken.errors import AnswerTooLarge, UnbrokenError

__all__ = ["Pieces", "Requests", "Token", "is_spent", "read_body"]

_ERROR_BYTES_MAX = 64 * 1024


class Token:
    """The bearer token, as long as it works.

    Args:
        source: a token, or what gives one: asked at the first request, and again when a server says 401.
    """

    def __init__(self, source: Secret | None) -> None:
        self._source = source
        self._token: str | None = None

    def get(self) -> str | None:
        """The token to send, None if there is none."""
        if self._token is None and self._source is not None:
            self._token = io.resolve(self._source)
        return self._token

    def is_renewed(self, refused: str | None) -> bool:
        """Whether there is another token than the one that a server refused."""
        if not callable(self._source):
            return False
        if self._token == refused:
            self._token = None
        return self.get() != refused


class Requests:
    """Sends requests for a client.

    Args:
        http: what speaks HTTP.
        token: see `Token`.
        headers: more headers, for every request.
        params: more query parameters, for every request.
        timeout_s: how long a server may take to connect, to answer, or between two pieces of a body.
        retry: how failed requests are repeated.
        body_bytes_max: a longer body of an answer is refused.
    """

    def __init__(
        self,
        http: httpx2.Client,
        token: Token,
        headers: Values,
        params: Values,
        timeout_s: float,
        retry: Retry,
        body_bytes_max: int,
    ) -> None:
        self.retry = retry
        self.timeout_s = timeout_s
        self.body_bytes_max = body_bytes_max
        self._http = http
        self._token = token
        self._headers = headers
        self._params = params

    @contextmanager
    def open(self, ask: Ask, *, timeout_s: float | None = None) -> Generator[httpx2.Response]:
        """Send a request once; with a fresh token once more if the first one is refused.

        Args:
            ask: the request.
            timeout_s: how long the server may take until it answers, and between two pieces of the body.

        Returns:
            The response, a success; its body is still to be read.

        Raises:
            UnbrokenError: no connection, it broke, or the answer is not a success.
        """
        with translated(ask):
            response, token = self._send(ask, timeout_s or self.timeout_s)
        try:
            if response.status_code == 401 and not is_spent(ask.body) and self._token.is_renewed(token):
                response.close()
                with translated(ask):
                    response, token = self._send(ask, timeout_s or self.timeout_s)
            if not response.is_success:
                raise self._error(ask, response)
            with translated(ask):
                yield response
        finally:
            response.close()

    def _send(self, ask: Ask, timeout_s: float) -> tuple[httpx2.Response, str | None]:
        headers = {**io.resolve(self._headers), **ask.headers}
        token = self._token.get()
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        request = self._http.build_request(
            ask.method,
            httpx2.URL(ask.url).copy_merge_params({**io.resolve(self._params), **ask.params}),
            headers=headers,
            content=ask.body,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, self.timeout_s), pool=self.timeout_s),
        )
        return self._http.send(request, stream=True), token

    def _error(self, ask: Ask, response: httpx2.Response) -> UnbrokenError:
        try:
            with translated(ask):
                body = read_body(response, _ERROR_BYTES_MAX, ask)
        except UnbrokenError:  # the status and the headers say enough
            body = b""
        return error_of(Answer(response.status_code, response.headers, body, ask.facts()), time.time())

    def once(self, ask: Ask, *, timeout_s: float | None = None) -> Answer:
        """Send a request once, and read the whole answer.

        Raises:
            UnbrokenError: see `open`.
            AnswerTooLarge: the body is over the limit.
        """
        with self.open(ask, timeout_s=timeout_s) as response:
            body = read_body(response, self.body_bytes_max, ask)
        return Answer(response.status_code, response.headers, body, ask.facts())

    def call(self, ask: Ask, repeat: Repeat) -> Answer:
        """Send a request, again and again where that may help and cannot harm, and read the whole answer.

        Raises:
            UnbrokenError: the last failure. ``request.unsure`` says whether an earlier attempt may have been done.
        """
        failures, unsure, began_s = 0, False, time.monotonic()
        while True:
            try:
                answer = self.once(ask)
            except UnbrokenError as error:
                if unsure and error.request is not None:
                    error.request = error.request._replace(unsure=True)
                failures += 1
                pause_s = self.retry.pause_s(failures, error.retry_after_s)
                if not may_repeat(error, repeat) or is_spent(ask.body) or self._is_late(began_s, pause_s):
                    raise
                unsure = unsure or not did_nothing(error)
                io.sleep(pause_s)
            else:
                return replace(answer, unsure=unsure)

    def _is_late(self, began_s: float, pause_s: float) -> bool:
        limit_s = self.retry.give_up_after_s
        return limit_s is not None and time.monotonic() + pause_s - began_s > limit_s


class Pieces:
    """A body in pieces, which can be sent only once.

    Args:
        pieces: bytes or text.
    """

    def __init__(self, pieces: Iterable[bytes | str]) -> None:
        self.begun = False
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        for piece in self._pieces:
            if piece:  # an empty chunk would end a chunked body
                yield piece.encode() if isinstance(piece, str) else piece


def is_spent(body: object) -> bool:
    """Whether a body cannot be sent (again)."""
    return isinstance(body, Pieces) and body.begun


def read_body(response: httpx2.Response, limit_bytes: int, ask: Ask) -> bytes:
    """The body of an answer, as a whole.

    Raises:
        AnswerTooLarge: it is longer than the limit.
    """
    parts: list[bytes] = []
    size_bytes = 0
    with closing(io.chunks_of(response)) as chunks:
        for chunk in chunks:
            parts.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > limit_bytes:
                error = AnswerTooLarge(f"the answer to {ask.facts()} is over the limit of {limit_bytes} bytes")
                error.request = ask.facts()
                raise error
    return b"".join(parts)
