"""Lifetimes in time: who was last renewed when, and which streams to reclaim.

Whether a stream has expired is decided at every access, to the millisecond. Reclaiming its storage comes later, from
here. Renewals live in memory only: after a restart every sliding stream gets one full TTL, counted from the start, so
nothing has to be written when somebody reads.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable

from unbroken.engine.clock import Clock
from unbroken.protocol.commands import Reclaim
from unbroken.protocol.lifetime import IMMORTAL, Instant
from unbroken.protocol.stream import Presence, StreamState, View, view
from unbroken.store.base import DueKind, Store

__all__ = ["SWEEP_MAX", "Expiry"]

SWEEP_MAX = 256

_LOOK_AGAIN_MS = 1000
_STALE_MIN = 1000
_ANY_TIME = Instant(0, 0)
_FIRST = (-(2**63), 0)


class _Deadlines:
    """Streams by a moment at which to look at them again, the earliest first.

    That of a deleted stream may be centuries away: once such entries are the greater part, they are dropped.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._numbers: set[int] = set()

    def add(self, look_ms: int, number: int, path: str) -> None:
        heapq.heappush(self._heap, (look_ms, number, path))
        self._numbers.add(number)

    def forget(self, number: int) -> None:
        self._numbers.discard(number)
        if len(self._heap) > 2 * len(self._numbers) + _STALE_MIN:
            self._heap = [entry for entry in self._heap if entry[1] in self._numbers]
            heapq.heapify(self._heap)

    def take(self, until_ms: int) -> tuple[int, str] | None:
        """A stream to look at, its number and path; None if there is none yet."""
        if not self._heap or self._heap[0][0] > until_ms:
            return None
        return heapq.heappop(self._heap)[1:]

    def __len__(self) -> int:
        return len(self._heap)


class Expiry:
    """Keeps the time of last renewal per stream and finds those whose time is over.

    Args:
        store: asked for streams that were there before this process.
        clock: decides "now".
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._started_ms = clock.now().monotonic_ms
        self._renewed_ms: dict[int, int] = {}
        self._readers: Counter[int] = Counter()
        # Streams seen by this process. Wall-clock deadlines and monotonic ones do not compare, hence two.
        self._sliding = _Deadlines()
        self._absolute = _Deadlines()
        self._before_start: dict[DueKind, tuple[int, int]] = {}

    def view(self, state: StreamState | None, now: Instant | None = None) -> View:
        """How a stream looks now."""
        if state is None or state.lifetime is IMMORTAL:
            return view(state, _ANY_TIME, 0)
        now = now or self._clock.now()
        if state.lifetime.ttl_s is not None and self._readers[state.number]:
            return view(state, now, now.monotonic_ms)
        return view(state, now, self._renewed(state))

    def watch(self, state: StreamState) -> None:
        """A stream was created: mind its lifetime."""
        lifetime = state.lifetime
        if lifetime.expires_at_ms is not None:
            self._absolute.add(lifetime.expires_at_ms, state.number, state.path)
        elif lifetime.ttl_s is not None:
            self.renew(state)

    def renew(self, state: StreamState) -> None:
        """A read or a write reached the stream: its sliding lifetime begins again."""
        if state.lifetime.ttl_s is None:
            return
        now_ms = self._clock.now().monotonic_ms
        if state.number not in self._renewed_ms:
            self._sliding.add(now_ms + state.lifetime.ttl_s * 1000, state.number, state.path)
        self._renewed_ms[state.number] = now_ms

    def reader_came(self, state: StreamState) -> None:
        """A live read began; as long as it is open a sliding lifetime does not end."""
        if state.lifetime.ttl_s is not None:
            self._readers[state.number] += 1

    def reader_left(self, state: StreamState) -> None:
        """A live read ended."""
        if state.lifetime.ttl_s is not None:
            self._readers[state.number] -= 1
            if not self._readers[state.number]:
                del self._readers[state.number]
            self.renew(state)

    @property
    def watched(self) -> int:
        """How many deadlines are kept, those of deleted streams included."""
        return len(self._sliding) + len(self._absolute)

    def forget(self, number: int) -> None:
        """A stream was deleted."""
        self._renewed_ms.pop(number, None)
        self._sliding.forget(number)
        self._absolute.forget(number)

    def sweep(self, submit: Callable[[Reclaim], object]) -> bool:
        """Submit a `Reclaim` for streams whose time is over, at most `SWEEP_MAX` of each sort.

        Returns:
            Whether there may be more.
        """
        now = self._clock.now()
        more = self._take_due("expires_at_ms", now.wall_ms, self._absolute, now.wall_ms)
        more |= self._take_due("ttl_s", (now.monotonic_ms - self._started_ms) // 1000, self._sliding, now.monotonic_ms)
        more |= self._look(self._absolute, now.wall_ms, now, submit)
        more |= self._look(self._sliding, now.monotonic_ms, now, submit)
        return more

    def _look(self, deadlines: _Deadlines, until_ms: int, now: Instant, submit: Callable[[Reclaim], object]) -> bool:
        for _ in range(SWEEP_MAX):
            found = deadlines.take(until_ms)
            if found is None:
                return False
            number, path = found
            state = self._store.state(path)
            if state is None or state.number != number or state.gone:
                self.forget(number)
            else:
                # A stream being reclaimed stays listed until it is gone: it may be renewed before that is decided, or
                # too much may be going on to decide it now.
                over = self.view(state, now).presence is not Presence.LIVE
                look_ms = until_ms + _LOOK_AGAIN_MS if over else self._next_look_ms(state)
                deadlines.add(look_ms, number, path)
                if over:
                    submit(Reclaim(path, number))
        return True

    def _next_look_ms(self, state: StreamState) -> int:
        if state.lifetime.expires_at_ms is not None:
            return state.lifetime.expires_at_ms
        renewed_ms = self._clock.now().monotonic_ms if self._readers[state.number] else self._renewed(state)
        return renewed_ms + max(1, (state.lifetime.ttl_s or 0) * 1000)

    def _renewed(self, state: StreamState) -> int:
        return self._renewed_ms.get(state.number, self._started_ms)

    def _take_due(self, kind: DueKind, until: int, deadlines: _Deadlines, now_ms: int) -> bool:
        """Have streams from before the start looked at that may be over by now, like those that came since."""
        found = self._store.due(kind, self._before_start.get(kind, _FIRST), until, SWEEP_MAX)
        for due in found:
            deadlines.add(now_ms, due.number, due.path)
            self._before_start[kind] = (due.key, due.number)
        return len(found) == SWEEP_MAX
