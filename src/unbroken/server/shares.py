"""What one client may take of the server: rates of writing, live reads at a time, and wrong tokens.

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
from typing import TypeVar

from unbroken.errors import Overloaded, RateLimited, TooManyLiveReads, TooManyWrongTokens
from unbroken.protocol.scopes import Principal
from unbroken.server.http import Request
from unbroken.server.settings import Settings

__all__ = ["Bucket", "LiveReads", "Places", "WriteRates", "WrongTokens", "limits_writes", "place_of", "share_of"]

_CLIENTS_MAX = 10_000
_RETRY_AFTER_S_MAX = 3600
_NETWORK_BITS = 64
_FAR_OVER_S = 5.0

T = TypeVar("T")


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
        return _of_client(self._shares, name, lambda: _Share("this client", *self._each, now_s))


def _of_client(table: OrderedDict[str, T], name: str, make: Callable[[], T]) -> T:
    """What a table has of a client. It forgets those not seen for longest, who would find a full bucket anyway."""
    found = table.get(name)
    if found is None:
        found = table[name] = make()
        if len(table) > _CLIENTS_MAX:
            table.popitem(last=False)
    else:
        table.move_to_end(name)
    return found


class WrongTokens:
    """How often somebody may come with a token that is no good, by address.

    A token that is good is served whatever others from the same address do, as long as it costs little to know that.

    Args:
        rate: how often in a second.
        places: tells addresses apart.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, rate: float, places: Places, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._places = places
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, address: str | None) -> None:
        """To be called before a token is checked in a way that costs something.

        Raises:
            TooManyWrongTokens: from there come so many that no more are checked.
        """
        place = self._places.of(address)
        bucket = None if place is None else self._buckets.get(place)
        if bucket is not None and (wait_s := bucket.wait_s(self._clock())) > _FAR_OVER_S:
            raise TooManyWrongTokens(retry_after_s=math.ceil(wait_s))

    def note(self, address: str | None) -> None:
        """A token was no good.

        Raises:
            TooManyWrongTokens: too many came from there lately.
        """
        place = self._places.of(address)
        if place is None:
            return
        now_s = self._clock()
        bucket = _of_client(self._buckets, place, lambda: Bucket(self._rate, now_s))
        wait_s = bucket.wait_s(now_s)
        if wait_s <= _FAR_OVER_S:  # or whoever comes from there later would wait for hours
            bucket.take(1)
        if wait_s > 0:
            raise TooManyWrongTokens(retry_after_s=math.ceil(wait_s)) from None


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


class Places:
    """Tells addresses apart, as far as limits go by them.

    Args:
        trusted: addresses and networks of proxies. Everybody may come from there, so they are no client's.
    """

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)
        self.of = lru_cache(maxsize=4096)(self._of)

    def _of(self, address: str | None) -> str | None:
        """What counts as one address; None for those that no limit holds for."""
        if address is None:
            return None
        place = place_of(address)
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return place
        found = (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found
        return None if any(found in network for network in self._trusted) else place
