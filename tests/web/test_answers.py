"""What a reader, a writer and a stop see of an answer, on an engine in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.web.helpers import KINDS, Model, collect, events, home, open_tasks, request, text_of, until
from unbroken.engine import Engine
from unbroken.store.memory import MemoryStore
from unbroken.web import AnswerFailed, Answers


@KINDS
async def test_an_answer_is_started_streamed_and_closed_with_its_outcome(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("Once ", "upon ", "a time", done=True)
        body = await collect(await answers.respond("story/1", model))
        seen = events(body)
        assert seen[0].data["type"] == "begin"
        assert seen[0].data["key"] == "story/1"
        assert text_of(body) == "Once upon a time"
        assert [event.data["type"] for event in seen if event.data["type"] != "text-delta"] == [
            "begin",
            "text-start",
            "text-end",
            "end",
        ]
        assert seen[-1].data == {"type": "end", "outcome": "done"}
        state = place.engine.head("/answers/story/1")
        assert state.closed
        assert seen[-1].id == str(state.tail_offset)
        assert model.ended.is_set()
    assert open_tasks() == []


@KINDS
async def test_the_same_key_joins_and_does_not_start_again(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("one")
        replies = await asyncio.gather(*(answers.respond("k", model) for _ in range(5)))
        model.say(" two")
        model.done()
        bodies = await asyncio.gather(*map(collect, replies))
        assert {text_of(body) for body in bodies} == {"one two"}
        again = await collect(await answers.respond("k", model))
        assert text_of(again) == "one two"
        assert model.begun == 1
        assert not await answers.start("k", model)


@KINDS
async def test_the_run_does_not_depend_on_its_reader(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("one")
        reply = await answers.respond("k", model)
        body = aiter(reply.body)  # type: ignore[arg-type]
        assert b"begin" in await anext(body)
        await body.aclose()  # type: ignore[attr-defined]
        model.say(" two")
        model.done()
        assert text_of(await collect(await answers.tail("k"))) == "one two"


@KINDS
async def test_a_cancelled_request_does_not_half_begin(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("one", done=True)
        asking = asyncio.create_task(answers.start("k", model))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert text_of(await collect(await answers.respond("k", model))) == "one"
        assert model.begun == 1


@pytest.mark.parametrize("how", ["header", "query"])
@KINDS
async def test_readers_resume_between_any_two_messages(kind: str, how: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        whole = events(
            await collect(await answers.respond("k", Model("a", "b", {"type": "data-x", "data": 1}, "c", done=True)))
        )
        for number, event in enumerate(whole):
            asked = request(last_event_id=event.id) if how == "header" else request(f"offset={event.id}")
            reply = await answers.tail("k", request=asked)
            if event is whole[-1]:
                assert reply.status == 204
            else:
                assert events(await collect(reply)) == whole[number + 1 :]


@KINDS
async def test_a_failing_model_shows_in_the_stream_but_not_its_secrets(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("half an ans")
        model.fail(RuntimeError("key sk-secret refused"))
        body = await collect(await answers.respond("k", model))
        assert text_of(body) == "half an ans"
        assert events(body)[-1].data == {"type": "end", "outcome": "error", "error": "The answer failed."}
        assert b"sk-secret" not in body
        assert "sk-secret" in caplog.text


@KINDS
async def test_what_readers_are_told_of_an_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: Exception) -> str:
        raise ValueError

    cases: list[tuple[dict[str, Any], Exception, str]] = [
        ({}, AnswerFailed("The quota is used up."), "The quota is used up."),
        ({"error_text": lambda error: f"It was {error}."}, KeyError("x"), "It was 'x'."),
        ({"error_text": broken}, KeyError("x"), "The answer failed."),
    ]
    for number, (options, error, told) in enumerate(cases):
        async with home(kind) as place, place.answers(**options) as answers:
            model = Model()
            model.fail(error)
            assert events(await collect(await answers.respond(str(number), model)))[-1].data["error"] == told
    assert "error_text failed" in caplog.text


BAD_SOURCES: dict[str, Any] = {
    "nothing": lambda: None,
    "a list": lambda: ["a"],
    "raises": lambda: 1 / 0,
    "an object": [object()],
    "a number": [5],
    "no type": [{"text": "x"}],
    "an end": [{"type": "end", "outcome": "done"}],
    "not JSON": [{"type": "data-x", "data": object()}],
    "half a character": [{"type": "text-delta", "id": "1", "delta": "\ud83d"}],
}


@pytest.mark.parametrize("name", BAD_SOURCES)
@KINDS
async def test_a_source_that_is_none_ends_with_an_error(kind: str, name: str) -> None:
    source = BAD_SOURCES[name]
    if isinstance(source, list):
        source = Model(*source, done=True)
    async with home(kind) as place, place.answers() as answers:
        body = await collect(await answers.respond("k", source))
        assert [event.data["type"] for event in events(body)] == ["begin", "end"]
        assert events(body)[-1].data["outcome"] == "error"


@KINDS
async def test_a_stop_ends_the_run_for_all_readers_and_keeps_the_text(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("so far")
        one, two = await answers.respond("k", model), await answers.tail("k")
        readers = asyncio.gather(collect(one), collect(two))
        await place.written("k", "so far")
        assert await answers.stop("k")
        for body in await readers:
            assert text_of(body) == "so far"
            assert [event.data["type"] for event in events(body)][-2:] == ["text-end", "end"]
            assert events(body)[-1].data["outcome"] == "cancelled"
        assert model.ended.is_set()
        assert not await answers.stop("k")
        assert not await answers.stop("another")


@KINDS
async def test_a_stop_does_not_wait_for_a_source_that_is_slow_to_clean_up(kind: str) -> None:
    release = asyncio.Event()

    async def unwilling() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async with home(kind) as place, place.answers() as answers:
        reading = asyncio.create_task(collect(await answers.respond("k", unwilling)))
        await place.written("k", "text-delta")
        assert await answers.stop("k")
        assert events(await reading)[-1].data["outcome"] == "cancelled"
        assert len(open_tasks()) == 1
        release.set()
    assert open_tasks() == []


@KINDS
async def test_a_source_that_cancels_itself_is_an_error(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("a")
        model.fail(asyncio.CancelledError())
        assert events(await collect(await answers.respond("k", model)))[-1].data["outcome"] == "error"


@KINDS
async def test_resume_finds_what_runs(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        assert (await answers.resume("k")).status == 204
        assert (await answers.resume(thread="chat")).status == 204
        first, second = Model("one", done=True), Model("two")
        await collect(await answers.respond("k1", first, thread="chat"))
        assert (await answers.resume(thread="chat")).status == 204
        await answers.respond("k2", second, thread="chat")
        assert await answers.latest("chat") == "k2"
        await answers.respond("k1", first, thread="chat")  # a repetition does not make it the latest
        reply = await answers.resume(thread="chat")
        assert reply.status == 200
        reading = asyncio.create_task(collect(reply))
        assert await answers.stop(thread="chat")
        seen = events(await reading)
        assert seen[0].data["key"] == "k2"
        assert (await answers.resume(thread="chat")).status == 204
        # A reader that was under way gets the rest, and then is told that it has it all.
        rest = await answers.resume(thread="chat", request=request(last_event_id=seen[0].id))
        assert [event.data for event in events(await collect(rest))] == [event.data for event in seen[1:]]
        assert (await answers.resume(thread="chat", request=request(last_event_id=seen[-1].id))).status == 204


@KINDS
async def test_an_answer_can_be_read_whole_and_deleted(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        assert await answers.read("k") is None
        model = Model("one ", {"type": "data-weather", "data": {"t": 20}}, "two")
        await answers.start("k", model)
        await place.written("k", "two")
        answer = await answers.read("k")
        assert answer is not None
        assert (answer.text, answer.outcome) == ("one two", None)
        model.done()
        await collect(await answers.tail("k"))
        answer = await answers.read("k")
        assert answer is not None
        assert (answer.text, answer.outcome) == ("one two", "done")
        assert {"type": "data-weather", "data": {"t": 20}} in answer.parts
        assert await answers.delete("k")
        assert not await answers.delete("k")
        assert await answers.read("k") is None
        assert (await answers.tail("k")).status == 404


@KINDS
async def test_deleting_stops_it_first(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model("one")
        await answers.start("k", model)
        assert await answers.delete("k")
        await model.ended.wait()


BAD_KEYS = ["", "/", "a//b", "/a", "a/", "../a", "a/../b", ".", "a b", "a\n", "a?b", "a#b", "a%2fb", "ä", "x" * 600]


@pytest.mark.parametrize("key", BAD_KEYS)
@KINDS
async def test_bad_keys_are_refused(kind: str, key: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model()
        for reply in (
            await answers.respond(key, model),
            await answers.respond("k", model, thread=key),
            await answers.tail(key),
            await answers.resume(thread=key),
        ):
            assert reply.status == 400
            assert json.loads(reply.body)["code"] == "invalid-path"  # type: ignore[arg-type]
        assert model.begun == 0
        assert place.engine.streams() == []


@pytest.mark.parametrize(
    "offset", ["x", "-2", "0000000000000001_0000000000000003", "9999999999999999_0000000000000001"]
)
@KINDS
async def test_bad_offsets_are_refused(kind: str, offset: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        await collect(await answers.respond("k", Model("a", done=True)))
        reply = await answers.tail("k", request=request(last_event_id=offset))
        assert reply.status in (400, 410)


@KINDS
async def test_limits(kind: str) -> None:
    async with home(kind) as place, place.answers(max_bytes=1000, max_running=2) as answers:
        endless = Model(*["0123456789"] * 1000)
        body = await collect(await answers.respond("long", endless))
        assert events(body)[-1].data == {"type": "end", "outcome": "error", "error": "The answer is too long."}
        assert 900 <= len(text_of(body)) <= 1100
        assert await answers.start("1", Model())
        assert await answers.start("2", Model())
        refused = await answers.respond("3", Model())
        assert (refused.status, json.loads(refused.body)["code"]) == (503, "overloaded")  # type: ignore[arg-type]
        assert (await answers.respond("2", Model())).status == 200
    async with home(kind) as place, place.answers(max_runtime_s=0.01) as answers:
        body = await collect(await answers.respond("slow", Model("a")))
        assert events(body)[-1].data["error"] == "The answer took too long."


@KINDS
async def test_a_timeout_of_the_source_is_not_ours(kind: str) -> None:
    async with home(kind) as place, place.answers() as answers:
        model = Model()
        model.fail(TimeoutError())
        assert events(await collect(await answers.respond("k", model)))[-1].data["error"] == "The answer failed."


@KINDS
async def test_a_writer_that_is_slow_holds_up_the_source(kind: str) -> None:
    """Nothing piles up in memory when the store is slow."""
    taken = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "x" * 10_000

    async with home(kind) as place, place.answers(linger_s=3600.0, max_bytes=1 << 40) as answers:
        await answers.start("k", endless)
        await until(lambda: taken > 1)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert taken < 100
        await answers.stop("k")


@KINDS
async def test_small_parts_are_joined_but_the_first_is_not_held_up(kind: str) -> None:
    async with home(kind) as place, place.answers(linger_s=3600.0) as answers:
        model = Model("first")
        body = aiter((await answers.respond("k", model)).body)  # type: ignore[arg-type]
        seen = b""
        while b"first" not in seen:
            seen += await anext(body)
        model.say(*"many small parts")
        model.done()
        async for part in body:
            seen += part
        deltas = [event.data["delta"] for event in events(seen) if event.data["type"] == "text-delta"]
        assert deltas == ["first", "many small parts"]


@KINDS
async def test_the_end_of_the_process_gives_grace_and_then_interrupts(kind: str) -> None:
    quick, slow = Model("quick"), Model("slow")
    async with home(kind) as place, place.answers(grace_s=3600.0) as answers:
        reply = await answers.respond("quick", quick)
        answers._begin_drain()
        refused = await answers.respond("new", quick)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert (await answers.respond("quick", quick)).status == 200
        quick.say(" and done")
        quick.done()
        assert text_of(await collect(reply)) == "quick and done"
    async with home(kind) as place:
        async with place.answers() as answers:
            reading = asyncio.create_task(collect(await answers.respond("slow", slow)))
            await place.written("slow", "text-delta")
        body = await reading
    assert text_of(body) == "slow"
    assert events(body)[-1].data["outcome"] == "interrupted"
    assert slow.ended.is_set()
    assert open_tasks() == []


async def test_answers_must_be_started() -> None:
    answers = Answers(Engine(MemoryStore()))
    with pytest.raises(RuntimeError, match="lifespan"):
        await answers.respond("k", Model())


async def test_arguments_are_checked() -> None:
    engine = Engine(MemoryStore())
    with pytest.raises(TypeError, match="not str"):
        Answers("http://localhost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="format"):
        Answers(engine, format="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lease_s"):
        Answers(engine, beat_s=20, lease_s=21)
    async with home("embedded") as place, place.answers() as answers:
        with pytest.raises(TypeError, match="either"):
            await answers.stop()
        with pytest.raises(TypeError, match="either"):
            await answers.resume("k", thread="t")


@KINDS
async def test_a_source_that_never_ends_does_not_hold_up_the_end(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unbroken.web.run._UNWILLING_S", 0.01)
    monkeypatch.setattr("unbroken.web.runs._CLEANUP_S", 0.05)
    release = asyncio.Event()

    async def unwilling() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async with home(kind) as place:
        async with place.answers() as answers:
            reading = asyncio.create_task(collect(await answers.respond("k", unwilling)))
            await place.written("k", "text-delta")
        assert events(await reading)[-1].data["outcome"] == "interrupted"
        assert "the source of the answer k does not end" in caplog.text
        assert "unbroken-run k does not end" in caplog.text
        release.set()
        await until(lambda: open_tasks() == [])
