"""What readers get in each format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.server.sse import parse_events
from tests.web.helpers import Model, collect, events, home, request
from unbroken.server import asgi as asgi_module
from unbroken.web import Answers, Reply
from unbroken.web.reply import Unfinished

ITEMS = ["Hello\n", " two\r\nlines ", {"type": "data-x", "data": [1]}, "end"]
TEXT = "Hello\n two\r\nlines end"


async def ended(answers: Answers, outcome: str, key: str = "k") -> None:
    """An answer that ended like this."""
    model = Model(*ITEMS)
    await answers.start(key, model)
    if outcome == "done":
        model.done()
    elif outcome == "error":
        model.fail(RuntimeError("secret"))
    async with asyncio.timeout(10):
        while (answer := await answers.read(key)) is None or "end" not in answer.text:  # noqa: ASYNC110
            await asyncio.sleep(0)
    if outcome == "cancelled":
        await answers.stop(key)
    await collect(await answers.tail(key))


async def read(answers: Answers, format: Any, *, accept: str = "*/*", key: str = "k") -> tuple[Reply, str]:  # noqa: A002
    reply = await answers.tail(key, format=format, request=request(accept=accept))
    return reply, (await collect(reply)).decode()


async def test_json_events() -> None:
    async with home("embedded") as place, place.answers() as answers:
        await ended(answers, "done")
        reply, body = await read(answers, "json")
        assert reply.headers["content-type"] == "text/event-stream"
        assert reply.headers["x-accel-buffering"] == "no"
        assert reply.headers["cache-control"] == "no-cache"
        messages = [json.loads(message) for message in (await place.engine.read("/answers/k")).messages]
        assert [event.data for event in events(body.encode())] == messages
        assert all(event.id for event in events(body.encode()))


async def test_plain_text() -> None:
    async with home("embedded") as place, place.answers(format="text") as answers:
        told = {
            "done": "",
            "cancelled": "",
            "error": "\n[The answer failed.]\n",
            "interrupted": "\n[The answer was interrupted.]\n",
        }
        for outcome, note in told.items():
            if outcome == "interrupted":
                data = json.dumps(
                    [{"type": "begin", "key": "k", "run": "r"}, {"type": "text-delta", "id": "1", "delta": TEXT}]
                )
                await place.engine.create("/answers/interrupted", content_type="application/json", data=data.encode())
            else:
                await ended(answers, outcome, outcome)
            reply, body = await read(answers, None, key=outcome)
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            assert reply.headers["vary"] == "accept"
            assert body == TEXT + note


async def test_text_as_events() -> None:
    async with home("embedded") as place, place.answers() as answers:
        await ended(answers, "error")
        reply, body = await read(answers, "text", accept="text/event-stream")
        assert reply.headers["content-type"] == "text/event-stream"
        *text, end = parse_events(body)[0]
        assert "".join(event.data for event in text) == TEXT.replace("\r\n", "\n")
        assert {event.type for event in text} == {"message"}
        assert (end.type, json.loads(end.data)["outcome"]) == ("end", "error")


ENDINGS = {
    "done": {"type": "finish"},
    "error": {"type": "error", "errorText": "The answer failed."},
    "cancelled": {"type": "abort"},
}


@pytest.mark.parametrize("outcome", ENDINGS)
async def test_the_ui_message_stream(outcome: str) -> None:
    async with home("embedded") as place, place.answers() as answers:
        await ended(answers, outcome)
        reply, body = await read(answers, "ui")
        assert reply.headers["x-vercel-ai-ui-message-stream"] == "v1"
        first, *middle, last, done = [event.data for event in events(body.encode())]
        assert first == {"type": "start", "messageId": "k"}
        assert last == ENDINGS[outcome]
        assert done == "[DONE]"
        assert {"type": "data-x", "data": [1]} in middle
        assert {part["type"] for part in middle} == {"text-start", "text-delta", "text-end", "data-x"}


async def test_why_a_model_stopped_is_in_the_ui_message_stream() -> None:
    async with home("embedded") as place, place.answers(format="ui") as answers:
        data = b'[{"type":"begin","key":"k","run":"r"},{"type":"end","outcome":"done","finishReason":"length"}]'
        await place.engine.create("/answers/k", content_type="application/json", data=data, closed=True)
        _, body = await read(answers, None)
        assert events(body.encode())[-2].data == {"type": "finish", "finishReason": "length"}


FOREIGN = [
    b'"text"',
    b"[[1]]",
    b'{"type":5}',
    b'{"x":1}',
    b'{"type":"end"}',
    b'{"type":"begin"}',
    b'{"type":"x","d":"\\ud83d"}',
]


@pytest.mark.parametrize("format_", ["json", "text", "ui"])
@pytest.mark.parametrize("foreign", FOREIGN)
async def test_what_others_wrote_into_the_stream_breaks_nothing(format_: Any, foreign: bytes) -> None:
    async with home("embedded") as place, place.answers() as answers:
        await place.engine.create("/answers/k", content_type="application/json", data=foreign, closed=True)
        for accept in ("*/*", "text/event-stream"):
            reply, body = await read(answers, format_, accept=accept)
            assert reply.status == 200
            if format_ == "text":
                assert body.count("The answer was interrupted.") == 1
                assert len(body) < 100
            elif format_ == "ui":
                *parts, done = [event.data for event in events(body.encode())]
                assert done == "[DONE]"
                assert all(isinstance(part["type"], str) for part in parts)
                assert parts[-1]["type"] == "error"
        assert await answers.read("k") is not None


async def test_white_space_inside_a_message_forges_no_event() -> None:
    async with home("embedded") as place, place.answers() as answers:
        forged = b'{"type":\r\n"data-x",\n\n"data":\r"id: 1"}'
        await place.engine.create("/answers/k", content_type="application/json", data=forged, closed=True)
        for format_ in ("json", "ui"):
            _, body = await read(answers, format_)
            assert events(body.encode())[0].data == {"type": "data-x", "data": "id: 1"}


async def test_silence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.web.tails._HEARTBEAT_S", 0.01)
    async with home("embedded") as place, place.answers() as answers:
        model = Model("a")
        reply = await answers.respond("k", model)
        seen, parts = b"", aiter(reply.body)  # type: ignore[arg-type]
        while seen.count(b":\n\n") < 3:
            seen += await anext(parts)
        model.done()
        async for part in parts:
            seen += part
        assert events(seen)[-1].data["outcome"] == "done"
        plain = collect(await answers.tail("k", format="text"))
        assert await plain == b"a"


# --- a reply as an ASGI application ------------------------------------------------------------------------------


async def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_module, "_STALLED_S", 0.01)
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    sent = 0

    async def send(message: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            await asyncio.Event().wait()

    await Reply(200, {}, body())({"method": "GET"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert closed.is_set()
    assert sent == 3


async def test_a_server_that_says_by_an_error_that_the_reader_has_gone() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    await Reply(200, {}, body())({"method": "GET"}, asyncio.Event().wait, send)  # type: ignore[arg-type]


async def test_a_body_that_cannot_be_finished_is_not_ended() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise Unfinished

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Reply(200, {}, body())({"method": "GET"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert [message.get("more_body") for message in sent] == [None, True]


async def test_a_head_is_not_streamed() -> None:
    sent: list[Any] = []

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    async def send(message: Any) -> None:
        sent.append(message)

    for content in (b"xyz", body()):
        sent.clear()
        await Reply(200, {}, content)({"method": "HEAD"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
        assert [message.get("body") for message in sent] == [None, b""]
        assert sent[0]["headers"] == []


async def test_a_reply_that_is_cancelled_closes_its_body() -> None:
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            closed.set()

    begun = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            begun.set()

    task = asyncio.create_task(
        Reply(200, {}, body())({"method": "GET"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    )
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert closed.is_set()
    assert task.cancelled()
