"""Appending and closing: the order of the checks, producers, Stream-Seq, and what becomes durable in one step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.protocol.support import told
from tests.protocol.world import START, World
from unbroken.errors import (
    ContentTypeMismatch,
    InvalidBody,
    InvalidHeader,
    ProducerGap,
    SequenceRegression,
    StaleEpoch,
    StreamClosed,
    StreamGone,
    StreamNotFound,
    TooManyMessages,
    UnbrokenError,
)
from unbroken.protocol.commands import Append, Appended
from unbroken.protocol.content import EMPTY, Content
from unbroken.protocol.lifetime import IMMORTAL
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import (
    Addition,
    Decision,
    Presence,
    Situation,
    StreamState,
    View,
    apply,
    decide,
    offset_at,
)

STAMP = ProducerStamp("p", 1, 4)
JSON = Content(b"1\x1e", json=True)
NOTHING_IN_IT = Content(b"", json=True)

# Each fault is the facts that bring it about, on top of an append that would be accepted. In the order of the
# protocol; those of one rank cannot come together.
FAULTS: list[tuple[str, dict[str, Any], type[UnbrokenError] | Appended]] = [
    ("absent", {"presence": Presence.ABSENT}, StreamNotFound),
    ("expired", {"presence": Presence.EXPIRED}, StreamNotFound),
    ("gone", {"presence": Presence.GONE}, StreamGone),
    ("malformed-header", {"fault": InvalidHeader("malformed")}, InvalidHeader),
    (
        "repetition-of-the-closing-append",
        {"stamp": STAMP, "close": True, "closed": True, "closed_by": STAMP},
        Appended(Offset(7, 10), closed=True, duplicate=True, producer=Producer(1, 4)),
    ),
    ("stale-epoch", {"stamp": STAMP, "known": Producer(2, 0)}, StaleEpoch),
    ("closed", {"closed": True}, StreamClosed),
    ("no-content-type", {"content_type": None}, InvalidBody),
    ("other-content-type", {"content_type": "text/plain"}, ContentTypeMismatch),
    ("invalid-body", {"content": Content(b"", json=True, fault=InvalidBody("invalid JSON"))}, InvalidBody),
    ("too-many-messages", {"content": Content(b"", json=True, fault=TooManyMessages(1))}, TooManyMessages),
    ("empty-array", {"content": NOTHING_IN_IT}, InvalidBody),
    ("newer-epoch-not-at-zero", {"stamp": STAMP, "known": Producer(0, 9)}, InvalidHeader),
    (
        "duplicate",
        {"stamp": STAMP, "known": Producer(1, 6)},
        Appended(Offset(7, 10), closed=False, duplicate=True, producer=Producer(1, 6)),
    ),
    ("gap", {"stamp": STAMP, "known": Producer(1, 2)}, ProducerGap),
    ("gap-of-an-unknown-producer", {"stamp": STAMP, "known": None}, ProducerGap),
    ("same-stream-seq", {"seq": "m"}, SequenceRegression),
    ("lower-stream-seq", {"seq": "b"}, SequenceRegression),
]


def decide_append(facts: dict[str, Any]) -> Decision:
    """Decide an append to a JSON stream that is accepted but for the facts given."""
    state = StreamState(
        number=7,
        path="/s",
        content_type="application/json",
        json=True,
        lifetime=IMMORTAL,
        tail=10,
        closed=facts.get("closed", False),
        closed_by=facts.get("closed_by"),
        stream_seq="m",
    )
    command = Append(
        "/s",
        facts.get("content_type", "application/json"),
        facts.get("content", JSON),
        facts.get("close", False),
        facts.get("seq", "n"),
        facts.get("stamp"),
        facts.get("fault"),
    )
    presence = facts.get("presence", Presence.LIVE)
    target = View(presence, None if presence is Presence.ABSENT else state)
    return decide(command, Situation(START, target, producer=facts.get("known")))


def test_without_a_fault_it_is_accepted() -> None:
    record = Addition(7, START.wall_ms, 10, b"1\x1e", None, "n", False)
    assert decide_append({}) == Decision(Appended(Offset(7, 12), closed=False), (record,))


@pytest.mark.parametrize(("facts", "expected"), [pytest.param(facts, to, id=name) for name, facts, to in FAULTS])
def test_each_fault_alone(facts: dict[str, Any], expected: type[UnbrokenError] | Appended) -> None:
    decision = decide_append(facts)
    assert decision.records == ()
    assert decision.outcome == expected if isinstance(expected, Appended) else type(decision.outcome) is expected


def together(*cases: dict[str, Any]) -> dict[str, Any] | None:
    """All the facts at once; None if some contradict each other."""
    facts: dict[str, Any] = {}
    for case in cases:
        if any(name in facts and facts[name] != value for name, value in case.items()):
            return None
        facts |= case
    return facts


PAIRS = [
    pytest.param(first, facts, id=f"{name}-before-{later_name}")
    for (name, first, _), (later_name, later, _) in itertools.combinations(FAULTS, 2)
    if (facts := together(first, later)) is not None
]


def test_the_pairs_of_faults_reach_from_each_rank_to_the_next() -> None:
    names = {pair.id for pair in PAIRS}
    assert {
        "gone-before-malformed-header",
        "malformed-header-before-repetition-of-the-closing-append",
        "repetition-of-the-closing-append-before-stale-epoch",
        "stale-epoch-before-closed",
        "closed-before-no-content-type",
        "closed-before-other-content-type",
        "no-content-type-before-invalid-body",
        "other-content-type-before-too-many-messages",
        "other-content-type-before-empty-array",
        "invalid-body-before-newer-epoch-not-at-zero",
        "too-many-messages-before-duplicate",
        "empty-array-before-gap",
        "newer-epoch-not-at-zero-before-same-stream-seq",
        "duplicate-before-same-stream-seq",
        "gap-before-lower-stream-seq",
    } <= names


@pytest.mark.parametrize(("first", "both"), PAIRS)
def test_of_two_faults_the_first_in_order_is_told(first: dict[str, Any], both: dict[str, Any]) -> None:
    alone = decide_append(first)
    assert told(decide_append(both).outcome) == told(alone.outcome)
    assert decide_append(both).records == ()


# --- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "refusal"),
    [
        pytest.param("text/plain", None, id="same"),
        pytest.param("TEXT/Plain", None, id="case"),
        pytest.param("text/plain; charset=utf-8", None, id="parameters"),
        pytest.param("text/plain ;x", None, id="space-and-parameter"),
        pytest.param("text/html", ContentTypeMismatch, id="other"),
        pytest.param("application/octet-stream", ContentTypeMismatch, id="default-is-no-joker"),
        pytest.param(None, InvalidBody, id="missing"),
    ],
)
def test_content_type_of_an_append(content_type: str | None, refusal: type[UnbrokenError] | None) -> None:
    world = World()
    world.created()
    outcome = world.append(data=b"x", content_type=content_type)
    if refusal is None:
        assert isinstance(outcome, Appended)
    else:
        assert type(outcome) is refusal
        assert outcome.status == (409 if refusal is ContentTypeMismatch else 400)


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", None])
def test_an_empty_body_is_400_whatever_its_type(content_type: str | None) -> None:
    world = World()
    world.created()
    outcome = world.append(content_type=content_type)
    assert type(outcome) is InvalidBody
    assert outcome.detail == "the body is empty"


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "application/json", None])
def test_an_empty_body_may_close_whatever_its_type(content_type: str | None) -> None:
    world = World()
    world.created(data=b"ab")
    assert world.append(close=True, content_type=content_type) == Appended(Offset(1, 2), closed=True)
    assert world.states["/s"].closed


@pytest.mark.parametrize("close", [False, True], ids=["open", "and-close"])
def test_an_empty_array_is_400_and_closes_nothing(close: bool) -> None:
    world = World()
    world.create(content_type="application/json")
    outcome = world.append(close=close, content=NOTHING_IN_IT)
    assert type(outcome) is InvalidBody
    assert not world.states["/s"].closed


def test_an_empty_array_is_no_repetition_of_closing() -> None:
    world = World()
    world.create(content_type="application/json", closed=True)
    assert type(world.append(close=True, content=NOTHING_IN_IT)) is StreamClosed
    assert isinstance(world.append(close=True, content=EMPTY), Appended)


# --- closing -----------------------------------------------------------------------------------------------------


def test_data_and_closing_are_one_record() -> None:
    world = World()
    world.created(data=b"ab")
    command = Append("/s", "text/plain", Content(b"cd"), close=True)
    decision = world.decide(command)
    outcome, records = decision.outcome, decision.records
    assert outcome == Appended(Offset(1, 4), closed=True)
    assert records == (Addition(1, START.wall_ms, 2, b"cd", None, None, True),)
    world.send(command)
    assert world.content("/s") == b"abcd"
    assert world.states["/s"].closed


def test_closing_again_without_data_is_fine_and_changes_nothing() -> None:
    world = World()
    world.created(data=b"ab")
    world.append(close=True)
    decision = world.decide(Append("/s", close=True))
    outcome, records = decision.outcome, decision.records
    assert outcome == Appended(Offset(1, 2), closed=True, duplicate=True)
    assert records == ()


@pytest.mark.parametrize(
    ("close", "data", "stamp"),
    [
        pytest.param(False, b"x", None, id="append"),
        pytest.param(True, b"x", None, id="append-and-close"),
        pytest.param(False, b"", None, id="nothing"),
        pytest.param(False, b"x", ProducerStamp("p", 0, 0), id="closing-stamp-without-closing"),
        pytest.param(True, b"x", ProducerStamp("p", 0, 1), id="other-seq"),
        pytest.param(True, b"x", ProducerStamp("p", 1, 0), id="other-epoch"),
        pytest.param(True, b"x", ProducerStamp("q", 0, 0), id="other-producer"),
        pytest.param(True, b"", ProducerStamp("q", 0, 0), id="other-producer-closes-only"),
    ],
)
def test_an_append_to_a_closed_stream_is_409(close: bool, data: bytes, stamp: ProducerStamp | None) -> None:
    world = World()
    world.created(data=b"ab")
    world.append(data=b"cd", close=True, producer=ProducerStamp("p", 0, 0))
    outcome = world.append(data=data, close=close, producer=stamp)
    assert type(outcome) is StreamClosed
    assert outcome.status == 409
    assert outcome.headers() == {"Stream-Closed": "true", "Stream-Next-Offset": str(Offset(1, 4))}


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"cd", b"cd", id="same"),
        pytest.param(b"cd", b"", id="without-its-data"),
        pytest.param(b"", b"", id="close-only"),
        pytest.param(b"cd", b"other", id="other-data"),
    ],
)
def test_the_closing_append_may_be_repeated(first: bytes, again: bytes) -> None:
    world = World()
    world.created(data=b"ab")
    stamp = ProducerStamp("p", 3, 0)
    closed = world.append(data=first, close=True, producer=stamp)
    tail = Offset(1, 2 + len(first))
    assert closed == Appended(tail, closed=True, producer=Producer(3, 0))
    repeated = world.append(data=again, close=True, producer=stamp)
    assert repeated == Appended(tail, closed=True, duplicate=True, producer=Producer(3, 0))
    assert world.content("/s") == b"ab" + first


def test_no_append_repeats_the_closing_of_nobody() -> None:
    world = World()
    world.created()
    world.append(close=True)
    assert type(world.append(close=True, producer=ProducerStamp("p", 0, 0))) is StreamClosed


# --- producers ---------------------------------------------------------------------------------------------------


def test_a_producer_is_told_the_highest_sequence_accepted() -> None:
    world = World()
    world.created()
    sent = [(0, 0), (0, 1), (0, 2), (0, 1), (2, 0), (2, 0), (2, 1)]
    outcomes = [world.append(data=b"x", producer=ProducerStamp("p", *stamp)) for stamp in sent]
    assert outcomes == [
        Appended(Offset(1, 1), closed=False, producer=Producer(0, 0)),
        Appended(Offset(1, 2), closed=False, producer=Producer(0, 1)),
        Appended(Offset(1, 3), closed=False, producer=Producer(0, 2)),
        Appended(Offset(1, 3), closed=False, duplicate=True, producer=Producer(0, 2)),
        Appended(Offset(1, 4), closed=False, producer=Producer(2, 0)),
        Appended(Offset(1, 4), closed=False, duplicate=True, producer=Producer(2, 0)),
        Appended(Offset(1, 5), closed=False, producer=Producer(2, 1)),
    ]
    assert world.content("/s") == b"xxxxx"


def test_refusals_of_a_producer_tell_what_it_needs() -> None:
    world = World()
    world.created()
    world.append(data=b"x", producer=ProducerStamp("p", 2, 0))
    stale = world.append(data=b"x", producer=ProducerStamp("p", 1, 0))
    assert (type(stale), told(stale)) == (
        StaleEpoch,
        (StaleEpoch, 403, "the producer's current epoch is 2", {"Producer-Epoch": "2"}),
    )
    gap = world.append(data=b"x", producer=ProducerStamp("p", 2, 3))
    assert isinstance(gap, ProducerGap)
    assert gap.headers() == {"Producer-Expected-Seq": "1", "Producer-Received-Seq": "3"}
    assert world.content("/s") == b"x"


def test_data_producer_seq_and_closing_are_one_record() -> None:
    world = World()
    world.created()
    stamp = ProducerStamp("p", 0, 0)
    command = Append("/s", "text/plain", Content(b"ab"), close=True, stream_seq="a", producer=stamp)
    assert world.decide(command).records == (Addition(1, START.wall_ms, 0, b"ab", stamp, "a", True),)


def test_a_closing_without_data_advances_the_producer() -> None:
    world = World()
    world.created()
    stamp = ProducerStamp("p", 0, 0)
    outcome = world.append(close=True, producer=stamp)
    assert outcome == Appended(Offset(1, 0), closed=True, producer=Producer(0, 0))
    assert world.states["/s"].closed_by == stamp


def test_a_duplicate_that_would_close_closes_nothing() -> None:
    world = World()
    world.created()
    world.append(data=b"x", producer=ProducerStamp("p", 0, 0))
    outcome = world.append(data=b"x", close=True, producer=ProducerStamp("p", 0, 0))
    assert outcome == Appended(Offset(1, 1), closed=False, duplicate=True, producer=Producer(0, 0))
    assert not world.states["/s"].closed


# --- Stream-Seq --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "seq", "accepted"),
    [
        pytest.param(None, "a", True, id="first"),
        pytest.param("a", None, True, id="none-given"),
        pytest.param("a", "b", True, id="greater"),
        pytest.param("a", "a", False, id="same"),
        pytest.param("b", "a", False, id="smaller"),
        pytest.param("a", "aa", True, id="longer"),
        pytest.param("aa", "a", False, id="shorter"),
        pytest.param("10", "9", True, id="bytes-not-numbers"),
        pytest.param("9", "10", False, id="bytes-not-numbers-other-way"),
        pytest.param("a", "B", False, id="case-counts"),
        pytest.param("~", "\x80", True, id="high-bytes"),
        pytest.param("\xff", "\x80", False, id="high-bytes-other-way"),
    ],
)
def test_stream_seq_must_grow_bytewise(last: str | None, seq: str | None, accepted: bool) -> None:
    world = World()
    world.created()
    world.append(data=b"x", stream_seq=last)
    outcome = world.append(data=b"y", stream_seq=seq)
    assert isinstance(outcome, Appended if accepted else SequenceRegression)
    if isinstance(outcome, UnbrokenError):
        assert outcome.status == 409
    assert world.content("/s") == (b"xy" if accepted else b"x")


def test_stream_seq_is_remembered_beyond_appends_without_one() -> None:
    world = World()
    world.created()
    for seq in ("b", None):
        assert isinstance(world.append(data=b"x", stream_seq=seq), Appended)
    assert type(world.append(data=b"x", stream_seq="a")) is SequenceRegression


def test_stream_seq_of_a_refused_append_is_not_remembered() -> None:
    world = World()
    world.created()
    world.append(data=b"x", stream_seq="z", producer=ProducerStamp("p", 0, 5))
    assert isinstance(world.append(data=b"x", stream_seq="a"), Appended)


def test_stream_seq_is_one_for_all_producers() -> None:
    world = World()
    world.created()
    world.append(data=b"x", stream_seq="m", producer=ProducerStamp("p", 0, 0))
    outcome = world.append(data=b"x", stream_seq="c", producer=ProducerStamp("q", 0, 0))
    assert type(outcome) is SequenceRegression


# --- records -----------------------------------------------------------------------------------------------------


def test_an_addition_touches_nothing_else() -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.forked("/fork", "/source", 4, b"xy")
    world.forked("/below", "/fork")
    before = world.states["/fork"]
    after = apply(before, Addition(before.number, 5, before.tail, b"z", ProducerStamp("p", 0, 0), "s", False))
    assert after is not None
    for name in ("number", "path", "content_type", "json", "lifetime", "lineage", "origin", "forks", "gone", "closed"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.tail, after.stream_seq, after.closed_by) == (7, "s", None)
    assert offset_at(after, 7) == Offset(before.number, 7)


def test_a_closed_stream_stays_closed() -> None:
    world = World()
    state = world.created()
    stamp = ProducerStamp("p", 0, 0)
    closed = apply(state, Addition(1, 5, 0, b"", stamp, None, True))
    assert closed is not None
    later = apply(closed, Addition(1, 6, 0, b"", None, None, False))
    assert later is not None
    assert (later.closed, later.closed_by) == (True, stamp)


@pytest.mark.parametrize("presence", [Presence.ABSENT, Presence.EXPIRED])
def test_a_stream_that_is_not_there_is_404(presence: Presence) -> None:
    assert told(decide_append({"presence": presence}).outcome) == told(StreamNotFound("no stream at this path"))
