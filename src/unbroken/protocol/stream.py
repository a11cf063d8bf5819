"""One stream's state machine: what may happen to it, and what then is.

Everything that affects a stream's state lives in this file, as two pure functions:

    decide(command, situation) -> Decision      may it happen; which records say so; what the client is told
    apply(state, record) -> state               what then is

A `Record` is one durable transition, so recovery is replaying `apply`. `decide` is total: whatever a client sent, it
returns a decision and never raises, so that one bad command cannot fail the batch it travels in.

The life of a stream:

    absent --create--> open --close--> closed          nothing leads back from closed
    open, closed --delete, expiry--> absent            if no fork lives on its data
    open, closed --delete, expiry--> gone              if one does; gone --last fork released--> absent

A path is free again once its stream is absent. The next stream there has a new, larger creation number, and with it
other offsets, validators, producers and timers: nothing of the old one can be mistaken for it.

A fork shares its source's bytes up to the fork point by reference. ``lineage`` lists, oldest first, which stream's own
bytes make up which range: ``((1, 10), (5, 30))`` on stream 9 means bytes 0-10 are stream 1's, 10-30 stream 5's, and
from 30 on they are its own. A deleted fork gives its source free in a step of its own (`Release`), so that no command
touches more than its target and one source.

A stream that was restored from a backup goes on under a new number, so that no offset that was given out after the
backup was made can come to mean other bytes. ``former`` names the numbers it had; their bytes are its own all the same.
"""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from unbroken.errors import (
    Conflict,
    ContentTypeMismatch,
    ForkTooDeep,
    InvalidBody,
    InvalidOffset,
    OffsetGone,
    SequenceRegression,
    SourceGone,
    StreamClosed,
    StreamExists,
    StreamGone,
    StreamNotFound,
    UnbrokenError,
)
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
from unbroken.protocol.content import DEFAULT_CONTENT_TYPE, is_json, media_type
from unbroken.protocol.lifetime import IMMORTAL, Instant, Lifetime
from unbroken.protocol.offsets import Anchor, Offset
from unbroken.protocol.producers import Producer, ProducerStamp, check_epoch, check_sequence

__all__ = [
    "LINEAGE_MAX",
    "Addition",
    "Creation",
    "Decision",
    "Deletion",
    "Lineage",
    "Origin",
    "Presence",
    "Record",
    "Reference",
    "Situation",
    "StreamState",
    "View",
    "apply",
    "decide",
    "offset_at",
    "resolve_offset",
    "view",
]

LINEAGE_MAX = 256

Lineage = tuple[tuple[int, int], ...]


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The fork request a stream came from, kept to recognise its repetition and to find the source again."""

    source_path: str
    source_number: int
    anchor: int | None
    sub_offset: int
    own_lifetime: bool


class StreamState(msgspec.Struct, frozen=True, gc=False):
    """Everything the rules know of a stream, except its producers, which are looked up one at a time."""

    number: int
    path: str
    content_type: str
    json: bool
    lifetime: Lifetime
    tail: int
    closed: bool = False
    closed_by: ProducerStamp | None = None
    stream_seq: str | None = None
    lineage: Lineage = ()
    origin: Origin | None = None
    forks: int = 0
    gone: bool = False
    created_ms: int = 0
    former: tuple[int, ...] = ()

    @property
    def own_start(self) -> int:
        """Where the stream's own bytes begin."""
        return self.lineage[-1][1] if self.lineage else 0

    @property
    def own_bytes(self) -> int:
        """How many bytes go when it is deleted: all but those of others, which its former lives are not."""
        others = (end for number, end in reversed(self.lineage) if number not in self.former)
        return self.tail - next(others, 0)

    @property
    def tail_offset(self) -> Offset:
        """The offset after the last byte."""
        return Offset(self.number, self.tail)


# --- records -----------------------------------------------------------------------------------------------------


