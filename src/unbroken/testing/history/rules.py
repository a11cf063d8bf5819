"""The rules, each a function that yields how a reconstructed history breaks it."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

from unbroken.errors import (
    InvalidOffset,
    OffsetGone,
    ProducerGap,
    SequenceRegression,
    SourceGone,
    StaleEpoch,
    StreamClosed,
    StreamExists,
    StreamGone,
    StreamNotFound,
)
from unbroken.protocol.offsets import Offset, parse_offset
from unbroken.testing.history.lives import Life, Lives, Placement, Sighting, lives_of, position_of
from unbroken.testing.history.operations import Append, Create, Operation, Outcome, Read, Rule, Violation

__all__ = ["check_history"]

_VIOLATIONS_MAX = 100

Violations = Iterator[Violation]


def check_history(history: Iterable[Operation]) -> list[Violation]:
    """Check what clients recorded of a server.

    Args:
        history: all operations on the streams concerned, in any order.

    Returns:
        What is wrong, at most 100; empty if some order of things explains all that was seen.

    Raises:
        ValueError: the recording cannot be checked; see the package for what is asked of it.
    """
    lives = lives_of(list(history))
    return list(islice(_violations(lives), _VIOLATIONS_MAX))


def _violations(lives: Lives) -> Violations:
    yield from lives.faults
    for life in lives.by_number.values():
        for rule in _RULES_OF_A_LIFE:
            yield from rule(life, lives)
    yield from _numbers(lives)
    for path, operations in lives.at.items():
        yield from _succession(lives.on(path), lives)
        yield from _deletions(path, lives)
        for operation in operations:
            if isinstance(operation, Read) and operation.outcome is Outcome.OK:
                yield from _offsets(operation, lives)
            if operation.outcome is Outcome.REFUSED:
                yield from _refusal(operation, lives)


# --- bytes -------------------------------------------------------------------------------------------------------


class _Reached:
    """How far a life had been seen to reach, by time."""

    def __init__(self, life: Life) -> None:
        sightings = [*life.sightings, *life.echoes]
        marks: list[tuple[int, int, Sighting | Placement]] = [
            *((one.operation.completed, one.reached, one) for one in sightings),
            *((one.completed, one.end, one) for one in life.placements),
        ]
        marks.sort(key=lambda mark: mark[:2])
        self._times = [mark[0] for mark in marks]
        self._furthest: list[tuple[int, Sighting | Placement]] = []
        for _, reached, one in marks:
            best = self._furthest[-1] if self._furthest else None
            self._furthest.append((reached, one) if best is None or reached > best[0] else best)

    def before(self, time: int) -> tuple[int, Operation | None]:
        """How far by then, and who knew."""
        index = bisect.bisect_left(self._times, time)
        if not index:
            return 0, None
        reached, one = self._furthest[index - 1]
        return reached, one.write if isinstance(one, Placement) else one.operation


def _time(life: Life, lives: Lives) -> Violations:
    """Whoever comes later finds at least as much."""
    reached = _Reached(life)
    for sighting in life.sightings:
        furthest, known = reached.before(sighting.operation.invoked)
        if sighting.tail and known is not None and sighting.reached < furthest:
            lost = isinstance(known, Append | Create) and known.outcome is Outcome.OK
            text = f"the tail is told to be {sighting.reached} although {furthest} had been reached"
            yield life.complain(Rule.LOST if lost else Rule.BACKWARDS, text, known, sighting.operation)
    for placement in life.placements:
        furthest, known = reached.before(placement.invoked)
        if known is not None and placement.start < furthest:
            seen = isinstance(known, Read)
            text = f"it lies at {placement.start}, but {furthest} had been reached before it was sent"
            yield life.complain(Rule.PHANTOM if seen else Rule.ORDER, text, known, placement.write)


def _duplicates(life: Life, lives: Lives) -> Violations:
    """What was recognised as a repetition is there; the rule for sequences says that all before it is, too."""
    newest: dict[tuple[str, int], int] = {}
    for placement in life.placements:
        if isinstance(placement.write, Append) and (stamp := placement.write.producer) is not None:
            newest[stamp.id, stamp.epoch] = max(stamp.seq, newest.get((stamp.id, stamp.epoch), 0))
    for sighting in life.sightings:
        append = sighting.operation
        if not isinstance(append, Append) or not append.duplicate or append.producer is None or not append.data:
            continue
        stamp = append.producer
        known = life.inherited is not None and life.contents.knows(life.inherited, sighting.reached)
        if known and newest.get((stamp.id, stamp.epoch), -1) < stamp.seq:
            yield life.complain(Rule.LOST, "called a repetition, but it is not there", append)


def _twice(life: Life, lives: Lives) -> Violations:
    """No body lies in more places than it was sent to."""
    for earlier, later in pairwise(sorted(life.placements, key=lambda one: one.write.data)):
        if earlier.write.data == later.write.data:
            yield life.complain(Rule.DOUBLED, "acknowledged as new more than once", earlier.write, later.write)


def _order_of_appends(life: Life, lives: Lives) -> Violations:
    """Producers' sequences have no gap, and Stream-Seq grows."""
    stamped: dict[str, list[Append]] = defaultdict(list)
    sequenced: list[Append] = []
    for placement in life.placements:
        append = placement.write
        if isinstance(append, Append) and append.producer is not None:
            stamped[append.producer.id].append(append)
        if isinstance(append, Append) and append.stream_seq is not None:
            sequenced.append(append)
    for before, append in pairwise(sequenced):
        if str(before.stream_seq) >= str(append.stream_seq):
            yield life.complain(Rule.STREAM_SEQ, f"{append.stream_seq} lies behind {before.stream_seq}", before, append)
    if life.inherited is None or not life.contents.knows(life.inherited, len(life.contents)):
        return  # what lies between may not have been read
    for appends in stamped.values():
        last = (-1, 0)
        for append in appends:
            assert append.producer is not None
            _, epoch, seq = append.producer
            if (epoch, seq) != (last[0], last[1] + 1) and (epoch <= last[0] or seq != 0):
                yield life.complain(Rule.PRODUCER, f"{epoch}/{seq} lies behind {last[0]}/{last[1]}", append)
            last = (epoch, seq)


