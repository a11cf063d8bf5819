"""Forks: what they share, where they begin, and how long their sources' bytes stay."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocol.support import told
from tests.protocol.world import World
from unbroken.errors import (
    Conflict,
    ContentTypeMismatch,
    ForkTooDeep,
    InvalidBody,
    InvalidOffset,
    OffsetGone,
    SourceGone,
    StreamNotFound,
    UnbrokenError,
)
from unbroken.protocol.commands import Appended, Create, Created, Deleted, ForkRequest
from unbroken.protocol.content import Content
from unbroken.protocol.lifetime import IMMORTAL, Lifetime
from unbroken.protocol.offsets import Anchor, Offset
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import LINEAGE_MAX, Presence, StreamState, offset_at, resolve_offset


def offsets(state: StreamState) -> list[Offset]:
    return [offset_at(state, position) for position in range(state.tail + 1)]


# --- what a fork shares --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "past", "shared"),
    [
        pytest.param(None, 0, b"abcdef", id="at-the-tail-by-default"),
        pytest.param(6, 0, b"abcdef", id="at-the-tail"),
        pytest.param(4, 0, b"abcd", id="within"),
        pytest.param(0, 0, b"", id="at-the-beginning"),
        pytest.param(2, 3, b"abcde", id="past-an-offset"),
        pytest.param(2, 4, b"abcdef", id="past-an-offset-up-to-the-tail"),
    ],
)
def test_a_fork_begins_with_its_source_s_data(at: int | None, past: int, shared: bytes) -> None:
    world = World()
    world.created("/source", b"abcdef")
    outcome = world.create("/fork", None, fork=world.fork_request("/source", at, past))
    assert outcome == Created("text/plain", Offset(2, len(shared)), closed=False, existed=False)
    assert world.content("/fork") == shared


def test_source_and_fork_go_their_own_ways() -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.forked("/fork", "/source", 4, b"12")
    assert world.append("/source", b"gh") == Appended(Offset(1, 8), closed=False)
    assert world.append("/fork", b"34") == Appended(Offset(2, 8), closed=False)
    assert world.content("/source") == b"abcdefgh"
    assert world.content("/fork") == b"abcd1234"


def test_inherited_data_keeps_the_source_s_offsets() -> None:
    world = World()
    source = world.created("/source", b"abcd")
    fork = world.forked("/fork", "/source", 3, b"xy")
    assert offsets(fork)[:3] == offsets(source)[:3]
    assert offsets(fork)[3:] == [Offset(2, 3), Offset(2, 4), Offset(2, 5)]
    assert sorted(map(str, offsets(fork))) == list(map(str, offsets(fork)))


def test_a_source_s_offset_up_to_the_fork_point_is_taken_and_past_it_is_400() -> None:
    world = World()
    source = world.created("/source", b"abcdef")
    fork = world.forked("/fork", "/source", 3, b"xyz")
    assert [resolve_offset(fork, offset) for offset in offsets(source)[:4]] == [0, 1, 2, 3]
    for offset in offsets(source)[4:]:
        outcome = resolve_offset(fork, offset)
        assert type(outcome) is InvalidOffset
        assert outcome.status == 400


def test_a_fork_s_offsets_mean_nothing_to_its_source() -> None:
    world = World()
    source = world.created("/source", b"abcdef")
    fork = world.forked("/fork", "/source", 3, b"xyz")
    for offset in offsets(fork)[3:]:
        assert type(resolve_offset(source, offset)) is InvalidOffset


def test_a_fork_has_no_own_offsets_before_the_fork_point() -> None:
    world = World()
    world.created("/source", b"abcdef")
    fork = world.forked("/fork", "/source", 3, b"xyz")
    for position in range(3):
        assert type(resolve_offset(fork, Offset(2, position))) is InvalidOffset
    assert resolve_offset(fork, Anchor.BEGINNING) == 0
    assert resolve_offset(fork, Anchor.NOW) == 6


@pytest.mark.parametrize(
    ("content_type", "told_type"),
    [
        pytest.param(None, "Text/Plain;a=b", id="inherited"),
        pytest.param("text/plain", "text/plain", id="same-in-other-words"),
        pytest.param("TEXT/plain;c=d", "TEXT/plain;c=d", id="other-parameters"),
    ],
)
def test_a_fork_inherits_the_content_type(content_type: str | None, told_type: str) -> None:
    world = World()
    world.create("/source", "Text/Plain;a=b")
    outcome = world.create("/fork", content_type, fork=ForkRequest("/source"))
    assert outcome == Created(told_type, Offset(2, 0), closed=False, existed=False)


TTL = Lifetime(ttl_s=60)
EXPIRY = Lifetime(expires_at_ms=2**42)


@pytest.mark.parametrize(
    ("source", "given", "lifetime"),
    [
        pytest.param(None, None, IMMORTAL, id="immortal"),
        pytest.param(TTL, None, TTL, id="inherited-ttl"),
        pytest.param(EXPIRY, None, EXPIRY, id="inherited-expiry"),
        pytest.param(TTL, Lifetime(ttl_s=600), Lifetime(ttl_s=600), id="longer"),
        pytest.param(TTL, Lifetime(ttl_s=0), Lifetime(ttl_s=0), id="zero"),
        pytest.param(TTL, EXPIRY, EXPIRY, id="expiry-for-ttl"),
        pytest.param(EXPIRY, TTL, TTL, id="ttl-for-expiry"),
        pytest.param(None, TTL, TTL, id="ttl-for-an-immortal"),
    ],
)
def test_a_fork_inherits_the_lifetime(source: Lifetime | None, given: Lifetime | None, lifetime: Lifetime) -> None:
    world = World()
    world.created("/source", lifetime=source)
    world.create("/fork", None, lifetime=given, fork=ForkRequest("/source"))
    assert world.states["/fork"].lifetime == lifetime


def test_a_fork_inherits_nothing_else() -> None:
    world = World()
    world.created("/source", b"ab")
    stamp = ProducerStamp("p", 3, 0)
    world.append("/source", b"cd", close=True, stream_seq="z", producer=stamp)
    fork = world.forked("/fork", "/source")
    assert (fork.closed, fork.closed_by, fork.stream_seq, fork.forks, fork.gone) == (False, None, None, 0, False)
    again = ProducerStamp("p", 0, 0)
    assert isinstance(world.append("/fork", b"x", stream_seq="a", producer=again), Appended)
    assert world.content("/fork") == b"abcdx"


@pytest.mark.parametrize("closed", [False, True])
def test_a_fork_may_be_closed_at_once(closed: bool) -> None:
    world = World()
    world.created("/source", b"ab")
    outcome = world.create("/fork", None, closed=closed, fork=ForkRequest("/source"))
    assert isinstance(outcome, Created)
    assert outcome.closed is closed
    assert world.states["/fork"].closed is closed
    assert not world.states["/source"].closed


# --- forks of forks ------------------------------------------------------------------------------------------------


@pytest.fixture
def family() -> World:
    """``/a`` abcdef, its fork ``/b`` abcd12, and that one's fork ``/c`` abcd1xyz: numbers 1, 2 and 3."""
    world = World()
    world.created("/a", b"abcdef")
    world.forked("/b", "/a", 4, b"12")
    world.forked("/c", "/b", 5, b"xyz")
    return world


