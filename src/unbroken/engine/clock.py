"""Time as an argument: the engine asks a clock, so tests can hold one."""

from __future__ import annotations

import time
from typing import Protocol

from unbroken.protocol.lifetime import Instant

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Instant:
        """This moment on the wall clock and on the monotonic clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Instant:
        return Instant(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)
