"""Answers that clients do not take: they lie in this process until whoever asked for them reads on.

A slow reader is nothing bad, and costs about a page. But thousands of them, or of those that never meant to read, would
take all the memory there is. So a connection that takes nothing is cut off after a while, and there is a limit to what
lies here in all: when that is met, large answers are refused, and whoever is slowest has to go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from unbroken.errors import Overloaded
from unbroken.measures import Metric

__all__ = ["SLOW_BYTES_PER_S", "STALLED_S", "Untaken"]

_log = logging.getLogger("unbroken.server")

STALLED_S = 60.0
"""For how long a client may take nothing of an answer, in seconds."""
SLOW_BYTES_PER_S = 64 * 1024
_SPAN_S = 5.0
"""How long a reader is watched before it is called slow."""
_LOOK_S = 1.0
_SMALL_BYTES = 64 * 1024


class Untaken:
    """What lies in the buffers of connections, of those that have more there than they should.

    Args:
        maximum_bytes: how much may be there in all.

    Attributes:
        size_bytes: how much there is, as of a second ago at most.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._readers: dict[asyncio.Transport, _Reader] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._cut = {"slow": 0, "stalled": 0}
        self.size_bytes = 0

    def begin(self, transport: asyncio.Transport) -> None:
        """A client has more to take than its connection should hold; or it is to be closed, and has to take that."""
        if transport in self._readers:
            return
        loop = asyncio.get_running_loop()
        reader = self._readers[transport] = _Reader(transport.get_write_buffer_size(), loop.time())
        self.size_bytes += reader.left_bytes
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)

    def end(self, transport: asyncio.Transport) -> None:
        """It has taken most of it, or has gone."""
        if (reader := self._readers.pop(transport, None)) is not None:
            self.size_bytes -= reader.left_bytes

    def check(self, size_bytes: int) -> None:
        """Refuse an answer for which there is no room; small ones always find some.

        Raises:
            Overloaded: so it is.
        """
        if size_bytes > _SMALL_BYTES and self.size_bytes >= self._maximum_bytes:
            raise Overloaded("too many answers lie here that their readers are slow to take")

    def metrics(self) -> Iterator[Metric]:
        """What it tells of itself."""
        text = "Answers that lie here because their readers are slow to take them."
        yield Metric("untaken_bytes", "gauge", text, self.size_bytes)
        text = "Readers that were cut off: they took nothing (stalled), or too little while memory was short (slow)."
        yield Metric("readers_cut_total", "counter", text, self._cut, ("reason",))

    def _look(self) -> None:
        """Look how everybody gets on. Once a second, as long as there is anybody."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self.size_bytes = 0
        for transport, reader in self._readers.items():
            reader.look(transport.get_write_buffer_size(), now_s)
            self.size_bytes += reader.left_bytes
        stalled = [one for one, reader in self._readers.items() if now_s - reader.took_s >= STALLED_S]
        self._cut_off(stalled, "stalled")
        self._cut_off(self._slowest(self.size_bytes - self._maximum_bytes), "slow")
        self._timer = loop.call_later(_LOOK_S, self._look) if self._readers else None

    def _slowest(self, too_much_bytes: int) -> list[asyncio.Transport]:
        """The slowest of those that are slow, enough of them to make so much room."""
        found: list[asyncio.Transport] = []
        if too_much_bytes <= 0:
            return found
        for transport, reader in sorted(self._readers.items(), key=lambda item: item[1].rate):
            if too_much_bytes <= 0 or reader.rate >= SLOW_BYTES_PER_S:
                break
            found.append(transport)
            too_much_bytes -= reader.left_bytes
        return found

    def _cut_off(self, transports: list[asyncio.Transport], why: str) -> None:
        for transport in transports:
            self.end(transport)
            transport.abort()
        if transports:
            self._cut[why] += len(transports)
            _log.info("readers cut off because they were %s: %d", why, len(transports))


class _Reader:
    """How a client gets on with what it has to take.

    Args:
        left_bytes: how much that is.
        now_s: when it begins.

    Attributes:
        left_bytes: how much is left.
        took_s: when it took something last.
        rate: about how many bytes a second it took lately; infinitely many if it is too early to tell.
    """

    __slots__ = ("_mark_bytes", "_mark_s", "left_bytes", "rate", "took_s")

    def __init__(self, left_bytes: int, now_s: float) -> None:
        self.left_bytes = self._mark_bytes = left_bytes
        self.took_s = self._mark_s = now_s
        self.rate = float("inf")

    def look(self, left_bytes: int, now_s: float) -> None:
        """So much is left now."""
        if left_bytes < self.left_bytes:
            self.took_s = now_s
        self.left_bytes = left_bytes
        if now_s - self._mark_s >= _SPAN_S:
            self.rate = (self._mark_bytes - left_bytes) / (now_s - self._mark_s)
            self._mark_bytes, self._mark_s = left_bytes, now_s
