"""When to ask again, and how long to wait: pure decisions, with chance and time as arguments.

Three kinds of requests are told apart. Reads, and writes that a server recognises when they are repeated, are repeated
whenever that can help. A plain append is repeated only after what certainly did nothing: one whose answer was lost may
have been done, and doing it again would double it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from unbroken.client.options import Repeat
from unbroken.errors import ConnectionLost, NotConnected, QuotaExceeded, UnbrokenError

__all__ = ["Retry", "did_nothing", "is_passing", "may_repeat", "parse_retry_after"]

PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
REFUSED_CODES = frozenset({"draining", "keys-unavailable", "overloaded", "store-read-only", "too-many-connections"})
"""Codes of a 503 that say that nothing was done. Without a code nothing is known, since a proxy may have answered: the
error's own code, ``unavailable``, says nothing either.
"""

_EXPONENT_MAX = 32


@dataclass(frozen=True, slots=True)
class Retry:
    """How a client asks again. The pause after the nth failure in a row is a random part ("full jitter", so that many
    clients do not come back all at once) of ``base_s * 2**(n - 1)``, at most ``cap_s``.

    Args:
        base_s: seconds, above 0.
        cap_s: seconds.
        give_up_after_s: how long one call goes on in all, from its first failure; None for ever, 0 for a single try.
            Live reading and producers have settings of their own, and by default never give up.
        retry_after_max_s: how much of a server's ``Retry-After`` is believed.
        chance: gives the random part, from 0 up to 1.
    """

    base_s: float = 0.1
    cap_s: float = 10.0
    give_up_after_s: float | None = 30.0
    retry_after_max_s: float = 60.0
    chance: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """How long to wait after so many failures in a row (from 1), and after what the server asked for.

        Nobody comes back earlier than asked, nor do all come back at the same moment.
        """
        jitter_s = self.chance() * min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, _EXPONENT_MAX))
        return jitter_s + min(retry_after_s or 0.0, self.retry_after_max_s)


def is_passing(error: UnbrokenError) -> bool:
    """Whether asking again may succeed by itself: connections break, servers restart, disks are emptied."""
    if isinstance(error, QuotaExceeded):
        return False
    return isinstance(error, ConnectionLost) or error.status in PASSING_STATUSES


def did_nothing(error: UnbrokenError) -> bool:
    """Whether the failed request has certainly changed nothing, although it may succeed when repeated."""
    if isinstance(error, NotConnected) or error.status == 429:
        return True
    return error.status == 503 and error.code in REFUSED_CODES and not isinstance(error, ConnectionLost)


def may_repeat(error: UnbrokenError, repeat: Repeat) -> bool:
    """Whether to send a request again that failed like this."""
    return is_passing(error) if repeat is Repeat.FREELY else did_nothing(error)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """The seconds that a ``Retry-After`` header asks for: a number or an HTTP date (RFC 9110 section 10.2.3).

    Args:
        value: the header's value.
        now_s: the wall clock, Unix seconds.

    Returns:
        Seconds, not negative; None if there is no header or it is malformed.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return int(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_s)
