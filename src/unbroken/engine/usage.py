"""How much the store holds, and what would be too much.

Two integers, counted with every record as it is decided, so that a limit is exact and costs no look-up. What was there
at the start is measured in the background, since that takes a second for some millions of streams; limits on the totals
hold from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unbroken.errors import StreamFull, TooManyStreams, TotalSizeExceeded, UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.stream import Addition, Creation, Deletion, Record
from unbroken.store.base import Change, Totals

_log = logging.getLogger("unbroken.engine")

__all__ = ["UNLIMITED", "Quota", "Usage", "usage_metrics"]


_WITH_BYTES = (Addition, Creation)
"""Looked at for every append; to ask for their union takes three times as long."""


class Quota(NamedTuple):
    """What a store may hold at most; None is no limit.

    Args:
        stream_bytes: bytes of one stream, inherited ones included.
        streams: how many streams.
        total_bytes: bytes of all streams, each counted once.
    """

    stream_bytes: int | None = None
    streams: int | None = None
    total_bytes: int | None = None


UNLIMITED = Quota()


class Usage:
    """Counts what the store holds.

    Args:
        quota: the limits.

    Attributes:
        streams: how many there are, those included that are kept for their forks alone; since the start until
            `measured`.
        total_bytes: their own bytes together, since the start until `measured`.
        appended_bytes: how much was written since the start.
        measured: whether what was there at the start is counted.
    """

    def __init__(self, quota: Quota = UNLIMITED) -> None:
        self.quota = quota
        self.streams = 0
        self.total_bytes = 0
        self.appended_bytes = 0
        self.measured = False
        self._marked = (0, 0, 0)

    def begin_with(self, measuring: asyncio.Future[Totals]) -> None:
        """Count what was there at the start, once it is known; to be cancelled if that is not to be any more."""
        measuring.add_done_callback(self._add)

    def _add(self, measuring: asyncio.Future[Totals]) -> None:
        if measuring.cancelled():
            return
        if (error := measuring.exception()) is not None:
            _log.error("what the store holds could not be counted, so limits on that are not kept: %s", error)
            return
        totals = measuring.result()
        self.streams += totals.streams
        self.total_bytes += totals.total_bytes
        streams, total_bytes, appended_bytes = self._marked
        self._marked = (streams + totals.streams, total_bytes + totals.total_bytes, appended_bytes)
        self.measured = True

    def refusal(self, records: Sequence[Record]) -> UnbrokenError | None:
        """Why what was decided may not be: it would be too much."""
        if len(records) == 1 and isinstance(record := records[0], Addition):
            return self._refusal_of_bytes(record)  # as with almost every write
        streams = 0
        for record in records:
            if isinstance(record, Addition | Creation) and (error := self._refusal_of_bytes(record)) is not None:
                return error
            if isinstance(record, Creation):
                streams += 1
            elif isinstance(record, Deletion) and not record.keep:
                streams -= 1
        limit = self.quota.streams
        if limit is not None and self.measured and streams > 0 and self.streams + streams > limit:
            return TooManyStreams(limit=limit)
        return None

    def _refusal_of_bytes(self, record: Addition | Creation) -> UnbrokenError | None:
        quota, added_bytes = self.quota, len(record.data)
        limit = quota.stream_bytes
        if limit is not None and added_bytes and record.position + added_bytes > limit:
            return StreamFull(limit_bytes=limit)
        limit = quota.total_bytes
        if limit is not None and self.measured and added_bytes and self.total_bytes + added_bytes > limit:
            return TotalSizeExceeded(limit_bytes=limit)
        return None

    def mark(self) -> None:
        """A transaction begins."""
        self._marked = (self.streams, self.total_bytes, self.appended_bytes)

    def roll_back(self) -> None:
        """It failed: nothing of it counts."""
        self.streams, self.total_bytes, self.appended_bytes = self._marked

    def count(self, change: Change) -> None:
        """Something changes with the transaction under way."""
        record = change.record
        if isinstance(record, Addition):
            self._count_bytes(len(record.data))
        elif isinstance(record, Creation):
            self.streams += 1
            self._count_bytes(len(record.data))
        elif isinstance(record, Deletion) and change.after is None and (before := change.before) is not None:
            self.streams -= 1
            self.total_bytes -= before.own_bytes

    def _count_bytes(self, size_bytes: int) -> None:
        self.total_bytes += size_bytes
        self.appended_bytes += size_bytes


def usage_metrics(usage: Usage) -> Iterator[Metric]:
    """What it comes to, as it is now."""
    if usage.measured:
        yield Metric("streams", "gauge", "Streams, those included that only forks need.", usage.streams)
        yield Metric("stored_bytes", "gauge", "Bytes of all streams, shared ones counted once.", usage.total_bytes)
    yield Metric("appended_bytes_total", "counter", "Bytes appended.", usage.appended_bytes)
