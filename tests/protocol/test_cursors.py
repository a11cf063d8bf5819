"""Cursors: 20-second intervals, and never a reader sent in a circle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.protocol.cursors import next_cursor

EPOCH_MS = round(datetime(2024, 10, 9, tzinfo=UTC).timestamp() * 1000)
INTERVALS_MAX = timedelta(seconds=3600) // timedelta(seconds=20)
ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("after_epoch_ms", "cursor"),
    [
        pytest.param(0, 0, id="epoch"),
        pytest.param(19_999, 0, id="end-of-the-first-interval"),
        pytest.param(20_000, 1, id="second-interval"),
        pytest.param(3_600_000, 180, id="an-hour"),
        pytest.param(-1, 0, id="clock-before-the-epoch"),
        pytest.param(-(10**15), 0, id="clock-far-before-the-epoch"),
    ],
)
def test_a_cursor_counts_intervals_since_the_epoch(after_epoch_ms: int, cursor: int) -> None:
    assert next_cursor(EPOCH_MS + after_epoch_ms, None, 0.5) == cursor


@pytest.mark.parametrize(
    ("echoed", "random_unit", "cursor"),
    [
        pytest.param("99", 0.5, 100, id="below"),
        pytest.param("0", 0.5, 100, id="far-below"),
        pytest.param("100", 0.0, 101, id="same-least-step"),
        pytest.param("100", ALMOST_ONE, 100 + INTERVALS_MAX, id="same-greatest-step"),
        pytest.param("100", 0.5, 191, id="same-middle-step"),
        pytest.param("150", 0.0, 151, id="above-least-step"),
        pytest.param("150", ALMOST_ONE, 150 + INTERVALS_MAX, id="above-greatest-step"),
        pytest.param("0100", 0.0, 101, id="leading-zero"),
        pytest.param("9" * 18, 0.0, 10**18, id="18-digits"),
    ],
)
def test_the_answer_to_an_echoed_cursor(echoed: str, random_unit: float, cursor: int) -> None:
    assert next_cursor(EPOCH_MS + 100 * 20_000, echoed, random_unit) == cursor


@pytest.mark.parametrize(
    "echoed",
    ["", "x", "-1", "+200", "200.5", "2e5", " 200", "200\n", "0x200", "\uff12\uff10\uff10", "9" * 19, "9" * 5000],
    ids=lambda text: f"{text[:8]!a}-{len(text)}",
)
def test_what_is_no_number_of_at_most_18_digits_counts_as_none(echoed: str) -> None:
    assert next_cursor(EPOCH_MS + 100 * 20_000, echoed, 0.5) == 100


@deterministic
@given(
    interval=st.integers(0, 10**9),
    echoed=st.integers(0, 2 * 10**9),
    random_unit=st.floats(0, 1, exclude_max=True),
)
def test_no_reader_gets_the_same_url_again(interval: int, echoed: int, random_unit: float) -> None:
    cursor = next_cursor(EPOCH_MS + interval * 20_000, str(echoed), random_unit)
    assert cursor > echoed
    assert cursor >= interval
    assert cursor == interval or 1 <= cursor - echoed <= INTERVALS_MAX


def test_the_step_is_spread_over_its_whole_range() -> None:
    steps = {next_cursor(EPOCH_MS, "0", unit / 1000) for unit in range(1000)}
    assert steps == set(range(1, INTERVALS_MAX + 1))