class Creation(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A stream began, with what it inherits and its first content."""

    number: int
    time_ms: int
    path: str
    content_type: str
    ttl_s: int | None
    expires_at_ms: int | None
    closed: bool
    lineage: Lineage
    origin: Origin | None
    position: int
    data: bytes


class Addition(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Bytes were appended, a producer advanced, the stream closed: all of it in one step."""

    number: int
    time_ms: int
    position: int
    data: bytes
    producer: ProducerStamp | None
    stream_seq: str | None
    closed: bool


class Deletion(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A stream ended; with ``keep``, its bytes stay for its forks."""

    number: int
    time_ms: int
    keep: bool


class Reference(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A fork began (+1) or stopped (-1) living on this stream's bytes."""

    number: int
    time_ms: int
    fork: int
    delta: int


Record = Creation | Addition | Deletion | Reference


def apply(state: StreamState | None, record: Record) -> StreamState | None:
    """The state after a record; None where the stream is absent."""
    if isinstance(record, Creation):
        return StreamState(
            number=record.number,
            path=record.path,
            content_type=record.content_type,
            json=is_json(record.content_type),
            lifetime=_lifetime(record),
            tail=record.position + len(record.data),
            closed=record.closed,
            lineage=record.lineage,
            origin=record.origin,
            created_ms=record.time_ms,
        )
    if state is None:
        raise ValueError(f"a record for stream {record.number}, which is absent")
    if isinstance(record, Addition):
        return _apply_addition(state, record)
    if isinstance(record, Deletion):
        return msgspec.structs.replace(state, gone=True) if record.keep else None
    return msgspec.structs.replace(state, forks=state.forks + record.delta)


def _lifetime(record: Creation) -> Lifetime:
    if record.ttl_s is None and record.expires_at_ms is None:
        return IMMORTAL
    return Lifetime(record.ttl_s, record.expires_at_ms)


def _apply_addition(state: StreamState, record: Addition) -> StreamState:
    # Built in full: three times faster than structs.replace, and this runs for every append.
    return StreamState(
        state.number,
        state.path,
        state.content_type,
        state.json,
        state.lifetime,
        record.position + len(record.data),
        state.closed or record.closed,
        record.producer if record.closed else state.closed_by,
        state.stream_seq if record.stream_seq is None else record.stream_seq,
        state.lineage,
        state.origin,
        state.forks,
        state.gone,
        state.created_ms,
        state.former,
    )


# --- what is there now -------------------------------------------------------------------------------------------


class Presence(Enum):
    """How a path looks to a client at a moment."""

    ABSENT = auto()
    LIVE = auto()
    EXPIRED = auto()
    """Its lifetime is over and nothing lives on it: as good as absent, its storage still to be reclaimed."""
    GONE = auto()
    """Deleted or expired, and its data kept for forks."""


class View(msgspec.Struct, frozen=True, gc=False):
    """A stream as it is at a moment."""

    presence: Presence
    state: StreamState | None

    def live(self) -> StreamState:
        """The state of a live stream.

        Raises:
            StreamNotFound: absent or expired.
            StreamGone: gone.
        """
        if self.presence is Presence.LIVE and self.state is not None:
            return self.state
        raise self.absence()

    def absence(self) -> UnbrokenError:
        """The error for a stream that is not live."""
        if self.presence is Presence.GONE:
            return StreamGone("the stream was deleted; only its forks live on")
        return StreamNotFound("no stream at this path")


_ABSENT = View(Presence.ABSENT, None)


def view(state: StreamState | None, now: Instant, renewed_ms: int) -> View:
    """How a stream looks now, given when (monotonic clock) its sliding lifetime was last renewed."""
    if state is None:
        return _ABSENT
    if state.gone:
        return View(Presence.GONE, state)
    if state.lifetime is not IMMORTAL and state.lifetime.ended(now, renewed_ms):
        return View(Presence.GONE if state.forks else Presence.EXPIRED, state)
    return View(Presence.LIVE, state)


def resolve_offset(state: StreamState, offset: Offset | Anchor) -> int | UnbrokenError:
    """The byte position that an offset names on this stream, or why it names none."""
    if offset is Anchor.BEGINNING:
        return 0
    if not isinstance(offset, Offset):
        return state.tail
    start = 0
    for number, end in (*state.lineage, (state.number, state.tail)):
        if number == offset.number:
            if start <= offset.position <= end:
                return offset.position
            if number in state.former:
                return OffsetGone("what was there is lost: the server was restored from an older backup")
            return InvalidOffset("the offset is beyond what this stream has")
        start = end
    if offset.number > state.number:
        return InvalidOffset("the offset is beyond the tail")
    if state.origin is not None and offset.number == state.origin.source_number:
        # Forked inside what the source itself inherited: the source's own bytes all lie past the fork point.
        return InvalidOffset("the offset is past the fork point")
    return OffsetGone("the offset belongs to an earlier stream; read again from the beginning")


def offset_at(state: StreamState, position: int) -> Offset:
    """The offset we give out for a byte position of this stream."""
    inherited = state.lineage if position < state.own_start else ()
    for number, end in inherited:
        if position < end:
            return Offset(number, position)
    return Offset(state.number, position)


# --- decisions ---------------------------------------------------------------------------------------------------


class Situation(msgspec.Struct, frozen=True, gc=False):
    """Everything a decision depends on besides the command.

    Args:
        now: the moment of deciding.
        target: the stream at the command's path.
        source: the stream to fork from, for a fork.
        producer: what is known of the command's producer.
        next_number: the creation number for a new stream.
        held: whether the fork that a `Release` names still holds its source.
    """

    now: Instant
    target: View
    source: View = _ABSENT
    producer: Producer | None = None
    next_number: int = 0
    held: bool = False


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What the client is told, once the records (if any) are durable."""

    outcome: Outcome
    records: tuple[Record, ...] = ()


def decide(command: Command, situation: Situation) -> Decision:
    """Decide a command. Never raises: a refusal is an outcome."""
    if isinstance(command, Append):
        return _decide_append(command, situation)
    if isinstance(command, Create):
        return _decide_create(command, situation)
    if isinstance(command, Delete):
        return _decide_delete(situation)
    if isinstance(command, Reclaim):
        return _decide_reclaim(command, situation)
    return _decide_release(command, situation)


def _decide_append(command: Append, situation: Situation) -> Decision:
    target, stamp = situation.target, command.producer
    if target.presence is not Presence.LIVE or (state := target.state) is None:
        return Decision(target.absence())
    settled = _settle_append(command, state, situation.producer)
    if settled is not None:
        return Decision(settled)
    data = command.content.data
    record = Addition(state.number, situation.now.wall_ms, state.tail, data, stamp, command.stream_seq, command.close)
    accepted = None if stamp is None else Producer(stamp.epoch, stamp.seq)
    tail = Offset(state.number, state.tail + len(data))
    return Decision(Appended(tail, command.close, False, accepted), (record,))


def _settle_append(command: Append, state: StreamState, known: Producer | None) -> Outcome | None:
    """The answer to an append that changes nothing; None if it is to be made.

    The order of the checks is part of the protocol: the first that fails is what the client learns.
    """
    stamp = command.producer
    if command.fault is not None:
        return command.fault
    if stamp is not None:
        if command.close and state.closed_by == stamp:
            return Appended(state.tail_offset, True, True, Producer(stamp.epoch, stamp.seq))
        if stale := check_epoch(known, stamp):
            return stale
    if state.closed:
        return _append_to_closed(command, state)
    if error := _check_content(command, state):
        return error
    if stamp is not None:
        verdict = check_sequence(known, stamp)
        if isinstance(verdict, UnbrokenError):
            return verdict
        if not verdict:
            return Appended(state.tail_offset, False, True, known)
    return _check_stream_seq(command.stream_seq, state)


def _check_stream_seq(seq: str | None, state: StreamState) -> SequenceRegression | None:
    if seq is not None and state.stream_seq is not None and seq <= state.stream_seq:
        return SequenceRegression("Stream-Seq must be greater than the last one accepted")
    return None


def _append_to_closed(command: Append, state: StreamState) -> Outcome:
    if command.close and command.producer is None and _is_empty(command):
        return Appended(state.tail_offset, closed=True, duplicate=True)
    return StreamClosed(str(state.tail_offset))


def _is_empty(command: Append) -> bool:
    """Whether there was no body. The JSON body ``[]`` is one, though it leaves nothing to store."""
    content = command.content
    return not content.data and not content.json and content.fault is None


def _check_content(command: Append, state: StreamState) -> UnbrokenError | None:
    content = command.content
    if _is_empty(command):
        return None if command.close else InvalidBody("the body is empty")
    if command.content_type is None:
        return InvalidBody("Content-Type is missing")
    if command.content_type != state.content_type and media_type(command.content_type) != media_type(
        state.content_type
    ):
        return ContentTypeMismatch(f"the stream's content type is {state.content_type}")
    if not content.data and content.fault is None:
        return InvalidBody("an empty array holds no message")
    return content.fault


def _decide_create(command: Create, situation: Situation) -> Decision:
    target = situation.target
    if target.presence is Presence.GONE:
        return Decision(StreamExists("the path is blocked until the last fork of its deleted stream is deleted"))
    if target.presence is Presence.LIVE and target.state is not None:
        return Decision(_confirm(command, target.state))
    start = _begin(command, situation)
    if isinstance(start, UnbrokenError):
        return Decision(start)
    records: list[Record] = []
    if target.state is not None:
        records.append(Deletion(target.state.number, situation.now.wall_ms, keep=False))
    records.append(start)
    if start.origin is not None:
        records.append(Reference(start.origin.source_number, situation.now.wall_ms, start.number, +1))
    tail = Offset(start.number, start.position + len(start.data))
    return Decision(Created(start.content_type, tail, command.closed, existed=False), tuple(records))


def _confirm(command: Create, state: StreamState) -> Outcome:
    wanted = command.content_type
    if wanted is None and command.fork is None:
        wanted = DEFAULT_CONTENT_TYPE
    same_type = wanted is None or media_type(wanted) == media_type(state.content_type)
    if (
        same_type
        and command.closed == state.closed
        and _same_origin(command.fork, state.origin)
        and _same_lifetime(command, state)
    ):
        return Created(state.content_type, state.tail_offset, state.closed, existed=True)
    return StreamExists("a stream with another configuration exists at this path")


def _same_origin(fork: ForkRequest | None, origin: Origin | None) -> bool:
    if fork is None or origin is None:
        return fork is None and origin is None
    if fork.fault is not None:
        return False
    return (fork.source_path, fork.anchor, fork.sub_offset) == (origin.source_path, origin.anchor, origin.sub_offset)


def _same_lifetime(command: Create, state: StreamState) -> bool:
    if command.lifetime is None and state.origin is not None:
        return not state.origin.own_lifetime
    return (command.lifetime or IMMORTAL) == state.lifetime


def _begin(command: Create, situation: Situation) -> Creation | UnbrokenError:
    """The first record of a new stream."""
    content_type = command.content_type or DEFAULT_CONTENT_TYPE
    lifetime = command.lifetime or IMMORTAL
    lineage: Lineage = ()
    origin: Origin | None = None
    position = 0
    if command.fork is not None:
        inherited = _inherit(command, command.fork, situation.source)
        if isinstance(inherited, UnbrokenError):
            return inherited
        source, lineage, position = inherited
        content_type = command.content_type or source.content_type
        own_lifetime = command.lifetime is not None
        lifetime = command.lifetime or source.lifetime
        fork = command.fork
        origin = Origin(source.path, source.number, fork.anchor, fork.sub_offset, own_lifetime)
    content = command.content
    if content.fault is not None:
        return content.fault
    if content.data and content.json != is_json(content_type):
        return Conflict("the source was replaced meanwhile; try again")
    return Creation(
        number=situation.next_number,
        time_ms=situation.now.wall_ms,
        path=command.path,
        content_type=content_type,
        ttl_s=lifetime.ttl_s,
        expires_at_ms=lifetime.expires_at_ms,
        closed=command.closed,
        lineage=lineage,
        origin=origin,
        position=position,
        data=content.data,
    )


def _inherit(command: Create, fork: ForkRequest, source: View) -> tuple[StreamState, Lineage, int] | UnbrokenError:
    """What a fork takes over: the source, the lineage and the position where its own bytes begin."""
    if source.presence is Presence.GONE:
        return SourceGone("the source stream is deleted")
    if source.presence is not Presence.LIVE or (state := source.state) is None:
        return StreamNotFound("the source stream does not exist")
    if command.content_type is not None and media_type(command.content_type) != media_type(state.content_type):
        return ContentTypeMismatch(f"the source's content type is {state.content_type}")
    if fork.fault is not None:
        return fork.fault
    if fork.anchor is not None and fork.source_number != state.number:
        return Conflict("the source was replaced meanwhile; try again")
    point = state.tail if fork.point is None else fork.point
    # Ancestors that begin past the fork point drop out. One that begins right there contributes nothing, but its
    # spelling of the fork point is an offset that readers may hold.
    lineage: list[tuple[int, int]] = []
    start = 0
    for number, end in (*state.lineage, (state.number, state.tail)):
        if start <= point:
            lineage.append((number, min(end, point)))
        start = end
    if len(lineage) > LINEAGE_MAX:
        return ForkTooDeep(f"a chain of forks may have at most {LINEAGE_MAX} streams")
    return state, tuple(lineage), point


def _decide_delete(situation: Situation) -> Decision:
    if situation.target.presence is not Presence.LIVE or (state := situation.target.state) is None:
        return Decision(situation.target.absence())
    return Decision(Deleted(), (Deletion(state.number, situation.now.wall_ms, keep=state.forks > 0),))


def _decide_reclaim(command: Reclaim, situation: Situation) -> Decision:
    state = situation.target.state
    over = situation.target.presence in (Presence.EXPIRED, Presence.GONE)
    if state is None or state.number != command.number or state.gone or not over:
        return Decision(Deleted())
    return Decision(Deleted(), (Deletion(state.number, situation.now.wall_ms, keep=state.forks > 0),))


def _decide_release(command: Release, situation: Situation) -> Decision:
    state = situation.target.state
    if not situation.held or state is None or state.number != command.number:
        return Decision(Deleted())
    now_ms = situation.now.wall_ms
    released: Record = Reference(state.number, now_ms, command.fork, -1)
    if state.gone and state.forks == 1:
        return Decision(Deleted(), (released, Deletion(state.number, now_ms, keep=False)))
    return Decision(Deleted(), (released,))
