"""Failures of httpx2, told as ours; and what all of its clients share."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from unbroken.client.options import Ask
from unbroken.errors import ConnectionLost, InvalidRequest, NoAnswer, NotConnected, ProtocolViolation, UnbrokenError

__all__ = ["tls", "translated"]

_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


@functools.cache
def tls() -> ssl.SSLContext:
    """How servers are authenticated: httpx2's way. To make it takes 35 ms, so it is made once."""
    return httpx2.create_ssl_context()


@contextmanager
def translated(ask: Ask) -> Iterator[None]:
    """Raise what goes wrong with a request in this block as an error of our tree.

    Raises:
        NotConnected: no connection could be made; nothing was sent.
        NoAnswer: it was silent for too long; whether the server has done it is not known.
        ConnectionLost: it broke; the same.
        ProtocolViolation: what came is not HTTP as it should be.
        InvalidRequest: the URL is none to send requests to.
    """
    try:
        yield
    except httpx2.HTTPError as error:
        raise _error(error, ask) from error
    except httpx2.InvalidURL as error:
        raise InvalidRequest(f"not a URL: {error}") from error


def _error(error: httpx2.HTTPError, ask: Ask) -> UnbrokenError:
    sent = not isinstance(error, _NOT_CONNECTED)
    said = str(error) or type(error).__name__
    result: UnbrokenError
    if isinstance(error, httpx2.UnsupportedProtocol):
        sent, result = False, InvalidRequest(f"not a URL to send requests to: {ask.facts().url}")
    elif not sent:
        result = NotConnected(f"no connection for {ask.facts()}: {said}")
    elif isinstance(error, httpx2.TimeoutException):
        result = NoAnswer(f"{ask.facts()} was not answered in time")
    elif isinstance(error, httpx2.DecodingError | httpx2.TooManyRedirects):
        result = ProtocolViolation(f"{ask.facts()}: {said}")
    else:
        result = ConnectionLost(f"the connection for {ask.facts()} broke: {said}")
    result.request = ask.facts(sent=sent)
    return result
