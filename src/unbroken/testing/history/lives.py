"""Lives put together from what was recorded: who began them, which bytes lie where, whose they are, who looked when."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import NamedTuple

from unbroken.errors import InvalidOffset, StreamGone, StreamNotFound
from unbroken.protocol.offsets import Anchor, Offset, parse_offset
from unbroken.testing.history.operations import Append, Create, Delete, Operation, Outcome, Read, Rule, Violation

__all__ = ["Bodies", "Contents", "Life", "Lives", "Placement", "Sighting", "Write", "lives_of", "position_of"]

Write = Append | Create


def position_of(offset: str, now: int = 0) -> int:
    """The byte position that an offset names; ``now`` is that of the tail."""
    parsed = parse_offset(offset)
    return parsed.position if isinstance(parsed, Offset) else now if parsed is Anchor.NOW else 0


class Contents:
    """A life's bytes by position, as far as somebody has seen them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._known = bytearray()
        self._seen: list[tuple[int, int, Operation]] = []

    def __len__(self) -> int:
        return len(self._data)

    def add(self, start: int, data: bytes, operation: Operation) -> tuple[int, Operation] | None:
        """Lay bytes where somebody says they are.

        Returns:
            The first position where something else is known to be, and who said so. Then nothing is laid.
        """
        end = start + len(data)
        missing = end - len(self._data)
        if missing > 0:
            self._data.extend(bytes(missing))
            self._known.extend(bytes(missing))
        if (clash := self.clash(start, data)) is not None:
            return clash, next(said for low, high, said in self._seen if low <= clash < high)
        self._data[start:end] = data
        self._known[start:end] = b"\1" * len(data)
        self._seen.append((start, end, operation))
        return None

    def clash(self, start: int, data: bytes) -> int | None:
        """The first position from ``start`` where something else than ``data`` is known to be."""
        end = min(start + len(data), len(self._data))
        while (start_known := self._known.find(1, start, end)) >= 0:
            stop = self._known.find(0, start_known, end)
            stop = end if stop < 0 else stop
            found, said = self._data[start_known:stop], data[start_known - start : stop - start]
            if found != said:
                return next(start_known + index for index in range(len(found)) if found[index] != said[index])
            data, start = data[stop - start :], stop
        return None

    def knows(self, start: int, end: int) -> bool:
        """Whether all bytes of a range are known."""
        return end <= len(self._data) and self._known.find(0, start, end) < 0

    def holds(self, start: int, data: bytes) -> bool:
        """Whether these bytes are known to be there."""
        return self.knows(start, start + len(data)) and self._data.startswith(data, start)

    def find(self, data: bytes) -> int:
        """Where bytes are first; -1 for nowhere."""
        return self._data.find(data)

    def part(self, start: int, size_bytes: int) -> bytes:
        """Some bytes, as far as they are known without a gap."""
        end = min(start + size_bytes, len(self._data))
        unknown = self._known.find(0, start, end)
        return bytes(self._data[start : end if unknown < 0 else unknown])


class Sighting(NamedTuple):
    """Somebody was told something of a life.

    Args:
        operation: who.
        reached: bytes up to here were there.
        tail: and no more.
        closed: whether it was closed; None if that was not told.
    """

    operation: Operation
    reached: int
    tail: bool = True
    closed: bool | None = None


class Placement(NamedTuple):
    """A body that lies in a life.

    Args:
        start: its first byte's position.
        end: the position after its last.
        write: the operation that brought it.
        invoked: it was not there before.
        completed: from then on it was.
    """

    start: int
    end: int
    write: Write
    invoked: int
    completed: int


@dataclass
class Life:
    """One life of a stream.

    Attributes:
        number: its creation number.
        path: where.
        creation: the operation that began it, if only one can have.
        invoked: it did not exist before.
        completed: from then on it did.
        inherited: how many bytes it took over from its source; None if that cannot be told.
        contents: its bytes.
        sightings: who saw it, at its path and alive.
        echoes: who saw bytes of it in a fork.
        placements: whose bytes lie where, in order.
    """

    number: int
    path: str
    creation: Create | None = None
    invoked: int = 0
    completed: int = 0
    inherited: int | None = 0
    contents: Contents = field(default_factory=Contents)
    sightings: list[Sighting] = field(default_factory=list)
    echoes: list[Sighting] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)

    @property
    def last_seen(self) -> int:
        """It was alive after this moment."""
        return max((sighting.operation.invoked for sighting in self.sightings), default=0)

    def complain(self, rule: Rule, text: str, *operations: Operation) -> Violation:
        """A violation that concerns this life."""
        return Violation(rule, f"{self.path} (number {self.number}): {text}", operations)


