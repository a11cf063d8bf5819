"""What is durable in the journal but not folded into the tables yet.

The overlay lies over the tables: lookups ask it first, followers read their hot tail from it. It holds one `Pending`
per stream with unfolded records, in the order of each stream's oldest such record, so folding from the front always
lets go of the oldest journal rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from itertools import islice

from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import Addition, Creation, Deletion, Record, Reference, StreamState
from unbroken.store.base import Hold
from unbroken.store.runs import Runs, append_run, end_of_runs_before

__all__ = ["Overlay", "Pending"]

# What a record costs in memory beside its bytes, roughly: so that many tiny appends count too.
_RECORD_OVERHEAD_BYTES = 256


class Pending:
    """The unfolded records of one stream, summed up.

    Attributes:
        number: the stream.
        path: where it is, or was.
        state: its durable state; None once it is deleted.
        born: its creation is unfolded, so the tables know nothing of it.
        first_id: journal row of its oldest unfolded record.
        first_ms: when that was committed.
        base: byte position where its unfolded bytes begin.
        blocks: its unfolded bytes.
        runs: when they were committed.
        producers: its unfolded producer states.
        released: deleted forks that no longer hold it.
    """

    __slots__ = (
        "_ends",
        "base",
        "blocks",
        "born",
        "cost_bytes",
        "first_id",
        "first_ms",
        "number",
        "path",
        "producers",
        "released",
        "runs",
        "state",
    )

    def __init__(self, number: int, path: str, base: int, journal_id: int, time_ms: int) -> None:
        self.number = number
        self.path = path
        self.state: StreamState | None = None
        self.born = False
        self.first_id = journal_id
        self.first_ms = time_ms
        self.base = base
        self.blocks: list[bytes] = []
        self.runs: Runs = []
        self.producers: dict[str, Producer] = {}
        self.released: list[int] = []
        self.cost_bytes = 0
        self._ends: list[int] = []

    def copy(self) -> Pending:
        """An independent copy."""
        twin = Pending(self.number, self.path, self.base, self.first_id, self.first_ms)
        twin.state, twin.born, twin.cost_bytes = self.state, self.born, self.cost_bytes
        twin.blocks, twin._ends, twin.runs = list(self.blocks), list(self._ends), list(self.runs)
        twin.producers, twin.released = dict(self.producers), list(self.released)
        return twin

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
                self.released.append(record.fork)
        elif after is None:
            self.forget_bytes()
            self.producers = {}
            self.cost_bytes = _RECORD_OVERHEAD_BYTES

    def _add_bytes(self, record: Addition | Creation) -> None:
        if data := record.data:
            self.blocks.append(data)
            self._ends.append(record.position + len(data))
            append_run(self.runs, len(data), record.time_ms)
            self.cost_bytes += len(data)

    def forget_bytes(self) -> None:
        """Keep the state alone: nobody will read the bytes, or the tables have them."""
        self.blocks, self._ends, self.runs = [], [], []

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``[start, end)``; start is not below ``base``."""
        index = bisect_right(self._ends, start)
        if index == len(self.blocks):
            return b""
        block = self.blocks[index]
        begin = self._ends[index] - len(block)
        if end <= self._ends[index]:
            return block[start - begin : end - begin]
        parts = [block[start - begin :]]
        while (position := self._ends[index]) < end and index + 1 < len(self.blocks):
            index += 1
            parts.append(self.blocks[index][: end - position])
        return b"".join(parts)

    def find_time(self, end: int, time_ms: int) -> int | None:
        """The position after the last byte below ``end`` that was committed before a time, if there is one."""
        if not self.runs or end <= self.base or (size_bytes := end_of_runs_before(self.runs, time_ms)) is None:
            return None
        return min(self.base + size_bytes, end)


class Overlay:
    """All unfolded records, and what they make of paths and holds."""

    def __init__(self) -> None:
        self.streams: dict[int, Pending] = {}
        self.holds: dict[int, Hold] = {}
        self.cost_bytes = 0
        self._at: dict[str, StreamState | None] = {}
        self._deleted: dict[int, Pending] = {}
        self._numbers_at: dict[str, list[int]] = {}

    def covers(self, path: str) -> bool:
        """Whether the overlay knows better than the tables what is at a path."""
        return path in self._at

    def state(self, path: str) -> StreamState | None:
        """What is at a path that the overlay covers."""
        return self._at[path]

    def states(self, prefix: str, after: str) -> list[StreamState]:
        """The streams it covers whose path begins with a prefix and comes after another, by path."""
        found = [
            state for path, state in self._at.items() if state is not None and path > after and path.startswith(prefix)
        ]
        return sorted(found, key=lambda state: state.path)

    def add(self, path: str, record: Record, after: StreamState | None, journal_id: int) -> None:
        """Take a record that has become durable."""
        pending = self.streams.get(record.number)
        if pending is None:
            base = record.position if isinstance(record, Addition) else 0 if after is None else after.tail
            pending = Pending(record.number, path, base, journal_id, record.time_ms)
            self.streams[record.number] = pending
            self._numbers_at.setdefault(path, []).append(record.number)
        before = pending.cost_bytes
        pending.add(record, after)
        self.cost_bytes += pending.cost_bytes - before
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
        """Deleted streams, none of whose predecessors is pending too."""
        found = (pending for pending in self._deleted.values() if not self.predecessors(pending))
        return list(islice((pending for pending in found if pending.number not in but), limit))

    def predecessors(self, pending: Pending) -> list[Pending]:
        """Deleted streams at the same path that are to be folded first: a path has one row at a time."""
        numbers = self._numbers_at.get(pending.path, [])
        return [self.streams[number] for number in numbers if number < pending.number]

    def oldest(self) -> Iterator[Pending]:
        """All pending streams, that with the oldest unfolded record first."""
        return iter(self.streams.values())

    def drop(self, pending: Pending) -> bool:
        """Forget a stream that has been folded.

        Returns:
            Whether the tables are right about its path again.
        """
        self.cost_bytes -= pending.cost_bytes
        del self.streams[pending.number]
        self._deleted.pop(pending.number, None)
        numbers = self._numbers_at[pending.path]
        numbers.remove(pending.number)
        if numbers:
            return False
        del self._numbers_at[pending.path]
        del self._at[pending.path]
        return True

    def first_id(self, but: Container[int], default: int) -> int:
        """The oldest journal row with records that are unfolded, those of some streams not counted."""
        for pending in self.streams.values():
            if pending.number not in but:
                return pending.first_id
        return default
