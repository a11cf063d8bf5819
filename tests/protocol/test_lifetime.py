"""TTL and expiry: strict parsing, and when a stream's time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.errors import InvalidHeader
from unbroken.protocol.lifetime import IMMORTAL, Instant, Lifetime, format_time, parse_time, parse_ttl

FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999


@pytest.mark.parametrize(
    ("text", "ttl_s"),
    [
        pytest.param("0", 0, id="zero"),
        pytest.param("1", 1, id="one"),
        pytest.param("3600", 3600, id="hour"),
        pytest.param("10", 10, id="zero-at-the-end"),
        pytest.param("9223372036854775807", 2**63 - 1, id="63-bits"),
    ],
)
def test_ttl(text: str, ttl_s: int) -> None:
    assert parse_ttl(text) == ttl_s


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("+1", id="plus"),
        pytest.param("-1", id="minus"),
        pytest.param("-0", id="minus-zero"),
        pytest.param("01", id="leading-zero"),
        pytest.param("00", id="two-zeros"),
        pytest.param("1.0", id="fraction"),
        pytest.param("1.", id="point"),
        pytest.param("1e3", id="exponent"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,2", id="two-values"),
        pytest.param("1 ", id="space-after"),
        pytest.param("1\n", id="newline-after"),
        pytest.param("\u0661", id="digit-of-another-script"),
        pytest.param("ten", id="word"),
        pytest.param("9223372036854775808", id="64-bits"),
        pytest.param("18446744073709551615", id="all-64-bits"),
        pytest.param("1" + "0" * 30, id="long"),
    ],
)
def test_malformed_ttl_is_400(text: str) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_ttl(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "expires_at_ms"),
    [
        pytest.param("1970-01-01T00:00:00Z", 0, id="unix-epoch"),
        pytest.param("2024-10-09T00:00:00Z", 1_728_432_000_000, id="utc"),
        pytest.param("2024-10-09t00:00:00z", 1_728_432_000_000, id="lower-case"),
        pytest.param("2024-10-09T00:00:00+00:00", 1_728_432_000_000, id="offset-zero"),
        pytest.param("2024-10-09T00:00:00-00:00", 1_728_432_000_000, id="unknown-local-offset"),
        pytest.param("2024-10-09T05:30:00+05:30", 1_728_432_000_000, id="offset-ahead"),
        pytest.param("2024-10-08T16:00:00-08:00", 1_728_432_000_000, id="offset-behind"),
        pytest.param("2024-10-09T23:59:00+23:59", 1_728_432_000_000, id="greatest-offset"),
        pytest.param("2024-10-08T00:01:00-23:59", 1_728_432_000_000, id="least-offset"),
        pytest.param("1970-01-01T00:00:00.5Z", 500, id="tenths"),
        pytest.param("1970-01-01T00:00:00.05Z", 50, id="hundredths"),
        pytest.param("1970-01-01T00:00:00.007Z", 7, id="thousandths"),
        pytest.param("1970-01-01T00:00:00.0079Z", 7, id="finer-is-cut"),
        pytest.param("1970-01-01T00:00:00." + "9" * 40 + "Z", 999, id="long-fraction"),
        pytest.param("1969-12-31T23:59:59.999Z", -1, id="before-the-unix-epoch"),
        pytest.param("2024-02-29T00:00:00Z", 1_709_164_800_000, id="leap-day"),
        pytest.param("2016-12-31T23:59:60Z", 1_483_228_800_000, id="leap-second"),
        pytest.param("2016-12-31T15:59:60-08:00", 1_483_228_800_000, id="leap-second-elsewhere"),
        pytest.param("2016-12-31T23:59:60.25Z", 1_483_228_800_250, id="within-a-leap-second"),
        pytest.param("0001-01-01T00:00:00Z", FIRST_MS, id="first-year"),
        pytest.param("0001-01-01T01:00:00+01:00", FIRST_MS, id="first-year-elsewhere"),
        pytest.param("9999-12-31T23:59:59.999Z", LAST_MS, id="last-year"),
        pytest.param("9999-12-31T22:59:59.999-01:00", LAST_MS, id="last-year-elsewhere"),
    ],
)
def test_expires_at(text: str, expires_at_ms: int) -> None:
    assert parse_time(text, "Stream-Expires-At") == expires_at_ms


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("tomorrow", id="word"),
        pytest.param("1728432000", id="unix-time"),
        pytest.param("2024-10-09", id="date"),
        pytest.param("2024-10-09T00:00:00", id="no-zone"),
        pytest.param("2024-10-09T00:00Z", id="no-seconds"),
        pytest.param("2024-10-09 00:00:00Z", id="space-for-t"),
        pytest.param("2024-10-09T00:00:00 Z", id="space-before-zone"),
        pytest.param("2024-10-09T00:00:00.Z", id="point-without-digits"),
        pytest.param("2024-10-09T00:00:00,5Z", id="comma-for-point"),
        pytest.param("2024-10-09T00:00:00+0100", id="offset-without-colon"),
        pytest.param("2024-10-09T00:00:00+01", id="offset-without-minutes"),
        pytest.param("2024-10-09T00:00:00+24:00", id="offset-of-a-day"),
        pytest.param("2024-10-09T00:00:00-24:00", id="offset-of-a-day-behind"),
        pytest.param("2024-10-09T00:00:00+01:60", id="offset-of-60-minutes"),
        pytest.param("2024-10-09T00:00:00UTC", id="named-zone"),
        pytest.param("2024-10-09T00:00:00Z+01:00", id="two-zones"),
        pytest.param("20241009T000000Z", id="basic-format"),
        pytest.param("24-10-09T00:00:00Z", id="two-digit-year"),
        pytest.param("12024-10-09T00:00:00Z", id="five-digit-year"),
        pytest.param("-2024-10-09T00:00:00Z", id="signed-year"),
        pytest.param("2024-1-9T00:00:00Z", id="one-digit-month"),
        pytest.param("2024-13-01T00:00:00Z", id="month-13"),
        pytest.param("2024-00-01T00:00:00Z", id="month-0"),
        pytest.param("2023-02-29T00:00:00Z", id="no-leap-year"),
        pytest.param("2024-04-31T00:00:00Z", id="day-31"),
        pytest.param("2024-04-00T00:00:00Z", id="day-0"),
        pytest.param("2024-10-09T24:00:00Z", id="hour-24"),
        pytest.param("2024-10-09T00:60:00Z", id="minute-60"),
        pytest.param("2024-10-09T00:00:61Z", id="second-61"),
        pytest.param("2024-10-09T00:00:99Z", id="second-99"),
        pytest.param("0000-01-01T00:00:00Z", id="year-0"),
        pytest.param("0001-01-01T00:00:00+00:01", id="before-the-first-year"),
        pytest.param("9999-12-31T23:59:59-00:01", id="after-the-last-year"),
        pytest.param("9999-12-31T23:59:60Z", id="leap-second-after-the-last-year"),
        pytest.param("2024-10-09T00:00:00Z\n", id="newline-after"),
        pytest.param(" 2024-10-09T00:00:00Z", id="space-before"),
        pytest.param("2024-10-0\u0669T00:00:00Z", id="digit-of-another-script"),
        pytest.param("2024-10-09T00:00:00Z, 2024-10-09T00:00:00Z", id="two"),
    ],
)
def test_malformed_expires_at_is_400(text: str) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_time(text, "Stream-Expires-At")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("expires_at_ms", "text"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000Z", id="unix-epoch"),
        pytest.param(1_728_432_000_001, "2024-10-09T00:00:00.001Z", id="milliseconds"),
        pytest.param(-1, "1969-12-31T23:59:59.999Z", id="before-the-unix-epoch"),
        pytest.param(FIRST_MS, "0001-01-01T00:00:00.000Z", id="first"),
        pytest.param(LAST_MS, "9999-12-31T23:59:59.999Z", id="last"),
    ],
)
def test_expires_at_is_reported_in_one_form(expires_at_ms: int, text: str) -> None:
    assert format_time(expires_at_ms) == text


@deterministic
@given(st.integers(FIRST_MS, LAST_MS))
def test_what_is_reported_is_read_back(expires_at_ms: int) -> None:
    assert parse_time(format_time(expires_at_ms), "since") == expires_at_ms


@deterministic
@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 hypothesis adds the zone
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=st.builds(
            lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-23 * 60 - 59, 23 * 60 + 59)
        ),
    )
)
def test_the_same_instant_is_read_as_the_standard_library_does(moment: datetime) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(moment.isoformat(), "since") == (moment - epoch) // timedelta(milliseconds=1)


RENEWED_MS = 5_000
EARLIER = -(10**12)
LATER = 10**12


@pytest.mark.parametrize(
    ("lifetime", "now", "ended"),
    [
        pytest.param(IMMORTAL, Instant(LATER, LATER), False, id="for-ever"),
        pytest.param(Lifetime(ttl_s=2), Instant(0, 6_999), False, id="ttl-not-yet"),
        pytest.param(Lifetime(ttl_s=2), Instant(0, 7_000), True, id="ttl-to-the-millisecond"),
        pytest.param(Lifetime(ttl_s=0), Instant(0, 5_000), True, id="ttl-zero"),
        pytest.param(Lifetime(ttl_s=2), Instant(LATER, 6_999), False, id="ttl-wall-clock-jumps-ahead"),
        pytest.param(Lifetime(ttl_s=2), Instant(EARLIER, 7_000), True, id="ttl-wall-clock-jumps-back"),
        pytest.param(Lifetime(ttl_s=2**63 - 1), Instant(0, 2**63), False, id="ttl-greatest"),
        pytest.param(Lifetime(expires_at_ms=9_000), Instant(8_999, LATER), False, id="expiry-not-yet"),
        pytest.param(Lifetime(expires_at_ms=9_000), Instant(9_000, EARLIER), True, id="expiry-to-the-millisecond"),
        pytest.param(Lifetime(expires_at_ms=0), Instant(0, 0), True, id="expiry-at-the-unix-epoch"),
        pytest.param(Lifetime(expires_at_ms=-1), Instant(0, 0), True, id="expiry-in-the-past"),
    ],
)
def test_when_a_lifetime_is_over(lifetime: Lifetime, now: Instant, ended: bool) -> None:
    assert lifetime.ended(now, RENEWED_MS) is ended


@pytest.mark.parametrize(
    ("lifetime", "left_s"),
    [
        pytest.param(IMMORTAL, None, id="for-ever"),
        pytest.param(Lifetime(ttl_s=0), 0, id="ttl-zero"),
        pytest.param(Lifetime(ttl_s=90), 90, id="ttl"),
        pytest.param(Lifetime(expires_at_ms=100_000 + 1_000), 1, id="a-second"),
        pytest.param(Lifetime(expires_at_ms=100_000 + 1_999), 1, id="nearly-two-seconds"),
        pytest.param(Lifetime(expires_at_ms=100_000 + 999), 0, id="less-than-a-second"),
        pytest.param(Lifetime(expires_at_ms=100_000), 0, id="now"),
        pytest.param(Lifetime(expires_at_ms=1), 0, id="past"),
    ],
)
def test_whole_seconds_left(lifetime: Lifetime, left_s: int | None) -> None:
    assert lifetime.left_s(Instant(100_000, 77)) == left_s


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("2024-10-09T00:00:00Z", "2024-10-09T02:00:00.000+02:00", id="zone"),
        pytest.param("2024-10-09T00:00:00Z", "2024-10-09t00:00:00z", id="case"),
        pytest.param("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z", id="leap-second"),
    ],
)
def test_expiries_are_compared_as_instants(one: str, other: str) -> None:
    first, second = (parse_time(text, "Stream-Expires-At") for text in (one, other))
    assert Lifetime(expires_at_ms=first) == Lifetime(expires_at_ms=second)
