"""What is durable in the journal but not folded into the tables yet.

The overlay lies over the tables: lookups ask it first, followers read their hot tail from it. It holds one `Pending`
per stream with unfolded records, in the order of each stream's oldest such record, so folding from the front always
lets go of the oldest journal rows.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Container, Iterator

import msgspec

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Addition, Creation, Deletion, Record, Reference, StreamState
from unbroken.store.base import Hold
from unbroken.store.runs import PackedRuns, add_run, end_of_runs_before, unpack_runs

__all__ = ["Overlay", "Pending"]

# What a record costs in memory beside its bytes, roughly: so that many tiny appends count too.
_RECORD_OVERHEAD_BYTES = 256
_GROWN_BYTES = 2 * 1024 * 1024
# Each is a row of its own: to fold so many takes 5 ms.
_GROWN_PRODUCERS = 1024


class Pending(msgspec.Struct, gc=False, eq=False):
    """The unfolded records of one stream, summed up.

    There may be 50,000 of them, and nothing in them is for the garbage collector to look through: with lists of blocks
    and times instead of arrays of bytes it made the server pause for 0.3 s.

    Attributes:
        number: the stream.
        path: where it is, or was.
        base: byte position where its unfolded bytes begin.
        first_id: journal row of its oldest unfolded record.
        first_ms: when that was committed.
        state: its durable state; None once it is deleted.
        born: its creation is unfolded, so the tables know nothing of it.
        data: its unfolded bytes.
        runs: when they were committed.
        producers: its unfolded producer states.
        released: deleted forks that no longer hold it.
        cost_bytes: about what it costs in memory.
    """

    number: int
    path: str
    base: int
    first_id: int
    first_ms: int
    state: StreamState | None = None
    born: bool = False
    data: bytearray = msgspec.field(default_factory=bytearray)
    runs: PackedRuns = msgspec.field(default_factory=bytearray)
    producers: dict[str, Producer] = msgspec.field(default_factory=dict)
    released: list[int] | None = None
    cost_bytes: int = 0

    def copy(self) -> Pending:
        """An independent copy."""
        return msgspec.structs.replace(
            self,
            data=self.data[:],
            runs=self.runs[:],
            producers=dict(self.producers),
            released=list(self.released or ()),
        )

    def add(self, record: Record, after: StreamState | None) -> None:
        """Take one more record."""
        self.state = after
        self.cost_bytes += _RECORD_OVERHEAD_BYTES
        if isinstance(record, Addition):
            self._add_bytes(record)
            if (stamp := record.producer) is not None:
                self.producers[stamp.id] = Producer(stamp.epoch, stamp.seq)
        elif isinstance(record, Creation):
            self.born = True
            self.base = record.position
            self._add_bytes(record)
        elif isinstance(record, Reference):
            if record.delta < 0:
                self.released = self.released or []
                self.released.append(record.fork)
        elif after is None:
            self.forget_bytes()
            self.producers = {}
            self.cost_bytes = _RECORD_OVERHEAD_BYTES

    def _add_bytes(self, record: Addition | Creation) -> None:
        if data := record.data:
            self.data += data
            add_run(self.runs, len(data), record.time_ms)
            self.cost_bytes += len(data)

    def forget_bytes(self) -> None:
        """Keep the state alone: nobody will read the bytes, or the tables have them."""
        self.data, self.runs = bytearray(), bytearray()

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``[start, end)``; start is not below ``base``."""
        return bytes(memoryview(self.data)[start - self.base : end - self.base])

    def find_time(self, end: int, time_ms: int) -> int | None:
        """The position after the last byte below ``end`` that was committed before a time, if there is one."""
        size_bytes = end_of_runs_before(unpack_runs(self.runs), time_ms, end - self.base)
        return None if size_bytes is None else self.base + size_bytes


