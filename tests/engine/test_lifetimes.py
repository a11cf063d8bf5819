"""Sliding and absolute lifetimes. Time passes only when the test moves the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import settle, until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.store.base import Hold
from unbroken.store.sqlite import SqliteStore
from unbroken.testing import ManualClock


def _is_there(engine: Engine, path: str = "/a") -> bool:
    try:
        engine.head(path)
    except errors.StreamNotFound:
        return False
    return True


async def _follow_shortly(engine: Engine) -> None:
    with engine.follower("/a", "-1") as follower:
        await follower.next(0)


RENEWALS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "read": lambda engine: engine.read("/a"),
    "read at the tail": lambda engine: engine.read("/a", "now"),
    "append": lambda engine: engine.append("/a", b"x"),
    "close": lambda engine: engine.close("/a"),
    "follow": _follow_shortly,
}


@pytest.mark.parametrize("what", RENEWALS)
async def test_renewed(start: Start, clock: ManualClock, what: str) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x", ttl_s=10)
        for _ in range(3):
            clock.advance(9.999)
            await RENEWALS[what](engine)
        clock.advance(9.999)
        assert _is_there(engine)
        clock.advance(0.001)
        assert not _is_there(engine)


async def test_not_renewed_by_head_or_confirmation(start: Start, clock: ManualClock) -> None:
    async with start() as engine:
        await engine.create("/a", ttl_s=10)
        clock.advance(9)
        engine.head("/a")
        assert (await engine.create("/a", ttl_s=10)).existed
        clock.advance(1)
        assert not _is_there(engine)


async def test_open_follower_keeps_a_stream_alive(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start() as engine:
        await engine.create("/a", ttl_s=10)
        await engine.create("/witness", ttl_s=10)
        with engine.follower("/a", "-1") as first:
            with engine.follower("/a", "-1"):
                await first.next(0)
                clock.advance(1000)
                await until(lambda: engine.store.state("/witness") is None)
                assert _is_there(engine), "the sweep went by"
            clock.advance(1000)
            assert _is_there(engine), "one reader is still there"
        clock.advance(9.999)
        assert _is_there(engine)
        clock.advance(0.001)
        assert not _is_there(engine)


@pytest.mark.parametrize("seconds", [86_400, -86_400])
async def test_wall_clock_jumps_end_no_sliding_lifetime(
    start: Start, clock: ManualClock, quick_sweep: None, seconds: int
) -> None:
    async with start() as engine:
        await engine.create("/a", ttl_s=10)
        clock.jump_wall(seconds)
        await engine.create("/witness", ttl_s=0)
        await until(lambda: engine.store.state("/witness") is None)
        assert _is_there(engine)
        clock.advance(9.999)
        assert _is_there(engine)
        clock.advance(0.001)
        assert not _is_there(engine)


async def test_sweep_reclaims_what_is_over(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start() as engine:
        moment = datetime.fromtimestamp(clock.now().wall_ms / 1000, UTC) + timedelta(seconds=10)
        for number in range(300):  # more than one sweep takes
            await engine.create(f"/sliding/{number}", ttl_s=10, data=b"x")
            await engine.create(f"/absolute/{number}", expires_at=moment, data=b"x")
        await engine.create("/stays", ttl_s=11, data=b"x")
        clock.advance(10)
        paths = [f"/{kind}/{number}" for kind in ("sliding", "absolute") for number in range(300)]
        await until(lambda: all(engine.store.state(path) is None for path in paths))
        assert (await engine.read("/stays")).body == b"x"


async def test_sweep_leaves_what_forks_live_on(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start() as engine:
        await engine.create("/a", ttl_s=10, data=b"x")
        await engine.fork("/b", "/a", ttl_s=100)
        clock.advance(10)
        with pytest.raises(errors.StreamGone):
            engine.head("/a")
        await until(lambda: (state := engine.store.state("/a")) is not None and state.gone)
        assert (await engine.read("/b")).body == b"x"
        clock.advance(100)
        await until(lambda: engine.store.state("/a") is None)
        assert engine.store.state("/b") is None


async def test_expiry_wakes_followers(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start() as engine:
        moment = datetime.fromtimestamp(clock.now().wall_ms / 1000, UTC) + timedelta(seconds=10)
        await engine.create("/a", expires_at=moment)
        with engine.follower("/a", "-1") as follower:
            await follower.next(0)
            waiting = asyncio.create_task(follower.next(60))
            await until(lambda: len(engine.waiters) == 1)
            clock.advance(10)
            with pytest.raises(errors.StreamNotFound):
                await waiting


async def test_fork_that_goes_does_not_renew_its_source(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    """Reads of a fork and its deletion reach the fork's URL, not the source's."""
    async with start() as engine:
        await engine.create("/a", ttl_s=10, data=b"x")
        await engine.fork("/b", "/a", ttl_s=1000)
        clock.advance(5)
        await engine.read("/b")
        await engine.delete("/b")
        await until(lambda: engine.head("/a").forks == 0)
        clock.advance(5)
        assert not _is_there(engine)


async def test_ttl_zero(start: Start) -> None:
    async with start() as engine:
        assert not (await engine.create("/a", ttl_s=0, data=b"x")).existed
        assert not _is_there(engine)
        with pytest.raises(errors.StreamNotFound):
            engine.follower("/a", "-1")


async def test_path_is_free_before_the_sweep_comes(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start() as engine:
        await engine.create("/a", ttl_s=10, data=b"old")
        clock.advance(10)
        assert not (await engine.create("/a", ttl_s=1000, data=b"new")).existed
        await engine.create("/witness", ttl_s=0)
        await until(lambda: engine.store.state("/witness") is None)
        assert (await engine.read("/a")).body == b"new", "the old stream's end did not reclaim it"


async def test_sweep_tries_again_when_the_queue_was_full(
    clock: ManualClock, quick_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired stream is not forgotten because its reclaim found the server overloaded."""

    class CountsSweeps(GatedStore):
        sweeps = 0

        def holds(self, limit: int) -> Sequence[Hold]:
            self.sweeps += 1
            return super().holds(limit)

    store = CountsSweeps()
    async with Engine(store, clock=clock) as engine:
        await engine.create("/a", ttl_s=10)
        await engine.create("/b", expires_at=datetime.fromtimestamp(clock.now().wall_ms / 1000 + 10, UTC))
        await engine.create("/other")
        store.shut_gate()
        writes = [asyncio.create_task(engine.append("/other", b"x"))]
        await store.at_gate.wait()
        monkeypatch.setattr("unbroken.engine.commit.QUEUE_MAX", 1)
        writes.append(asyncio.create_task(engine.append("/other", b"y")))
        await settle()
        clock.advance(11)
        before = store.sweeps
        await until(lambda: store.sweeps >= before + 3)
        store.open_gate()
        await asyncio.gather(*writes)
        monkeypatch.setattr("unbroken.engine.commit.QUEUE_MAX", 65_536)
        clock.advance(60)
        await until(lambda: store.state("/a") is None and store.state("/b") is None, timeout_s=3)


