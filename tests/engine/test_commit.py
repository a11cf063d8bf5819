"""Group commit: nothing is seen or acknowledged before it is durable, and a failed commit is not smoothed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import settle, until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import ProducerStamp


@asynccontextmanager
async def _engine() -> AsyncIterator[tuple[Engine, GatedStore]]:
    """An engine with one stream, and its store."""
    store = GatedStore()
    async with Engine(store) as engine:
        await engine.create("/a", content_type="text/plain", data=b"durable")
        yield engine, store
        store.open_gate()


async def test_nothing_is_seen_before_it_is_durable() -> None:
    async with _engine() as (engine, store):
        store.shut_gate()
        with engine.follower("/a", "now") as follower:
            await follower.next(0)
            news = asyncio.create_task(follower.next(60))
            writes = [
                asyncio.create_task(write)
                for write in (
                    engine.append("/a", b"?", close=True, producer=ProducerStamp("p", 0, 0)),
                    engine.create("/new", data=b"?"),
                    engine.fork("/fork", "/a"),
                )
            ]
            await store.at_gate.wait()
            await settle()
            assert not news.done()
            assert not any(write.done() for write in writes)
            page = await engine.read("/a")
            assert (page.body, page.closed, page.up_to_date) == (b"durable", False, True)
            for path in ("/new", "/fork"):
                with pytest.raises(errors.StreamNotFound):
                    engine.head(path)
            store.open_gate()
            await asyncio.gather(*writes)
            found = await news
            assert found is not None
            assert (found.body, found.closed) == (b"?", True)
            assert (await engine.read("/new")).body == b"?"


async def test_deletion_is_not_seen_before_it_is_durable() -> None:
    async with _engine() as (engine, store):
        store.shut_gate()
        deletion = asyncio.create_task(engine.delete("/a"))
        await store.at_gate.wait()
        assert (await engine.read("/a")).body == b"durable"
        store.open_gate()
        await deletion
        with pytest.raises(errors.StreamNotFound):
            await engine.read("/a")


async def test_what_arrives_during_a_commit_forms_the_next_batch() -> None:
    async with _engine() as (engine, store):
        await engine.create("/b")
        store.shut_gate()
        first = asyncio.create_task(engine.append("/a", b"1"))
        await store.at_gate.wait()
        before = store.commits
        rest = [asyncio.create_task(engine.append(path, b"%d" % n)) for n in range(50) for path in ("/a", "/b")]
        await settle()
        store.let_one_through()
        await first
        await store.at_gate.wait()
        assert not any(one.done() for one in rest)
        store.open_gate()
        await asyncio.gather(*rest)
        assert store.commits == before + 2, "100 appends to two streams in one commit"
        digits = b"".join(b"%d" % n for n in range(50))
        assert (await engine.read("/a")).body == b"durable1" + digits
        assert (await engine.read("/b")).body == digits


async def test_who_gives_way_goes_on_one_with_each_commit() -> None:
    async with _engine() as (engine, store):
        await asyncio.wait_for(engine.give_way(), 10)  # to nobody
        store.shut_gate()
        writes = [asyncio.create_task(engine.append("/a", b"1"))]
        await store.at_gate.wait()
        giving_way = [asyncio.create_task(engine.give_way()) for _ in range(4)]
        writes.append(asyncio.create_task(engine.append("/a", b"2")))
        await settle()
        assert [one.done() for one in giving_way] == [False] * 4
        giving_way[0].cancel()
        store.let_one_through()
        await writes[0]
        await store.at_gate.wait()
        await settle()
        assert [one.done() for one in giving_way] == [True, True, False, False]
        store.open_gate()
        await asyncio.wait_for(asyncio.gather(*writes, *giving_way[1:]), 10)


async def test_nobody_gives_way_to_what_failed() -> None:
    async with _engine() as (engine, store):
        store.shut_gate()
        write = asyncio.create_task(engine.append("/a", b"1"))
        await store.at_gate.wait()
        giving_way = asyncio.create_task(engine.give_way())
        await settle()
        store.error = OSError("the disk")
        store.open_gate()
        with pytest.raises(errors.OutcomeUnknown):
            await write
        await asyncio.wait_for(giving_way, 10)


async def test_batch_is_decided_in_order() -> None:
    """Each command sees what those before it in the same batch did."""
    async with _engine() as (engine, store):
        store.shut_gate()
        blocker = asyncio.create_task(engine.create("/other"))
        await store.at_gate.wait()
        stamp = ProducerStamp("p", 0, 0)
        tasks = [
            asyncio.create_task(call)
            for call in (
                engine.append("/a", b"1", producer=stamp, stream_seq="1"),
                engine.append("/a", b"1", producer=stamp, stream_seq="1"),
                engine.append("/a", b"2", stream_seq="1"),
                engine.append("/a", b"3", close=True),
                engine.append("/a", b"4"),
                engine.delete("/a"),
                engine.create("/a", data=b"again"),
            )
        ]
        await settle()
        store.open_gate()
        await blocker
        outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        first, again, regression, closing, late, deleted, created = outcomes
        assert (first.next_offset, first.duplicate) == (Offset(1, 8), False)
        assert (again.next_offset, again.duplicate) == (Offset(1, 8), True)
        assert isinstance(regression, errors.SequenceRegression)
        assert (closing.next_offset, closing.closed) == (Offset(1, 9), True)
        assert isinstance(late, errors.StreamClosed)
        assert deleted is None
        assert created.next_offset == Offset(3, 5)
        assert (await engine.read("/a")).body == b"again"


async def test_large_batches_are_cut() -> None:
    async with _engine() as (engine, store):
        store.shut_gate()
        blocker = asyncio.create_task(engine.append("/a", b"1"))
        await store.at_gate.wait()
        before = store.commits
        mebibyte = b"x" * 1024 * 1024
        large = [asyncio.create_task(engine.append("/a", mebibyte)) for _ in range(10)]
        await settle()
        store.open_gate()
        await asyncio.gather(blocker, *large)
        assert store.commits - before == 6, "at most about 2 MiB each: the one at the gate, then 2 five times"


async def test_long_batches_are_cut() -> None:
    """A batch keeps the event loop busy for as long as it takes to decide it."""
    async with _engine() as (engine, store):
        store.shut_gate()
        blocker = asyncio.create_task(engine.append("/a", b"1"))
        await store.at_gate.wait()
        before = store.commits
        many = [asyncio.create_task(engine.append("/a", b"x")) for _ in range(1100)]
        await settle()
        store.open_gate()
        await asyncio.gather(blocker, *many)
        assert store.commits - before == 4, "at most 512 each: the one at the gate, then 512, 512 and 76"


async def test_cancelled_caller_harms_nobody() -> None:
    """Its write was accepted, so it is carried out; the others of its batch get their answers."""
    async with _engine() as (engine, store):
        store.shut_gate()
        blocker = asyncio.create_task(engine.create("/other"))
        await store.at_gate.wait()
        one, two, three = (asyncio.create_task(engine.append("/a", word)) for word in (b" one", b" two", b" three"))
        await settle()
        two.cancel()
        await settle()
        store.open_gate()
        await asyncio.gather(blocker, one, three)
        assert two.cancelled()
        assert (await engine.read("/a")).body in (b"durable one two three", b"durable one three")
        assert (await engine.append("/a", b"!")).next_offset == engine.head("/a").tail_offset


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (OSError("disk on fire"), errors.OutcomeUnknown),
        (errors.OutcomeUnknown("fsync failed"), errors.OutcomeUnknown),
        (errors.StorageFull("no space"), errors.StorageFull),
    ],
)
async def test_failed_commit_fails_its_whole_batch(error: Exception, reported: type[Exception]) -> None:
    async with _engine() as (engine, store):
        await engine.create("/b", data=b"b")
        store.shut_gate()
        with engine.follower("/a", "now") as follower:
            await follower.next(0)
            news = asyncio.create_task(follower.next(60))
            first = asyncio.create_task(engine.append("/a", b"lost?"))
            await store.at_gate.wait()
            later = [
                asyncio.create_task(call)
                for call in (engine.append("/b", b"x"), engine.create("/c"), engine.delete("/b"), engine.close("/a"))
            ]
            await settle()
            before = store.commits
            store.error = error
            store.open_gate()
            with pytest.raises(reported):
                await first
            for one in later:
                with pytest.raises(errors.Unavailable):
                    await one
            assert store.commits == before, "nothing was tried again"
            assert not news.done()
            follower.stop()
            assert await news is None
        assert (await engine.read("/a")).body == b"durable", "reads go on"
        assert (await engine.read("/b")).body == b"b"
        with pytest.raises(errors.StreamNotFound):
            engine.head("/c")


async def test_after_a_failed_commit_every_write_is_refused() -> None:
    async with _engine() as (engine, store):
        store.error = OSError("disk on fire")
        with pytest.raises(errors.OutcomeUnknown):
            await engine.append("/a", b"x")
        store.error = None  # the disk seems well again, which proves nothing
        for call in (
            engine.append("/a", b"x"),
            engine.create("/b"),
            engine.delete("/a"),
            engine.close("/a"),
            engine.fork("/b", "/a"),
        ):
            with pytest.raises(errors.StoreReadOnly):
                await call
        assert (await engine.read("/a")).body == b"durable"


async def test_failure_over_and_over_ends_in_order() -> None:
    """An engine whose store failed can still be stopped, and lets the store go."""
    store = GatedStore()
    async with Engine(store) as engine:
        store.error = OSError("disk on fire")
        with pytest.raises(errors.OutcomeUnknown):
            await engine.create("/a")
    assert store.closed


async def test_failed_housekeeping_does_not_hang_writers(quick_sweep: None) -> None:
    """The writer survives it: what comes later is refused at once, and the store is let go in the end."""
    store = GatedStore()
    async with asyncio.timeout(5), Engine(store) as engine:
        await engine.create("/a")
        store.maintenance_error = errors.StoreReadOnly("an I/O error")
        await until(lambda: store.failure is not None)
        with pytest.raises(errors.StoreReadOnly):
            await engine.append("/a", b"x")
        assert (await engine.read("/a")).body == b""
    assert store.closed


async def test_failed_lookup_in_the_background_does_not_keep_the_store_open(quick_sweep: None) -> None:
    """A read error in the sweep must not be the reason that `stop` fails half way."""

    class Unreadable(GatedStore):
        asked = 0

        def holds(self, limit: int) -> list:
            self.asked += 1
            raise errors.StoreError("cannot read")

    store = Unreadable()
    async with Engine(store) as engine:
        await until(lambda: store.asked)
        await engine.create("/a")
    assert store.closed


# --- limits and the end ----------------------------------------------------------------------------------------------


async def test_queue_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.engine.commit.QUEUE_MAX", 10)
    async with _engine() as (engine, store):
        store.shut_gate()
        blocker = asyncio.create_task(engine.append("/a", b"0"))
        await store.at_gate.wait()
        queued = [asyncio.create_task(engine.append("/a", b"1")) for _ in range(10)]
        await settle()
        for _ in range(3):
            with pytest.raises(errors.Overloaded):
                await engine.append("/a", b"2")
        assert (await engine.read("/a")).body == b"durable", "reads are not queued"
        store.open_gate()
        await asyncio.gather(blocker, *queued)
        await engine.append("/a", b"3")
        assert (await engine.read("/a")).body == b"durable0" + b"1" * 10 + b"3"


async def test_stop_finishes_what_was_accepted(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", content_type="text/plain")
        writes = [asyncio.create_task(engine.append("/a", b"%d" % n)) for n in range(50)]
        await settle()
    done = await asyncio.gather(*writes)
    assert len({one.next_offset for one in done}) == 50


async def test_after_stop_writes_are_refused() -> None:
    store = GatedStore()
    async with Engine(store) as engine:
        await engine.create("/a")
    assert store.closed
    with pytest.raises(errors.Draining):
        await engine.append("/a", b"x")


async def test_stop_waits_for_the_commit_under_way() -> None:
    store = GatedStore()
    engine = Engine(store)
    await engine.start()
    await engine.create("/a")
    store.shut_gate()
    write = asyncio.create_task(engine.append("/a", b"x"))
    await store.at_gate.wait()
    queued = asyncio.create_task(engine.append("/a", b"y"))
    await settle()
    stopping = asyncio.create_task(engine.stop())
    await settle()
    assert not stopping.done()
    assert not store.closed
    store.open_gate()
    await stopping
    assert (await write).next_offset == Offset(1, 1)
    assert (await queued).next_offset == Offset(1, 2)
    assert store.closed
