"""What goes out with requests, and which of them are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.client.scripted import HOLD, Reached, Scripted, answer, scripted, tail
from unbroken import AsyncClient, errors
from unbroken.client import AsyncStream, Retry
from unbroken.client.options import join_url, plain_url

QUICK = Retry(base_s=0.001, cap_s=0.002)
DONE = answer(204, stream_next_offset="9")
INFO = answer(200, content_type="text/plain", stream_next_offset="0")


@asynccontextmanager
async def a_stream(*answers: Any, **options: Any) -> AsyncIterator[tuple[AsyncStream, Scripted]]:
    async with scripted(*answers) as server, AsyncClient(server.url, **{"retry": QUICK, **options}) as client:
        yield client.stream("/a"), server


def problem(status: int, code: str) -> bytes:
    return answer(status, b'{"code":"%b"}' % code.encode(), content_type="application/problem+json")


async def pieces() -> AsyncIterator[str]:
    yield "x"


async def test_a_token_is_asked_for_again_when_it_is_refused() -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"token-{len(given)}")
        return given[-1]

    async with a_stream(INFO, INFO, answer(401), INFO, INFO, answer(401), answer(401), token=token) as (stream, server):
        for _ in range(4):
            await stream.head()
        with pytest.raises(errors.Unauthorized):
            await stream.head()
        sent = [asked.headers["authorization"] for asked in server.asked]
        assert sent == [f"Bearer token-{number}" for number in (0, 0, 0, 1, 1, 1, 2)]


async def test_a_token_that_cannot_change_is_sent_once() -> None:
    async with a_stream(answer(401), token="secret") as (stream, server):
        with pytest.raises(errors.Unauthorized) as caught:
            await stream.head()
        assert "secret" not in f"{caught.value} {caught.value.request}"
        assert len(server.asked) == 1
    same = {"token": lambda: "secret"}
    async with a_stream(answer(401), **same) as (stream, server):
        with pytest.raises(errors.Unauthorized):
            await stream.head()
        assert len(server.asked) == 1


async def test_headers_and_parameters_of_each_request() -> None:
    calls: list[int] = []

    def headers() -> dict[str, str]:
        calls.append(1)
        return {"x-call": str(len(calls))}

    async def params() -> dict[str, str]:
        return {"tenant": "ü"}

    async with a_stream(tail("1"), tail("1"), headers=headers, params=params) as (stream, server):
        await stream.read()
        await stream.read("1")
        assert [asked.headers["x-call"] for asked in server.asked] == ["1", "2"]
        assert server.params == [{"tenant": "ü", "offset": "-1"}, {"tenant": "ü", "offset": "1"}]


@pytest.mark.parametrize(
    ("base", "url", "joined"),
    [
        ("http://h", "/a", "http://h/a"),
        ("http://h/", "a", "http://h/a"),
        ("http://h/v1/", "/a/b", "http://h/v1/a/b"),
        ("http://h", "//a", "http://h//a"),
        ("http://h", "http://other/a", "http://other/a"),
        ("", "/a", "/a"),
        ("http://h?key=1", "/a", "http://h/a?key=1"),
        ("http://h/x?key=1", "/a?b=2", "http://h/x/a?b=2&key=1"),
    ],
)
def test_urls_of_streams(base: str, url: str, joined: str) -> None:
    assert join_url(base, url) == joined


def test_what_errors_tell_of_a_url() -> None:
    assert plain_url("https://user:secret@host:1/a/b?token=secret#x") == "https://host:1/a/b"
    assert plain_url("/a?x") == "/a"


async def test_a_query_in_the_url_stays() -> None:
    async with scripted(tail("1")) as server, AsyncClient() as client:
        stream = client.stream(f"{server.url}/a?key=1")
        assert repr(stream) == f"AsyncStream('{server.url}/a')"
        await stream.read()
        assert server.params == [{"key": "1", "offset": "-1"}]


@pytest.mark.parametrize("url", ["/a", "ftp://h/a", "http://h:port/a"])
async def test_what_is_no_url(url: str) -> None:
    async with AsyncClient() as client:
        with pytest.raises(errors.InvalidRequest):
            await client.stream(url).head()


async def test_a_client_of_ones_own() -> None:
    async with scripted(INFO) as server, httpx2.AsyncClient(base_url=server.url, headers={"x-mine": "1"}) as http:
        async with AsyncClient(http=http) as client:
            await client.stream("/a").head()
            await client.close()
        assert not http.is_closed
        assert server.asked[0].headers["x-mine"] == "1"
    with pytest.raises(ValueError, match="either"):
        AsyncClient(http=http, transport=httpx2.AsyncHTTPTransport())
    with pytest.raises(ValueError, match="above 0"):
        AsyncClient(timeout_s=0)


REFUSED = [answer(429, retry_after="0"), problem(503, "overloaded"), problem(503, "draining")]
LOST = [b"", answer(500), answer(502), answer(503), answer(504), answer(408), DONE[:20]]


async def test_what_was_refused_is_sent_again() -> None:
    async with a_stream(INFO, *REFUSED, DONE) as (stream, server):
        done = await stream.append("x")
        assert done.next_offset == "9"
        assert [asked.body for asked in server.asked[1:]] == [b"x"] * 4


@pytest.mark.parametrize("lost", [*LOST, problem(503, "outcome-unknown")])
async def test_what_may_have_been_done_is_not_done_again(lost: bytes) -> None:
    async with a_stream(INFO, lost) as (stream, _):
        with pytest.raises(errors.UnbrokenError) as caught:
            await stream.append("x")
        assert caught.value.request is not None
        assert caught.value.request.sent
    async with a_stream(lost) as (stream, _):
        with pytest.raises(errors.UnbrokenError):
            await stream.create()


async def test_what_a_server_recognises_is_sent_again() -> None:
    created = answer(201, stream_next_offset="0")
    for call, success in (
        (AsyncStream.ensure, created),
        (AsyncStream.head, INFO),
        (AsyncStream.close, DONE),
        (AsyncStream.delete, DONE),
        (AsyncStream.read, tail("1")),
    ):
        async with a_stream(*LOST, success) as (stream, _):
            await call(stream)
    async with a_stream(*LOST, created) as (stream, server):
        await stream.fork("/b", offset="5,2")
        assert server.asked[-1].headers["stream-forked-from"] == "/a"
        assert server.asked[-1].headers["stream-fork-sub-offset"] == "2"


async def test_a_number_makes_an_append_safe_to_repeat() -> None:
    async with a_stream(INFO, *LOST, DONE) as (stream, _):
        await stream.append("x", seq="1")
    async with a_stream(INFO, b"", problem(409, "sequence-regression")) as (stream, _):
        with pytest.raises(errors.OutcomeUnknown, match="may have been accepted"):
            await stream.append("x", seq="1")
    async with a_stream(INFO, answer(429), problem(409, "sequence-regression")) as (stream, _):
        with pytest.raises(errors.SequenceRegression):
            await stream.append("x", seq="1")


async def test_deleting_twice_is_deleting() -> None:
    async with a_stream(b"", answer(404)) as (stream, _):
        await stream.delete()
    async with a_stream(answer(429), answer(404)) as (stream, _):
        with pytest.raises(errors.StreamNotFound):
            await stream.delete()


async def test_an_iterator_is_sent_once() -> None:
    async with a_stream(INFO, answer(429)) as (stream, _):
        with pytest.raises(errors.TooManyRequests):
            await stream.append(pieces())
    async with a_stream(INFO, answer(401), token=lambda: "other") as (stream, _):
        with pytest.raises(errors.Unauthorized):
            await stream.append(pieces())


async def test_an_iterator_that_was_not_begun_can_wait_for_a_connection() -> None:
    async with AsyncClient("http://127.0.0.1:1", retry=Retry(base_s=0.001, give_up_after_s=0.02)) as client:
        stream = client.stream("/a")
        stream._content_type = "text/plain"
        body = pieces()
        with pytest.raises(errors.NotConnected) as caught:
            await stream.append(body)
        assert caught.value.request is not None
        assert not caught.value.request.sent
        assert [piece async for piece in body] == ["x"]


async def test_giving_up_after_a_time() -> None:
    async with a_stream(*[answer(503)] * 50, retry=Retry(base_s=0.01, give_up_after_s=0.5)) as (stream, server):
        with pytest.raises(errors.Unavailable):
            await stream.head()
        assert len(server.asked) > 1
        server.answers.clear()
    async with a_stream(answer(503), retry=Retry(give_up_after_s=0)) as (stream, _):
        with pytest.raises(errors.Unavailable):
            await stream.head()


async def test_a_server_that_does_not_answer() -> None:
    async with a_stream([HOLD], timeout_s=0.4, retry=Retry(give_up_after_s=0)) as (stream, _):
        with pytest.raises(errors.NoAnswer):
            await stream.head()
    async with a_stream([tail("1")[:-1], HOLD], timeout_s=0.4, retry=Retry(give_up_after_s=0)) as (stream, _):
        with pytest.raises(errors.NoAnswer):
            await stream.read()


async def test_duplicates_and_offsets_that_are_not_told() -> None:
    async with a_stream(INFO, answer(204)) as (stream, _):
        assert (await stream.append("x")).next_offset == ""


async def test_a_cancelled_request_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    async with a_stream(INFO, [reached := Reached(), HOLD]) as (stream, _):
        task = asyncio.create_task(stream.append("x"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert asyncio.all_tasks() <= before
