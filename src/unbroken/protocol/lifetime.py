"""How long a stream lives: a sliding TTL or an absolute expiry.

A sliding TTL counts on the monotonic clock from the last renewal, so that a wall clock that jumps expires nothing; an
absolute expiry counts on the wall clock. Both clocks come in as arguments, in milliseconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from unbroken.errors import InvalidHeader

__all__ = ["IMMORTAL", "TTL_S_MAX", "Instant", "Lifetime", "format_time", "lifetime_of", "parse_time", "parse_ttl"]

TTL_S_MAX = 2**63 - 1

_TTL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


class Instant(NamedTuple):
    """One moment on both clocks, in milliseconds."""

    wall_ms: int
    monotonic_ms: int


class Lifetime(NamedTuple):
    """At most one of the two is set; neither means for ever.

    Args:
        ttl_s: sliding time to live in seconds, 0 to 2^63 - 1.
        expires_at_ms: Unix time in milliseconds.
    """

    ttl_s: int | None = None
    expires_at_ms: int | None = None

    def ended(self, now: Instant, renewed_ms: int) -> bool:
        """Whether it is over, given when (on the monotonic clock) it was last renewed."""
        if self.ttl_s is not None:
            return now.monotonic_ms - renewed_ms >= self.ttl_s * 1000
        return self.expires_at_ms is not None and now.wall_ms >= self.expires_at_ms

    def left_s(self, now: Instant) -> int | None:
        """Whole seconds until the end for a stream renewed just now; None means for ever."""
        if self.ttl_s is not None:
            return self.ttl_s
        if self.expires_at_ms is not None:
            return max(0, (self.expires_at_ms - now.wall_ms) // 1000)
        return None


IMMORTAL = Lifetime()


def parse_ttl(text: str) -> int:
    """Parse ``Stream-TTL``: a non-negative decimal integer of seconds.

    Raises:
        InvalidHeader: a sign, leading zero, fraction, exponent, or more than 63 bits.
    """
    if not _TTL.fullmatch(text) or (value := int(text)) > TTL_S_MAX:
        raise InvalidHeader("Stream-TTL must be a whole number of seconds, without sign or leading zero")
    return value


def parse_time(text: str, name: str) -> int:
    """Parse an RFC 3339 timestamp to Unix milliseconds; a finer fraction is cut.

    Args:
        text: the timestamp.
        name: of the header or parameter, for the error.

    Raises:
        InvalidHeader: not an RFC 3339 timestamp with a zone, or not a real date.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise InvalidHeader(f"{name} must be an RFC 3339 timestamp")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    millis = int((match[7] or ".0")[1:4].ljust(3, "0"))
    try:
        zone = UTC if match[8] else _zone(match[9], int(match[10]), int(match[11]))
        # RFC 3339 section 5.7 allows second 60; it is the instant after :59.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        if second > 60:
            raise ValueError
    except ValueError:
        raise InvalidHeader(f"{name} is not a real date") from None
    leap_ms = 1000 if second == 60 else 0
    time_ms = (moment - _EPOCH) // timedelta(milliseconds=1) + millis + leap_ms
    if not _FIRST_MS <= time_ms <= _LAST_MS:
        raise InvalidHeader(f"{name} is outside the years 1 to 9999")
    return time_ms


def _zone(sign: str, hours: int, minutes: int) -> timezone:
    if hours > 23 or minutes > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)


def format_time(time_ms: int) -> str:
    """The canonical RFC 3339 form, in UTC with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def lifetime_of(ttl_s: int | None, expires_at: datetime | None) -> Lifetime | None:
    """A lifetime as programs name it; None for neither.

    Raises:
        ValueError: both are given, the TTL is negative, or the time has no time zone.
    """
    if ttl_s is None and expires_at is None:
        return None
    if ttl_s is not None and (expires_at is not None or ttl_s < 0):
        raise ValueError("give either ttl_s, not negative, or expires_at")
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("expires_at needs a time zone")
    return Lifetime(ttl_s, None if expires_at is None else round(expires_at.timestamp() * 1000))
