"""A whole server's streams in a few dictionaries, driven by commands: the rules with nothing around them.

It carries out what `decide` says as an engine and a store do, and checks each record against the bytes it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from unbroken.errors import UnbrokenError
from unbroken.protocol.commands import (
    Append,
    Appended,
    Command,
    Create,
    Created,
    Delete,
    Deleted,
    ForkRequest,
    Outcome,
    Reclaim,
    Release,
)
from unbroken.protocol.content import EMPTY, Content
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import (
    Addition,
    Creation,
    Decision,
    Deletion,
    Presence,
    Record,
    Reference,
    Situation,
    StreamState,
    View,
    apply,
    decide,
    resolve_offset,
    view,
)

START = Instant(wall_ms=1_800_000_000_000, monotonic_ms=1_000)


class World:
    """Streams by path, what lives on what, and everybody's bytes."""

    def __init__(self) -> None:
        self.now = START
        self.states: dict[str, StreamState] = {}
        self.producers: dict[tuple[int, str], Producer] = {}
        self.renewed_ms: dict[int, int] = {}
        self.holds: dict[int, tuple[str, int]] = {}
        """Fork to its source, by creation number, from its creation until its release."""
        self.own: dict[int, bytes] = {}
        self.begins: dict[int, int] = {}
        """Where a stream's own bytes begin."""
        self._next_number = 1

    # --- commands ------------------------------------------------------------------------------------------------

    def create(
        self,
        path: str = "/s",
        content_type: str | None = "text/plain",
        *,
        lifetime: Lifetime | None = None,
        closed: bool = False,
        content: Content = EMPTY,
        fork: ForkRequest | None = None,
    ) -> Outcome:
        return self.send(Create(path, content_type, lifetime, closed, content, fork))

    def created(self, path: str = "/s", data: bytes = b"", lifetime: Lifetime | None = None) -> StreamState:
        """A new plain text stream that is there for sure."""
        outcome = self.create(path, lifetime=lifetime, content=Content(data))
        assert isinstance(outcome, Created), outcome
        assert not outcome.existed
        return self.states[path]

    def forked(self, path: str, source: str, at: int | None = None, data: bytes = b"") -> StreamState:
        """A new fork that is there for sure."""
        outcome = self.create(path, None, fork=self.fork_request(source, at), content=Content(data))
        assert isinstance(outcome, Created), outcome
        assert not outcome.existed
        return self.states[path]

    def fork_request(self, source: str, at: int | None = None, past: int = 0) -> ForkRequest:
        """To branch off at a byte position, and so many bytes past it; at the tail by default."""
        if at is None:
            return ForkRequest(source)
        return ForkRequest(source, at, past, self.states[source].number, at + past)

    def append(self, path: str = "/s", data: bytes = b"", *, close: bool = False, **more: object) -> Outcome:
        content_type = self.states[path].content_type if path in self.states else "text/plain"
        command = Append(path, content_type, Content(data), close)
        return self.send(replace(command, **more))

    def delete(self, path: str = "/s") -> Outcome:
        return self.send(Delete(path))

    def wait(self, seconds: float) -> None:
        """Let both clocks go on."""
        step_ms = round(seconds * 1000)
        self.now = Instant(self.now.wall_ms + step_ms, self.now.monotonic_ms + step_ms)

    def housekeeping(self) -> None:
        """Reclaim and release until nothing is left to do."""
        while commands := list(self._chores()):
            for command in commands:
                self.send(command)

    def _chores(self) -> Iterator[Command]:
        for path, state in self.states.items():
            if self.over(path) and not state.gone:
                yield Reclaim(path, state.number)
        alive = {state.number for state in self.states.values()}
        for fork, (source_path, source_number) in self.holds.items():
            if fork not in alive:
                yield Release(source_path, source_number, fork)

    # --- what is there -------------------------------------------------------------------------------------------

    def view(self, path: str) -> View:
        state = self.states.get(path)
        return view(state, self.now, 0 if state is None else self.renewed_ms.get(state.number, 0))

    def over(self, path: str) -> bool:
        return self.view(path).presence in (Presence.EXPIRED, Presence.GONE)

    def content(self, path: str) -> bytes:
        """What a reader gets from the beginning, put together along the lineage."""
        state = self.states[path]
        parts = []
        start = 0
        for number, end in (*state.lineage, (state.number, state.tail)):
            begin = self.begins[number]
            parts.append(self.own[number][start - begin : end - begin])
            start = end
        return b"".join(parts)

    def position(self, path: str, offset: Offset) -> int | UnbrokenError:
        return resolve_offset(self.states[path], offset)

    # --- carrying out --------------------------------------------------------------------------------------------

    def decide(self, command: Command) -> Decision:
        return decide(command, self.situation(command))

    def situation(self, command: Command) -> Situation:
        """What an engine tells the rules about a command's surroundings."""
        situation = Situation(self.now, self.view(command.path), next_number=self._next_number)
        if isinstance(command, Create) and command.fork is not None:
            situation = replace(situation, source=self.view(command.fork.source_path))
        if isinstance(command, Append) and command.producer is not None and command.path in self.states:
            key = (self.states[command.path].number, command.producer.id)
            situation = replace(situation, producer=self.producers.get(key))
        return replace(situation, held=isinstance(command, Release) and command.fork in self.holds)

    def send(self, command: Command) -> Outcome:
        decision = self.decide(command)
        outcome, records = decision.outcome, decision.records
        assert isinstance(outcome, Created | Appended | Deleted | UnbrokenError)
        assert not (records and isinstance(outcome, UnbrokenError)), "a refusal must change nothing"
        for record in records:
            path = command.path
            if isinstance(command, Create) and isinstance(record, Reference):
                assert command.fork is not None
                path = command.fork.source_path
            self._carry_out(path, record)
        if not isinstance(outcome, UnbrokenError) and isinstance(command, Append) and command.path in self.states:
            self.renewed_ms[self.states[command.path].number] = self.now.monotonic_ms
        return outcome

    def _carry_out(self, path: str, record: Record) -> None:
        before = self.states.get(path)
        after = apply(before, record)
        if isinstance(record, Creation):
            assert before is None, "the path was taken"
            self._begin(path, record)
        elif isinstance(record, Addition):
            assert before is not None
            assert record.position == self.begins[record.number] + len(self.own[record.number])
            self.own[record.number] += record.data
            if record.producer is not None:
                self._remember(record.number, record.producer)
        elif isinstance(record, Reference) and record.delta < 0:
            del self.holds[record.fork]
        if after is None:
            assert isinstance(record, Deletion)
            del self.states[path]
            del self.own[record.number]
        else:
            self.states[path] = after

    def _begin(self, path: str, record: Creation) -> None:
        assert record.path == path
        assert record.number == self._next_number
        self._next_number += 1
        self.own[record.number] = record.data
        self.begins[record.number] = record.position
        self.renewed_ms[record.number] = self.now.monotonic_ms
        if record.origin is not None:
            self.holds[record.number] = (record.origin.source_path, record.origin.source_number)

    def _remember(self, number: int, stamp: ProducerStamp) -> None:
        self.producers[number, stamp.id] = Producer(stamp.epoch, stamp.seq)
