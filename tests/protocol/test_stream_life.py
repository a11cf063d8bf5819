"""From creation to absence: deletion, expiry, and the server's own Reclaim and Release."""

from __future__ import annotations

import pytest

from tests.protocol.support import told
from tests.protocol.world import START, World
from unbroken.errors import InvalidOffset, OffsetGone, SourceGone, StreamExists, StreamGone, StreamNotFound
from unbroken.protocol.commands import Append, Appended, Create, Created, Delete, Deleted, ForkRequest, Reclaim, Release
from unbroken.protocol.content import Content
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.offsets import Anchor, Offset, parse_offset
from unbroken.protocol.stream import Decision, Deletion, Presence, Reference, offset_at, resolve_offset

NOTHING = Decision(Deleted())


# --- how a stream looks ------------------------------------------------------------------------------------------


def test_what_was_never_created_is_absent() -> None:
    view = World().view("/s")
    assert (view.presence, view.state) == (Presence.ABSENT, None)
    with pytest.raises(StreamNotFound) as refused:
        view.live()
    assert refused.value.status == 404


def test_a_live_view_has_the_state() -> None:
    world = World()
    state = world.created()
    assert world.view("/s").live() is state


@pytest.mark.parametrize(
    ("lifetime", "waited_s", "presence"),
    [
        pytest.param(None, 10**9, Presence.LIVE, id="for-ever"),
        pytest.param(Lifetime(ttl_s=5), 4.999, Presence.LIVE, id="ttl-not-yet"),
        pytest.param(Lifetime(ttl_s=5), 5, Presence.EXPIRED, id="ttl-over"),
        pytest.param(Lifetime(ttl_s=0), 0, Presence.EXPIRED, id="ttl-zero"),
        pytest.param(Lifetime(expires_at_ms=START.wall_ms + 5_000), 4.999, Presence.LIVE, id="expiry-not-yet"),
        pytest.param(Lifetime(expires_at_ms=START.wall_ms + 5_000), 5, Presence.EXPIRED, id="expiry-over"),
        pytest.param(Lifetime(expires_at_ms=START.wall_ms - 1), 0, Presence.EXPIRED, id="expiry-in-the-past"),
    ],
)
def test_presence_of_a_stream_without_forks(lifetime: Lifetime | None, waited_s: float, presence: Presence) -> None:
    world = World()
    world.created(lifetime=lifetime)
    world.wait(waited_s)
    assert world.view("/s").presence is presence


def test_a_stream_may_be_created_expired() -> None:
    world = World()
    outcome = world.create(lifetime=Lifetime(ttl_s=0))
    assert isinstance(outcome, Created)
    assert not outcome.existed
    assert type(world.append(data=b"x")) is StreamNotFound


def test_an_append_renews_a_sliding_lifetime_and_not_an_absolute_one() -> None:
    world = World()
    world.created("/sliding", lifetime=Lifetime(ttl_s=10))
    world.created("/absolute", lifetime=Lifetime(expires_at_ms=START.wall_ms + 10_000))
    world.wait(9)
    world.append("/sliding", b"x")
    world.append("/absolute", b"x")
    world.wait(9)
    assert world.view("/sliding").presence is Presence.LIVE
    assert world.view("/absolute").presence is Presence.EXPIRED


def test_every_operation_on_an_expired_stream_is_404() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=1))
    world.wait(1)
    not_found = told(StreamNotFound("no stream at this path"))
    assert told(world.view("/s").absence()) == not_found
    assert told(world.append(data=b"x")) == not_found
    assert told(world.append(close=True)) == not_found
    assert told(world.delete()) == not_found


# --- deletion ----------------------------------------------------------------------------------------------------


def test_a_stream_without_forks_is_gone_for_good() -> None:
    world = World()
    world.created(data=b"abc")
    assert world.decide(Delete("/s")) == Decision(Deleted(), (Deletion(1, START.wall_ms, keep=False),))
    assert world.delete() == Deleted()
    assert world.states == {}
    assert world.own == {}