class Bodies:
    """All bodies that were ever sent, by what they begin with.

    Raises:
        ValueError: they are not such that each can be told from all others.
    """

    def __init__(self, history: Iterable[Operation]) -> None:
        self._writes: dict[bytes, list[Write]] = defaultdict(list)
        for operation in history:
            if isinstance(operation, Append | Create) and operation.data:
                self._writes[operation.data].append(operation)
        for writes in self._writes.values():
            _check_unique(writes)
        self._sorted = sorted(self._writes)
        for body, following in zip(self._sorted, self._sorted[1:], strict=False):
            if following.startswith(body):
                raise ValueError(f"bodies are to be told apart: {body[:80]!r} is the beginning of another")
        self._size_max = max(map(len, self._sorted), default=0)

    def at(self, contents: Contents, position: int) -> bytes:
        """The body that lies at a position, whole; empty if none does."""
        following = contents.part(position, self._size_max)
        index = bisect.bisect_right(self._sorted, following)
        body = self._sorted[index - 1] if index else b""
        return body if following.startswith(body) else b""

    def beginning(self, part: bytes) -> Iterator[bytes]:
        """The bodies that begin with these bytes."""
        found = islice(self._sorted, bisect.bisect_left(self._sorted, part), None)
        return takewhile(lambda body: body.startswith(part), found)

    def writes(self, body: bytes) -> Sequence[Write]:
        """Who sent it."""
        return self._writes[body]

    def __iter__(self) -> Iterator[Sequence[Write]]:
        return iter(self._writes.values())


def _check_unique(writes: list[Write]) -> None:
    first = writes[0]
    for other in writes[1:]:
        if not (
            isinstance(first, Append)
            and isinstance(other, Append)
            and first.producer is not None
            and (first.path, first.producer) == (other.path, other.producer)
        ):
            raise ValueError(f"bodies are to be unique: {first}; {other}")


class Lives(NamedTuple):
    """All that was reconstructed.

    Args:
        by_number: the lives, in order of their numbers.
        bodies: what was sent.
        by_path: the lives of each path, one after the other.
        at: the operations on each path.
        deletions: the deletions of each path that were not refused.
        faults: what was found wrong on the way.
    """

    by_number: dict[int, Life]
    by_path: dict[str, list[Life]]
    bodies: Bodies
    at: dict[str, list[Operation]]
    deletions: dict[str, list[Delete]]
    faults: list[Violation]

    def on(self, path: str) -> list[Life]:
        """The lives of a path, one after the other."""
        return self.by_path.get(path, [])


def lives_of(history: Sequence[Operation]) -> Lives:
    """Put lives together.

    Raises:
        ValueError: the recording is not such that it can be checked.
    """
    at: dict[str, list[Operation]] = defaultdict(list)
    deletions: dict[str, list[Delete]] = defaultdict(list)
    for operation in history:
        if operation.completed <= operation.invoked:
            raise ValueError(f"completed before it was invoked: {operation}")
        at[operation.path].append(operation)
        if isinstance(operation, Delete) and operation.outcome is not Outcome.REFUSED:
            deletions[operation.path].append(operation)
    lives = Lives({}, {}, Bodies(history), dict(at), dict(deletions), [])
    told = [one for one in history if one.outcome is Outcome.OK and not isinstance(one, Delete)]
    told.sort(key=lambda one: one.completed)
    text = "the answer carries no offset of a stream"
    lives.faults.extend(Violation(Rule.OFFSETS, text, (one,)) for one in told if _offset(one) is None)
    _find(lives, told)
    _lay(lives, told)
    for life in lives.by_number.values():
        _place_acknowledged(life, lives)
    for life in reversed(lives.by_number.values()):  # forks first: they tell what their sources hold
        _begin(life, lives)
        _inherit(life, lives)
    for life in lives.by_number.values():
        _place_the_rest(life, lives)
    return lives


# --- who saw what ------------------------------------------------------------------------------------------------


def _find(lives: Lives, told: list[Operation]) -> None:
    """Every life whose tail somebody was told, and these sightings."""
    for operation in told:
        offset = _offset(operation)
        sighting = None if offset is None else _sighting(operation)
        if offset is None or sighting is None or not sighting.tail:
            continue
        life = lives.by_number.setdefault(offset.number, Life(offset.number, operation.path))
        if life.path == operation.path:
            life.sightings.append(sighting)
        else:
            text = f"creation number {life.number} belongs to {life.path}"
            lives.faults.append(Violation(Rule.NUMBERS, text, (operation, life.sightings[0].operation)))
    ordered = sorted(lives.by_number.items())
    lives.by_number.clear()
    lives.by_number.update(ordered)
    for life in lives.by_number.values():
        lives.by_path.setdefault(life.path, []).append(life)


