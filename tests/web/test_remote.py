"""Answers on a server: several processes, lost answers of the server, writers that died or only seemed to."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.peers import ReferenceServer, need_reference
from tests.web.helpers import Home, Model, collect, events, home, request, text_of, until
from unbroken.client import AsyncClient, Retry
from unbroken.testing import live_server
from unbroken.testing.proxy import PASS, Answer, Cut, Fault, FaultyProxy, ProxiedRequest
from unbroken.web import Answers
from unbroken.web.reply import Unfinished

QUICK = {"beat_s": 0.02, "lease_s": 0.1}
"""A short lease, for tests that wait until it is over."""


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[tuple[Answers, Answers, Home]]:
    """Two processes on one server."""
    async with home("remote") as place, place.answers(**options) as one, place.answers(**options) as other:
        yield one, other, place


async def test_of_two_processes_exactly_one_runs_an_answer() -> None:
    async with two() as (one, other, _):
        for number in range(20):
            model = Model("a", "b", done=True)
            replies = await asyncio.gather(*(answers.respond(f"k{number}", model) for answers in (one, other) * 3))
            bodies = await asyncio.gather(*map(collect, replies))
            assert {text_of(body) for body in bodies} == {"ab"}
            assert model.begun == 1


async def test_both_processes_stream_the_same_as_it_comes() -> None:
    async with two() as (one, other, place):
        model = Model("here ")
        reading = asyncio.create_task(collect(await one.respond("k", model)))
        await place.written("k", "here")
        joined = await other.respond("k", Model("not this"))
        model.say("and there")
        model.done()
        assert text_of(await collect(joined)) == text_of(await reading) == "here and there"


async def test_a_stop_reaches_the_run_in_another_process() -> None:
    async with two() as (one, other, place):
        model = Model("a")
        reading = asyncio.create_task(collect(await one.respond("k", model, thread="chat")))
        await place.written("k", "text-delta")
        assert await other.stop(thread="chat")
        assert events(await reading)[-1].data["outcome"] == "cancelled"
        model.say("b")  # the next thing that it says is refused
        await model.ended.wait()
        assert not await one.stop("k")


async def test_a_run_that_is_silent_hears_of_a_stop_by_its_own_sign_of_life() -> None:
    async with two(beat_s=0.02) as (one, other, place):
        model = Model("a")
        await one.start("k", model)
        await place.written("k", "beat")
        assert await other.stop("k")
        await model.ended.wait()


async def test_signs_of_life_are_no_parts_for_readers() -> None:
    async with two(beat_s=0.01) as (one, other, place):
        model = Model("a")
        await one.start("k", model)
        await place.written("k", "beat")
        model.done()
        body = await collect(await other.tail("k", format="ui"))
        assert b":\n\n" in body
        assert b"beat" not in body
        answer = await other.read("k")
        assert answer is not None
        assert [part["type"] for part in answer.parts] == ["text-start", "text-delta", "text-end"]


async def begun(place: Home, key: str = "k") -> None:
    """What a process that was killed leaves."""
    begin = json.dumps([{"type": "begin", "key": key, "run": "r"}, {"type": "text-delta", "id": "1", "delta": "kept"}])
    await place.engine.create(f"/answers/{key}", content_type="application/json", data=begin.encode())


@pytest.mark.parametrize("how", ["respond", "tail", "resume"])
async def test_a_run_whose_process_died_is_interrupted_after_the_lease(how: str) -> None:
    async with two(**QUICK) as (one, other, place):
        await begun(place)
        model = Model("x")
        if how == "respond":
            reply = await one.respond("k", model)
        elif how == "tail":
            reply = await one.tail("k")
        else:
            reply = await one.resume("k")
        bodies = await asyncio.gather(collect(reply), collect(await other.tail("k")))
        for body in bodies:
            assert text_of(body) == "kept"
            assert [event.data.get("outcome") for event in events(body)].count("interrupted") == 1
        assert model.begun == 0


async def test_a_run_that_is_silent_but_lives_is_not_interrupted() -> None:
    async with two(beat_s=0.02, lease_s=1.0) as (one, other, place):
        model = Model("a")
        await one.start("k", model)
        reading = asyncio.create_task(collect(await other.tail("k")))
        async with asyncio.timeout(10):
            while (await place.engine.read("/answers/k")).body.count(b"beat") < 60:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        model.done()
        assert events(await reading)[-1].data["outcome"] == "done"


async def test_a_writer_that_was_taken_for_dead_can_do_no_harm() -> None:
    """It is suspended for longer than the lease, and comes back in the middle of its answer."""
    async with home("remote") as place, place.answers(beat_s=3600.0, lease_s=7200.0) as suspended:
        model = Model("before ")
        await suspended.start("k", model)
        await place.written("k", "before")
        async with place.answers(**QUICK) as other:
            body = await collect(await other.tail("k"))
            assert events(body)[-1].data["outcome"] == "interrupted"
            model.say("after")
            await model.ended.wait()
            assert text_of(await collect(await other.tail("k"))) == "before "


async def test_a_server_that_is_away_is_no_silence_of_the_writer() -> None:
    away = False

    def plan(request: ProxiedRequest) -> Fault:
        return Answer(503) if away else PASS

    async with live_server() as server, FaultyProxy(server.url, plan) as proxy:
        retry = Retry(base_s=0.01, cap_s=0.02, give_up_after_s=None)
        options: dict[str, Any] = {"linger_s": 0.0, "watch_signals": False, "beat_s": 0.02, "lease_s": 0.4}
        one, other = (Answers(AsyncClient(proxy.url, retry=retry), **options) for _ in range(2))
        async with one.lifespan(), other.lifespan():
            model = Model("a")
            await one.start("k", model)
            reading = asyncio.create_task(collect(await other.tail("k")))
            away = True
            proxy.cut_all()
            seen = proxy.counts["answer-503"]
            await asyncio.sleep(1.0)
            assert proxy.counts["answer-503"] > seen
            away = False
            model.say("b")
            model.done()
            body = await reading
            assert text_of(body) == "ab"
            assert events(body)[-1].data["outcome"] == "done"


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_answers_of_the_server_that_are_lost_lose_and_double_nothing(method: str) -> None:
    """The server does what it is asked, but each second response breaks before it arrives."""
    count = 0

    def plan(request: ProxiedRequest) -> Fault:
        nonlocal count
        count += request.method == method
        return Cut("response", "head") if request.method == method and count % 2 else PASS

    async with live_server() as server, FaultyProxy(server.url, plan) as proxy:
        retry = Retry(base_s=0.001, cap_s=0.002)
        options: dict[str, Any] = {"linger_s": 0.0, "beat_s": 0.1, "watch_signals": False}
        one, other = (Answers(AsyncClient(proxy.url, retry=retry), **options) for _ in range(2))
        async with one.lifespan(), other.lifespan():
            model = Model()
            starts = asyncio.gather(*(answers.start("k", model, thread="chat") for answers in (one, other)))
            assert sorted(await starts) == [False, True]
            said = [f"{number} " for number in range(20)]
            for word in said:
                model.say(word)
                await asyncio.sleep(0.002)
            model.done()
            assert text_of(await collect(await one.tail("k"))) == "".join(said)
            assert model.begun == 1
            assert await other.latest("chat") == "k"
            await one.start("k2", Model())
            assert await other.stop("k2")
            answer = await other.read("k2")
            assert answer is not None
            assert answer.outcome == "cancelled"


async def test_what_is_wrong_between_here_and_the_server_is_not_for_browsers(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: ProxiedRequest) -> Fault:
        return Answer(403)

    async with live_server() as server, FaultyProxy(server.url, refuse) as proxy:
        answers = Answers(AsyncClient(proxy.url), watch_signals=False)
        async with answers.lifespan():
            for reply in (
                await answers.respond("k", Model()),
                await answers.tail("k"),
                await answers.resume("k"),
                await answers.resume(thread="t"),
            ):
                assert reply.status == 503
                assert isinstance(reply.body, bytes)
                assert b"127.0.0.1" not in reply.body
        assert "403" in caplog.text


async def test_readers_of_a_process_that_ends_see_what_becomes_of_the_answer() -> None:
    """What runs there is interrupted. What runs elsewhere goes on, so its readers must not think that this was all."""
    async with home("remote") as place, place.answers() as staying:
        here, there = Model("here"), Model("there")
        await staying.start("there", there)
        async with place.answers() as ending:
            one = asyncio.create_task(collect(await ending.respond("here", here)))
            other = asyncio.create_task(collect(await ending.tail("there")))
            third = asyncio.create_task(collect(await staying.tail("here")))
            await place.written("here", "text-delta")
            await place.written("there", "text-delta")
            await until(lambda: len(place.engine.waiters) == 3)
        assert events(await one)[-1].data["outcome"] == "interrupted"
        assert events(await third)[-1].data["outcome"] == "interrupted"
        with pytest.raises(Unfinished):
            await other
        there.say(" and on")
        there.done()
        assert text_of(await collect(await staying.tail("there"))) == "there and on"


async def test_on_the_reference_server() -> None:
    need_reference()
    server = ReferenceServer(wait_s=1.0)
    await asyncio.to_thread(server.__enter__)
    try:
        options: dict[str, Any] = {
            "linger_s": 0.0,
            "grace_s": 0.0,
            "watch_signals": False,
            "beat_s": 0.05,
            "lease_s": 1.0,
        }
        one, other = (Answers(AsyncClient(server.url), **options) for _ in range(2))
        async with one.lifespan(), other.lifespan():
            model = Model("a", "b")
            replies = await asyncio.gather(*(answers.respond("k", model, thread="t") for answers in (one, other)))
            reading = asyncio.gather(*map(collect, replies))
            await asyncio.sleep(1.5)  # more than the lease, in which the run lives by its signs alone
            model.say("c")
            model.done()
            bodies = await reading
            assert [text_of(body) for body in bodies] == ["abc", "abc"]
            assert model.begun == 1
            position = events(bodies[0])[1].id
            rest = await other.tail("k", request=request(last_event_id=position))
            assert events(await collect(rest))[-1].data["outcome"] == "done"
            assert (await one.resume(thread="t")).status == 204
            async with AsyncClient(server.url) as client:
                await client.stream("/answers/dead").create(content_type="application/json", data='[{"type":"begin"}]')
            assert events(await collect(await one.tail("dead")))[-1].data["outcome"] == "interrupted"
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_an_answer_that_cannot_be_made_its_threads_latest_is_not_begun() -> None:
    def plan(request: ProxiedRequest) -> Fault:
        return Answer(403) if "threads" in request.target else PASS

    async with live_server() as server, FaultyProxy(server.url, plan) as proxy:
        answers = Answers(AsyncClient(proxy.url), watch_signals=False)
        async with answers.lifespan():
            model = Model()
            assert (await answers.respond("k", model, thread="t")).status == 503
            body = await collect(await answers.tail("k"))
            assert events(body)[-1].data["error"] == "The answer could not be started."
            assert model.begun == 0


async def test_a_server_that_is_gone_gives_the_answer_up(caplog: pytest.LogCaptureFixture) -> None:
    gone = False

    def plan(request: ProxiedRequest) -> Fault:
        return Answer(503) if gone else PASS

    async with live_server() as server, FaultyProxy(server.url, plan) as proxy:
        retry = Retry(base_s=0.001, cap_s=0.002, give_up_after_s=0.05)
        answers = Answers(AsyncClient(proxy.url, retry=retry), linger_s=0.0, watch_signals=False)
        async with answers.lifespan():
            model = Model("a")
            await answers.start("k", model)
            while b"text-delta" not in (await server.engine.read("/answers/k")).body:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            gone = True
            model.say("b")
            await model.ended.wait()
            assert (await answers.respond("k2", Model())).status == 503
        assert "the answer k cannot be written and is given up" in caplog.text


async def test_what_is_not_there() -> None:
    async with two() as (one, _, __):
        assert not await one.delete("k")
        assert not await one.stop("k")
        assert await one.read("k") is None
        assert await one.latest("t") is None
        assert (await one.tail("k")).status == 404


PROGRAM = """
import asyncio, sys
from unbroken.client import AsyncClient
from unbroken.web import Answers
from unbroken.web.reply import Unfinished

async def endless():
    while True:
        yield "tick "
        await asyncio.sleep(0.01)

async def main():
    answers = Answers(AsyncClient(sys.argv[1]), beat_s=0.02, lease_s=0.1)
    async with answers.lifespan():
        await answers.start("k", endless)
        print("started", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_process_that_is_killed_in_the_middle() -> None:
    async with home("remote") as place:
        client = place.connect()
        assert isinstance(client, AsyncClient)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, client.url, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"started\n"
            await place.written("k", "tick")
            async with place.answers(beat_s=0.02, lease_s=1.0) as answers:
                reading = asyncio.create_task(collect(await answers.tail("k")))
                await until(lambda: place.engine.waiters)
                process.send_signal(signal.SIGKILL)
                body = await reading
                assert text_of(body).startswith("tick ")
                assert events(body)[-1].data["outcome"] == "interrupted"
                again = Model("once more", done=True)
                assert text_of(await collect(await answers.respond("k-2", again))) == "once more"
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
