"""What one client may take of the server: rates of writing, and live reads at a time.

Whoever is recognised has a share of their own, by their name. As long as nobody is asked who they are everybody is one
and the same, so only the limits of the whole server hold; where a share is all the same to be had, it is that of an
address.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from unbroken.errors import Overloaded, RateLimited, TooManyLiveReads
from unbroken.protocol.scopes import Principal
from unbroken.server.http import Request
from unbroken.server.settings import Settings

__all__ = ["Bucket", "LiveReads", "WriteRates", "limits_writes", "place_of", "share_of"]

_PRINCIPALS_MAX = 10_000
_RETRY_AFTER_S_MAX = 3600
_NETWORK_BITS = 64


class Bucket:
    """A token bucket that may go into debt: what is larger than a second's worth is let in, and paid for afterwards.

    Args:
        rate: tokens that come back in a second; as many are there at first, and at most.
        now_s: a monotonic clock, in seconds.
    """

    __slots__ = ("_level", "_rate", "_then_s")

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._level = rate
        self._then_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long to wait until something may be taken; 0 if it may be now."""
        self._level = min(self._rate, self._level + (now_s - self._then_s) * self._rate)
        self._then_s = now_s
        return 0.0 if self._level > 0 else (1e-9 - self._level) / self._rate

    def take(self, amount: float) -> None:
        """Take tokens, whether or not they are there."""
        self._level -= amount


class _Share:
    """The two buckets of one client, or of the server; None where there is no limit."""

    __slots__ = ("_bytes", "_whose", "_writes")

    def __init__(self, whose: str, writes: float | None, size_bytes: float | None, now_s: float) -> None:
        self._whose = whose
        self._writes = None if writes is None else Bucket(writes, now_s)
        self._bytes = None if size_bytes is None else Bucket(size_bytes, now_s)

    def check(self, now_s: float) -> None:
        for bucket, what in ((self._writes, "writes"), (self._bytes, "bytes")):
            if bucket is not None and (wait_s := bucket.wait_s(now_s)) > 0:
                retry_after_s = min(_RETRY_AFTER_S_MAX, math.ceil(wait_s))
                raise RateLimited(f"{self._whose} may not write more {what} a second", retry_after_s=retry_after_s)

    def take(self, writes: int, size_bytes: int) -> None:
        if self._writes is not None:
            self._writes.take(writes)
        if self._bytes is not None:
            self._bytes.take(size_bytes)


class WriteRates:
    """How much may be written in a second, by each client and by all.

    Args:
        settings: the rates.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._each = (settings.principal_append_rate, settings.principal_append_bandwidth)
        self._all = _Share("all clients together", settings.append_rate, settings.append_bandwidth, clock())
        self._shares: OrderedDict[str, _Share] = OrderedDict()

    def admit(self, principal: Principal | None) -> None:
        """Count one write; its bytes are taken with `charge`, once they are known.

        Raises:
            RateLimited: too much was written lately.
        """
        now_s = self._clock()
        share = None if principal is None else self._share(principal.name, now_s)
        if share is not None:
            share.check(now_s)
        self._all.check(now_s)
        if share is not None:
            share.take(1, 0)
        self._all.take(1, 0)

    def charge(self, principal: Principal | None, size_bytes: int) -> None:
        """Count the bytes of a write that was admitted."""
        if principal is not None:
            self._share(principal.name, self._clock()).take(0, size_bytes)
        self._all.take(0, size_bytes)

    def _share(self, name: str, now_s: float) -> _Share:
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = _Share("this client", *self._each, now_s)
            if len(self._shares) > _PRINCIPALS_MAX:
                # Whoever has not written for so long would find a full bucket anyway.
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(name)
        return share


def limits_writes(settings: Settings, *, knows_clients: bool) -> bool:
    """Whether any rate of writing is limited.

    Args:
        settings: the rates.
        knows_clients: whether somebody is asked who they are.
    """
    of_each = (settings.principal_append_rate, settings.principal_append_bandwidth) if knows_clients else ()
    return any(rate is not None for rate in (settings.append_rate, settings.append_bandwidth, *of_each))


class LiveReads:
    """How many readers follow a stream, in all and by client.

    Args:
        maximum: how many at most.
        of_each_maximum: how many of one client at most; None for no limit.
    """

    def __init__(self, maximum: int, of_each_maximum: int | None) -> None:
        self._maximum = maximum
        self._of_each_maximum = of_each_maximum
        self._of: Counter[str] = Counter()
        self.count = 0

    def check(self, principal: Principal | None) -> None:
        """Refuse one more.

        Raises:
            TooManyLiveReads: this client has as many as it may.
            Overloaded: so many are open in all.
        """
        most = self._of_each_maximum
        if principal is not None and most is not None and self._of.get(principal.name, 0) >= most:
            raise TooManyLiveReads(f"this client has {most} live reads open already")
        if self.count >= self._maximum:
            raise Overloaded(f"{self._maximum} live reads are open already")

    @contextmanager
    def one(self, principal: Principal | None) -> Iterator[None]:
        """Count one as long as the block lasts."""
        self.count += 1
        name = None if principal is None else principal.name
        if name is not None:
            self._of[name] += 1
        try:
            yield
        finally:
            self.count -= 1
            if name is not None:
                self._of[name] -= 1
                if not self._of[name]:
                    del self._of[name]


def share_of(request: Request) -> str:
    """Whose share a request takes from: that of its principal, or else of its address."""
    if request.principal is not None:
        return f"principal {request.principal.name}"
    return f"address {'' if request.client is None else place_of(request.client)}"


@lru_cache(maxsize=4096)
def place_of(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, since whoever has one address there has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # what a proxy forwarded, or a server made up
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _NETWORK_BITS), strict=False))
