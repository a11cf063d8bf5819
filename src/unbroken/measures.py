"""What a program tells of itself: numbers that are counted as things happen, and read now and then.

Everything is counted by one thread with plain integers, so counting costs no lock: an append is counted in well under
a microsecond. Names and labels are those of Prometheus; a label's values are few and known, whatever clients do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

__all__ = ["SECONDS", "SIZES", "Histogram", "Kind", "Metric"]

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bounds for how long something took."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Bounds for how many there were at once."""


class Histogram:
    """How often a value was at most each of some bounds.

    Args:
        bounds: ascending.

    Attributes:
        total: the sum of all values.
    """

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """For each bound how many values were at most that; last, how many there were."""
        return list(accumulate(self._counts))


class Metric(NamedTuple):
    """One thing that is measured.

    Args:
        name: without the prefix that all have in common; the unit stands last, and ``_total`` if it only grows.
        kind: whether it only grows, goes up and down, or is a distribution.
        text: what it is, in one line.
        value: a number, a distribution, or numbers by the value of one label, or of two.
        labels: the names of those labels.
    """

    name: str
    kind: Kind
    text: str
    value: float | Histogram | Mapping[str, float] | Mapping[tuple[str, str], float]
    labels: tuple[str, ...] = ()
