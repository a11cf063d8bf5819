"""What holds for answers whose streams are in the same process."""

from __future__ import annotations

import asyncio

import pytest

from tests.web.helpers import Model, collect, events, home, text_of, until
from unbroken.web import Answers


async def test_readers_see_the_end_although_the_streams_end_first() -> None:
    """The engine ends live reads as soon as the process is asked to stop; answers go on for their grace time."""
    async with home("embedded") as place, place.answers(grace_s=3600.0) as answers:
        model = Model("one")
        reading = asyncio.create_task(collect(await answers.respond("k", model)))
        await place.written("k", "one")
        place.engine.drain()
        answers._begin_drain()
        model.say(" two")
        model.done()
        body = await reading
        assert text_of(body) == "one two"
        assert events(body)[-1].data["outcome"] == "done"


async def test_what_a_process_left_open_is_interrupted_at_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    async with home("embedded") as place:
        engine = place.engine
        for number in range(300):
            await engine.create(
                f"/answers/{number}", content_type="application/json", data=b'{"type":"begin","key":"k","run":"r"}'
            )
        await engine.create("/answers.threads/t", content_type="application/json")
        await engine.create("/other", content_type="application/json")
        async with place.answers() as answers:
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
    async with home("embedded") as place, place.answers() as answers:
        engine = place.engine
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
