"""What is recorded of clients, and what is found wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from unbroken.protocol.producers import ProducerStamp

__all__ = ["Append", "Create", "Delete", "Operation", "Outcome", "Read", "Rule", "Violation"]


class Outcome(Enum):
    """What a client knows of an operation afterwards."""

    OK = "ok"
    REFUSED = "refused"
    """The server said no: nothing was changed."""
    UNKNOWN = "unknown"
    """The connection was lost, or the server itself did not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One request of one client.

    Args:
        client: who.
        path: to which stream.
        invoked: the moment before it was sent, on the recording's counter.
        completed: the moment after its answer had come; if its outcome is unknown, from when on it can do nothing.
        outcome: what the client knows.
        code: of a refusal, as in `unbroken.errors`.
    """

    client: str
    path: str
    invoked: int
    completed: int
    outcome: Outcome = Outcome.OK
    code: str = ""

    def __str__(self) -> str:
        name = f"{type(self).__name__.lower()} of {self.path} by {self.client} ({self.invoked}-{self.completed}"
        return f"{name}, {self.code or self.outcome.value}{self._details()})"

    def _details(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Create(Operation):
    """A PUT.

    Args:
        data: the body, in stored bytes (JSON messages end with their separator).
        closed: create it closed.
        source: path of the stream to fork.
        point: byte position where the fork branches off; None for the source's tail.
        existed: it was there already, and the body was ignored.
        tail: the offset that was answered.
    """

    data: bytes = b""
    closed: bool = False
    source: str | None = None
    point: int | None = None
    existed: bool = False
    tail: str = ""

    def _details(self) -> str:
        fork = "" if self.source is None else f", fork of {self.source} at {self.point}"
        return f"{fork}, {self.data[:40]!r}{', existed' if self.existed else ''}, tail {self.tail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Append(Operation):
    """A POST: an append, a close, or both.

    Args:
        data: the body, in stored bytes.
        close: close with it.
        producer: the stamp of an idempotent producer. Only such an append may be sent more than once.
        stream_seq: its Stream-Seq.
        duplicate: it was recognised as a repetition.
        tail: the offset that was answered.
    """

    data: bytes = b""
    close: bool = False
    producer: ProducerStamp | None = None
    stream_seq: str | None = None
    duplicate: bool = False
    tail: str = ""

    def _details(self) -> str:
        stamp = "" if self.producer is None else f", producer {'/'.join(map(str, self.producer))}"
        marks = f"{', closing' if self.close else ''}{', duplicate' if self.duplicate else ''}"
        return f", {self.data[:40]!r}{stamp}{marks}, tail {self.tail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete(Operation):
    """A DELETE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read(Operation):
    """One page: of a catch-up read, a long-poll, or an event stream, of which each batch is one. A HEAD is one too.

    A batch of an event stream was invoked when the event stream was: it may have been on its way since then.

    Args:
        start: the offset it was asked from; ``now`` for a HEAD.
        data: the bytes, as stored.
        next_offset: where to go on.
        up_to_date: it reached the tail.
        closed: it reached the end of a closed stream.
    """

    start: str
    data: bytes = b""
    next_offset: str = ""
    up_to_date: bool = False
    closed: bool = False

    def _details(self) -> str:
        marks = f"{', up to date' if self.up_to_date else ''}{', closed' if self.closed else ''}"
        return f", {len(self.data)} bytes from {self.start} to {self.next_offset}{marks}"


class Rule(Enum):
    """What can be broken."""

    LOST = "what was acknowledged is there"
    CHANGED = "bytes never change"
    DOUBLED = "nothing is there twice"
    REFUSED = "what was refused is not there"
    PHANTOM = "nothing is seen but what was sent before"
    ORDER = "what was acknowledged before another was sent lies before it"
    BACKWARDS = "the tail never goes back"
    OFFSETS = "offsets are ordered like the bytes, and belong to one life"
    CLOSED = "a closed stream ends in one place, for ever"
    DELETED = "a deleted stream stays away"
    VANISHED = "a stream that nobody deleted stays"
    NUMBERS = "creation numbers grow"
    FORK = "a fork begins with its source's bytes"
    PRODUCER = "a producer's appends lie in its order, without a gap"
    STREAM_SEQ = "Stream-Seq grows"
    REFUSAL = "a refusal has its reason"


class Violation(NamedTuple):
    """A promise that was broken.

    Args:
        rule: which.
        text: how, in plain words.
        operations: the operations concerned.
    """

    rule: Rule
    text: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.rule.value}: {self.text}", *map(str, self.operations)])
