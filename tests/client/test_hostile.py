"""Reading from servers and through proxies that misbehave, told byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.client.scripted import HOLD, Reached, Scripted, answer, control, data, events, page, scripted, tail
from unbroken import AsyncClient, errors
from unbroken.client import AsyncStream, Retry
from unbroken.client.reading import VIOLATIONS_MAX, Live

QUICK = Retry(base_s=0.001, cap_s=0.002)
END = control("9", closed=True)


@asynccontextmanager
async def a_stream(*answers: Any, **options: Any) -> AsyncIterator[tuple[AsyncStream, Scripted]]:
    async with scripted(*answers) as server, AsyncClient(server.url, retry=QUICK, **options) as client:
        yield client.stream("/a"), server


async def followed(*answers: Any, **options: Any) -> list[Any]:
    """The values of all messages that a follower gets."""
    async with a_stream(*answers) as (stream, _), stream.follow(**options) as messages:
        return [message.value async for message in messages]


async def queries(*answers: Any, **options: Any) -> list[dict[str, str]]:
    """What is asked for until the end comes."""
    async with a_stream(*answers) as (stream, server), stream.follow(**options) as messages:
        async for _ in messages:
            pass
        return server.params


async def failure(*answers: Any, **options: Any) -> errors.UnbrokenError:
    async with a_stream(*answers) as (stream, _), stream.follow(**options) as messages:
        with pytest.raises(errors.UnbrokenError) as caught:
            [message async for message in messages]
        return caught.value


CUT_PAGE = page(b"[1,2]", "2")[:-2]


async def test_catching_up_and_then_events() -> None:
    assert await queries(
        page(b"[1,2]", "2"),
        tail("3", b"[3]"),
        events(control("3"), data("[4]"), control("4"), END),
    ) == [{"offset": "-1"}, {"offset": "2"}, {"offset": "3", "live": "sse"}]


async def test_catching_up_and_then_polling() -> None:
    poll = {"live": "long-poll", "cursor": "5"}
    assert await queries(
        tail("2", b"ab", content_type="text/plain"),
        answer(204, stream_next_offset="2", stream_cursor="5"),
        page(b"c", "3", content_type="text/plain", stream_cursor="5"),
        answer(204, stream_next_offset="3", stream_closed="true"),
    ) == [{"offset": "-1"}, {"offset": "2", "live": "long-poll"}, {"offset": "2", **poll}, {"offset": "3", **poll}]


async def test_what_passes_is_asked_for_again_from_where_it_was() -> None:
    assert await queries(
        page(b"[1]", "1"),
        CUT_PAGE,
        answer(500),
        answer(502),
        answer(503, retry_after="0"),
        answer(429, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        page(b"not json", "2"),
        tail("2", b"[2]", stream_closed="true"),
    ) == [{"offset": "-1"}, *[{"offset": "1"}] * 9]


@pytest.mark.parametrize(
    ("event_stream", "again"),
    [
        pytest.param([control("1"), data("[2]")], "1", id="data without its control event"),
        pytest.param([control("1"), data("[2]"), control("2")[:-1]], "1", id="a control event that is cut"),
        pytest.param([control("1"), data("[2]")[:10]], "1", id="a data event that is cut"),
        pytest.param([control("1"), data("[2]"), control("2"), data("[3"), b""], "2", id="one of two"),
        pytest.param([control("1")], "1", id="nothing"),
        pytest.param([b": hello\n\n", control("1")], "1", id="a comment"),
        pytest.param([control("1"), b"event: news\ndata: x\n\n", control("1")], "1", id="another event"),
    ],
)
async def test_events_that_break_off(event_stream: list[bytes], again: str) -> None:
    rest = b"[%b]" % b",".join(b"%d" % number for number in range(int(again) + 1, 5))
    async with (
        a_stream(tail("1", b"[1]"), events(*event_stream), events(data(rest.decode()), control("4"), END)) as (
            stream,
            server,
        ),
        stream.follow() as messages,
    ):
        assert [message.value async for message in messages] == [1, 2, 3, 4]
        assert server.params[-1] == {"offset": again, "live": "sse", "cursor": "7"}


async def test_events_in_every_possible_cut() -> None:
    whole = data("[2]") + control("2") + data('["ü\\n"]') + control("3") + END
    for cut in range(1, len(whole), 7):
        assert await followed(tail("1", b"[1]"), events(control("1"), whole[:cut], whole[cut:])) == [1, 2, "ü\n"]


async def test_several_data_events_before_one_control_event() -> None:
    assert await followed(
        tail("0"), events(data("[1]"), data("[]"), data(" [2,\ndata: 3] "), control("3"), END), live="sse"
    ) == [1, 2, 3]


async def test_binary_events() -> None:
    binary = {"content_type": "application/octet-stream"}
    assert await followed(
        tail("1", b"\x00", **binary),
        events(data("/wA=\ndata:AQ=="[:4]), data("AQI="), control("4"), END, stream_sse_data_encoding="base64"),
        live="sse",
    ) == [b"\x00", b"\xff\x00\x01\x02"]


@pytest.mark.parametrize(
    "useless",
    [
        pytest.param(page(b"[]", "1"), id="no event stream"),
        pytest.param(answer(400), id="refused"),
        pytest.param(events(data("[2]"), b"event: control\ndata: nonsense\n\n"), id="nonsense"),
        pytest.param(events(data("[2"), control("2")), id="broken JSON"),
        pytest.param(events(data("?"), control("2"), stream_sse_data_encoding="base64"), id="broken base64"),
        pytest.param(events(b"data: " + b"x" * 1000), id="a line that does not end"),
        pytest.param(events((b"event: data\ndata: " + b"x" * 90 + b"\n\n") * 10), id="data without end"),
    ],
)
async def test_where_events_are_of_no_use_it_polls(useless: Any) -> None:
    options = {"body_bytes_max": 500}
    caught_up = tail("1")
    async with (
        a_stream(
            tail("1", b"[1]"),
            useless,
            caught_up if isinstance(useless, list) else page(b"[2]", "2"),
            tail("2", b"[2]", stream_closed="true")
            if isinstance(useless, list)
            else answer(204, stream_next_offset="2", stream_closed="true"),
            **options,
        ) as (stream, server),
        stream.follow() as messages,
    ):
        assert [message.value async for message in messages] == [1, 2]
        assert server.params[-1]["live"] == "long-poll"


async def test_events_do_not_begin_inside_a_character() -> None:
    """Servers mend characters that come in two appends, but not for a reader who has the first half already."""
    text = {"content_type": "text/plain"}
    answers = (
        tail("5", b"caf\xc3", **text),
        tail("7", b"\xa9!", **text),
        events(control("7"), data("!"), control("8"), END),
    )
    assert b"".join(await followed(*answers, live="sse")).decode() == "café!!"
    asked = await queries(*answers, live="sse")
    assert [query.get("live") for query in asked] == [None, "long-poll", "sse"]


async def test_event_streams_that_end_at_once_three_times() -> None:
    short = events(control("1"))
    asked = await queries(
        tail("1", b"[1]"), short, short, short, answer(204, stream_next_offset="1", stream_closed="true")
    )
    assert [query.get("live") for query in asked] == [None, "sse", "sse", "sse", "long-poll"]


async def test_a_proxy_that_holds_events_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.client._async.reader.SSE_START_S", 0.3)
    for held in ([HOLD], [*events(), HOLD]):
        asked = await queries(tail("1", b"[1]"), held, answer(204, stream_next_offset="1", stream_closed="true"))
        assert [query.get("live") for query in asked] == [None, "sse", "long-poll"]


async def test_silence_is_death() -> None:
    async with (
        a_stream(
            tail("1", b"[1]"),
            [*events(control("1"), data("[2]"), control("2")), HOLD],
            tail("2"),
            [*events(control("2")), HOLD],
            tail("3", b"[3]", stream_closed="true"),
        ) as (stream, server),
        stream.follow(silence_s=0.4) as messages,
    ):
        assert [message.value async for message in messages] == [1, 2, 3]
        assert [query["offset"] for query in server.params] == ["-1", "1", "2", "2", "2"]


async def test_a_poll_that_is_never_answered() -> None:
    text = {"content_type": "text/plain"}
    asked = await queries(tail("1", b"a", **text), [HOLD], tail("1", b"", stream_closed="true", **text), silence_s=0.4)
    assert [query.get("live") for query in asked] == [None, "long-poll", None]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_what_is_final(status: int) -> None:
    error = await failure(page(b"[1]", "1"), answer(status))
    assert (error.status, error.offset) == (status, "1")
    assert error.request is not None
    assert error.request.method == "GET"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(answer(200, b"<html>", content_type="text/html"), id="another site"),
        pytest.param(page(b"[1", "2"), id="broken JSON"),
        pytest.param(page(b'{"a":1}', "2"), id="no array"),
        pytest.param(page(b"[1]", "2", content_encoding="gzip"), id="not compressed"),
    ],
)
async def test_a_broken_server_is_not_asked_for_ever(bad: bytes) -> None:
    assert isinstance(await failure(page(b"[1]", "1"), *[bad] * VIOLATIONS_MAX), errors.ProtocolViolation)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (page(b"[2]", "1"), errors.OffsetLoop),
        (page(b"[2]", "0"), errors.OffsetLoop),
        (answer(307, location="http://elsewhere/"), errors.ProtocolViolation),
    ],
)
async def test_it_does_not_go_in_circles(bad: bytes, kind: type[errors.UnbrokenError]) -> None:
    error = await failure(page(b"[1]", "1"), bad)
    assert type(error) is kind
    assert error.offset == "1"


async def test_events_that_go_in_circles() -> None:
    error = await failure(tail("1", b"[1]"), events(data("[2]"), control("1")))
    assert isinstance(error, errors.OffsetLoop)


async def test_an_answer_without_end() -> None:
    async with a_stream(page(b"[1]" * 100, "1"), body_bytes_max=200) as (stream, _):
        with pytest.raises(errors.AnswerTooLarge):
            await stream.read()


async def test_a_compressed_page() -> None:
    body = gzip.compress(b"[1,2]")
    assert await followed(tail("2", body, content_encoding="gzip", stream_closed="true")) == [1, 2]


async def test_a_server_that_says_nothing_of_being_up_to_date() -> None:
    assert await followed(page(b"[1]", "1"), page(b"[]", "1"), live=False) == [1]


async def test_a_hot_loop_is_cooled() -> None:
    """A cache answers polls at once, again and again, with nothing."""
    text = {"content_type": "text/plain"}
    polls = [answer(204, stream_next_offset="1")] * 1000
    pauses = Retry(base_s=0.01, cap_s=0.1, chance=lambda: 1.0)
    async with scripted(tail("1", b"a", **text), *polls) as server, AsyncClient(server.url, retry=pauses) as client:
        async with client.stream("/a").follow(total_timeout_s=0.5) as messages:
            with pytest.raises(errors.TimedOut):
                [message async for message in messages]
        assert len(server.asked) < 15
        server.answers.clear()


async def test_text_is_never_cut_inside_a_character() -> None:
    whole = "aß€😀z".encode()
    for first in range(len(whole) + 1):
        for second in range(first, len(whole) + 1):
            text = {"content_type": "text/plain"}
            pages = [
                page(whole[:first], "1", **text),
                page(whole[first:second], "2", **text),
                tail("3", whole[second:], stream_closed="true", **text),
            ]
            async with a_stream(*pages) as (stream, _), stream.follow() as messages:
                seen = [message async for message in messages]
            assert b"".join(message.data for message in seen) == whole
            assert "".join(message.text for message in seen) == whole.decode()
            assert seen[-1].position == ("3" if second < len(whole) else "2" if first < second else "1", 0)
            if seen[0].position.offset == "-1":  # a part of the first page was held back
                assert whole[: seen[0].position.skip] == seen[0].data
                async with a_stream(*pages) as (stream, _):
                    assert await stream.read(seen[0].position) == whole[len(seen[0].data) :]


LAST_PAGE = tail("1", b"[7]", stream_closed="true")
LAST_EVENTS = events(data("[7]"), control("1", closed=True))


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize(
    ("live", "held", "rest"),
    [
        pytest.param("auto", [[HOLD]], LAST_PAGE, id="a page"),
        pytest.param("long-poll", [tail("0"), [HOLD]], LAST_PAGE, id="a poll"),
        pytest.param("sse", [tail("0"), [HOLD]], LAST_EVENTS, id="events that do not begin"),
        pytest.param("sse", [tail("0"), [*events(), HOLD]], LAST_EVENTS, id="no events"),
        pytest.param("sse", [tail("0"), [*events(control("0")), HOLD]], LAST_EVENTS, id="no data"),
        pytest.param("auto", [answer(503, retry_after="1")], LAST_PAGE, id="busy"),
    ],
)
async def test_time_limits(total: bool, live: Live, held: list[Any], rest: Any) -> None:
    """Each time-out is told, and then it can be asked again, as often as it takes."""
    limits: dict[str, Any] = {"total_timeout_s" if total else "item_timeout_s": 0.2}
    async with a_stream(*held) as (stream, server), stream.follow(live=live, **limits) as messages:
        with pytest.raises(errors.TimedOut):
            [message async for message in messages]
        if total:
            server.answers.clear()
        else:
            server.answers.append(rest if isinstance(rest, list) else [rest])
            seen: list[int] = []
            while not seen:
                with contextlib.suppress(errors.TimedOut):
                    seen = [message.value async for message in messages]
            assert seen == [7]


async def test_giving_up_after_a_time() -> None:
    async with a_stream(*[answer(503)] * 100) as (stream, server):
        async with stream.follow(give_up_after_s=0.1) as messages:
            with pytest.raises(errors.Unavailable):
                [message async for message in messages]
        server.answers.clear()


async def test_a_cancelled_reader_leaves_nothing() -> None:
    async def read(stream: AsyncStream) -> None:
        async with stream.follow() as messages:
            async for _ in messages:
                pass

    before = asyncio.all_tasks()
    for held in ([HOLD], [*events(control("1")), HOLD], [*events(control("1"), data("[1")), HOLD]):
        async with a_stream(tail("1", b"[1]"), [*held[:-1], reached := Reached(), HOLD]) as (stream, _):
            task = asyncio.create_task(read(stream))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert asyncio.all_tasks() <= before
