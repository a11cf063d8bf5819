"""What a reader, a writer and a stop see of an answer, on an engine in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.web.helpers import Model, answering, collect, events, open_tasks, request, text_of, until, written
from unbroken.engine import Engine
from unbroken.store.memory import MemoryStore
from unbroken.web import AnswerFailed, Answers


async def test_an_answer_is_started_streamed_and_closed_with_its_outcome(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
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
        state = unbroken_engine.head("/answers/story/1")
        assert state.closed
        assert seen[-1].id == str(state.tail_offset)
        assert model.ended.is_set()
    assert open_tasks() == []


async def test_the_same_key_joins_and_does_not_start_again(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
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


async def test_the_run_does_not_depend_on_its_reader(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("one")
        reply = await answers.respond("k", model)
        body = aiter(reply.body)  # type: ignore[arg-type]
        assert b"begin" in await anext(body)
        await body.aclose()  # type: ignore[attr-defined]
        model.say(" two")
        model.done()
        assert text_of(await collect(await answers.tail("k"))) == "one two"


async def test_a_cancelled_request_does_not_half_begin(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("one", done=True)
        asking = asyncio.create_task(answers.start("k", model))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert text_of(await collect(await answers.respond("k", model))) == "one"
        assert model.begun == 1


@pytest.mark.parametrize("how", ["header", "query"])
async def test_readers_resume_between_any_two_messages(unbroken_engine: Engine, how: str) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
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


async def test_a_failing_model_shows_in_the_stream_but_not_its_secrets(
    unbroken_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("half an ans")
        model.fail(RuntimeError("key sk-secret refused"))
        body = await collect(await answers.respond("k", model))
        assert text_of(body) == "half an ans"
        assert events(body)[-1].data == {"type": "end", "outcome": "error", "error": "The answer failed."}
        assert b"sk-secret" not in body
        assert "sk-secret" in caplog.text


async def test_what_readers_are_told_of_an_error(unbroken_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: Exception) -> str:
        raise ValueError

    cases: list[tuple[dict[str, Any], Exception, str]] = [
        ({}, AnswerFailed("The quota is used up."), "The quota is used up."),
        ({"error_text": lambda error: f"It was {error}."}, KeyError("x"), "It was 'x'."),
        ({"error_text": broken}, KeyError("x"), "The answer failed."),
    ]
    await unbroken_engine.start()
    for number, (options, error, told) in enumerate(cases):
        async with answering(unbroken_engine, **options) as answers:
            model = Model()
            model.fail(error)
            assert events(await collect(await answers.respond(str(number), model)))[-1].data["error"] == told
    assert "error_text failed" in caplog.text


BAD_SOURCES: list[tuple[str, Any]] = [
    ("nothing", lambda: None),
    ("a list", lambda: ["a"]),
    ("raises", lambda: 1 / 0),
    ("an unknown item", Model(object(), done=True)),
    ("a number", Model(5, done=True)),
    ("a part without a type", Model({"text": "x"}, done=True)),
    ("a part that ends it", Model({"type": "end", "outcome": "done"}, done=True)),
    ("what JSON has no form for", Model({"type": "data-x", "data": object()}, done=True)),
    ("half a character", Model({"type": "text-delta", "id": "1", "delta": "\ud83d"}, done=True)),
]


@pytest.mark.parametrize("source", [source for _, source in BAD_SOURCES], ids=[name for name, _ in BAD_SOURCES])
async def test_a_source_that_is_none_ends_with_an_error(unbroken_engine: Engine, source: Any) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        body = await collect(await answers.respond("k", source))
        assert [event.data["type"] for event in events(body)] == ["begin", "end"]
        assert events(body)[-1].data["outcome"] == "error"


async def test_a_stop_ends_the_run_for_all_readers_and_keeps_the_text(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("so far")
        one, two = await answers.respond("k", model), await answers.tail("k")
        readers = asyncio.gather(collect(one), collect(two))
        await written(unbroken_engine, "k", "so far")
        assert await answers.stop("k")
        for body in await readers:
            assert text_of(body) == "so far"
            assert [event.data["type"] for event in events(body)][-2:] == ["text-end", "end"]
            assert events(body)[-1].data["outcome"] == "cancelled"
        assert model.ended.is_set()
        assert not await answers.stop("k")
        assert not await answers.stop("another")


async def test_a_stop_does_not_wait_for_a_source_that_is_slow_to_clean_up(unbroken_engine: Engine) -> None:
    release = asyncio.Event()

    async def unwilling() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await release.wait()

    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        reading = asyncio.create_task(collect(await answers.respond("k", unwilling)))
        await written(unbroken_engine, "k", "text-delta")
        assert await answers.stop("k")
        assert events(await reading)[-1].data["outcome"] == "cancelled"
        assert len(open_tasks()) == 1
        release.set()
    assert open_tasks() == []


async def test_a_source_that_cancels_itself_is_an_error(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("a")
        model.fail(asyncio.CancelledError())
        assert events(await collect(await answers.respond("k", model)))[-1].data["outcome"] == "error"


async def test_resume_finds_what_runs(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
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
        assert events(await collect(rest)) == seen[1:]
        assert (await answers.resume(thread="chat", request=request(last_event_id=seen[-1].id))).status == 204


async def test_an_answer_can_be_read_whole_and_deleted(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        assert await answers.read("k") is None
        model = Model("one ", {"type": "data-weather", "data": {"t": 20}}, "two")
        await answers.start("k", model)
        await written(unbroken_engine, "k", "two")
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


async def test_deleting_stops_it_first(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model("one")
        await answers.start("k", model)
        assert await answers.delete("k")
        await model.ended.wait()


BAD_KEYS = ["", "/", "a//b", "/a", "a/", "../a", "a/../b", ".", "a b", "a\n", "a?b", "a#b", "a%2fb", "ä", "x" * 600]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_bad_keys_are_refused(unbroken_engine: Engine, key: str) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
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
        assert unbroken_engine.streams() == []


@pytest.mark.parametrize(
    "offset", ["x", "-2", "0000000000000001_0000000000000003", "9999999999999999_0000000000000001"]
)
async def test_bad_offsets_are_refused(unbroken_engine: Engine, offset: str) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        await collect(await answers.respond("k", Model("a", done=True)))
        reply = await answers.tail("k", request=request(last_event_id=offset))
        assert reply.status in (400, 410)


async def test_limits(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine, max_bytes=1000, max_running=2) as answers:
        endless = Model(*["0123456789"] * 1000)
        body = await collect(await answers.respond("long", endless))
        assert events(body)[-1].data == {"type": "end", "outcome": "error", "error": "The answer is too long."}
        assert 900 <= len(text_of(body)) <= 1100
        assert await answers.start("1", Model())
        assert await answers.start("2", Model())
        refused = await answers.respond("3", Model())
        assert (refused.status, json.loads(refused.body)["code"]) == (503, "overloaded")  # type: ignore[arg-type]
        assert (await answers.respond("2", Model())).status == 200
    async with answering(unbroken_engine, max_runtime_s=0.01) as answers:
        body = await collect(await answers.respond("slow", Model("a")))
        assert events(body)[-1].data["error"] == "The answer took too long."


async def test_a_timeout_of_the_source_is_not_ours(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        model = Model()
        model.fail(TimeoutError())
        assert events(await collect(await answers.respond("k", model)))[-1].data["error"] == "The answer failed."


async def test_a_writer_that_is_slow_holds_up_the_source(unbroken_engine: Engine) -> None:
    """Nothing piles up in memory when the store is slow."""
    taken = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "x" * 10_000

    await unbroken_engine.start()
    async with answering(unbroken_engine, linger_s=3600.0, max_bytes=1 << 40) as answers:
        await answers.start("k", endless)
        await until(lambda: taken > 1)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert taken < 100
        await answers.stop("k")


async def test_small_parts_are_joined_but_the_first_is_not_held_up(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    async with answering(unbroken_engine, linger_s=3600.0) as answers:
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


async def test_the_end_of_the_process_gives_grace_and_then_interrupts(unbroken_engine: Engine) -> None:
    await unbroken_engine.start()
    quick, slow = Model("quick"), Model("slow")
    async with answering(unbroken_engine, grace_s=3600.0) as answers:
        reply = await answers.respond("quick", quick)
        answers._begin_drain()
        refused = await answers.respond("new", quick)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert (await answers.respond("quick", quick)).status == 200
        quick.say(" and done")
        quick.done()
        assert text_of(await collect(reply)) == "quick and done"
    async with answering(unbroken_engine) as answers:
        reply = await answers.respond("slow", slow)
        await written(unbroken_engine, "slow", "text-delta")
    body = await collect(reply)
    assert text_of(body) == "slow"
    assert events(body)[-1].data["outcome"] == "interrupted"
    assert slow.ended.is_set()
    assert open_tasks() == []


async def test_readers_see_the_end_although_the_streams_end_first() -> None:
    """The engine ends live reads as soon as the process is asked to stop; answers go on for their grace time."""
    async with Engine(MemoryStore()) as engine, answering(engine, grace_s=3600.0) as answers:
        model = Model("one")
        reading = asyncio.create_task(collect(await answers.respond("k", model)))
        await written(engine, "k", "one")
        engine.drain()
        answers._begin_drain()
        model.say(" two")
        model.done()
        body = await reading
        assert text_of(body) == "one two"
        assert events(body)[-1].data["outcome"] == "done"


async def test_what_a_process_left_open_is_interrupted_at_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    async with Engine(MemoryStore()) as engine:
        for number in range(300):
            await engine.create(
                f"/answers/{number}", content_type="application/json", data=b'{"type":"begin","key":"k","run":"r"}'
            )
        await engine.create("/answers.threads/t", content_type="application/json")
        await engine.create("/other", content_type="application/json")
        async with answering(engine) as answers:
            await until(lambda: all(state.closed for state in engine.streams("/answers/")))
            answer = await answers.read("7")
            assert answer is not None
            assert answer.outcome == "interrupted"
            assert not engine.head("/other").closed
            assert not engine.head("/answers.threads/t").closed


@pytest.mark.parametrize("how", ["respond", "tail", "resume", "read", "stop"])
async def test_whoever_meets_an_orphan_first_sees_it_interrupted(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Answers) -> None:
        pass

    monkeypatch.setattr(Answers, "_recover", nothing)
    async with Engine(MemoryStore()) as engine, answering(engine) as answers:
        begin = b'[{"type":"begin","key":"k","run":"r"},{"type":"text-delta","id":"1","delta":"kept"}]'
        await engine.create("/answers/k", content_type="application/json", data=begin)
        await engine.create("/answers.threads/t", content_type="application/json", data=b'[{"key":"k"}]')
        model = Model()
        if how == "respond":
            assert text_of(await collect(await answers.respond("k", model))) == "kept"
        elif how == "tail":
            assert text_of(await collect(await answers.tail("k"))) == "kept"
        elif how == "resume":
            assert (await answers.resume(thread="t")).status == 204
        elif how == "read":
            await answers.read("k")
        else:
            assert not await answers.stop("k")
        answer = await answers.read("k")
        assert answer is not None
        assert (answer.text, answer.outcome, model.begun) == ("kept", "interrupted", 0)


async def test_answers_must_be_started(unbroken_engine: Engine) -> None:
    answers = Answers(unbroken_engine)
    with pytest.raises(RuntimeError, match="lifespan"):
        await answers.respond("k", Model())


async def test_arguments_are_checked(unbroken_engine: Engine) -> None:
    with pytest.raises(TypeError, match="not str"):
        Answers("http://localhost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="format"):
        Answers(unbroken_engine, format="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lease_s"):
        Answers(unbroken_engine, beat_s=20, lease_s=21)
    await unbroken_engine.start()
    async with answering(unbroken_engine) as answers:
        with pytest.raises(TypeError, match="either"):
            await answers.stop()
        with pytest.raises(TypeError, match="either"):
            await answers.resume("k", thread="t")