def _closing(life: Life, lives: Lives) -> Violations:
    """The end, once told, is the end."""
    ends = sorted((one for one in life.sightings if one.closed), key=lambda one: one.operation.completed)
    if not ends:
        return
    first = ends[0]
    if not any(_closes(one) and one.invoked < first.operation.completed for one in lives.at[life.path]):
        yield life.complain(Rule.CLOSED, "it is closed, and nobody closed it", first.operation)
    for sighting in life.sightings:
        if sighting.reached > first.reached or (sighting.closed and sighting.reached != first.reached):
            text = f"its end is at {first.reached}, and then at {sighting.reached}"
            yield life.complain(Rule.CLOSED, text, first.operation, sighting.operation)
        if sighting.closed is False and sighting.operation.invoked > first.operation.completed:
            yield life.complain(Rule.CLOSED, "it is open again", first.operation, sighting.operation)
    for placement in life.placements:
        if placement.end > first.reached:
            text = f"it lies behind the end, {first.reached}"
            yield life.complain(Rule.CLOSED, text, first.operation, placement.write)


def _closes(operation: Operation) -> bool:
    if operation.outcome is Outcome.REFUSED:
        return False
    return (isinstance(operation, Append) and operation.close) or (isinstance(operation, Create) and operation.closed)


_RULES_OF_A_LIFE: tuple[Callable[[Life, Lives], Violations], ...] = (
    _time,
    _duplicates,
    _twice,
    _order_of_appends,
    _closing,
)


# --- one life after another ----------------------------------------------------------------------------------------