def test_three_generations(family: World) -> None:
    assert [family.content(path) for path in ("/a", "/b", "/c")] == [b"abcdef", b"abcd12", b"abcd1xyz"]
    assert family.states["/c"].lineage == ((1, 4), (2, 5))
    assert [offset.number for offset in offsets(family.states["/c"])] == [1, 1, 1, 1, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("source", "at", "lineage", "content"),
    [
        pytest.param("/c", 8, ((1, 4), (2, 5), (3, 8)), b"abcd1xyz", id="at-the-tail"),
        pytest.param("/c", 6, ((1, 4), (2, 5), (3, 6)), b"abcd1x", id="in-its-own-data"),
        pytest.param("/c", 5, ((1, 4), (2, 5), (3, 5)), b"abcd1", id="where-its-own-data-begins"),
        pytest.param("/c", 4, ((1, 4), (2, 4)), b"abcd", id="where-the-second-generation-begins"),
        pytest.param("/c", 2, ((1, 2),), b"ab", id="in-the-first-generation"),
        pytest.param("/c", 0, ((1, 0),), b"", id="at-the-beginning"),
        pytest.param("/b", 6, ((1, 4), (2, 6)), b"abcd12", id="beside"),
    ],
)
def test_a_fork_in_inherited_data(
    family: World, source: str, at: int, lineage: tuple[tuple[int, int], ...], content: bytes
) -> None:
    state = family.forked("/d", source, at)
    assert state.lineage == lineage
    assert state.own_start == at
    assert family.content("/d") == content
    family.append("/d", b"!")
    assert family.content("/d") == content + b"!"
    tokens = list(map(str, offsets(family.states["/d"])))
    assert sorted(set(tokens)) == tokens


@pytest.mark.parametrize("at", range(9))
def test_every_offset_of_the_source_is_taken_up_to_the_fork_point_and_refused_past_it(family: World, at: int) -> None:
    fork = family.forked("/d", "/c", at)
    # Of an ancestor that shares nothing with the fork, only the source itself is still known.
    known = {number for number, _ in fork.lineage} | {3}
    for position, offset in enumerate(offsets(family.states["/c"])):
        outcome = resolve_offset(fork, offset)
        if position <= at:
            assert outcome == position
        else:
            assert type(outcome) is (InvalidOffset if offset.number in known else OffsetGone)


