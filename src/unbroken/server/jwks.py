"""Keys that an identity provider publishes: a JWK set at a URL, fetched seldom and kept.

Keys are used for five minutes, then fetched again, while they serve on. A token that names a key which is
not there has the set fetched at once, since keys are rotated: but not more than once in ten seconds, whatever tokens
people make up. When fetching fails, the keys that are there serve on, for a day at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import msgspec

from unbroken.errors import KeysUnavailable
from unbroken.tokens.keys import Key, KeyFault, parse_key_set
from unbroken.tokens.signed import Header

__all__ = ["COOLDOWN_S", "FRESH_S", "STALE_S", "RemoteKeys"]

FRESH_S = 300.0
STALE_S = 86_400.0
COOLDOWN_S = 10.0
_TIMEOUT_S = 5.0
_BYTES_MAX = 256 * 1024

_log = logging.getLogger("unbroken.server")


class RemoteKeys:
    """The keys at one URL.

    Args:
        url: where the JWK set is.
        on_change: called when the keys have become others.
        fetch: gets what is there, in a thread of its own.
        clock: tells the time, in seconds.
    """

    def __init__(
        self,
        url: str,
        on_change: Callable[[], None],
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._on_change = on_change
        self._fetch = fetch or _fetch
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched_s = self._attempted_s = -math.inf
        self._refreshing: asyncio.Task[None] | None = None

    async def fitting(self, header: Header) -> tuple[Key, ...]:
        """The keys that may have signed a token.

        Raises:
            KeysUnavailable: there are no keys, and they cannot be fetched.
        """
        self.keep_fresh()
        if self._age_s >= STALE_S:
            await self._refreshed()
        if self._age_s >= STALE_S:
            raise KeysUnavailable("the keys that tokens are checked with cannot be fetched")
        found = self._fitting(header)
        if not found and header.kid is not None:
            await self._refreshed()
            found = self._fitting(header)
        return found

    @property
    def _age_s(self) -> float:
        return self._clock() - self._fetched_s

    def _fitting(self, header: Header) -> tuple[Key, ...]:
        return tuple(key for key in self._keys if header.fits(key))

    def keep_fresh(self) -> None:
        """Fetch the keys when it is time, and let go of those that are too old.

        To be called every now and then: a token that is remembered is not checked, and its key may be withdrawn.
        """
        if self._age_s >= FRESH_S:
            self.refresh()
        if self._age_s >= STALE_S and self._keys:
            self._keys = ()
            self._on_change()

    def refresh(self) -> None:
        """Begin to fetch the keys, unless that is under way or was done just now."""
        if self._refreshing is None and self._clock() - self._attempted_s >= COOLDOWN_S:
            self._attempted_s = self._clock()
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refreshed(self) -> None:
        self.refresh()
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        try:
            # Each wait for a part of the answer has its own limit; this one is for a server that sends it in crumbs.
            async with asyncio.timeout(2 * _TIMEOUT_S):
                content = await _in_background(self._fetch, self._url)
            keys = parse_key_set(_decode(content), published=True)
        except (OSError, HTTPException, KeyFault) as error:
            _log.warning("the keys at %s cannot be fetched: %s", self._url, error)
        else:
            self._fetched_s = self._clock()
            if keys != self._keys:
                self._keys = keys
                self._on_change()
        finally:
            self._refreshing = None

    async def stop(self) -> None:
        """Fetch nothing more."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)


async def _in_background(fetch: Callable[[str], bytes], url: str) -> bytes:
    """Run it in a thread that the end of the server does not wait for, as it would for one of the loop's own."""
    loop = asyncio.get_running_loop()
    fetched: asyncio.Future[bytes] = loop.create_future()

    def tell(told: Callable[[], None]) -> None:
        # If the loop has ended there is nobody to tell; if the future was cancelled, nobody wants to know.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if fetched.done() else told())

    def run() -> None:
        try:
            content = fetch(url)
        except Exception as error:
            failure = error
            tell(lambda: fetched.set_exception(failure))
        else:
            tell(lambda: fetched.set_result(content))

    threading.Thread(target=run, name="unbroken-jwks", daemon=True).start()
    return await fetched


def _decode(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeyFault("what is there is not JSON") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the operator said, or not at all."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "application/json, application/jwk-set+json"})  # noqa: S310 (checked where it is set)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as response:
            return _bounded(response)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"it was answered {error.code}") from None


def _bounded(response: Any) -> bytes:
    give_up_s = time.monotonic() + _TIMEOUT_S
    content = bytearray()
    while part := response.read1(65_536):
        content += part
        if len(content) > _BYTES_MAX or time.monotonic() > give_up_s:
            raise OSError("it is too large, or comes too slowly")
    return bytes(content)
