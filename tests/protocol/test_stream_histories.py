"""Whole histories: whatever is asked for in whatever order, what was acknowledged stays, moves nowhere and is found."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from tests.protocol.world import World
from unbroken.errors import InvalidBody, InvalidHeader, InvalidOffset, OffsetGone, UnbrokenError
from unbroken.protocol.commands import (
    Append,
    Appended,
    Command,
    Create,
    Created,
    Delete,
    Deleted,
    ForkRequest,
    Reclaim,
    Release,
)
from unbroken.protocol.content import Content
from unbroken.protocol.lifetime import IMMORTAL, Instant, Lifetime
from unbroken.protocol.offsets import Anchor, Offset, parse_offset
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import (
    Origin,
    Presence,
    Reference,
    Situation,
    StreamState,
    View,
    apply,
    decide,
    offset_at,
    resolve_offset,
    view,
)

# --- a model that copies -------------------------------------------------------------------------------------------


class Model:
    """What every stream must hold, by creation number: a fork simply copies."""

    def __init__(self) -> None:
        self.world = World()
        self.content: dict[int, bytes] = {}
        self.given: dict[int, dict[Offset, int]] = {}
        """Every offset that a stream gave out, and the position that it meant."""

    def create(self, path: str, data: bytes, source: str | None, cut: int, lifetime: Lifetime | None) -> None:
        before = self.world.states.get(source or "")
        fork = None
        inherited = b""
        if source is not None:
            at = None if before is None or cut < 0 else cut % (before.tail + 1)
            fork = self.world.fork_request(source, at)
            inherited = b"" if before is None else self.content[before.number][:at]
        outcome = self.world.create(
            path, None if fork else "text/plain", lifetime=lifetime, content=Content(data), fork=fork
        )
        if isinstance(outcome, Created) and not outcome.existed:
            self.content[outcome.next_offset.number] = inherited + data

    def append(self, path: str, data: bytes, close: bool, stamp: ProducerStamp | None) -> None:
        outcome = self.world.append(path, data, close=close, producer=stamp)
        if isinstance(outcome, Appended) and not outcome.duplicate:
            self.content[outcome.next_offset.number] += data

    def check(self) -> None:
        """Hold the world against the copies."""
        world = self.world
        forks = [source for source, _ in world.holds.values()]
        for path, state in world.states.items():
            content = self.content[state.number]
            assert world.content(path) == content
            assert state.tail == len(content)
            assert state.forks == forks.count(path)
            assert state.forks or not state.gone
            self._check_offsets(state)

    def _check_offsets(self, state: StreamState) -> None:
        offsets = [offset_at(state, position) for position in range(state.tail + 1)]
        tokens = [str(offset) for offset in offsets]
        assert sorted(set(tokens)) == tokens, "one offset per position, sorting in stream order"
        assert [parse_offset(token) for token in tokens] == offsets
        assert [resolve_offset(state, offset) for offset in offsets] == list(range(state.tail + 1))
        assert offsets[-1] == state.tail_offset
        assert resolve_offset(state, Anchor.BEGINNING) == 0
        assert resolve_offset(state, Anchor.NOW) == state.tail
        assert isinstance(resolve_offset(state, Offset(state.number, state.tail + 1)), InvalidOffset)
        given = self.given.setdefault(state.number, {})
        given |= zip(offsets, range(state.tail + 1), strict=True)
        assert {offset: resolve_offset(state, offset) for offset in given} == given, "an offset stays valid"


PATHS = st.sampled_from(["/a", "/b", "/c", "/d", "/e"])
DATA = st.sampled_from([b"", b"x", b"yz", b"12345"])
LIFETIMES = st.sampled_from([None, None, None, None, None, Lifetime(ttl_s=0), Lifetime(ttl_s=2), Lifetime(ttl_s=2)])
STAMPS = st.none() | st.none() | st.builds(ProducerStamp, st.sampled_from("pq"), st.integers(0, 1), st.integers(0, 2))
NUMBERS = st.integers(1, 12)
CREATE = st.tuples(st.just("create"), PATHS, DATA, st.none(), st.just(-1), LIFETIMES)
FORK = st.tuples(st.just("create"), PATHS, DATA, PATHS, st.integers(-1, 20), LIFETIMES)
APPEND = st.tuples(st.just("append"), PATHS, DATA, st.sampled_from([False] * 9 + [True]), STAMPS)
DELETE = st.tuples(st.just("delete"), PATHS)
STEPS = st.one_of(
    *(CREATE, FORK, FORK, FORK, APPEND, APPEND, DELETE),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0])),
    st.tuples(st.just("housekeeping")),
    st.tuples(st.just("reclaim"), PATHS, NUMBERS),
    st.tuples(st.just("release"), PATHS, NUMBERS, NUMBERS),
)
BEGINNING = [
    ("create", "/a", b"abcdef", None, -1, None),
    ("create", "/b", b"xyz", "/a", 4, None),
    ("create", "/c", b"", "/b", 5, None),
]
HISTORIES = st.lists(STEPS, min_size=20, max_size=40).map(lambda steps: [*BEGINNING, *steps])


def take(model: Model, step: tuple[Any, ...]) -> None:
    name, *arguments = step
    world = model.world
    if name == "create":
        model.create(*arguments)
    elif name == "append":
        model.append(*arguments)
    elif name == "delete":
        world.delete(*arguments)
    elif name == "wait":
        world.wait(*arguments)
    elif name == "housekeeping":
        world.housekeeping()
    elif name == "reclaim":
        world.send(Reclaim(*arguments))
    else:
        path, number, fork = arguments
        # The server releases only forks that are deleted.
        if fork not in {state.number for state in world.states.values()}:
            world.send(Release(path, number, fork))


@deterministic
@given(HISTORIES)
def test_any_history_keeps_what_was_acknowledged(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    for step in steps:
        take(model, step)
        model.check()


@deterministic
@given(HISTORIES)
def test_after_any_history_everything_can_be_deleted_to_the_last_byte(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    for step in steps:
        take(model, step)
    for path in list(model.world.states):
        model.world.delete(path)
    model.world.housekeeping()
    assert (model.world.states, model.world.own, model.world.holds) == ({}, {}, {})


@deterministic
@given(HISTORIES)
def test_creation_numbers_are_never_used_again_and_old_offsets_never_found(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    dead: dict[str, set[Offset]] = {}
    for step in steps:
        before = dict(model.world.states)
        take(model, step)
        for path, state in before.items():
            now = model.world.states.get(path)
            if now is None or now.number != state.number:
                own = range(state.own_start, state.tail + 1)
                dead.setdefault(path, set()).update(Offset(state.number, position) for position in own)
            assert now is None or now.number >= state.number
        for path, state in model.world.states.items():
            inherited = {number for number, _ in state.lineage}
            for offset in dead.get(path, ()):
                if offset.number not in inherited:
                    assert isinstance(resolve_offset(state, offset), OffsetGone)


@deterministic
@given(HISTORIES)
def test_sent_twice_a_creation_is_confirmed_and_changes_nothing(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    for step in steps:
        take(model, step)
    for step in steps:
        if step[0] != "create" or model.world.view(step[1]).presence is not Presence.ABSENT:
            continue
        take(model, step)
        if model.world.view(step[1]).presence is Presence.LIVE:
            states = dict(model.world.states)
            take(model, step)
            assert model.world.states == states


# --- decide is total -------------------------------------------------------------------------------------------------

SMALL = st.integers(-3, 12)
TYPES = st.sampled_from(
    ["text/plain", "text/plain", "TEXT/PLAIN;x", "text/plain", "application/json", "junk", "", None]
)
ERRORS = st.sampled_from([None, None, None, None, InvalidHeader("x"), InvalidBody("x"), InvalidOffset("x")])
CONTENTS = st.builds(Content, st.sampled_from([b"x", b"1\x1e", b""]), st.booleans(), ERRORS)
ANY_STAMP = st.one_of(st.none(), st.builds(ProducerStamp, st.sampled_from(["", "p"]), SMALL, SMALL))
ANY_LIFETIME = st.sampled_from([IMMORTAL, Lifetime(), Lifetime(0), Lifetime(2**63), Lifetime(None, 0), Lifetime(5, 5)])
FORKS = st.builds(ForkRequest, PATHS, st.none() | SMALL, SMALL, SMALL, st.none() | SMALL, ERRORS)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Create, PATHS, TYPES, st.none() | ANY_LIFETIME, st.booleans(), CONTENTS, st.none() | FORKS),
    st.builds(Append, PATHS, TYPES, CONTENTS, st.booleans(), st.none() | st.text(max_size=2), ANY_STAMP, ERRORS),
    st.builds(Delete, PATHS),
    st.builds(Reclaim, PATHS, SMALL),
    st.builds(Release, PATHS, SMALL, SMALL),
)
ORIGINS = st.builds(Origin, PATHS, SMALL, st.none() | SMALL, SMALL, st.booleans())
STATES = st.builds(
    StreamState,
    number=SMALL,
    path=PATHS,
    content_type=TYPES.filter(lambda name: name is not None),
    json=st.booleans(),
    lifetime=ANY_LIFETIME,
    tail=SMALL,
    closed=st.booleans(),
    closed_by=ANY_STAMP,
    stream_seq=st.none() | st.text(max_size=2),
    lineage=st.lists(st.tuples(SMALL, SMALL), max_size=3).map(tuple),
    origin=st.none() | ORIGINS,
    forks=SMALL,
    gone=st.booleans(),
)
NOW = Instant(5, 5)
VIEWS = st.one_of(
    st.builds(View, st.just(Presence.LIVE), STATES),
    st.builds(View, st.just(Presence.LIVE), STATES),
    st.builds(View, st.sampled_from(Presence), st.none() | STATES),
    st.builds(view, st.none() | STATES, st.just(NOW), st.sampled_from([0, 5])),
)
SITUATIONS = st.builds(
    Situation,
    st.just(NOW),
    VIEWS,
    VIEWS,
    st.none() | st.builds(Producer, SMALL, SMALL),
    SMALL,
    st.booleans(),
)


@settings(deterministic, max_examples=400)
@given(COMMANDS, SITUATIONS)
@example(Create("/a"), Situation(NOW, View(Presence.LIVE, None)))
@example(Append("/a"), Situation(NOW, View(Presence.LIVE, None)))
@example(Delete("/a"), Situation(NOW, View(Presence.LIVE, None)))
def test_decide_never_raises_and_its_records_apply(command: Command, situation: Situation) -> None:
    decision = decide(command, situation)
    outcome, records = decision.outcome, decision.records
    assert isinstance(outcome, Created | Appended | Deleted | UnbrokenError)
    if isinstance(outcome, UnbrokenError):
        assert records == ()
        assert 400 <= outcome.status < 500
    target, source = situation.target.state, situation.source.state
    for record in records:
        if isinstance(command, Create) and isinstance(record, Reference):
            source = apply(source, record)
        else:
            target = apply(target, record)
