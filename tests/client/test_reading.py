"""Where a reader goes next: tables of the state machine, without time, chance or a server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from unbroken import errors
from unbroken.client.batches import json_batch
from unbroken.client.codec import decoder_of
from unbroken.client.positions import Position, position_of
from unbroken.client.reading import VIOLATIONS_MAX, Characters, Deadlines, Live, Mode, Progress, Reading, Silence
from unbroken.client.retry import Retry

STEADY = Retry(base_s=1.0, cap_s=8.0, chance=lambda: 1.0)
JSON = "application/json"


def a_reading(live: Live = "auto", content_type: str = JSON, start: Position | None = None) -> Reading:
    reading = Reading(start or Position("1"), live, STEADY)
    reading.content_type = content_type
    return reading


def caught_up(reading: Reading) -> Reading:
    reading.advance(Progress(reading.at.offset, has_data=False, up_to_date=True))
    return reading


@pytest.mark.parametrize(
    ("live", "content_type", "mode"),
    [
        ("auto", JSON, Mode.SSE),
        ("auto", "Application/JSON; charset=utf-8", Mode.SSE),
        ("auto", "text/plain", Mode.LONG_POLL),
        ("auto", "application/octet-stream", Mode.LONG_POLL),
        ("sse", "text/plain", Mode.SSE),
        ("sse", "application/octet-stream", Mode.SSE),
        ("long-poll", JSON, Mode.LONG_POLL),
    ],
)
def test_how_it_reads_live(live: Live, content_type: str, mode: Mode) -> None:
    reading = a_reading(live, content_type)
    reading.advance(Progress("2", has_data=True))
    assert reading.params == {"offset": "2"}
    assert caught_up(reading).mode is mode
    reading.give_up_events()
    assert reading.mode is Mode.LONG_POLL
    assert not reading.done


@pytest.mark.parametrize(
    ("live", "progress", "done"),
    [
        (False, Progress("2", has_data=True), False),
        (False, Progress("2", has_data=True, up_to_date=True), True),
        (False, Progress("1", has_data=False), True),
        ("auto", Progress("2", has_data=True, up_to_date=True), False),
        ("auto", Progress("2", has_data=True, up_to_date=True, closed=True), True),
    ],
)
def test_when_everything_was_read(live: Live, progress: Progress, done: bool) -> None:
    reading = a_reading(live)
    reading.advance(progress)
    assert reading.done is done


def test_what_it_asks_for() -> None:
    reading = Reading(Position.since("2026-01-01T00:00:00Z"), "auto", STEADY)
    reading.content_type = JSON
    assert reading.params == {"since": "2026-01-01T00:00:00Z"}
    reading.advance(Progress("4", has_data=True, up_to_date=True))
    assert reading.params == {"offset": "4", "live": "sse"}
    reading.advance(Progress("5", has_data=True, cursor="9"))
    assert reading.params == {"offset": "5", "live": "sse", "cursor": "9"}
    reading.failed(errors.ConnectionLost(), 0.0)
    assert reading.params == {"offset": "5"}


def test_rounds_that_bring_nothing_are_ever_rarer() -> None:
    reading = caught_up(a_reading("long-poll"))
    pauses = [reading.round_ended(Mode.LONG_POLL, 0.5, had_data=False) for _ in range(5)]
    assert pauses == [0.5, 1.5, 3.5, 7.5, 7.5]
    assert reading.round_ended(Mode.LONG_POLL, 7.0, had_data=False) == 1.0
    assert reading.round_ended(Mode.LONG_POLL, 30.0, had_data=False) == 0.0  # it waited long enough by itself
    assert reading.round_ended(Mode.LONG_POLL, 0.5, had_data=False) == 1.5
    reading.advance(Progress("2", has_data=True))
    assert reading.round_ended(Mode.LONG_POLL, 0.5, had_data=True) == 0.0
    assert reading.round_ended(Mode.LONG_POLL, 0.5, had_data=False) == 0.5


def test_catching_up_with_nothing_is_no_reason_to_wait() -> None:
    reading = caught_up(a_reading())
    assert reading.round_ended(Mode.CATCH_UP, 0.0, had_data=False) == 0.0


def test_event_streams_that_are_always_short_are_given_up() -> None:
    reading = caught_up(a_reading())
    for took_s, mode in ((0.1, Mode.SSE), (0.1, Mode.SSE), (60.0, Mode.SSE), (0.1, Mode.SSE), (0.1, Mode.SSE)):
        reading.round_ended(Mode.SSE, took_s, had_data=False)
        assert reading.mode is mode
    reading.round_ended(Mode.SSE, 0.1, had_data=False)
    assert reading.mode is Mode.LONG_POLL


@pytest.mark.parametrize(
    "error",
    [errors.ConnectionLost(), errors.NotConnected(), errors.NoAnswer(), errors.Draining(), errors.UnbrokenError()],
)
def test_failures_that_pass(error: errors.UnbrokenError) -> None:
    error.retry_after_s = None
    reading = caught_up(a_reading())
    assert [reading.failed(error, 0.0) for _ in range(3)] == [1.0, 2.0, 4.0]
    assert reading.mode is Mode.CATCH_UP
    assert error.offset == "1"


def test_a_server_is_not_asked_before_it_said() -> None:
    error = errors.TooManyRequests()
    error.retry_after_s = 20.0
    assert a_reading().failed(error, 5.0) == 21.0
    error.retry_after_s = 5000.0
    assert a_reading().failed(error, 5.0) == 61.0


@pytest.mark.parametrize(
    "error",
    [
        errors.StreamNotFound(),
        errors.StreamGone(),
        errors.OffsetGone(),
        errors.Unauthorized(),
        errors.Forbidden(),
        errors.InvalidOffset(),
        errors.OffsetLoop(),
        errors.AnswerTooLarge(),
    ],
)
def test_failures_that_are_final(error: errors.UnbrokenError) -> None:
    with pytest.raises(type(error)):
        a_reading().failed(error, 0.0)


def test_violations_are_final_when_they_go_on() -> None:
    reading = a_reading()
    for _ in range(VIOLATIONS_MAX - 1):
        reading.failed(errors.ProtocolViolation(), 0.0)
    caught_up(reading)
    assert reading.mode is Mode.SSE
    for _ in range(VIOLATIONS_MAX - 1):
        reading.failed(errors.ProtocolViolation(), 0.0)
    assert caught_up(reading).mode is Mode.LONG_POLL  # events it was that failed first
    for _ in range(VIOLATIONS_MAX - 1):
        reading.failed(errors.ProtocolViolation(), 0.0)
    with pytest.raises(errors.ProtocolViolation):
        reading.failed(errors.ProtocolViolation(), 0.0)


@pytest.mark.parametrize("start", ["-1", "now", "since:2026-01-01T00:00:00Z"])
def test_any_end_is_after_what_is_no_offset(start: str) -> None:
    a_reading(start=Position(start)).check(Progress("", has_data=True))


@pytest.mark.parametrize(
    ("text", "position"),
    [("-1", ("-1", 0)), ("now", ("now", 0)), ("1_2,30", ("1_2", 30)), ("since:2026-01-01T00:00:00Z,4", None)],
)
def test_positions_are_text(text: str, position: tuple[str, int] | None) -> None:
    assert str(Position.parse(text)) == text
    assert position in {None, Position.parse(text)}


@pytest.mark.parametrize("text", ["", ",", "1,", "1,x", "1,-2", "1,²", ",3"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


def test_a_time_and_an_offset_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude"):
        position_of("1", since="2026-01-01T00:00:00Z")


def test_deadlines() -> None:
    deadlines = Deadlines(5.0, 12.0, None, now_s=100.0)
    assert deadlines.left_s(100.0) == 12.0
    deadlines.waiting(100.0)
    assert deadlines.left_s(101.0) == 4.0
    deadlines.check(104.9)
    with pytest.raises(errors.TimedOut, match="no message came in 5 seconds"):
        deadlines.check(105.0)
    deadlines.waiting(110.0)
    assert deadlines.left_s(110.0) == 2.0
    with pytest.raises(errors.TimedOut, match="time for reading"):
        deadlines.check(112.0)
    assert Deadlines(None, None, None, now_s=0.0).left_s(1e9) == float("inf")


def test_failing_for_too_long() -> None:
    deadlines = Deadlines(None, None, 10.0, now_s=0.0)
    error = errors.Draining()
    deadlines.failed(error, 100.0)
    deadlines.failed(error, 109.0)
    deadlines.succeeded()
    deadlines.failed(error, 111.0)
    deadlines.failed(error, 120.0)
    with pytest.raises(errors.Draining):
        deadlines.failed(error, 121.0)


def test_how_much_silence_is_death_is_learned() -> None:
    silence = Silence()
    assert silence.limit_s == Silence.UNKNOWN_S
    silence.heard(0.01)
    assert silence.limit_s == Silence.UNKNOWN_S
    silence.heard(15.0)
    silence.heard(3.0)
    assert silence.limit_s == 42.5
    silence.heard(60.0)
    assert silence.limit_s == Silence.UNKNOWN_S
    fixed = Silence(2.0)
    fixed.heard(15.0)
    assert fixed.limit_s == 2.0


def test_only_text_is_cut_between_characters() -> None:
    start, end = Position("1"), Position("2")
    for content_type in ("application/octet-stream", JSON):
        assert Characters(content_type).take(b"\xc3", start, end, last=False) == (b"\xc3", start, end)
    text = Characters("text/plain")
    assert text.take(b"a\xc3", start, end, last=False) == (b"a", start, Position("1", 1))
    assert text.take(b"", end, end, last=True) == (b"\xc3", Position("1", 1), end)


@pytest.mark.parametrize("kind", [None, int])
@pytest.mark.parametrize("skip", range(5))
def test_the_position_after_each_message(kind: Any, skip: int) -> None:
    batch, count = json_batch(b"[0, 1, 2, 3]", Position("a", skip), "b", decoder_of(kind))
    assert count == 4
    seen = [(message.value, message.data, str(message.position)) for message in batch]
    ends = ["a,1", "a,2", "a,3", "b"]
    assert seen == [(number, b"%d" % number, ends[number]) for number in range(skip, 4)]
    assert len(batch) == 4 - skip


@pytest.mark.parametrize("skip", range(5))
def test_a_batch_with_a_message_of_another_type(skip: int) -> None:
    batch, count = json_batch(b'[0, "1", 2, "3"]', Position("a", skip), "b", decoder_of(int))
    assert count == 4
    bad = 1 if skip < 2 else 3
    assert batch.values == list(range(skip, bad)) if skip != 4 else not batch.values
    if skip == 4:
        assert batch.end == ("b", 0)
        batch.check()
        return
    assert str(batch.end) == ("a,2" if bad == 1 else "b")
    with pytest.raises(errors.InvalidMessage) as caught:
        batch.check()
    assert (caught.value.data, caught.value.position) == (b'"%d"' % bad, str(batch.end))
    assert caught.value.offset == str(Position("a", bad))


@pytest.mark.parametrize("body", [b"", b"[1", b"1", b'{"a":1}', b"[" * 100_000, "[2"])
def test_what_is_no_array(body: bytes | str) -> None:
    for kind in (None, int, msgspec.Raw):
        with pytest.raises(errors.ProtocolViolation):
            json_batch(body, Position("a"), "b", decoder_of(kind))
