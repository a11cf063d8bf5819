"""How many producers a stream may know: those that it knows go on, and nothing else stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.engine.usage import Quota
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.base import Store
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.backup import backup
from unbroken.store.sqlite.restore import restore

MEBIBYTE = 1024 * 1024
THREE = Quota(stream_producers=3)


def stamp(name: str, seq: int = 0, epoch: int = 0) -> ProducerStamp:
    return ProducerStamp(name, epoch, seq)


async def fill(engine: Engine, path: str = "/a") -> None:
    await engine.create(path, content_type="text/plain")
    for name in "pqr":
        await engine.append(path, b"x", producer=stamp(name))


async def test_a_stream_takes_no_more_producers_than_it_may(start: Start) -> None:
    async with start(quota=THREE) as engine:
        await fill(engine)
        with pytest.raises(errors.TooManyProducers) as refused:
            await engine.append("/a", b"y", producer=stamp("s"))
        assert (refused.value.limit, refused.value.status) == (3, 413)
        assert "knows 3 producers" in refused.value.detail
        with pytest.raises(errors.TooManyProducers):
            await engine.append("/a", b"y" * (2 * MEBIBYTE), producer=stamp("s"))
        with pytest.raises(errors.ProducerGap):
            await engine.append("/a", b"y", producer=stamp("s", 1))
        await fill(engine, "/b")
        assert (await engine.read("/a")).body == b"xxx"


async def test_everything_else_goes_on(start: Start) -> None:
    async with start(quota=THREE) as engine:
        await fill(engine)
        assert (await engine.append("/a", b"x", producer=stamp("p"))).duplicate
        await engine.append("/a", b"1", producer=stamp("p", 1))
        await engine.append("/a", b"2", producer=stamp("q", 0, epoch=1))
        await engine.append("/a", b"3")
        with pytest.raises(errors.StaleEpoch):
            await engine.append("/a", b"y", producer=stamp("q", 1))
        await engine.fork("/fork", "/a")
        await fill(engine, "/other")
        await engine.append("/fork", b"4", producer=stamp("new"))
        assert (await engine.append("/a", b"5", producer=stamp("r", 1), close=True)).closed
        assert (await engine.read("/a")).body == b"xxx1235"
        await engine.delete("/other")
        await fill(engine, "/other")


async def test_a_batch_lets_in_as_many_as_there_is_room_for(start: Start) -> None:
    async with start(quota=THREE) as engine:
        await engine.create("/a", content_type="text/plain")
        tries = (engine.append("/a", b"x", producer=stamp(f"p{number % 20}", number // 20)) for number in range(40))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, errors.TooManyProducers) for outcome in outcomes) == 17
        assert sum(isinstance(outcome, errors.ProducerGap) for outcome in outcomes) == 17
        assert engine.head("/a").tail == 6


async def test_producers_are_counted_again_after_a_restart(store: Store) -> None:
    async with Engine(store) as engine:
        await fill(engine)
    async with Engine(store, quota=THREE) as engine:
        if isinstance(store, SqliteStore):
            await store.fold_everything()
        with pytest.raises(errors.TooManyProducers):
            await engine.append("/a", b"y", producer=stamp("s"))
        await engine.append("/a", b"y", producer=stamp("r", 1))
    async with Engine(store, quota=Quota(stream_producers=4)) as engine:
        await engine.append("/a", b"y", producer=stamp("r", 2))
        await engine.append("/a", b"y", producer=stamp("s"))
        with pytest.raises(errors.TooManyProducers):
            await engine.append("/a", b"y", producer=stamp("t"))
    async with Engine(store) as engine:
        await engine.append("/a", b"y", producer=stamp("t"))


async def test_producers_of_a_commit_that_found_no_room_do_not_count() -> None:
    store = GatedStore()
    async with Engine(store, quota=THREE) as engine:
        await engine.create("/a", content_type="text/plain")
        store.error = errors.StorageFull("no room")
        for name in "pqrs":
            with pytest.raises(errors.UnbrokenError):
                await engine.append("/a", b"x", producer=stamp(name))
        store.error = store.failure = None
        for name in "pqr":
            await engine.append("/a", b"x", producer=stamp(name))
        with pytest.raises(errors.TooManyProducers):
            await engine.append("/a", b"x", producer=stamp("s"))


async def test_producers_of_a_restored_stream_count(tmp_path: Path) -> None:
    """It goes on under a new number, and knows whom it knew."""
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await fill(engine)
        backup(tmp_path / "data", tmp_path / "saved.db")
    await restore(tmp_path / "saved.db", tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new"), quota=THREE) as engine:
        await until(lambda: engine.usage.measured)
        assert (await engine.append("/a", b"x", producer=stamp("p"))).duplicate
        with pytest.raises(errors.TooManyProducers):
            await engine.append("/a", b"y", producer=stamp("s"))


async def test_counts_of_many_streams_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is forgotten is counted anew."""
    monkeypatch.setattr("unbroken.store.sqlite.producers._STREAMS_MAX", 2)
    async with Engine(SqliteStore(tmp_path / "data"), quota=THREE) as engine:
        for number in range(5):
            await fill(engine, f"/{number}")
        for number in range(5):
            with pytest.raises(errors.TooManyProducers):
                await engine.append(f"/{number}", b"y", producer=stamp("s"))
