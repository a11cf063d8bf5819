"""Live reads: who is woken by what, and how they end."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import settle, until
from unbroken import errors
from unbroken.engine import Engine, Page
from unbroken.engine.follow import FrameCache, Waiters
from unbroken.protocol.offsets import Anchor, Offset


async def _collect(engine: Engine, path: str, offset: Offset | str = "-1") -> list[Page]:
    return [page async for page in engine.follow(path, offset)]


async def test_follows_until_closed(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"one ")
        following = asyncio.create_task(_collect(engine, "/a"))
        await until(lambda: len(engine.waiters) == 1)
        await engine.append("/a", b"two ")
        await engine.append("/a", b"three", close=True)
        pages = await following
        assert b"".join(page.body for page in pages) == b"one two three"
        assert [page.start for page in pages] == [0, *(page.end for page in pages[:-1])]
        assert pages[-1].closed


async def test_closed_stream_ends_at_once(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x", closed=True)
        assert [page.body for page in await _collect(engine, "/a")] == [b"x"]
        assert await _collect(engine, "/a", "now") == []


async def test_resumes_where_a_page_ended(start: Start) -> None:
    async with start(page_bytes=16) as engine:
        await engine.create("/a", data=bytes(range(100)), closed=True)
        whole = await _collect(engine, "/a")
        for at, page in enumerate(whole):
            rest = await _collect(engine, "/a", page.next_offset)
            assert [one.body for one in rest] == [one.body for one in whole[at + 1 :]]


async def test_only_readers_of_the_stream_are_woken(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a")
        await engine.create("/b")
        with engine.follower("/a", "now") as on_a, engine.follower("/b", "now") as on_b:
            await on_a.next(0)
            await on_b.next(0)
            first, second = asyncio.create_task(on_a.next(60)), asyncio.create_task(on_b.next(60))
            await until(lambda: len(engine.waiters) == 2)
            await engine.append("/a", b"x")
            page = await first
            assert page is not None
            assert page.body == b"x"
            assert not second.done()
            assert len(engine.waiters) == 1
            on_b.stop()
            assert await second is None


async def test_first_page_comes_at_once_even_if_empty(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x")
        with engine.follower("/a", Anchor.NOW) as follower:
            page = await follower.next(60)
            assert page is not None
            assert (page.data, page.next_offset) == (b"", Offset(1, 1))
            assert await follower.next(0) is None, "the time is up"


async def test_slow_follower_finds_a_bigger_page(start: Start) -> None:
    """Nothing is queued for it: it pulls, however much happened meanwhile."""
    async with start() as engine:
        await engine.create("/a")
        with engine.follower("/a", "-1") as follower:
            await follower.next(0)
            for _ in range(100):
                await engine.append("/a", b"x")
            page = await follower.next(60)
            assert page is not None
            assert page.body == b"x" * 100
            assert await follower.next(0) is None


async def test_deletion_ends_a_follower(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x")
        following = asyncio.create_task(_collect(engine, "/a"))
        await until(lambda: len(engine.waiters) == 1)
        await engine.delete("/a")
        with pytest.raises(errors.StreamNotFound):
            await following


async def test_soft_deletion_ends_a_follower(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x")
        await engine.fork("/b", "/a")
        following = asyncio.create_task(_collect(engine, "/a"))
        await until(lambda: len(engine.waiters) == 1)
        await engine.delete("/a")
        with pytest.raises(errors.StreamGone):
            await following


@pytest.mark.parametrize("data", [b"", b"x", b"longer than before"])
async def test_follower_never_sees_another_stream(start: Start, data: bytes) -> None:
    """Deleted and created anew before it runs again, at a position that exists in both."""
    async with start() as engine:
        await engine.create("/a", data=b"x")
        with engine.follower("/a", "-1") as follower:
            await follower.next(0)
            waiting = asyncio.create_task(follower.next(60))
            await until(lambda: len(engine.waiters) == 1)
            await asyncio.gather(engine.delete("/a"), engine.create("/a", data=data), engine.append("/a", b"!"))
            with pytest.raises(errors.OffsetGone):
                await waiting
            with pytest.raises(errors.OffsetGone):
                await follower.next(0)


async def test_read_that_a_deletion_overtakes() -> None:
    """The bytes went between looking up the stream and reading them: not found, never fewer or other bytes."""

    class SlowReads(GatedStore):
        reading = asyncio.Event()
        go_on = asyncio.Event()

        def read_cached(self, number: int, start: int, end: int) -> bytes | None:
            return None

        async def read(self, number: int, start: int, end: int) -> bytes:
            self.reading.set()
            await self.go_on.wait()
            return await super().read(number, start, end)

    store = SlowReads()
    async with Engine(store) as engine:
        await engine.create("/a", data=b"secret")
        reading = asyncio.create_task(engine.read("/a"))
        await store.reading.wait()
        await engine.delete("/a")
        await engine.create("/a", data=b"other!")
        store.go_on.set()
        with pytest.raises((errors.StreamNotFound, errors.OffsetGone)):
            await reading


async def test_drain_ends_followers_and_nothing_else(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x")
        following = [asyncio.create_task(_collect(engine, "/a")) for _ in range(5)]
        await until(lambda: len(engine.waiters) == 5)
        engine.drain()
        for one in following:
            assert [page.body for page in await one] == [b"x"]
        await engine.append("/a", b"y")
        assert (await engine.read("/a")).body == b"xy"
        with engine.follower("/a", "-1") as follower:
            page = await follower.next(60)
            assert page is not None
            assert page.body == b"xy"
            assert await follower.next(60) is None, "waiting is over for good"


async def test_stop_of_one_follower(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a")
        with engine.follower("/a", "-1") as follower:
            await follower.next(0)
            follower.stop()
            assert follower.ended
            assert await follower.next(60) is None


async def test_cancelled_follower_leaves_nothing_behind(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a")
        following = asyncio.create_task(_collect(engine, "/a"))
        await until(lambda: len(engine.waiters) == 1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await settle()
        assert len(engine.waiters) == 0


async def test_all_streams_of_one_commit_wake_their_readers(start: Start) -> None:
    async with start() as engine:
        paths = [f"/{number}" for number in range(20)]
        for path in paths:
            await engine.create(path)
        following = [asyncio.create_task(_collect(engine, path)) for path in paths for _ in range(2)]
        await until(lambda: len(engine.waiters) == 40)
        await asyncio.gather(*(engine.append(path, path.encode(), close=True) for path in paths))
        bodies = [[page.body for page in await one] for one in following]
        assert bodies == [[path.encode()] for path in paths for _ in range(2)]


async def test_who_is_woken_has_a_turn_later_and_not_all_at_once() -> None:
    """So a writer is not kept waiting by readers; whatever happens while they have theirs wakes each once more."""
    waiters = Waiters()
    calls: list[int] = []
    listeners = [partial(calls.append, number) for number in range(1000)]
    for listener in listeners:
        waiters.add(1, listener)
    waiters.add(2, partial(calls.append, -2))
    waiters.wake(1)
    waiters.wake(1)
    assert calls == []
    await asyncio.sleep(0)
    assert 0 < len(calls) < 500
    for _ in range(100):
        waiters.wake(1)
    waiters.wake(2)
    await settle()
    assert [call for call in calls if call >= 0] == [*range(1000), *range(1000)]
    assert calls.count(-2) == 1
    for listener in listeners:
        waiters.remove(1, listener)
    assert len(waiters) == 1


async def test_everybody_has_a_turn_at_once_in_the_end() -> None:
    waiters = Waiters()
    calls: list[int] = []
    for number in range(1000):
        waiters.add(number % 7, partial(calls.append, number))
    waiters.wake(3)
    waiters.wake_all()
    assert sorted(calls) == list(range(1000))
    await settle()
    assert len(calls) == 1000


def test_frames_are_kept_within_bounds() -> None:
    """The least recently used go first; one is always kept, however large."""
    frames = FrameCache(size_bytes_max=10)
    frames.put("a", b"aaaa")
    frames.put("b", b"bbbb")
    assert frames.get("a") == b"aaaa"
    frames.put("c", b"cccc")
    assert [frames.get(key) for key in "abc"] == [b"aaaa", None, b"cccc"]
    frames.put("a", b"a")
    frames.put("d", b"ddddd")
    assert [frames.get(key) for key in "acd"] == [b"a", b"cccc", b"ddddd"], "a replaced frame counts once"
    frames.put("huge", b"x" * 100)
    assert [frames.get(key) for key in ("a", "c", "d", "huge")] == [None, None, None, b"x" * 100]
    frames.put("e", b"e")
    assert [frames.get(key) for key in ("huge", "e")] == [None, b"e"]


async def test_who_fails_in_its_turn_harms_nobody() -> None:
    waiters = Waiters()
    told: list[int] = []
    failures: list[object] = []

    def fail() -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    waiters.add(1, fail)
    waiters.add(1, lambda: told.append(1))
    waiters.add(2, lambda: told.append(2))
    for number in (1, 2):
        waiters.wake(number)
    await until(lambda: told == [1, 2])
    waiters.wake(2)
    await until(lambda: told == [1, 2, 2])
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