# --- restarts ------------------------------------------------------------------------------------------------------


async def test_restart_grants_one_full_ttl(tmp_path: Path, quick_sweep: None) -> None:
    """What time passed while the server was down is not known to have been without readers."""
    before = ManualClock()
    async with Engine(SqliteStore(tmp_path), clock=before) as engine:
        await engine.create("/a", ttl_s=10, data=b"x")
        before.advance(9)
    after = ManualClock(wall_ms=before.now().wall_ms + 10**9, monotonic_ms=5)
    async with Engine(SqliteStore(tmp_path), clock=after) as engine:
        after.advance(9.999)
        assert _is_there(engine)
        after.advance(0.001)
        assert not _is_there(engine)
        await until(lambda: engine.store.state("/a") is None)


async def test_restart_does_not_move_an_absolute_expiry(tmp_path: Path, quick_sweep: None) -> None:
    clock = ManualClock()
    moment = datetime.fromtimestamp(clock.now().wall_ms / 1000, UTC) + timedelta(seconds=10)
    async with Engine(SqliteStore(tmp_path), clock=clock) as engine:
        await engine.create("/a", expires_at=moment)
        await engine.create("/b", expires_at=moment + timedelta(seconds=1))
    clock.advance(10)
    async with Engine(SqliteStore(tmp_path), clock=clock) as engine:
        assert not _is_there(engine)
        assert _is_there(engine, "/b")
        await until(lambda: engine.store.state("/a") is None)
        assert engine.store.state("/b") is not None


async def test_restart_with_a_reader_that_keeps_renewing(tmp_path: Path, quick_sweep: None) -> None:
    async with Engine(SqliteStore(tmp_path), clock=ManualClock()) as engine:
        await engine.create("/a", ttl_s=10, data=b"x")
        await engine.create("/b", ttl_s=10, data=b"x")
    clock = ManualClock()
    async with Engine(SqliteStore(tmp_path), clock=clock) as engine:
        for _ in range(3):
            clock.advance(9)
            await engine.read("/a")
        await until(lambda: engine.store.state("/b") is None)
        assert _is_there(engine)
        clock.advance(10)
        await until(lambda: engine.store.state("/a") is None)


@pytest.mark.parametrize("lifetime", [{"ttl_s": 10**9}, {"expires_at": datetime(9000, 1, 1, tzinfo=UTC)}])
async def test_deleted_streams_are_not_watched_for_centuries(start: Start, lifetime: dict[str, Any]) -> None:
    """Streams that come and go, each with a lifetime that would have been long, take no memory for ever."""

    def watched(engine: Engine) -> float:
        (found,) = (metric.value for metric in engine.metrics() if metric.name == "watched_lifetimes")
        assert isinstance(found, int)
        return found

    async with start() as engine:
        await engine.create("/stays", **lifetime)
        for _ in range(10):
            await asyncio.gather(*(engine.create(f"/{number}", **lifetime) for number in range(200)))
            await engine.delete_all("/")
            await engine.create("/stays", **lifetime)
        assert 0 < watched(engine) < 1500


async def test_streams_that_stay_are_reclaimed_among_many_that_go(
    start: Start, clock: ManualClock, quick_sweep: None
) -> None:
    async with start() as engine:
        await engine.create("/stays", ttl_s=20)
        for _ in range(10):
            await asyncio.gather(*(engine.create(f"/{number}", ttl_s=10**9) for number in range(200)))
            await asyncio.gather(*(engine.delete(f"/{number}") for number in range(200)))
        clock.advance(20)
        await until(lambda: engine.store.state("/stays") is None)