def test_deleting_twice_is_404() -> None:
    world = World()
    world.created()
    world.delete()
    assert type(world.delete()) is StreamNotFound


def test_a_closed_stream_may_be_deleted() -> None:
    world = World()
    world.created()
    world.append(close=True)
    assert world.delete() == Deleted()


def test_a_deleted_stream_with_forks_keeps_its_data_and_nothing_else() -> None:
    world = World()
    world.created("/source", b"abc")
    world.forked("/fork", "/source")
    assert world.decide(Delete("/source")) == Decision(Deleted(), (Deletion(1, START.wall_ms, keep=True),))
    world.delete("/source")
    assert world.view("/source").presence is Presence.GONE
    with pytest.raises(StreamGone):
        world.view("/source").live()
    for outcome in (world.append("/source", b"x"), world.append("/source", close=True), world.delete("/source")):
        assert type(outcome) is StreamGone
        assert outcome.status == 410
    assert world.content("/fork") == b"abc"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_source_that_expires_is_treated_like_a_deleted_one(closed: bool) -> None:
    world = World()
    world.create("/source", lifetime=Lifetime(ttl_s=5), closed=closed, content=Content(b"abc"))
    world.create("/fork", None, lifetime=Lifetime(ttl_s=100), fork=world.fork_request("/source"))
    world.wait(5)
    for _ in range(2):
        assert world.view("/source").presence is Presence.GONE
        assert type(world.append("/source", b"x")) is StreamGone
        assert type(world.delete("/source")) is StreamGone
        assert type(world.create("/source")) is StreamExists
        assert type(world.create("/another", None, fork=ForkRequest("/source"))) is SourceGone
        assert world.content("/fork") == b"abc"
        world.housekeeping()
    world.delete("/fork")
    world.housekeeping()
    assert world.states == {}


# --- Reclaim -----------------------------------------------------------------------------------------------------


def test_an_expired_stream_is_reclaimed() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=1))
    world.wait(1)
    assert world.decide(Reclaim("/s", 1)) == Decision(Deleted(), (Deletion(1, world.now.wall_ms, keep=False),))


def test_an_expired_stream_with_forks_is_reclaimed_but_for_its_data() -> None:
    world = World()
    world.created(lifetime=Lifetime(ttl_s=1))
    world.create("/fork", None, lifetime=Lifetime(ttl_s=9), fork=world.fork_request("/s"))
    world.wait(1)
    assert world.decide(Reclaim("/s", 1)) == Decision(Deleted(), (Deletion(1, world.now.wall_ms, keep=True),))
    world.send(Reclaim("/s", 1))
    assert world.decide(Reclaim("/s", 1)) == NOTHING


@pytest.mark.parametrize("case", ["absent", "live", "renewed", "another", "reclaimed"])
def test_a_reclaim_of_anything_else_does_nothing(case: str) -> None:
    world = World()
    if case != "absent":
        world.created(lifetime=Lifetime(ttl_s=10))
        world.wait(9)
    if case == "renewed":
        world.append(data=b"x")
        world.wait(9)
    if case in ("another", "reclaimed"):
        world.wait(1)
        world.send(Reclaim("/s", 1))
    if case == "another":
        world.created(lifetime=Lifetime(ttl_s=0))
    assert world.decide(Reclaim("/s", 1)) == NOTHING


# --- Release -----------------------------------------------------------------------------------------------------


def test_the_last_release_takes_a_gone_stream_with_it() -> None:
    world = World()
    world.created("/source", b"abc")
    world.forked("/one", "/source")
    world.forked("/two", "/source")
    for path in ("/source", "/one", "/two"):
        world.delete(path)
    world.send(Release("/source", 1, fork=2))
    assert world.view("/source").presence is Presence.GONE
    assert world.own == {1: b"abc"}
    assert world.decide(Release("/source", 1, fork=3)) == Decision(
        Deleted(), (Reference(1, START.wall_ms, fork=3, delta=-1), Deletion(1, START.wall_ms, keep=False))
    )
    world.send(Release("/source", 1, fork=3))
    assert world.own == {}