def test_an_offset_of_a_deleted_stream_is_gone_on_a_fork_too(family: World) -> None:
    family.created("/x", b"abc")
    family.delete("/x")
    family.forked("/d", "/c", 5)
    assert type(resolve_offset(family.states["/d"], Offset(4, 1))) is OffsetGone


def test_forks_at_the_beginning_of_forks_at_the_beginning() -> None:
    world = World()
    world.created("/0", b"ab")
    for level in range(1, 4):
        world.forked(f"/{level}", f"/{level - 1}", 0, b"xy")
    state = world.states["/3"]
    assert world.content("/3") == b"xy"
    assert offsets(state) == [Offset(4, 0), Offset(4, 1), Offset(4, 2)]
    assert [resolve_offset(state, Offset(number, 0)) for number in (1, 2, 3, 4)] == [0, 0, 0, 0]


def test_the_chain_of_forks_has_a_greatest_length() -> None:
    world = World()
    world.created("/0", b"a")
    for level in range(1, LINEAGE_MAX + 1):
        world.forked(f"/{level}", f"/{level - 1}")
    outcome = world.create("/one-more", None, fork=world.fork_request(f"/{LINEAGE_MAX}"))
    assert type(outcome) is ForkTooDeep
    assert outcome.status == 409
    assert world.content(f"/{LINEAGE_MAX}") == b"a"
    assert isinstance(world.create("/aside", None, fork=world.fork_request(f"/{LINEAGE_MAX - 1}")), Created)


# --- refusals ------------------------------------------------------------------------------------------------------

# In the order in which they are told; what the source is, what is asked for, and the refusal.
REFUSALS: list[tuple[str, dict[str, Any], type[UnbrokenError], int]] = [
    ("source-gone", {"source": "/gone"}, SourceGone, 409),
    ("source-absent", {"source": "/absent"}, StreamNotFound, 404),
    ("source-expired", {"source": "/expired"}, StreamNotFound, 404),
    ("other-type", {"content_type": "text/html"}, ContentTypeMismatch, 409),
    ("faulty-offset", {"fault": InvalidOffset("beyond the tail")}, InvalidOffset, 400),
    ("source-replaced", {"source_number": 99}, Conflict, 409),
    ("invalid-body", {"content": Content(b"", fault=InvalidBody("invalid"))}, InvalidBody, 400),
    ("body-of-the-other-mode", {"content": Content(b"1\x1e", json=True)}, Conflict, 409),
]


def refused_fork(facts: dict[str, Any]) -> tuple[World, object]:
    world = World()
    world.created("/source", b"abcdef")
    world.created("/gone", b"abcdef")
    world.forked("/holder", "/gone")
    world.delete("/gone")
    world.created("/expired", b"abcdef", Lifetime(ttl_s=1))
    world.wait(1)
    request = ForkRequest(
        facts.get("source", "/source"), 3, 0, facts.get("source_number", 1), 3, fault=facts.get("fault")
    )
    content = facts.get("content", Content(b"x"))
    return world, world.create("/fork", facts.get("content_type"), content=content, fork=request)


@pytest.mark.parametrize(("facts", "refusal", "status"), [pytest.param(*case, id=name) for name, *case in REFUSALS])
def test_a_refused_fork_leaves_no_trace(facts: dict[str, Any], refusal: type[UnbrokenError], status: int) -> None:
    world, outcome = refused_fork(facts)
    assert type(outcome) is refusal
    assert outcome.status == status
    assert "/fork" not in world.states
    assert world.states["/source"].forks == 0
    world.delete("/source")
    assert world.view("/source").presence is Presence.ABSENT


@pytest.mark.parametrize(
    ("first", "both"),
    [
        pytest.param(one[1], {**other[1], **one[1]}, id=f"{one[0]}-before-{other[0]}")
        for index, one in enumerate(REFUSALS)
        for other in REFUSALS[index + 1 :]
        if not set(one[1]) & set(other[1])
    ],
)
def test_of_two_faults_of_a_fork_the_first_in_order_is_told(first: dict[str, Any], both: dict[str, Any]) -> None:
    (_, alone), (_, outcome) = refused_fork(first), refused_fork(both)
    assert told(outcome) == told(alone)  # type: ignore[arg-type]


def test_a_fork_at_the_tail_does_not_mind_that_its_source_was_replaced() -> None:
    world = World()
    world.created("/source", b"old")
    request = world.fork_request("/source")
    world.delete("/source")
    world.created("/source", b"newer")
    assert isinstance(world.create("/fork", None, fork=request), Created)
    assert world.content("/fork") == b"newer"


