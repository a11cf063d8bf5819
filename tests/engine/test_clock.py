"""The manual clock that ships with the package."""

from __future__ import annotations

import pytest

from unbroken.testing import ManualClock


def test_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(wall_ms=1_000, monotonic_ms=50)
    assert clock.now() == clock.now() == (1_000, 50)
    clock.advance(1.5)
    assert clock.now() == (2_500, 1_550)
    clock.advance(0.0004)
    assert clock.now() == (2_500, 1_550), "it counts whole milliseconds"


def test_wall_clock_jumps_alone() -> None:
    clock = ManualClock(wall_ms=10_000, monotonic_ms=50)
    clock.jump_wall(5)
    clock.jump_wall(-12)
    assert clock.now() == (3_000, 50)


def test_time_does_not_run_backwards() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
