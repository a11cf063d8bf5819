"""A clock that stands still until a test moves it."""

from __future__ import annotations

from unbroken.protocol.lifetime import Instant

__all__ = ["ManualClock"]


class ManualClock:
    """A `unbroken.engine.Clock` for tests.

        clock = ManualClock()
        engine = Engine(MemoryStore(), clock=clock)
        ...
        clock.advance(60)      # a minute passes
        clock.jump_wall(3600)  # somebody sets the clock

    It decides what counts as now: lifetimes, cursors, record times. Waiting (long-poll timeouts, heartbeats, the rhythm
    of the sweep) goes by the event loop's own time.

    Args:
        wall_ms: Unix time to start at, in milliseconds; 2026-01-01T00:00:00Z by default.
        monotonic_ms: the monotonic clock to start at, in milliseconds.
    """

    def __init__(self, wall_ms: int = 1_767_225_600_000, monotonic_ms: int = 1_000_000) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms

    def now(self) -> Instant:
        """The moment it stands at."""
        return Instant(self._wall_ms, self._monotonic_ms)

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks.

        Args:
            seconds: how long, not negative; counted in whole milliseconds.

        Raises:
            ValueError: negative.
        """
        if seconds < 0:
            raise ValueError("time does not run backwards; jump_wall sets the wall clock")
        passed_ms = round(seconds * 1000)
        self._wall_ms += passed_ms
        self._monotonic_ms += passed_ms

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forwards, or backwards if negative. No time passes on the monotonic clock."""
        self._wall_ms += round(seconds * 1000)
