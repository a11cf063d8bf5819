"""What answers mean, whoever sends them."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from unbroken import errors
from unbroken.client import answers
from unbroken.client.options import Repeat
from unbroken.client.retry import Retry, did_nothing, is_passing, may_repeat, parse_retry_after
from unbroken.client.values import Answer
from unbroken.errors import FailedRequest

REQUEST = FailedRequest("POST", "http://server/stream")
NOW_S = 1_700_000_000.0


def an_answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, REQUEST)


def a_problem(error: errors.UnbrokenError) -> Answer:
    """As our server sends it."""
    document = {"title": error.title, "status": error.status, "code": error.code, "detail": error.detail}
    headers = {name.lower(): value for name, value in error.headers().items()}
    headers["content-type"] = "application/problem+json"
    return Answer(error.status, headers, msgspec.json.encode(document), REQUEST)


CLIENT_ONLY = (errors.ConnectionLost, errors.ProtocolViolation, errors.TimedOut, errors.EpochInUse)
FACTS: dict[type, list[Any]] = {
    errors.StaleEpoch: [7],
    errors.MethodNotAllowed: ["GET, PUT"],
    errors.StreamClosed: ["1_2"],
    errors.ProducerGap: [3, 9],
}
EVERY = [
    kind(*FACTS.get(kind, []))
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.UnbrokenError) and not issubclass(kind, CLIENT_ONLY)
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_errors_of_our_server_are_what_they_were(error: errors.UnbrokenError) -> None:
    found = answers.error_of(a_problem(error), NOW_S)
    assert type(found) is type(error)
    assert (found.code, found.status, found.detail) == (error.code, error.status, error.detail)
    assert found.headers() == error.headers()
    assert (found.request, str(found.request)) == (REQUEST, "POST http://server/stream")


@pytest.mark.parametrize(
    ("answer", "kind", "facts"),
    [
        (an_answer(400), errors.InvalidRequest, {}),
        (an_answer(401), errors.Unauthorized, {}),
        (an_answer(403), errors.Forbidden, {}),
        (an_answer(403, producer_epoch="4"), errors.StaleEpoch, {"current_epoch": 4}),
        (an_answer(403, producer_epoch="x"), errors.Forbidden, {}),
        (an_answer(404), errors.StreamNotFound, {}),
        (an_answer(409), errors.Conflict, {}),
        (an_answer(409, stream_closed="true", stream_next_offset="7"), errors.StreamClosed, {"next_offset": "7"}),
        (
            an_answer(409, producer_expected_seq="1", producer_received_seq="3"),
            errors.ProducerGap,
            {"expected_seq": 1, "received_seq": 3},
        ),
        (an_answer(410), errors.Gone, {}),
        (an_answer(413), errors.TooLarge, {}),
        (an_answer(418), errors.InvalidRequest, {"status": 418}),
        (an_answer(429, retry_after="3"), errors.TooManyRequests, {"retry_after_s": 3}),
        (an_answer(500), errors.UnbrokenError, {"status": 500, "retry_after_s": None}),
        (an_answer(501), errors.UnbrokenError, {"status": 501}),
        (an_answer(502), errors.Unavailable, {"status": 502}),
        (an_answer(503, retry_after="x"), errors.Unavailable, {"retry_after_s": None}),
        (an_answer(504), errors.Unavailable, {"status": 504}),
        (
            an_answer(504, b'{"code": "timed-out"}', content_type="application/problem+json"),
            errors.Unavailable,
            {"status": 504},
        ),
        (
            an_answer(409, b'{"code": "stream-closed"}', content_type="application/problem+json"),
            errors.Conflict,
            {"status": 409},
        ),
        (an_answer(507), errors.StorageFull, {}),
        (an_answer(307, location="http://elsewhere/"), errors.ProtocolViolation, {"status": 307}),
        (an_answer(304), errors.ProtocolViolation, {}),
    ],
)
def test_errors_of_other_servers_go_by_status_and_headers(
    answer: Answer, kind: type[errors.UnbrokenError], facts: dict[str, object]
) -> None:
    found = answers.error_of(answer, NOW_S)
    assert type(found) is kind
    assert {name: getattr(found, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("content_type", "body", "detail"),
    [
        ("text/plain", b"Stream not found", "POST http://server/stream was answered 404: Stream not found"),
        ("text/plain; charset=utf-8", b"two\nlines", "POST http://server/stream was answered 404"),
        ("text/plain", b"x" * 301, "POST http://server/stream was answered 404"),
        ("text/html", b"<h1>Not found</h1>", "POST http://server/stream was answered 404"),
        ("application/problem+json", b'{"detail": "no stream"}', "no stream"),
        ("application/problem+json", b'{"detail": 7, "code": 8}', "POST http://server/stream was answered 404"),
        ("application/problem+json", b"[1]", "POST http://server/stream was answered 404"),
        ("application/problem+json", b"\xff", "POST http://server/stream was answered 404"),
        ("application/problem+json", b'{"code": "timed-out"}', "POST http://server/stream was answered 404"),
        ("application/problem+json", b'{"code": "stream-closed"}', "POST http://server/stream was answered 404"),
    ],
)
def test_what_is_said_to_people(content_type: str, body: bytes, detail: str) -> None:
    found = answers.error_of(an_answer(404, body, content_type=content_type), NOW_S)
    assert (type(found), str(found), found.detail) == (errors.StreamNotFound, detail, detail)


def test_an_answer_without_an_offset_is_of_no_server_of_the_protocol() -> None:
    with pytest.raises(errors.ProtocolViolation, match="without Stream-Next-Offset") as caught:
        answers.stream_info(an_answer(200, content_type="text/html"))
    assert caught.value.request == REQUEST


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("0", 0),
        ("9" * 5000, 999_999_999_999),
        (" 120 ", 120),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:13:10 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW_S) == seconds


def test_pauses_grow_to_a_limit_and_servers_are_not_asked_too_early() -> None:
    longest = Retry(base_s=0.5, cap_s=3.0, retry_after_max_s=60.0, chance=lambda: 1.0)
    assert [longest.pause_s(failures) for failures in (1, 2, 3, 4, 10_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert longest.pause_s(1, 20.0) == 20.5
    assert longest.pause_s(1, 9999.0) == 60.5
    pauses = {Retry().pause_s(5) for _ in range(20)}
    assert len(pauses) > 1
    assert all(0 <= pause <= 1.6 for pause in pauses)


def failure(
    kind: type[errors.UnbrokenError], status: int | None = None, code: str | None = None
) -> errors.UnbrokenError:
    error = kind()
    error.status = error.status if status is None else status
    error.code = error.code if code is None else code
    return error


@pytest.mark.parametrize(
    ("error", "passes", "nothing"),
    [
        (failure(errors.NotConnected), True, True),
        (failure(errors.ConnectionLost), True, False),
        (failure(errors.NoAnswer), True, False),
        (failure(errors.TooManyRequests), True, True),
        (failure(errors.Draining), True, True),
        (failure(errors.Overloaded), True, True),
        (failure(errors.OutcomeUnknown), True, False),
        (failure(errors.Unavailable), True, False),
        (failure(errors.Unavailable, 502), True, False),
        (failure(errors.UnbrokenError), True, False),
        (failure(errors.StorageFull), True, False),
        (failure(errors.TotalSizeExceeded), False, False),
        (failure(errors.RequestTimeout), True, False),
        (failure(errors.UnbrokenError, 501), False, False),
        (failure(errors.StreamNotFound), False, False),
        (failure(errors.Unauthorized), False, False),
        (failure(errors.Gone), False, False),
    ],
)
def test_what_is_worth_another_try(error: errors.UnbrokenError, passes: bool, nothing: bool) -> None:
    assert is_passing(error) is passes
    assert did_nothing(error) is nothing
    assert may_repeat(error, Repeat.FREELY) is passes
    assert may_repeat(error, Repeat.HARMLESSLY) is nothing