def test_a_fork_at_an_offset_minds_that_its_source_was_replaced() -> None:
    world = World()
    world.created("/source", b"old")
    request = world.fork_request("/source", 2)
    world.delete("/source")
    world.created("/source", b"newer")
    assert type(world.create("/fork", None, fork=request)) is Conflict


def test_an_expired_stream_is_no_source_for_its_own_path() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=1))
    world.wait(1)
    assert type(world.create("/s", None, fork=ForkRequest("/s"))) is StreamNotFound


def test_an_expired_stream_makes_way_for_a_fork() -> None:
    world = World()
    world.created("/source", b"abc")
    world.created(lifetime=Lifetime(ttl_s=1))
    world.wait(1)
    decision = world.decide(Create("/s", None, fork=ForkRequest("/source")))
    outcome, records = decision.outcome, decision.records
    assert outcome == Created("text/plain", Offset(3, 3), closed=False, existed=False)
    assert [type(record).__name__ for record in records] == ["Deletion", "Creation", "Reference"]


# --- how long the bytes stay -----------------------------------------------------------------------------------------


def test_bytes_go_with_the_last_fork_cascading(family: World) -> None:
    family.delete("/a")
    family.delete("/b")
    family.housekeeping()
    assert [family.view(path).presence for path in ("/a", "/b")] == [Presence.GONE, Presence.GONE]
    assert family.content("/c") == b"abcd1xyz"
    family.delete("/c")
    family.housekeeping()
    assert (family.states, family.own, family.holds) == ({}, {}, {})


def test_the_middle_may_go_first_and_the_ends_live_on(family: World) -> None:
    family.delete("/b")
    family.housekeeping()
    family.append("/a", b"!")
    family.append("/c", b"!")
    assert (family.content("/a"), family.content("/c")) == (b"abcdef!", b"abcd1xyz!")
    family.delete("/c")
    family.housekeeping()
    assert list(family.states) == ["/a"]
    assert (family.states["/a"].forks, family.own) == (0, {1: b"abcdef!"})


def test_a_fork_of_inherited_data_alone_still_holds_its_source(family: World) -> None:
    """Its bytes are the grandparent's, which only the parent keeps alive."""
    family.forked("/d", "/c", 2)
    for path in ("/a", "/b", "/c"):
        family.delete(path)
    family.housekeeping()
    assert family.content("/d") == b"ab"
    family.delete("/d")
    family.housekeeping()
    assert family.states == {}


def test_several_forks_of_one_source(family: World) -> None:
    for path in ("/d", "/e"):
        family.forked(path, "/a")
    assert family.states["/a"].forks == 3
    family.delete("/a")
    for path in ("/b", "/c", "/d"):
        family.delete(path)
        family.housekeeping()
        assert family.view("/a").presence is Presence.GONE
    assert family.delete("/e") == Deleted()
    family.housekeeping()
    assert family.states == {}


def test_the_path_of_a_gone_source_is_free_after_the_last_fork(family: World) -> None:
    for path in ("/a", "/b", "/c"):
        family.delete(path)
    family.housekeeping()
    assert family.created("/a").number == 4


def test_an_expired_fork_lets_its_source_go() -> None:
    world = World()
    world.created("/source", b"abc")
    world.create("/fork", None, lifetime=Lifetime(ttl_s=1), fork=world.fork_request("/source"))
    world.delete("/source")
    world.wait(1)
    assert world.view("/source").presence is Presence.GONE
    world.housekeeping()
    assert (world.states, world.own) == ({}, {})


def test_an_expired_fork_that_is_replaced_lets_its_source_go() -> None:
    world = World()
    world.created("/source", b"abc")
    world.create("/fork", None, lifetime=Lifetime(ttl_s=1), fork=world.fork_request("/source"))
    world.delete("/source")
    world.wait(1)
    world.created("/fork", b"new")
    world.housekeeping()
    assert world.own == {3: b"new"}


def test_a_restored_stream_refuses_what_was_written_after_its_backup() -> None:
    """It was stream 1 up to byte 5; what 1 had beyond that is lost, and what it has now belongs to 9."""
    restored = StreamState(9, "/a", "text/plain", False, IMMORTAL, 8, lineage=((1, 5),), former=(1,))
    for position in range(6):
        assert resolve_offset(restored, Offset(1, position)) == position
    for position in range(5, 9):
        assert resolve_offset(restored, Offset(9, position)) == position
    for position in range(6, 9):
        assert isinstance(resolve_offset(restored, Offset(1, position)), OffsetGone)
    assert isinstance(resolve_offset(restored, Offset(9, 9)), InvalidOffset)
    assert str(offset_at(restored, 4)) < str(offset_at(restored, 5))