def test_a_release_leaves_a_live_source_alone() -> None:
    world = World()
    world.created("/source", b"abc")
    world.forked("/fork", "/source")
    world.delete("/fork")
    world.send(Release("/source", 1, fork=2))
    assert (world.states["/source"].forks, world.states["/source"].gone) == (0, False)
    assert world.append("/source", b"x") == Appended(Offset(1, 4), closed=False)
    assert world.delete("/source") == Deleted()
    assert world.states == {}


def test_an_expired_source_is_reclaimed_after_its_last_release() -> None:
    world = World()
    world.created("/source", lifetime=Lifetime(ttl_s=1))
    world.forked("/fork", "/source")
    world.wait(1)
    assert world.view("/source").presence is Presence.GONE
    world.send(Reclaim("/fork", 2))
    world.send(Release("/source", 1, fork=2))
    assert world.view("/source").presence is Presence.EXPIRED
    world.send(Reclaim("/source", 1))
    assert world.states == {}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(Release("/source", 1, fork=2), id="again"),
        pytest.param(Release("/source", 1, fork=99), id="unknown-fork"),
        pytest.param(Release("/source", 7, fork=3), id="other-source"),
        pytest.param(Release("/nowhere", 1, fork=3), id="absent-source"),
    ],
)
def test_a_release_of_anything_else_does_nothing(command: Release) -> None:
    world = World()
    world.created("/source", b"abc")
    world.forked("/one", "/source")
    world.forked("/two", "/source")
    world.delete("/source")
    world.delete("/one")
    world.send(Release("/source", 1, fork=2))
    assert world.decide(command) == NOTHING


# --- offsets of a stream -----------------------------------------------------------------------------------------


def test_offsets_of_a_plain_stream() -> None:
    world = World()
    state = world.created(data=b"abc")
    assert resolve_offset(state, Anchor.BEGINNING) == 0
    assert resolve_offset(state, Anchor.NOW) == 3
    assert [resolve_offset(state, Offset(1, position)) for position in range(4)] == [0, 1, 2, 3]
    assert [str(offset_at(state, position)) for position in (0, 3)] == [
        "0000000000000001_0000000000000000",
        "0000000000000001_0000000000000003",
    ]


@pytest.mark.parametrize(
    ("token", "refusal"),
    [
        pytest.param("0000000000000003_0000000000000004", InvalidOffset, id="beyond-the-tail"),
        pytest.param("0000000000000004_0000000000000000", InvalidOffset, id="of-a-later-stream"),
        pytest.param("9999999999999999_9999999999999999", InvalidOffset, id="far-beyond"),
        pytest.param("0000000000000001_0000000000000000", OffsetGone, id="of-an-earlier-stream-here"),
        pytest.param("0000000000000001_0000000000000009", OffsetGone, id="of-an-earlier-stream-beyond-its-tail"),
        pytest.param("0000000000000002_0000000000000000", OffsetGone, id="of-an-earlier-stream-elsewhere"),
    ],
)
def test_offsets_that_name_nothing(token: str, refusal: type[InvalidOffset | OffsetGone]) -> None:
    world = World()
    world.created(data=b"old")
    world.delete()
    world.created("/elsewhere", b"other")
    state = world.created(data=b"new")
    outcome = resolve_offset(state, parse_offset(token))
    assert type(outcome) is refusal
    assert outcome.status == (400 if refusal is InvalidOffset else 410)


def test_no_offset_of_an_old_stream_is_one_of_the_new_one() -> None:
    world = World()
    old = world.created(data=b"abcdef")
    world.delete()
    new = world.created(data=b"abcdefghi")
    for position in range(7):
        assert type(resolve_offset(new, offset_at(old, position))) is OffsetGone


def test_commands_without_effect_have_no_records() -> None:
    world = World()
    world.created(data=b"abc")
    for command in (Create("/s", "text/plain"), Create("/s", "text/html"), Append("/s"), Reclaim("/s", 1)):
        assert world.decide(command).records == ()