def _numbers(lives: Lives) -> Violations:
    """A life that began later has a larger number."""
    by_end = sorted(lives.by_number.values(), key=lambda life: life.completed)
    ends = [life.completed for life in by_end]
    largest: list[Life] = []
    for life in by_end:
        largest.append(life if not largest or life.number > largest[-1].number else largest[-1])
    for life in by_end:
        index = bisect.bisect_left(ends, life.invoked)
        if index and largest[index - 1].number > life.number:
            before = largest[index - 1]
            creations = [one.creation for one in (before, life) if one.creation is not None]
            yield life.complain(Rule.NUMBERS, f"created after number {before.number} was there", *creations)


def _may_have_ended(life: Life, lives: Lives, before: int) -> bool:
    """Whether a deletion can have ended a life before a moment."""
    return any(
        one.invoked < before and one.completed > max(life.invoked, life.last_seen)
        for one in lives.deletions.get(life.path, [])
    )


def _succession(lives_here: list[Life], lives: Lives) -> Violations:
    """A path has one stream at a time."""
    for life, successor in pairwise(lives_here):
        if not _may_have_ended(life, lives, successor.completed):
            seen = max(life.sightings, key=lambda one: one.operation.invoked)
            successors = [one.operation for one in successor.sightings[:1]]
            text = f"number {successor.number} took its place although no deletion can have ended it"
            yield life.complain(Rule.DELETED, text, seen.operation, *successors)
        for sighting in life.sightings:
            if sighting.operation.invoked > successor.completed:
                yield life.complain(
                    Rule.DELETED, f"seen after number {successor.number} had taken its place", sighting.operation
                )


def _deletions(path: str, lives: Lives) -> Violations:
    """What was deleted is not seen later, and each deletion had something to delete."""
    done = sorted(
        (one for one in lives.deletions.get(path, []) if one.outcome is Outcome.OK), key=lambda one: one.invoked
    )
    for deletion in done:
        for life in lives.on(path):
            if life.completed < deletion.invoked and life.last_seen > deletion.completed:
                seen = max(life.sightings, key=lambda one: one.operation.invoked)
                yield life.complain(Rule.DELETED, "seen after it was deleted", deletion, seen.operation)
    creations = [one for one in lives.at[path] if isinstance(one, Create) and one.outcome is not Outcome.REFUSED]
    since, until = 0, 0
    for deletion in done:
        if deletion.invoked > until and not any(
            one.completed > since and one.invoked < deletion.completed for one in creations
        ):
            yield Violation(Rule.DELETED, f"{path}: there was nothing to delete any more", (deletion,))
        since, until = deletion.invoked, deletion.completed


def _offsets(read: Read, lives: Lives) -> Violations:
    """A page's offsets tell its size, sort like the bytes, and belong to the life that was read."""
    end = parse_offset(read.next_offset)
    assert isinstance(end, Offset)
    start = position_of(read.start, now=end.position)
    if end.position - start != len(read.data):
        yield Violation(Rule.OFFSETS, f"{len(read.data)} bytes from {start} to {end.position}", (read,))
    begin = parse_offset(read.start)
    if not isinstance(begin, Offset):
        return
    if read.next_offset < read.start or (read.data and read.next_offset == read.start):
        yield Violation(Rule.OFFSETS, "the next offset does not sort behind the one before the bytes", (read,))
    life = lives.by_number.get(end.number)
    if life is None or life.path != read.path or begin.number == life.number or life.inherited is None:
        return
    if begin.position > life.inherited:
        text = f"an offset of number {begin.number} was taken for one of its own"
        yield life.complain(Rule.OFFSETS, text, read)


# --- refusals ------------------------------------------------------------------------------------------------------


def _refusal(operation: Operation, lives: Lives) -> Violations:
    """Why a refusal cannot be right."""
    code = operation.code
    path = operation.path
    if isinstance(operation, Create) and operation.source is not None and code != StreamExists.code:
        path = operation.source
    if code in (StreamNotFound.code, StreamGone.code, SourceGone.code):
        yield from _absence(operation, path, lives)
    elif code in (InvalidOffset.code, OffsetGone.code) and isinstance(operation, Read):
        yield from _refused_offset(operation, lives)
    elif (reason := _REASONS.get(code)) is not None:
        earlier = [
            one for one in lives.at[operation.path] if one.invoked < operation.completed and one is not operation
        ]
        text = reason(operation, earlier)
        if text and not (code == ProducerGap.code and _gap_is_possible(operation, lives)):
            yield Violation(Rule.REFUSAL, f"{operation.path}: {text}", (operation,))


