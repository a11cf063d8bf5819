"""How much the store holds, and what would be too much.

Two integers, and two for each tenant where there are quotas by path, counted with every record as it is decided, so
that a limit is exact and costs no look-up. What was there at the start is measured in the background, since that takes
a second for some millions of streams; limits on the totals hold from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unbroken.engine.quotas import PathQuota, PathUsage, PrefixUsage
from unbroken.errors import (
    PathQuotaExceeded,
    StreamFull,
    TooManyProducers,
    TooManyStreams,
    TotalSizeExceeded,
    UnbrokenError,
)
from unbroken.measures import Metric
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.stream import Addition, Creation, Deletion, Record
from unbroken.store.base import Change, Totals, Transaction

_log = logging.getLogger("unbroken.engine")

__all__ = ["UNLIMITED", "Quota", "Usage", "usage_metrics"]


class Quota(NamedTuple):
    """What a store may hold at most; None is no limit.

    Args:
        stream_bytes: bytes of one stream, inherited ones included.
        streams: how many streams.
        total_bytes: bytes of all streams, each counted once.
        by_path: limits for parts of the store, tenants say; all that match a stream's path hold for it.
        stream_producers: producers of one stream, at most a million: each that ever wrote to it is remembered.
    """

    stream_bytes: int | None = None
    streams: int | None = None
    total_bytes: int | None = None
    by_path: tuple[PathQuota, ...] = ()
    stream_producers: int | None = None


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

    Raises:
        ScopeError: the pattern of a quota by path is malformed.
    """

    def __init__(self, quota: Quota = UNLIMITED) -> None:
        self.quota = quota
        self._by_path = [PathUsage(by_path) for by_path in quota.by_path]
        self.streams = 0
        self.total_bytes = 0
        self.appended_bytes = 0
        self.measured = False
        self._marked = (0, 0, 0)

    @property
    def prefixes(self) -> list[Prefixes]:
        """What is to be measured besides the totals."""
        return [by_path.prefixes for by_path in self._by_path]

    @property
    def prefixes_held(self) -> int:
        """How many prefixes with a quota have streams."""
        return sum(len(by_path) for by_path in self._by_path)

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
        for by_path, held in zip(self._by_path, totals.held, strict=True):
            by_path.begin_with(held)
        self.measured = True

    def refusal(self, path: str, records: Sequence[Record], transaction: Transaction) -> UnbrokenError | None:
        """Why what was decided may not be: it would be too much.

        Args:
            path: of the stream.
            records: what was decided for it.
            transaction: knows the stream.
        """
        if len(records) == 1 and isinstance(record := records[0], Addition):  # as with almost every write
            error = self._refusal_of_bytes(record, 0)
            if error is None and self._by_path:
                return self._refusal_by_path(path, 0, len(record.data))
            return error
        streams = size_bytes = 0
        for record in records:
            if isinstance(record, Deletion) and not record.keep and (state := transaction.state(path)) is not None:
                streams -= 1
                size_bytes -= state.own_bytes
            elif isinstance(record, Addition | Creation):
                if (error := self._refusal_of_bytes(record, size_bytes)) is not None:
                    return error
                streams += isinstance(record, Creation)
                size_bytes += len(record.data)
        limit = self.quota.streams
        if limit is not None and self.measured and streams > 0 and self.streams + streams > limit:
            return TooManyStreams(limit=limit)
        return self._refusal_by_path(path, streams, size_bytes)

    def _refusal_of_bytes(self, record: Addition | Creation, beside_bytes: int) -> UnbrokenError | None:
        quota, added_bytes = self.quota, len(record.data)
        limit = quota.stream_bytes
        if limit is not None and added_bytes and record.position + added_bytes > limit:
            return StreamFull(limit_bytes=limit)
        limit = quota.total_bytes
        if (
            limit is not None
            and self.measured
            and added_bytes
            and self.total_bytes + beside_bytes + added_bytes > limit
        ):
            return TotalSizeExceeded(limit_bytes=limit)
        return None

    def _refusal_by_path(self, path: str, streams: int, size_bytes: int) -> PathQuotaExceeded | None:
        if self.measured:
            for by_path in self._by_path:
                if (error := by_path.refusal(path, streams, size_bytes)) is not None:
                    return error
        return None

    def refusal_of_producer(self, number: int, transaction: Transaction) -> TooManyProducers | None:
        """Why a producer that is new may not write to a stream: there are too many.

        Args:
            number: the stream.
            transaction: knows it.
        """
        limit = self.quota.stream_producers
        return None if limit is None or transaction.producers(number) < limit else TooManyProducers(limit=limit)

    def mark(self) -> None:
        """A transaction begins."""
        self._marked = (self.streams, self.total_bytes, self.appended_bytes)
        for by_path in self._by_path:
            by_path.mark()

    def roll_back(self) -> None:
        """It failed: nothing of it counts."""
        self.streams, self.total_bytes, self.appended_bytes = self._marked
        for by_path in self._by_path:
            by_path.roll_back()

    def count(self, change: Change) -> None:
        """Something changes with the transaction under way."""
        record = change.record
        if isinstance(record, Addition):
            self._count_bytes(len(record.data))
            if self._by_path:
                self._count_by_path(change.path, 0, len(record.data))
        elif isinstance(record, Creation):
            self.streams += 1
            self._count_bytes(len(record.data))
            self._count_by_path(change.path, 1, len(record.data))
        elif isinstance(record, Deletion) and change.after is None and (before := change.before) is not None:
            self.streams -= 1
            self.total_bytes -= before.own_bytes
            self._count_by_path(change.path, -1, -before.own_bytes)

    def _count_bytes(self, size_bytes: int) -> None:
        self.total_bytes += size_bytes
        self.appended_bytes += size_bytes

    def _count_by_path(self, path: str, streams: int, size_bytes: int) -> None:
        for by_path in self._by_path:
            by_path.count(path, streams, size_bytes)

    def below(self, prefix: str) -> list[PrefixUsage]:
        """What there is at and below a prefix, by each quota whose pattern stands for it; nothing until `measured`."""
        found = (by_path.of(prefix) for by_path in self._by_path if self.measured)
        return [usage for usage in found if usage is not None]


def usage_metrics(usage: Usage) -> Iterator[Metric]:
    """What it comes to, as it is now."""
    if usage.measured:
        yield Metric("streams", "gauge", "Streams, those included that only forks need.", usage.streams)
        text = "Prefixes with a quota that have streams, counted for each quota."
        yield Metric("quota_prefixes", "gauge", text, usage.prefixes_held)
        yield Metric("stored_bytes", "gauge", "Bytes of all streams, shared ones counted once.", usage.total_bytes)
    yield Metric("appended_bytes_total", "counter", "Bytes appended.", usage.appended_bytes)
