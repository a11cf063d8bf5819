"""What the streams of one tenant may hold together: counted by the beginning of their paths.

A stream has no owner, and an application's server often creates streams for its users; but whoever may do something may
do it below certain paths. So a quota is for all streams at or below each prefix that a pattern stands for, and only
prefixes that have streams cost memory.
"""

from __future__ import annotations

from typing import NamedTuple

from unbroken.errors import PathQuotaExceeded
from unbroken.protocol.prefixes import Prefixes
from unbroken.store.base import Held

__all__ = ["PathQuota", "PathUsage", "PrefixUsage"]


class PathQuota(NamedTuple):
    """What all streams at or below each prefix may hold together; None is no limit.

    Args:
        pattern: stands for the prefixes: ``/users/*``. See `unbroken.protocol.prefixes.Prefixes`.
        streams: how many streams.
        total_bytes: bytes of these streams, each counted once, where the stream is that owns it.
    """

    pattern: str
    streams: int | None = None
    total_bytes: int | None = None


class PrefixUsage(NamedTuple):
    """What there is at and below one prefix.

    Args:
        quota: the limits.
        prefix: which of those that the quota's pattern stands for.
        streams: how many streams.
        total_bytes: their bytes.
    """

    quota: PathQuota
    prefix: str
    streams: int
    total_bytes: int


class PathUsage:
    """Counts by the prefixes of one quota.

    Args:
        quota: the limits.

    Attributes:
        prefixes: what its pattern stands for.

    Raises:
        ScopeError: the pattern is malformed.
    """

    def __init__(self, quota: PathQuota) -> None:
        self.prefixes = Prefixes(quota.pattern)
        self._quota = quota
        self._held = Held({}, {})
        self._since_mark: list[tuple[str, int, int]] = []
        self._path: str | None = None
        self._prefix: str | None = None

    def __len__(self) -> int:
        """How many prefixes have streams."""
        return len(self._held.streams)

    def begin_with(self, held: Held) -> None:
        """Count what was there at the start: what was counted since comes on top."""
        since, self._held = self._held, held
        for prefix in since.streams | since.total_bytes:
            held.add(prefix, since.streams.get(prefix, 0), since.total_bytes.get(prefix, 0))

    def refusal(self, path: str, streams: int, size_bytes: int) -> PathQuotaExceeded | None:
        """Why what was decided for a stream may not be.

        Args:
            path: of the stream.
            streams: how many more there would be.
            size_bytes: how many more bytes there would be.
        """
        prefix = self._prefix_of(path)
        if prefix is None:
            return None
        quota, held = self._quota, self._held
        limit = quota.streams
        if limit is not None and streams > 0 and held.streams.get(prefix, 0) + streams > limit:
            return PathQuotaExceeded(prefix=prefix, limit=limit)
        limit = quota.total_bytes
        if limit is not None and size_bytes > 0 and held.total_bytes.get(prefix, 0) + size_bytes > limit:
            return PathQuotaExceeded(prefix=prefix, limit_bytes=limit)
        return None

    def count(self, path: str, streams: int, size_bytes: int) -> None:
        """Something changes with the transaction under way."""
        if (prefix := self._prefix_of(path)) is not None:
            self._held.add(prefix, streams, size_bytes)
            self._since_mark.append((prefix, streams, size_bytes))

    def _prefix_of(self, path: str) -> str | None:
        if path != self._path:  # asked for to decide something, then to count it
            self._path, self._prefix = path, self.prefixes.of(path)
        return self._prefix

    def mark(self) -> None:
        """A transaction begins."""
        self._since_mark.clear()

    def roll_back(self) -> None:
        """It failed: nothing of it counts."""
        for prefix, streams, size_bytes in self._since_mark:
            self._held.add(prefix, -streams, -size_bytes)
        self._since_mark.clear()

    def of(self, prefix: str) -> PrefixUsage | None:
        """What there is at and below a prefix; None if the pattern does not stand for it."""
        if self.prefixes.of(prefix) != prefix:
            return None
        streams, total_bytes = self._held.streams.get(prefix, 0), self._held.total_bytes.get(prefix, 0)
        return PrefixUsage(self._quota, prefix, streams, total_bytes)