def _absence(operation: Operation, path: str, lives: Lives) -> Violations:
    for life in lives.on(path):
        if life.completed < operation.invoked and not _may_have_ended(life, lives, operation.completed):
            seen = max(life.sightings, key=lambda one: one.operation.completed).operation
            yield life.complain(Rule.VANISHED, "absent, although nothing can have ended it", seen, operation)


def _refused_offset(read: Read, lives: Lives) -> Violations:
    """An offset that was given out for a life is good as long as the life is the path's."""
    try:
        start = parse_offset(read.start)
    except InvalidOffset:
        return
    life = lives.by_number.get(start.number) if isinstance(start, Offset) else None
    if not isinstance(start, Offset) or life is None or life.path != read.path or life.completed > read.invoked:
        return
    furthest, known = _Reached(life).before(read.invoked)
    if known is not None and start.position <= furthest and not _may_have_ended(life, lives, read.completed):
        yield life.complain(Rule.REFUSAL, "its own offset is refused", known, read)


def _no_close(operation: Operation, earlier: Sequence[Operation]) -> str:
    return "" if any(map(_closes, earlier)) else "called closed, and nobody closed it"


def _no_creation(operation: Operation, earlier: Sequence[Operation]) -> str:
    created = any(isinstance(one, Create) and one.outcome is not Outcome.REFUSED for one in earlier)
    return "" if created else "said to exist, and nobody created it"


def _no_newer_epoch(operation: Operation, earlier: Sequence[Operation]) -> str:
    stamp = operation.producer if isinstance(operation, Append) else None
    newer = any(
        stamp is not None
        and one.producer is not None
        and one.producer.id == stamp.id
        and one.producer.epoch > stamp.epoch
        for one in earlier
        if isinstance(one, Append) and one.outcome is not Outcome.REFUSED
    )
    return "" if newer else "called stale, and no newer epoch was ever sent"


def _no_greater_seq(operation: Operation, earlier: Sequence[Operation]) -> str:
    seq = operation.stream_seq if isinstance(operation, Append) else None
    greater = any(
        one.stream_seq is not None and seq is not None and one.stream_seq >= seq
        for one in earlier
        if isinstance(one, Append) and one.outcome is not Outcome.REFUSED
    )
    return "" if greater else "its Stream-Seq is refused, and none was ever as great"


def _no_gap(operation: Operation, earlier: Sequence[Operation]) -> str:
    stamp = operation.producer if isinstance(operation, Append) else None
    if stamp is None:
        return "a gap in the sequence of nobody"
    if stamp.seq == 0:
        return "a gap before the first of an epoch"
    accepted = any(
        isinstance(one, Append)
        and one.outcome is Outcome.OK
        and one.producer == stamp._replace(seq=stamp.seq - 1)
        and one.completed < operation.invoked
        for one in earlier
    )
    return "a gap in its producer's sequence, but the one before it was accepted" if accepted else ""


_REASONS: dict[str, Callable[[Operation, Sequence[Operation]], str]] = {
    StreamClosed.code: _no_close,
    StreamExists.code: _no_creation,
    StaleEpoch.code: _no_newer_epoch,
    SequenceRegression.code: _no_greater_seq,
    ProducerGap.code: _no_gap,
}


def _gap_is_possible(operation: Operation, lives: Lives) -> bool:
    """Whether the stream may be another than the one that knows the producer."""
    if isinstance(operation, Append) and operation.producer is not None and operation.producer.seq == 0:
        return False
    return any(deletion.invoked < operation.completed for deletion in lives.deletions.get(operation.path, []))