def _offset(operation: Operation) -> Offset | None:
    """The offset that was answered."""
    if not isinstance(operation, Append | Create | Read):
        return None
    try:
        offset = parse_offset(operation.next_offset if isinstance(operation, Read) else operation.tail)
    except InvalidOffset:
        return None
    return offset if isinstance(offset, Offset) else None


def _sighting(operation: Operation) -> Sighting | None:
    """What an operation that succeeded tells."""
    if isinstance(operation, Append):
        return Sighting(operation, position_of(operation.tail), closed=operation.close or None)
    if isinstance(operation, Create):
        return Sighting(operation, position_of(operation.tail), closed=operation.closed)
    if isinstance(operation, Read):
        reached = position_of(operation.next_offset)
        return Sighting(operation, reached, operation.up_to_date, operation.closed if operation.up_to_date else None)
    return None


def _lay(lives: Lives, told: list[Operation]) -> None:
    """All that was read, where it was read."""
    for operation in told:
        if not isinstance(operation, Read):
            continue
        offset = _offset(operation)
        life = None if offset is None else lives.by_number.get(offset.number)
        if offset is None or life is None or (operation.up_to_date and life.path != operation.path):
            continue  # nobody was ever told this life's tail; or the fault is known
        if not operation.up_to_date:
            sighting = Sighting(operation, offset.position, tail=False)
            (life.sightings if life.path == operation.path else life.echoes).append(sighting)
        start = position_of(operation.start, now=offset.position)
        clash = life.contents.add(start, operation.data, operation)
        if clash is not None:
            text = f"two readers saw different bytes at {clash[0]}"
            lives.faults.append(life.complain(Rule.CHANGED, text, clash[1], operation))


# --- how it began ------------------------------------------------------------------------------------------------


def _begin(life: Life, lives: Lives) -> None:
    """Find the creation of a life: one that was told this number, or one whose outcome is unknown and fits."""
    creations = [one for one in lives.at[life.path] if isinstance(one, Create) and not one.existed]
    first_seen = min(sighting.operation.completed for sighting in life.sightings)
    certain = [one for one in creations if _is_told(one, life.number)]
    if len(certain) > 1:
        lives.faults.append(life.complain(Rule.NUMBERS, "two streams were given one number", *certain))
    possible = certain or [
        one
        for one in creations
        if one.outcome is Outcome.UNKNOWN and one.invoked < first_seen and _fits(one, life) is not False
    ]
    if not possible:
        seen = [sighting.operation for sighting in life.sightings[:1]]
        lives.faults.append(life.complain(Rule.PHANTOM, "a stream that nobody created", *seen))
        life.completed, life.inherited = first_seen, None
        return
    strong = [one for one in possible if _fits(one, life)] or possible
    life.invoked = min(one.invoked for one in strong)
    life.completed = min(first_seen, max(one.completed for one in strong))
    life.creation = strong[0] if len(strong) == 1 else None
    points = {_point(one, life) for one in strong}
    life.inherited = points.pop() if len(points) == 1 else None


def _is_told(write: Write, number: int) -> bool:
    """Whether a client was told that its request is about the life of this number."""
    offset = parse_offset(write.tail) if write.outcome is Outcome.OK else None
    return isinstance(offset, Offset) and offset.number == number


def _point(creation: Create, life: Life) -> int | None:
    """Where a life's own bytes begin, if this was its creation."""
    if creation.source is None:
        return 0
    if creation.outcome is Outcome.OK:
        return position_of(creation.tail) - len(creation.data)
    if creation.point is not None:
        return creation.point
    found = life.contents.find(creation.data) if creation.data else -1
    return None if found < 0 else found


def _fits(creation: Create, life: Life) -> bool | None:
    """Whether a life's bytes say that this was its creation; None if they say nothing."""
    point = _point(creation, life)
    if not creation.data or point is None:
        return None
    if life.contents.clash(point, creation.data) is not None:
        return False
    return life.contents.holds(point, creation.data) or None


def _inherit(life: Life, lives: Lives) -> None:
    """A fork begins with its source's bytes, and was a look at the source."""
    creation = life.creation
    if creation is None or creation.source is None or life.inherited is None:
        return
    if _is_maybe_unseen(creation, lives.at.get(creation.source, [])):
        return
    inherited = life.contents.part(0, life.inherited)
    sources = [source for source in lives.on(creation.source) if source.number < life.number]
    fitting = [source for source in sources if source.contents.clash(0, inherited) is None]
    if not fitting:
        text = f"no stream was ever at {creation.source} that it can come from"
        lives.faults.append(life.complain(Rule.FORK, text, creation))
    if len(fitting) == 1:
        source = fitting[0]
        at_tail = creation.point is None and creation.outcome is Outcome.OK
        source.sightings.append(Sighting(creation, life.inherited, tail=at_tail))
        source.contents.add(0, inherited, creation)


