"""What a store may hold at most: refused when it would be too much, and neither a byte earlier nor later."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.engine.usage import Quota
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.base import Store, Totals
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.backup import backup
from unbroken.store.sqlite.restore import restore
from unbroken.testing import ManualClock

MEBIBYTE = 1024 * 1024


async def test_a_stream_takes_what_fits_and_no_byte_more(start: Start) -> None:
    async with start(quota=Quota(stream_bytes=10)) as engine:
        await engine.create("/a", data=b"12345")
        with pytest.raises(errors.StreamFull) as refused:
            await engine.append("/a", b"678901")
        assert refused.value.limit_bytes == 10
        await engine.append("/a", b"67890")
        with pytest.raises(errors.StreamFull):
            await engine.append("/a", b"1")
        with pytest.raises(errors.StreamFull):
            await engine.create("/b", data=b"x" * 11)
        await engine.create("/b", data=b"x" * 10)
        assert (await engine.read("/a")).body == b"1234567890"
        await engine.close("/a")


async def test_a_full_stream_still_knows_its_producers(start: Start) -> None:
    """The retry of what was accepted is acknowledged, and what breaks another rule is told that."""
    async with start(quota=Quota(stream_bytes=5)) as engine:
        await engine.create("/a")
        await engine.append("/a", b"12345", producer=ProducerStamp("p", 0, 0))
        assert (await engine.append("/a", b"12345", producer=ProducerStamp("p", 0, 0))).duplicate
        with pytest.raises(errors.StreamFull):
            await engine.append("/a", b"6", producer=ProducerStamp("p", 0, 1))
        with pytest.raises(errors.ProducerGap) as gap:
            await engine.append("/a", b"6", producer=ProducerStamp("p", 0, 5))
        assert gap.value.expected_seq == 1


async def test_what_a_fork_inherits_counts_for_its_own_limit_and_once_for_all(start: Start) -> None:
    async with start(quota=Quota(stream_bytes=10, total_bytes=14)) as engine:
        await engine.create("/a", data=b"12345678")
        await until(lambda: engine.usage.measured)
        await engine.fork("/fork", "/a", data=b"90")
        with pytest.raises(errors.StreamFull):
            await engine.append("/fork", b"1")
        assert (engine.usage.streams, engine.usage.total_bytes) == (2, 10)
        await engine.create("/b", data=b"1234")
        with pytest.raises(errors.TotalSizeExceeded) as refused:
            await engine.append("/a", b"1")
        assert refused.value.limit_bytes == 14
        await engine.delete("/b")
        await engine.append("/a", b"9")


async def test_streams_are_counted_and_a_deleted_one_makes_room(start: Start) -> None:
    async with start(quota=Quota(streams=2)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/a")
        await engine.create("/b")
        with pytest.raises(errors.TooManyStreams) as refused:
            await engine.create("/c")
        assert (refused.value.limit, refused.value.status) == (2, 507)
        with pytest.raises(errors.TooManyStreams):
            await engine.fork("/c", "/a")
        assert (await engine.create("/a")).existed, "confirming creates none"
        await engine.append("/a", b"goes on")
        await engine.delete("/a")
        await engine.create("/c")


async def test_many_at_once_are_let_in_up_to_the_limit(start: Start) -> None:
    """They are decided in one batch, all before any of them is durable."""
    async with start(quota=Quota(streams=10, total_bytes=5)) as engine:
        await until(lambda: engine.usage.measured)
        tries = (engine.create(f"/{number}", data=b"x" if number % 2 else b"") for number in range(40))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, errors.QuotaExceeded) for outcome in outcomes) == 30
        assert (engine.usage.streams, engine.usage.total_bytes) == (10, 5)
        assert len(engine.streams()) == 10


async def test_an_expired_stream_does_not_stand_in_its_successors_way(start: Start, clock: ManualClock) -> None:
    async with start(quota=Quota(streams=1)) as engine:
        await until(lambda: engine.usage.measured)
        ends = datetime.fromtimestamp(clock.now().wall_ms / 1000 + 10, UTC)
        await engine.create("/a", expires_at=ends, data=b"12345")
        clock.advance(10)
        await engine.create("/a", data=b"1")
        assert (engine.usage.streams, engine.usage.total_bytes) == (1, 1)


async def test_what_was_there_at_the_start_counts(store: Store) -> None:
    quota = Quota(streams=2, total_bytes=10)
    async with Engine(store, quota=quota) as engine:
        await engine.create("/a", data=b"12345")
        await engine.fork("/b", "/a", data=b"123")
    async with Engine(store, quota=quota) as engine:
        await until(lambda: engine.usage.measured)
        assert (engine.usage.streams, engine.usage.total_bytes) == (2, 8)
        with pytest.raises(errors.TooManyStreams):
            await engine.create("/c")
        with pytest.raises(errors.TotalSizeExceeded):
            await engine.append("/b", b"456")
        await engine.append("/b", b"45")


async def test_a_failed_commit_counts_nothing() -> None:
    store = GatedStore()
    async with Engine(store) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/a", data=b"12345")
        store.error = errors.OutcomeUnknown("fsync failed")
        with pytest.raises(errors.OutcomeUnknown):
            await engine.append("/a", b"67890")
        assert (engine.usage.streams, engine.usage.total_bytes) == (1, 5)


async def test_a_large_append_is_refused_before_it_is_written(start: Start) -> None:
    async with start(quota=Quota(total_bytes=2 * MEBIBYTE)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/a", data=b"x")
        with pytest.raises(errors.TotalSizeExceeded):
            await engine.append("/a", bytes(2 * MEBIBYTE))
        assert engine.usage.total_bytes == 1
        await engine.append("/a", bytes(2 * MEBIBYTE - 1))
        assert engine.usage.total_bytes == 2 * MEBIBYTE


async def test_a_store_that_cannot_be_counted_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, store: Store
) -> None:
    def broken(*_: object) -> asyncio.Future[Totals]:
        counting: asyncio.Future[Totals] = asyncio.get_running_loop().create_future()
        counting.set_exception(OSError("disk on fire"))
        return counting

    monkeypatch.setattr(type(store), "totals", broken)
    async with Engine(store, quota=Quota(streams=0)) as engine:
        await until(lambda: "could not be counted" in caplog.text)
        await engine.create("/a")
        assert not engine.usage.measured


async def test_an_engine_that_stops_at_once_does_not_wait_for_the_count(store: Store) -> None:
    async with Engine(store) as engine:
        await engine.create("/a")
    async with Engine(store) as engine:
        pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_restored_store_counts_what_it_was_restored_with(tmp_path) -> None:
    """Its streams go on under new numbers, and what lies under the old ones is their own."""

    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/a", data=b"12345")
        await engine.fork("/fork", "/a", data=b"678")
        backup(tmp_path / "data", tmp_path / "saved.db")
    await restore(tmp_path / "saved.db", tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new")) as engine:
        await until(lambda: engine.usage.measured)
        assert (engine.usage.streams, engine.usage.total_bytes) == (2, 8)
        await engine.append("/a", b"6")
        await engine.delete("/fork")
        await engine.delete("/a")
        await until(lambda: (engine.usage.streams, engine.usage.total_bytes) == (0, 0))
