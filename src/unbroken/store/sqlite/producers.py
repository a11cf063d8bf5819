"""How many producers each stream has: counted in the tables once, when a new one comes, and kept from then on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from unbroken.store.base import PRODUCERS_COUNTED_MAX
from unbroken.store.sqlite.reading import Reader

__all__ = ["ProducerCounts"]

_STREAMS_MAX = 10_000


class ProducerCounts:
    """The counts of streams that a new producer came to lately."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, int] = OrderedDict()

    def of(self, number: int, unfolded: Collection[str], reader: Reader) -> int:
        """How many producers a stream has; `PRODUCERS_COUNTED_MAX` may stand for more.

        Args:
            number: the stream.
            unfolded: ids that may not be in the tables.
            reader: reads the tables.
        """
        count = self._counts.get(number)
        if count is None:
            if len(self._counts) >= _STREAMS_MAX:
                self._counts.popitem(last=False)
            count = self._counts[number] = reader.count_producers(number, unfolded, PRODUCERS_COUNTED_MAX)
        return count

    def grow(self, newcomers: Mapping[int, int]) -> None:
        """So many more producers are durable, by stream."""
        for number, more in newcomers.items():
            if number in self._counts:
                self._counts[number] += more