def _is_maybe_unseen(fork: Create, at_source: list[Operation]) -> bool:
    """Whether a fork may come from a stream that nobody saw: its creation was lost, and nobody has looked since."""
    for lost in at_source:
        if not isinstance(lost, Create) or lost.outcome is not Outcome.UNKNOWN or lost.invoked > fork.completed:
            continue
        if not any(
            lost.completed <= one.invoked and one.completed <= fork.invoked and _tells_who_is_there(one)
            for one in at_source
        ):
            return True
    return False


def _tells_who_is_there(operation: Operation) -> bool:
    if operation.outcome is Outcome.OK:
        return isinstance(operation, Append) or (isinstance(operation, Read) and operation.up_to_date)
    return isinstance(operation, Append | Read) and operation.code in (StreamNotFound.code, StreamGone.code)


# --- whose bytes they are ----------------------------------------------------------------------------------------


def _place_acknowledged(life: Life, lives: Lives) -> None:
    for sighting in life.sightings:
        write = sighting.operation
        fresh = (isinstance(write, Append) and not write.duplicate) or (isinstance(write, Create) and not write.existed)
        if not fresh or not isinstance(write, Append | Create) or not write.data:
            continue
        start = sighting.reached - len(write.data)
        life.placements.append(Placement(start, sighting.reached, write, write.invoked, write.completed))
        if start < 0:
            lives.faults.append(life.complain(Rule.OFFSETS, "it ends before its own length", write))
        elif (clash := life.contents.add(start, write.data, write)) is not None:
            rule, text = Rule.LOST, f"acknowledged, but something else is there at {clash[0]}"
            lives.faults.append(life.complain(rule, text, write, clash[1]))
    life.placements.sort(key=lambda placement: placement.start)


def _place_the_rest(life: Life, lives: Lives) -> None:
    """Find out whose the bytes are that lie between those of acknowledged appends."""
    position = life.inherited
    if position is None:
        return
    acknowledged = list(life.placements)
    for placement in acknowledged:
        if placement.start < position:
            text = f"another was acknowledged to lie at {placement.start}"
            lives.faults.append(life.complain(Rule.LOST, text, placement.write))
        _fill(life, lives, position, placement.start)
        position = max(position, placement.end)
    _fill(life, lives, position, len(life.contents))
    life.placements.sort(key=lambda placement: placement.start)


def _fill(life: Life, lives: Lives, position: int, end: int) -> None:
    while position < end and life.contents.knows(position, position + 1):
        body = lives.bodies.at(life.contents, position)
        if not body:
            lives.faults.extend(_cut_off(life, lives, position))
            return
        placed = _claim(life, lives, body, position)
        if isinstance(placed, Violation):
            lives.faults.append(placed)
        else:
            life.placements.append(placed)
        position += len(body)


def _cut_off(life: Life, lives: Lives, position: int) -> Iterator[Violation]:
    """Bytes that are no whole body: fine if nobody has read on, unless it was said that the stream ends inside."""
    found = life.contents.part(position, len(life.contents))
    tails = {sighting.reached - position for sighting in life.sightings if sighting.tail}
    for body in lives.bodies.beginning(found):
        if not any(0 < tail < len(body) for tail in tails):
            return
    yield life.complain(Rule.PHANTOM, f"bytes at {position} that nobody sent, or only in part: {found[:80]!r}")


def _claim(life: Life, lives: Lives, body: bytes, position: int) -> Placement | Violation:
    """Whose body it is that lies at a position although nobody was told so."""
    writes = lives.bodies.writes(body)
    mine = [write for write in writes if write.path == life.path]
    if not mine:
        return life.complain(Rule.PHANTOM, f"what was sent to another stream lies at {position}", *writes)
    if any(placement.write.data == body for placement in life.placements):
        return life.complain(Rule.DOUBLED, f"it is there a second time, at {position}", *mine)
    unknown = [write for write in mine if write.outcome is Outcome.UNKNOWN]
    if not unknown:
        return _without_cause(life, mine, position)
    first = unknown[0]
    if isinstance(first, Create) and position != life.inherited:
        return life.complain(Rule.PHANTOM, f"the first content of another creation lies at {position}", first)
    repeated = [write.completed for write in mine if isinstance(write, Append) and _is_told(write, life.number)]
    completed = min([max(write.completed for write in unknown), *repeated])
    return Placement(position, position + len(body), first, min(write.invoked for write in unknown), completed)


def _without_cause(life: Life, mine: list[Write], position: int) -> Violation:
    if any(write.outcome is Outcome.OK and not _ignored(write) for write in mine):
        return life.complain(Rule.DOUBLED, f"it lies at {position}, where it was not acknowledged to lie", *mine)
    return life.complain(Rule.REFUSED, f"it lies at {position}", *mine)


def _ignored(write: Write) -> bool:
    return isinstance(write, Create) and write.existed