class Overlay:
    """All unfolded records, and what they make of paths and holds."""

    def __init__(self) -> None:
        # Not a plain dict: that takes the longer to find its first entry the more were deleted there.
        self.streams: OrderedDict[int, Pending] = OrderedDict()
        self.holds: dict[int, Hold] = {}
        self.cost_bytes = 0
        self._at: dict[str, StreamState | None] = {}
        self._deleted: dict[int, Pending] = {}
        self._grown: dict[int, Pending] = {}
        # The last pending stream at each path, and of each the one before it at its path: numbers alone.
        self._last_at: dict[str, int] = {}
        self._before: dict[int, int] = {}

    def covers(self, path: str) -> bool:
        """Whether the overlay knows better than the tables what is at a path."""
        return path in self._at

    def state(self, path: str) -> StreamState | None:
        """What is at a path that the overlay covers."""
        return self._at[path]

    def states(self, prefix: str, after: str, limit: int) -> list[StreamState]:
        """The streams it covers whose path begins with a prefix and comes after another, by path."""
        paths = (path for path, state in self._at.items() if path > after and state is not None)
        first = heapq.nsmallest(limit, (path for path in paths if path.startswith(prefix)))
        return [state for path in first if (state := self._at[path]) is not None]

    def add(self, path: str, record: Record, after: StreamState | None, journal_id: int) -> None:
        """Take a record that has become durable."""
        pending = self.streams.get(record.number)
        if pending is None:
            base = record.position if isinstance(record, Addition) else 0 if after is None else after.tail
            pending = Pending(record.number, path, base, journal_id, record.time_ms)
            self.streams[record.number] = pending
            if (last := self._last_at.get(path)) is not None:
                self._before[record.number] = last
            self._last_at[path] = record.number
        before = pending.cost_bytes
        pending.add(record, after)
        self.cost_bytes += pending.cost_bytes - before
        if pending.cost_bytes >= _GROWN_BYTES or len(pending.producers) >= _GROWN_PRODUCERS:
            self._grown[record.number] = pending
        self._at[path] = after
        if after is None:
            self._deleted[record.number] = pending
        if isinstance(record, Reference) and record.delta < 0:
            self.holds.pop(record.fork, None)

    def hold(self, record: Deletion, before: StreamState | None) -> None:
        """A deleted fork goes on holding its source until it is released."""
        if not record.keep and before is not None and before.origin is not None:
            origin = before.origin
            self.holds[record.number] = Hold(record.number, origin.source_number, origin.source_path)

    def deleted(self, limit: int, but: Container[int]) -> list[Pending]:
        """Deleted streams, each after its predecessors."""
        found: dict[int, Pending] = {}
        for number, pending in self._deleted.items():
            if len(found) == limit:
                break
            before = self._before.get(number)
            if number not in but and (before not in self.streams or before in found):
                found[number] = pending
        return list(found.values())

    def grown(self, but: Container[int]) -> list[Pending]:
        """A stream that has so much that to fold it would soon keep everybody waiting, after its predecessors."""
        for number, pending in self._grown.items():
            if number not in but:
                return [before for before in self.predecessors(pending) if before.number not in but] + [pending]
        return []

    def predecessors(self, pending: Pending) -> list[Pending]:
        """Deleted streams at the same path that are to be folded first: a path has one row at a time."""
        found: list[Pending] = []
        known = pending.number in self.streams
        number = self._before.get(pending.number) if known else self._last_at.get(pending.path)
        while number is not None and (before := self.streams.get(number)) is not None:
            found.append(before)
            number = self._before.get(number)
        return found[::-1]

    def oldest(self) -> Iterator[Pending]:
        """All pending streams, that with the oldest unfolded record first."""
        return iter(self.streams.values())

    def drop(self, pending: Pending) -> bool:
        """Forget a stream that has been folded, after its predecessors.

        Returns:
            Whether the tables are right about its path again.
        """
        self.cost_bytes -= pending.cost_bytes
        del self.streams[pending.number]
        self._deleted.pop(pending.number, None)
        self._grown.pop(pending.number, None)
        self._before.pop(pending.number, None)
        if self._last_at[pending.path] != pending.number:
            return False
        del self._last_at[pending.path]
        del self._at[pending.path]
        return True

    def first_id(self, but: Container[int], default: int) -> int:
        """The oldest journal row with records that are unfolded, those of some streams not counted."""
        for pending in self.streams.values():
            if pending.number not in but:
                return pending.first_id
        return default
