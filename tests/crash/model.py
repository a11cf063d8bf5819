"""A correct server in memory, and what clients record of it: every operation takes effect at once, at a moment inside
its interval, and some answers are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from unbroken.protocol.producers import ProducerStamp
from unbroken.testing.history import Append, Create, Delete, Operation, Outcome, Read

__all__ = ["Model", "Stream"]

PATHS = ("/a", "/b", "/c")
STEP = 10


@dataclass
class Stream:
    """One life."""

    number: int
    data: bytes = b""
    closed: bool = False
    lineage: tuple[tuple[int, int], ...] = ()
    source: Stream | None = None
    forks: int = 0
    gone: bool = False
    stream_seq: str = ""
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def offset(self, position: int) -> str:
        number = next((number for number, end in self.lineage if position < end), self.number)
        return f"{number:016d}_{position:016d}"

    @property
    def tail(self) -> str:
        return self.offset(len(self.data))


class Model:
    """The server.

    Args:
        steps: each decides by chance what is done next, and how.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self.history: list[Operation] = []
        self.streams: dict[str, Stream] = {}
        self._numbers = 0
        self._bodies = 0
        self._sent: dict[tuple[str, str], list[Append]] = {}
        self._offsets: dict[str, list[str]] = {path: ["-1"] for path in PATHS}
        self._now = STEP
        kinds = (self._append, self._append, self._append, self._read, self._read, self._create, self._fork)
        for step in steps:
            chance = Random(step)
            kind: Callable[[Random, str], None] = chance.choice((*kinds, self._produce, self._produce, self._delete))
            self._now += STEP
            kind(chance, chance.choice(PATHS))
        self._now += 10 * STEP
        for path in PATHS:
            self._now += STEP
            self._look(Random(0), path, "-1", 1 << 60)

    def _facts(self, chance: Random, path: str) -> dict[str, Any]:
        invoked = self._now - chance.randrange(3 * STEP)
        return {
            "client": "c",
            "path": path,
            "invoked": invoked,
            "completed": self._now + 1 + chance.randrange(3 * STEP),
        }

    def _body(self) -> bytes:
        self._bodies += 1
        return b"<%d>" % self._bodies

    def _note(self, chance: Random, operation: Operation, act: Callable[[], dict[str, Any]]) -> None:
        """Let it take effect, or not, and record it."""
        facts = {name: getattr(operation, name) for name in operation.__slots__}
        facts |= {name: getattr(operation, name) for name in Operation.__slots__}
        dice = chance.random()
        if dice < 0.1 and not isinstance(operation, Read):
            if dice < 0.05:
                act()
            facts["outcome"] = Outcome.UNKNOWN
        else:
            told = act()
            facts |= told
            facts["outcome"] = Outcome.REFUSED if "code" in told else Outcome.OK
            self._offsets[operation.path].append(told.get("tail") or told.get("next_offset") or "-1")
        self.history.append(type(operation)(**facts))

    def _absent(self, path: str) -> dict[str, Any] | None:
        stream = self.streams.get(path)
        if stream is None:
            return {"code": "stream-not-found"}
        return {"code": "stream-gone"} if stream.gone else None

    # --- writing ---------------------------------------------------------------------------------------------------

    def _create(self, chance: Random, path: str) -> None:
        operation = Create(
            **self._facts(chance, path),
            data=self._body() if chance.random() < 0.7 else b"",
            closed=chance.random() < 0.05,
        )
        self._note(chance, operation, lambda: self._make(operation, None, 0))

    def _fork(self, chance: Random, path: str) -> None:
        source_path = chance.choice([other for other in PATHS if other != path])
        source = self.streams.get(source_path)
        size_bytes = 0 if source is None else len(source.data)
        point = None if chance.random() < 0.3 else chance.randint(0, size_bytes)
        operation = Create(**self._facts(chance, path), data=self._body(), source=source_path, point=point)

        def act() -> dict[str, Any]:
            if path not in self.streams and (absent := self._absent(source_path)):
                return absent
            return self._make(operation, source, size_bytes if point is None else point)

        self._note(chance, operation, act)

    def _make(self, operation: Create, source: Stream | None, point: int) -> dict[str, Any]:
        old = self.streams.get(operation.path)
        if old is not None and (old.gone or source is not None or old.source is not None):
            return {"code": "stream-exists"}
        if old is not None:
            same = old.closed == operation.closed
            return {"existed": True, "tail": old.tail} if same else {"code": "stream-exists"}
        self._numbers += 1
        stream = self.streams[operation.path] = Stream(self._numbers, operation.data, operation.closed)
        if source is not None:
            ends = [(number, min(end, point)) for number, end in (*source.lineage, (source.number, point))]
            stream.lineage = tuple(ends)
            stream.data = source.data[:point] + operation.data
            stream.source = source
            source.forks += 1
        return {"tail": stream.tail}

    def _append(self, chance: Random, path: str) -> None:
        seq = f"{self._now + chance.choice([0, -50]):06d}" if chance.random() < 0.2 else None
        close = chance.random() < 0.05
        data = b"" if close and chance.random() < 0.5 else self._body()
        operation = Append(**self._facts(chance, path), data=data, close=close, stream_seq=seq)

        def act() -> dict[str, Any]:
            if absent := self._absent(path):
                return absent
            stream = self.streams[path]
            if stream.closed:
                return {"tail": stream.tail} if close and not data else {"code": "stream-closed"}
            if seq is not None and seq <= stream.stream_seq:
                return {"code": "sequence-regression"}
            stream.stream_seq = seq or stream.stream_seq
            stream.data += data
            stream.closed = close
            return {"tail": stream.tail}

        self._note(chance, operation, act)

    def _produce(self, chance: Random, path: str) -> None:
        name = chance.choice("pq")
        sent = self._sent.setdefault((path, name), [])
        facts = self._facts(chance, path)
        if sent and chance.random() < 0.4:
            data, stamp = sent[-1].data, sent[-1].producer
        else:
            epoch, seq = (sent[-1].producer or ("", 0, -1))[1:] if sent else (0, -1)
            dice = chance.random()
            data = self._body()
            stamp = ProducerStamp(name, epoch, seq + 1) if dice < 0.7 else ProducerStamp(name, epoch + (dice < 0.9), 0)
            if (stamp.epoch, stamp.seq) <= (epoch, seq):
                stamp = ProducerStamp(name, epoch, seq + 2)
        assert stamp is not None
        operation = Append(**facts, data=data, producer=stamp)
        sent.append(operation)
        self._note(chance, operation, lambda: self._accept(operation, stamp))

    def _accept(self, operation: Append, stamp: ProducerStamp) -> dict[str, Any]:
        if absent := self._absent(operation.path):
            return absent
        stream = self.streams[operation.path]
        epoch, seq = stream.producers.get(stamp.id, (-1, -1))
        if stamp.epoch < epoch:
            return {"code": "stale-producer-epoch"}
        if stream.closed:
            return {"code": "stream-closed"}
        if stamp.epoch == epoch and stamp.seq <= seq:
            return {"tail": stream.tail, "duplicate": True}
        if stamp.epoch > epoch >= 0 and stamp.seq:
            return {"code": "invalid-header"}
        if stamp.seq != (seq + 1 if stamp.epoch == epoch else 0):
            return {"code": "producer-sequence-gap"}
        stream.producers[stamp.id] = (stamp.epoch, stamp.seq)
        stream.data += operation.data
        return {"tail": stream.tail}

    def _delete(self, chance: Random, path: str) -> None:
        def act() -> dict[str, Any]:
            if absent := self._absent(path):
                return absent
            self._end(path)
            return {}

        self._note(chance, Delete(**self._facts(chance, path)), act)

    def _end(self, path: str) -> None:
        stream = self.streams[path]
        stream.gone = stream.forks > 0
        if stream.gone:
            return
        del self.streams[path]
        if (source := stream.source) is not None:
            source.forks -= 1
            if source.gone and not source.forks:
                self._end(next(path for path, other in self.streams.items() if other is source))

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read(self, chance: Random, path: str) -> None:
        offset = chance.choice([*self._offsets[path], "now"])
        self._look(chance, path, offset, chance.choice([1, 5, 1 << 60]))

    def _look(self, chance: Random, path: str, offset: str, size_bytes: int) -> None:
        operation = Read(**self._facts(chance, path), start=offset)

        def act() -> dict[str, Any]:
            if absent := self._absent(path):
                return absent
            stream = self.streams[path]
            position = len(stream.data) if offset == "now" else 0 if offset == "-1" else int(offset[17:])
            if offset[:1] == "0" and int(offset[:16]) not in {stream.number, *(number for number, _ in stream.lineage)}:
                return {"code": "offset-gone"}
            if position > len(stream.data) or (offset[:1] == "0" and stream.offset(position) != offset):
                return {"code": "invalid-offset"}
            data = stream.data[position : position + size_bytes]
            end = position + len(data)
            at_tail = end == len(stream.data)
            told = {"next_offset": stream.offset(end), "up_to_date": at_tail, "closed": at_tail and stream.closed}
            return {"data": data, **told}

        self._note(chance, operation, act)
