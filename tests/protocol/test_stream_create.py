"""Creating a stream, and confirming one that is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocol.support import told
from tests.protocol.world import START, World
from unbroken.errors import Conflict, InvalidBody, InvalidOffset, StreamExists, TooManyMessages, UnbrokenError
from unbroken.protocol.commands import Appended, Create, Created, ForkRequest
from unbroken.protocol.content import EMPTY, Content, frame_json
from unbroken.protocol.lifetime import IMMORTAL, Lifetime, parse_time
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import Creation, Deletion, Origin, Presence, Reference, apply

# --- creating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "told_type"),
    [
        pytest.param(None, "application/octet-stream", id="default"),
        pytest.param("text/plain", "text/plain", id="given"),
        pytest.param('Text/Plain; Charset="UTF-8"', 'Text/Plain; Charset="UTF-8"', id="exactly-as-given"),
    ],
)
def test_content_type_of_a_new_stream(content_type: str | None, told_type: str) -> None:
    world = World()
    assert world.create(content_type=content_type) == Created(told_type, Offset(1, 0), closed=False, existed=False)
    assert world.states["/s"].content_type == told_type


@pytest.mark.parametrize(
    ("content_type", "as_json"),
    [("application/json", True), ("Application/JSON;x", True), ("text/plain", False), (None, False)],
)
def test_which_streams_hold_json(content_type: str | None, as_json: bool) -> None:
    world = World()
    world.create(content_type=content_type)
    assert world.states["/s"].json is as_json


def test_a_creation_is_one_record_with_its_first_content() -> None:
    command = Create("/s", "text/plain", Lifetime(ttl_s=9), closed=True, content=Content(b"abc"))
    decision = World().decide(command)
    outcome, records = decision.outcome, decision.records
    assert outcome == Created("text/plain", Offset(1, 3), closed=True, existed=False)
    assert records == (
        Creation(
            number=1,
            time_ms=START.wall_ms,
            path="/s",
            content_type="text/plain",
            ttl_s=9,
            expires_at_ms=None,
            closed=True,
            lineage=(),
            origin=None,
            position=0,
            data=b"abc",
        ),
    )


def test_what_a_creation_leads_to() -> None:
    world = World()
    world.create(lifetime=Lifetime(expires_at_ms=2**41), closed=True, content=Content(b"abc"))
    state = world.states["/s"]
    assert (state.number, state.path, state.tail, state.closed) == (1, "/s", 3, True)
    assert (state.closed_by, state.stream_seq, state.lineage, state.origin) == (None, None, (), None)
    assert (state.forks, state.gone, state.own_start) == (0, False, 0)
    assert state.lifetime == Lifetime(expires_at_ms=2**41)
    assert state.tail_offset == Offset(1, 3)


def test_without_a_lifetime_a_stream_is_immortal() -> None:
    world = World()
    world.created()
    assert world.states["/s"].lifetime is IMMORTAL
    world.wait(10**9)
    assert world.view("/s").presence is Presence.LIVE


def test_an_empty_array_creates_a_stream_without_messages() -> None:
    world = World()
    outcome = world.create(content_type="application/json", content=Content(b"", json=True))
    assert outcome == Created("application/json", Offset(1, 0), closed=False, existed=False)


def test_a_message_s_separator_counts_in_positions() -> None:
    world = World()
    outcome = world.create(content_type="application/json", content=Content(frame_json(b"[1, 23]"), json=True))
    assert outcome == Created("application/json", Offset(1, len("1_23_")), closed=False, existed=False)
    appended = world.append(content=Content(frame_json(b'"x"'), json=True))
    assert appended == Appended(Offset(1, len('1_23_"x"_')), closed=False)


@pytest.mark.parametrize("fault", [InvalidBody("invalid JSON"), TooManyMessages(5)], ids=lambda fault: fault.code)
def test_an_invalid_body_creates_nothing(fault: UnbrokenError) -> None:
    world = World()
    assert told(world.create(content_type="application/json", content=Content(b"", True, fault))) == told(fault)
    assert world.states == {}


def test_content_read_in_the_other_mode_is_refused() -> None:
    world = World()
    outcome = world.create(content_type="application/json", content=Content(b"abc"))
    assert type(outcome) is Conflict
    assert world.states == {}


# --- confirming --------------------------------------------------------------------------------------------------

SOON = parse_time("2027-06-01T00:00:00Z", "Stream-Expires-At")
SAME = parse_time("2027-06-01T02:00:00+02:00", "Stream-Expires-At")

CONFIRMATIONS = [
    # what is there, what is asked for, whether they are the same
    pytest.param({}, {}, True, id="same"),
    pytest.param({}, {"content_type": "TEXT/plain"}, True, id="type-case"),
    pytest.param({}, {"content_type": "text/plain; charset=utf-8"}, True, id="type-parameters"),
    pytest.param({"content_type": "text/plain;a=b"}, {"content_type": "text/plain;c=d"}, True, id="other-parameters"),
    pytest.param({}, {"content_type": "text/html"}, False, id="other-type"),
    pytest.param({}, {"content_type": None}, False, id="default-type-for-another"),
    pytest.param({"content_type": None}, {"content_type": None}, True, id="default-type-twice"),
    pytest.param({"content_type": None}, {"content_type": "application/octet-stream"}, True, id="default-type-named"),
    pytest.param({"content_type": "Application/Octet-Stream"}, {"content_type": None}, True, id="default-type-case"),
    pytest.param({"lifetime": Lifetime(ttl_s=60)}, {"lifetime": Lifetime(ttl_s=60)}, True, id="ttl"),
    pytest.param({"lifetime": Lifetime(ttl_s=60)}, {"lifetime": Lifetime(ttl_s=61)}, False, id="other-ttl"),
    pytest.param({"lifetime": Lifetime(ttl_s=60)}, {}, False, id="ttl-not-named"),
    pytest.param({}, {"lifetime": Lifetime(ttl_s=60)}, False, id="ttl-for-an-immortal"),
    pytest.param({}, {"lifetime": Lifetime(ttl_s=0)}, False, id="ttl-zero-for-an-immortal"),
    pytest.param({"lifetime": Lifetime(None, SOON)}, {"lifetime": Lifetime(None, SAME)}, True, id="expiry-spelling"),
    pytest.param({"lifetime": Lifetime(None, SOON)}, {"lifetime": Lifetime(None, SOON + 1)}, False, id="other-expiry"),
    pytest.param({"lifetime": Lifetime(None, SOON)}, {}, False, id="expiry-not-named"),
    pytest.param({"lifetime": Lifetime(60)}, {"lifetime": Lifetime(None, SOON)}, False, id="expiry-for-ttl"),
    pytest.param({"lifetime": Lifetime(None, SOON)}, {"lifetime": Lifetime(60)}, False, id="ttl-for-expiry"),
    pytest.param({"closed": True}, {"closed": True}, True, id="closed"),
    pytest.param({"closed": True}, {}, False, id="open-for-closed"),
    pytest.param({}, {"closed": True}, False, id="closed-for-open"),
    pytest.param({}, {"content": Content(b"other")}, True, id="body-is-ignored"),
    pytest.param({}, {"content": Content(b"", True, InvalidBody("no JSON"))}, True, id="invalid-body-is-ignored"),
    pytest.param({}, {"fork": ForkRequest("/source")}, False, id="fork-for-a-plain-one"),
]


def named(what: dict[str, Any]) -> dict[str, Any]:
    return {"content_type": "text/plain", "content": EMPTY, **what}


@pytest.mark.parametrize(("there", "asked", "same"), CONFIRMATIONS)
def test_only_the_same_configuration_is_confirmed(there: dict[str, Any], asked: dict[str, Any], same: bool) -> None:
    world = World()
    world.created("/source")
    world.create("/s", **named(there | {"content": Content(b"abc")}))
    before = world.states["/s"]
    command = Create("/s", **named(asked))
    decision = world.decide(command)
    outcome, records = decision.outcome, decision.records
    assert records == ()
    if same:
        assert outcome == Created(before.content_type, Offset(2, 3), before.closed, existed=True)
    else:
        assert type(outcome) is StreamExists
        assert outcome.status == 409


def test_closing_later_makes_another_configuration() -> None:
    world = World()
    world.created()
    world.append(close=True)
    assert type(world.create()) is StreamExists
    assert world.create(closed=True) == Created("text/plain", Offset(1, 0), closed=True, existed=True)


def test_confirming_renews_nothing() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=10))
    world.wait(6)
    assert isinstance(world.create(lifetime=Lifetime(ttl_s=10)), Created)
    world.wait(4)
    assert world.view("/s").presence is Presence.EXPIRED


# --- confirming forks --------------------------------------------------------------------------------------------

FORK_CONFIRMATIONS = [
    # (at, past) of the fork that is there, (at, past) of the one asked for, whether they are the same
    pytest.param((None, 0), (None, 0), True, id="at-the-tail"),
    pytest.param((3, 0), (3, 0), True, id="offset"),
    pytest.param((0, 0), (0, 0), True, id="offset-zero"),
    pytest.param((2, 1), (2, 1), True, id="sub-offset"),
    pytest.param((3, 0), (4, 0), False, id="other-offset"),
    pytest.param((3, 0), (None, 0), False, id="offset-not-named"),
    pytest.param((None, 0), (6, 0), False, id="offset-named"),
    pytest.param((2, 1), (2, 0), False, id="sub-offset-not-named"),
    pytest.param((2, 1), (3, 0), False, id="same-point-in-other-words"),
    pytest.param((2, 1), (2, 2), False, id="other-sub-offset"),
]


@pytest.mark.parametrize(("there", "asked", "same"), FORK_CONFIRMATIONS)
def test_a_fork_request_is_confirmed_if_it_is_the_same(
    there: tuple[int | None, int], asked: tuple[int | None, int], same: bool
) -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.create("/s", None, fork=world.fork_request("/source", *there))
    outcome = world.create("/s", None, fork=world.fork_request("/source", *asked))
    if same:
        assert isinstance(outcome, Created)
        assert outcome.existed
    else:
        assert type(outcome) is StreamExists
    assert world.states["/source"].forks == 1


@pytest.mark.parametrize(("at", "tail"), [(None, 6), (3, 3)], ids=["at-the-tail", "offset"])
def test_a_fork_request_is_confirmed_although_the_source_has_grown(at: int | None, tail: int) -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.forked("/s", "/source", at)
    world.append("/source", b"ghi")
    world.append("/s", b"x")
    outcome = world.create("/s", None, fork=world.fork_request("/source", at))
    assert outcome == Created("text/plain", Offset(2, tail + 1), closed=False, existed=True)


def test_a_fork_request_is_confirmed_although_the_source_is_deleted() -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.forked("/s", "/source", 3)
    request = world.fork_request("/source", 3)
    world.delete("/source")
    outcome = world.create("/s", None, fork=request)
    assert isinstance(outcome, Created)
    assert outcome.existed


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(ForkRequest("/other", 3, 0, 2, 3), id="other-source"),
        pytest.param(ForkRequest("/source", fault=InvalidOffset("malformed")), id="faulty-request"),
        pytest.param(None, id="plain-one"),
    ],
)
@pytest.mark.parametrize("at", [None, 3], ids=["at-the-tail", "offset"])
def test_another_origin_is_409(request_: ForkRequest | None, at: int | None) -> None:
    world = World()
    world.created("/source", b"abcdef")
    world.created("/other", b"abcdef")
    world.forked("/s", "/source", at)
    assert type(world.create("/s", fork=request_)) is StreamExists


FORK_LIFETIMES = [
    # the source's, the fork's, the one asked for, whether they are the same
    pytest.param(None, None, None, True, id="immortal"),
    pytest.param(Lifetime(60), None, None, True, id="inherited-twice"),
    pytest.param(Lifetime(60), None, Lifetime(60), True, id="inherited-then-named"),
    pytest.param(Lifetime(60), None, Lifetime(61), False, id="inherited-then-another"),
    pytest.param(Lifetime(60), Lifetime(30), Lifetime(30), True, id="own-twice"),
    pytest.param(Lifetime(60), Lifetime(30), None, False, id="own-then-none"),
    pytest.param(Lifetime(60), Lifetime(60), None, False, id="own-like-the-source-then-none"),
    pytest.param(None, Lifetime(30), None, False, id="own-of-an-immortal-then-none"),
    pytest.param(None, None, Lifetime(30), False, id="none-then-own"),
]


@pytest.mark.parametrize(("source", "own", "asked", "same"), FORK_LIFETIMES)
def test_the_lifetime_of_a_confirmed_fork(
    source: Lifetime | None, own: Lifetime | None, asked: Lifetime | None, same: bool
) -> None:
    world = World()
    world.created("/source", lifetime=source)
    world.create("/s", None, lifetime=own, fork=ForkRequest("/source"))
    outcome = world.create("/s", None, lifetime=asked, fork=ForkRequest("/source"))
    assert isinstance(outcome, Created if same else StreamExists), outcome


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        pytest.param(None, True, id="not-named"),
        pytest.param("TEXT/PLAIN;x", True, id="case-and-parameters"),
        pytest.param("text/html", False, id="other"),
    ],
)
def test_the_type_of_a_confirmed_fork(asked: str | None, same: bool) -> None:
    world = World()
    world.created("/source")
    world.forked("/s", "/source")
    outcome = world.create("/s", asked, fork=ForkRequest("/source"))
    assert isinstance(outcome, Created if same else StreamExists), outcome


@pytest.mark.parametrize(("there", "asked"), [(True, True), (False, False), (True, False), (False, True)])
def test_the_closed_state_of_a_confirmed_fork(there: bool, asked: bool) -> None:
    world = World()
    world.created("/source")
    world.create("/s", None, closed=there, fork=ForkRequest("/source"))
    outcome = world.create("/s", None, closed=asked, fork=ForkRequest("/source"))
    assert isinstance(outcome, Created if there == asked else StreamExists), outcome


# --- paths that were used before -----------------------------------------------------------------------------------


def test_an_expired_stream_makes_way_in_the_same_step() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=1), data=b"old")
    world.wait(1)
    decision = world.decide(Create("/s", "text/html", content=Content(b"new")))
    outcome, records = decision.outcome, decision.records
    assert outcome == Created("text/html", Offset(2, 3), closed=False, existed=False)
    assert records[0] == Deletion(1, world.now.wall_ms, keep=False)
    assert isinstance(records[1], Creation)
    assert len(records) == 2


def test_a_new_stream_at_an_old_path_inherits_nothing() -> None:
    world = World()
    world.created(data=b"old")
    stamp = ProducerStamp("p", 0, 0)
    world.append(data=b"x", close=True, stream_seq="z", producer=stamp)
    world.delete()
    state = world.created(data=b"new")
    assert (state.number, state.closed, state.closed_by, state.stream_seq) == (2, False, None, None)
    appended = world.append(data=b"y", stream_seq="a", producer=stamp)
    assert appended == Appended(Offset(2, 4), closed=False, duplicate=False, producer=Producer(0, 0))
    assert world.content("/s") == b"newy"


def test_a_path_is_blocked_while_forks_live_on_its_deleted_stream() -> None:
    world = World()
    world.created("/source")
    world.forked("/s", "/source")
    world.delete("/source")
    for command in (Create("/source", "text/plain"), Create("/source", fork=ForkRequest("/s"))):
        outcome = world.send(command)
        assert type(outcome) is StreamExists
        assert outcome.status == 409


def test_a_fork_record_also_counts_at_its_source() -> None:
    world = World()
    world.created("/source", b"abcdef")
    request = world.fork_request("/source", 3, 1)
    decision = world.decide(Create("/s", None, fork=request, content=Content(b"x")))
    outcome, records = decision.outcome, decision.records
    assert outcome == Created("text/plain", Offset(2, 5), closed=False, existed=False)
    creation, reference = records
    assert isinstance(creation, Creation)
    assert (creation.position, creation.data, creation.lineage) == (4, b"x", ((1, 4),))
    assert creation.origin == Origin("/source", 1, anchor=3, sub_offset=1, own_lifetime=False)
    assert reference == Reference(1, START.wall_ms, fork=2, delta=1)


def test_a_record_for_an_absent_stream_is_an_error_of_the_store() -> None:
    with pytest.raises(ValueError, match="stream 5, which is absent"):
        apply(None, Deletion(5, 0, keep=False))
