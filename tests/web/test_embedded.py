"""What holds for answers whose streams are in the same process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.helpers import Home, Model, collect, events, home, text_of, until
from unbroken.client import Client
from unbroken.engine import Engine
from unbroken.engine.usage import Quota
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.testing.faults import Fault, FaultyDisk
from unbroken.web import Answers
from unbroken.web.tails import Tails


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
    async def nothing(self: Tails, prefix: str) -> None:
        pass

    monkeypatch.setattr(Tails, "recover", nothing)
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


@pytest.mark.parametrize("quota", [Quota(stream_bytes=400), Quota(total_bytes=400)])
async def test_an_answer_for_which_there_is_no_room_ends(quota: Quota, caplog: pytest.LogCaptureFixture) -> None:
    async with Engine(MemoryStore(), quota=quota) as engine:
        await until(lambda: engine.usage.measured)
        answers = Answers(engine, linger_s=0.0, watch_signals=False)
        async with answers.lifespan():
            model = Model("kept ")
            reading = asyncio.create_task(collect(await answers.respond("k", model)))
            await Home(engine, lambda: engine).written("k", "kept")
            model.say("x" * 1000)
            await model.ended.wait()
            body = await reading
            assert text_of(body) == "kept "
            assert events(body)[-1].data["error"] == "There was no room for the answer."
            answer = await answers.read("k")
            assert answer is not None
            assert answer.outcome == "error"
        assert "k cannot be written" in caplog.text


async def test_an_answer_that_has_no_room_even_for_its_end_is_closed() -> None:
    async with Engine(MemoryStore(), quota=Quota(stream_bytes=120)) as engine:
        answers = Answers(engine, linger_s=0.0, watch_signals=False)
        async with answers.lifespan():
            body = await collect(await answers.respond("k", Model("x" * 100, done=True)))
            assert [event.data["type"] for event in events(body)] == ["begin", "end"]
            assert events(body)[-1].data["outcome"] == "interrupted"
            assert engine.head("/answers/k").closed
            answer = await answers.read("k")
            assert answer is not None
            assert answer.outcome == "interrupted"


async def test_a_store_that_fails_in_the_middle(
    tmp_path: Path, unbroken_disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbroken.web.tails._HEARTBEAT_S", 0.01)
    async with Engine(SqliteStore(tmp_path / "streams", vfs=unbroken_disk.name)) as engine:
        answers = Answers(engine, linger_s=0.0, grace_s=0.0, watch_signals=False)
        async with answers.lifespan():
            model = Model("kept ")
            reading = asyncio.create_task(collect(await answers.respond("k", model)))
            await Home(engine, lambda: engine).written("k", "kept")
            unbroken_disk.fail(Fault.ERROR, "sync", lasting=True)
            model.say("lost")
            await model.ended.wait()
            body = await reading
            assert text_of(body) == "kept "
            assert events(body)[-1].data["outcome"] == "interrupted"
            assert (await answers.respond("k2", Model())).status == 503
    unbroken_disk.heal()
    async with Engine(SqliteStore(tmp_path / "streams", vfs=unbroken_disk.name)) as engine:
        answers = Answers(engine, watch_signals=False)
        async with answers.lifespan():
            assert (await answers.resume("k")).status == 204
            answer = await answers.read("k")
            assert answer is not None
            assert answer.outcome == "interrupted"
            assert answer.text.startswith("kept ")


async def test_an_answer_that_is_deleted_under_its_readers() -> None:
    async with home("embedded") as place, place.answers() as answers:
        model = Model("a")
        reading = asyncio.create_task(collect(await answers.respond("k", model)))
        await place.written("k", "text-delta")
        await until(lambda: place.engine.waiters)
        await place.engine.delete("/answers/k")
        assert events(await reading)[-1].data["outcome"] == "interrupted"
        model.say("b")
        await model.ended.wait()


async def test_a_stream_that_is_closed_by_hand() -> None:
    async with home("embedded") as place, place.answers() as answers:
        model = Model("a")
        reading = asyncio.create_task(collect(await answers.respond("k", model, format="ui")))
        await place.written("k", "text-delta")
        await place.engine.close("/answers/k")
        assert [event.data for event in events(await reading)][-2:] == [
            {"type": "error", "errorText": "The answer was interrupted."},
            "[DONE]",
        ]
        model.say("b")
        await model.ended.wait()


BARE = """
import asyncio, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("httpx2", "uvicorn", "starlette", "fastapi", "django", "openai", "jwt"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
from unbroken.asgi import create_app
from unbroken.web import Answers

async def main():
    async def generate():
        yield "hello"

    answers = Answers(create_app(store="memory"))
    async with answers.lifespan():
        reply = await answers.respond("k", generate, format="text")
        print(b"".join([part async for part in reply.body]).decode())

asyncio.run(main())
"""


def test_nothing_but_the_package_itself_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("hello\n", "")


async def test_a_client_that_is_not_asynchronous_is_refused() -> None:
    with Client() as client, pytest.raises(TypeError, match="AsyncClient"):
        Answers(client)  # type: ignore[arg-type]
