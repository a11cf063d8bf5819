"""Large appends: written in pieces, while everybody else's go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import apsw
import pytest

from tests.engine.conftest import Start
from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine, upload
from unbroken.engine.commit import Committer
from unbroken.engine.upload import Upload
from unbroken.engine.usage import Quota
from unbroken.protocol.commands import Append, Appended, Create, Created, Outcome
from unbroken.protocol.content import Content
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.space import DiskSpace
from unbroken.testing import ManualClock
from unbroken.testing.faults import Fault, FaultyDisk

BIG = bytes(range(256)) * 2500  # more than two of the store's own large bodies


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    with patch.multiple(
        upload, _PIECE_BYTES=100_000, _PIECE_BYTES_BESIDE=50_000, _LARGE_BYTES=300_000, _DATED_BYTES=250_000
    ):
        yield


def send(
    engine: Engine, path: str, data: bytes, *, close: bool = False, seq: int | None = None
) -> asyncio.Task[Outcome]:
    stamp = None if seq is None else ProducerStamp("p", 0, seq)
    command = Append(path, "application/octet-stream", Content(data), close, None, stamp)
    return asyncio.get_running_loop().create_task(engine.execute(command))


async def read_all(engine: Engine, path: str) -> bytes:
    parts: list[bytes] = []
    offset = "-1"
    while True:
        page = await engine.read(path, offset)
        parts.append(page.data)
        offset = str(page.next_offset)
        if page.up_to_date:
            return b"".join(parts)


class Hold:
    """Stops large appends after their first piece, until the test lets them go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = True
        self.written_bytes = 0
        monkeypatch.setattr(Committer, "_is_early", lambda _, upload: self._is_held(upload))

    def _is_held(self, upload: Upload) -> bool:
        self.written_bytes = upload.written_bytes
        return self.held and self.written_bytes > 0


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    return Hold(monkeypatch)


async def test_others_go_on_while_a_large_body_is_written(start: Start, hold: Hold) -> None:
    async with start() as engine:
        await engine.create("/big", data=b"<")
        await engine.create("/small")
        task = send(engine, "/big", BIG)
        for _ in range(9):
            await engine.append("/small", b"x")
            assert engine.head("/big").tail == 1
            assert await read_all(engine, "/big") == b"<"
        assert 0 < hold.written_bytes <= 100_000
        assert not task.done()
        hold.held = False
        outcome = await task
        assert isinstance(outcome, Appended)
        assert outcome.next_offset.position == 1 + len(BIG)
        assert await read_all(engine, "/big") == b"<" + BIG
        assert await read_all(engine, "/small") == b"x" * 9


async def test_what_comes_for_the_same_stream_waits_its_turn(start: Start) -> None:
    async with start() as engine:
        for path in ("/a", "/b"):
            await engine.create(path)
        order = [("/a", b"1"), ("/a", BIG), ("/a", b"2"), ("/b", b"3"), ("/b", BIG), ("/a", BIG), ("/b", b"4")]
        outcomes = await asyncio.gather(*(send(engine, path, data) for path, data in order))
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        for path in ("/a", "/b"):
            assert await read_all(engine, path) == b"".join(data for to, data in order if to == path)


async def test_a_large_body_can_close_its_stream_and_carry_a_producer(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a")
        tasks = [send(engine, "/a", BIG, seq=0), send(engine, "/a", BIG, seq=0), send(engine, "/a", BIG, seq=2)]
        first, again, gap = await asyncio.gather(*tasks)
        assert isinstance(first, Appended)
        assert not first.duplicate
        assert isinstance(again, Appended)
        assert again.duplicate
        assert isinstance(gap, errors.ProducerGap)
        last, late = await asyncio.gather(send(engine, "/a", BIG, close=True, seq=1), send(engine, "/a", BIG))
        assert isinstance(last, Appended)
        assert last.closed
        assert isinstance(late, errors.StreamClosed)
        assert await read_all(engine, "/a") == BIG + BIG


def put(engine: Engine, path: str, data: bytes = BIG, *, closed: bool = False) -> asyncio.Task[Outcome]:
    command = Create(path, "application/octet-stream", None, closed, Content(data))
    return asyncio.get_running_loop().create_task(engine.execute(command))


async def test_others_go_on_while_a_stream_is_created_with_a_large_body(start: Start, hold: Hold) -> None:
    async with start() as engine:
        await engine.create("/small")
        creation = put(engine, "/big", closed=True)
        for _ in range(9):
            await engine.append("/small", b"x")
            with pytest.raises(errors.StreamNotFound):
                engine.head("/big")
            assert [state.path for state in engine.streams()] == ["/small"]
        assert 0 < hold.written_bytes <= 100_000
        await engine.create("/later")
        again = put(engine, "/big", closed=True)
        other = put(engine, "/big", b"other")
        early = send(engine, "/later", b"1")
        late = send(engine, "/big", b"late")
        with pytest.raises(errors.StreamNotFound):
            await engine.delete("/big")
        assert isinstance(await early, Appended)
        assert not any(task.done() for task in (creation, again, other, late))
        hold.held = False
        first, second, third, fourth = await asyncio.gather(creation, again, other, late)
        assert isinstance(first, Created)
        assert not first.existed
        assert isinstance(second, Created)
        assert second.existed
        assert isinstance(third, errors.StreamExists)
        assert isinstance(fourth, errors.StreamClosed)
        assert await read_all(engine, "/big") == BIG
        assert engine.head("/big").closed
        assert await read_all(engine, "/small") == b"x" * 9
        assert not (await engine.fork("/fork", "/big")).existed
        assert await read_all(engine, "/fork") == BIG
        await engine.delete("/big")
        assert isinstance(await put(engine, "/big"), errors.StreamGone | errors.StreamExists)


async def test_a_large_body_takes_the_path_of_what_has_expired(start: Start, hold: Hold) -> None:
    async with start() as engine:
        await engine.create("/small")
        await engine.create("/a", data=b"old", ttl_s=0)
        task = put(engine, "/a")
        await until(lambda: hold.written_bytes > 0)
        await engine.append("/small", b"x")
        with pytest.raises(errors.StreamNotFound):
            engine.head("/a")
        hold.held = False
        outcome = await task
        assert isinstance(outcome, Created)
        assert not outcome.existed
        assert await read_all(engine, "/a") == BIG


async def test_created_large_again_and_again(start: Start) -> None:
    """An offset of an earlier stream never means a place in a later one."""
    async with start() as engine:
        offsets = []
        for turn in range(3):
            tasks = [put(engine, "/a"), engine.create(f"/beside/{turn}")]
            first, _ = await asyncio.gather(*tasks)
            assert isinstance(first, Created)
            offsets.append(str(first.next_offset))
            for old in offsets[:-1]:
                with pytest.raises(errors.OffsetGone):
                    await engine.read("/a", old)
            await engine.append("/a", b"after")
            assert await read_all(engine, "/a") == BIG + b"after"
            await engine.delete("/a")
        assert offsets == sorted(offsets)


async def test_a_large_body_for_a_stream_that_is_there(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"before")
        outcome = await put(engine, "/a")
        assert isinstance(outcome, Created)
        assert outcome.existed
        assert await read_all(engine, "/a") == b"before"


async def test_what_is_created_large_counts(clock: ManualClock, tmp_path: Path, hold: Hold) -> None:
    """And is refused in the end if there is no room any more, leaving nothing."""
    engine = Engine(SqliteStore(tmp_path / "data"), clock=clock, quota=Quota(streams=2))
    async with engine:
        await engine.create("/beside")
        creation = put(engine, "/a")
        await until(lambda: hold.written_bytes > 0)
        await engine.create("/quicker")
        hold.held = False
        for late in (creation, put(engine, "/b")):
            with pytest.raises(errors.TooManyStreams):
                await late
        await engine.delete("/quicker")
        assert isinstance(await put(engine, "/b"), Created)
        assert (engine.usage.streams, engine.usage.total_bytes) == (2, len(BIG))
    assert check(tmp_path / "data") == []


async def test_refused_at_once(start: Start) -> None:
    async with start() as engine:
        assert isinstance(await send(engine, "/nothing", BIG), errors.StreamNotFound)
        await engine.create("/json", content_type="application/json")
        assert isinstance(await send(engine, "/json", BIG), errors.ContentTypeMismatch)
        await engine.create("/a")
        await engine.append("/a", b"goes on")


@pytest.mark.parametrize("end", ["delete", "replace", "fork", "delete the source of a fork"])
async def test_the_stream_changes_meanwhile(start: Start, hold: Hold, end: str) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"before")
        await engine.create("/beside")
        task = send(engine, "/a", BIG)
        await engine.append("/beside", b"x")
        await until(lambda: hold.written_bytes > 0)
        if "fork" in end:
            await engine.fork("/fork", "/a")
            assert await read_all(engine, "/fork") == b"before"
        if end != "fork":
            await engine.delete("/a")
        if end == "replace":
            await engine.create("/a", data=b"new")
        hold.held = False
        outcome = await task
        if end in ("replace", "fork"):
            assert isinstance(outcome, Appended)
            assert await read_all(engine, "/a") == (b"new" if end == "replace" else b"before") + BIG
        else:
            assert isinstance(outcome, errors.StreamNotFound | errors.StreamGone)
        if end == "delete the source of a fork":
            await engine.delete("/fork")
        await engine.append("/beside", b"x")


async def test_all_of_it_was_committed_at_one_time(start: Start, clock: ManualClock) -> None:
    """A read since any moment begins before the whole body or after it, never inside."""
    async with start() as engine:
        await engine.create("/a", data=b"before")
        await engine.create("/beside")
        begun = clock.now().wall_ms
        clock.advance(10)
        task = send(engine, "/a", BIG)
        while not task.done():
            await engine.append("/beside", b"x")
            clock.advance(1)
        from datetime import UTC, datetime, timedelta

        found = set()
        for ms in range(0, 20_000, 500):
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=begun + ms)
            found.add((await engine.offset_since("/a", moment)).position)
        assert found == {0, 6, 6 + len(BIG)}


async def test_stopping_finishes_it(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a")
        task = send(engine, "/a", BIG)
        await asyncio.sleep(0)
    assert isinstance(await task, Appended)


async def test_a_failing_disk_leaves_nothing_of_a_creation(tmp_path: Path) -> None:
    with FaultyDisk() as disk:
        async with Engine(SqliteStore(tmp_path / "data", vfs=disk.name)) as engine:
            creation = put(engine, "/a")
            waiting = put(engine, "/a", b"other")
            await asyncio.sleep(0)
            disk.fail(Fault.ERROR, "sync", file="log", after=2, lasting=True)
            for each in (creation, waiting):
                with pytest.raises(errors.Unavailable):
                    await each
            with pytest.raises(errors.StreamNotFound):
                engine.head("/a")
        disk.heal()
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        with pytest.raises(errors.StreamNotFound):
            engine.head("/a")
        assert isinstance(await put(engine, "/b", b"b"), Created)
        assert isinstance(await put(engine, "/a"), Created)
        assert await read_all(engine, "/a") == BIG
        assert await read_all(engine, "/b") == b"b"
    assert check(tmp_path / "data") == []


async def test_a_failing_disk_leaves_nothing_of_it(tmp_path: Path) -> None:
    with FaultyDisk() as disk:
        async with Engine(SqliteStore(tmp_path / "data", vfs=disk.name)) as engine:
            await engine.create("/a", data=b"before")
            task = send(engine, "/a", BIG)
            waiting = send(engine, "/a", b"after")
            await asyncio.sleep(0)
            disk.fail(Fault.ERROR, "sync", file="log", after=2, lasting=True)
            for each in (task, waiting):
                with pytest.raises(errors.Unavailable):
                    await each
            assert await read_all(engine, "/a") == b"before"
        disk.heal()
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        assert await read_all(engine, "/a") == b"before"
        assert isinstance(await send(engine, "/a", BIG), Appended)
        assert await read_all(engine, "/a") == b"before" + BIG
    assert check(tmp_path / "data") == []


@pytest.mark.parametrize("dated_bytes", [10_000, 10_000_000])
async def test_no_room_for_the_last_commits_leaves_nothing_of_it(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch, dated_bytes: int
) -> None:
    """All pieces are written when somebody else fills the disk: what comes after must not be taken for them."""
    monkeypatch.setattr(upload, "_DATED_BYTES", dated_bytes)
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/a", data=b"before")
        hold.held = False
        monkeypatch.setattr(DiskSpace, "free_bytes", property(lambda _: 0 if hold.written_bytes == len(BIG) else 2**40))
        with pytest.raises(errors.StorageFull):
            await send(engine, "/a", BIG)
        monkeypatch.undo()
        await engine.append("/a", b"after")
        assert await read_all(engine, "/a") == b"beforeafter"
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        assert await read_all(engine, "/a") == b"beforeafter"
    assert check(tmp_path / "data") == []


async def test_what_did_not_find_room_gives_it_back_by_itself(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk nothing may be written that would bring it along."""
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        hold.held = False
        monkeypatch.setattr(DiskSpace, "free_bytes", property(lambda _: 0 if hold.written_bytes else 2**40))
        with pytest.raises(errors.StorageFull):
            await put(engine, "/a")
        monkeypatch.undo()
        file = tmp_path / "data" / DATABASE_NAME
        with contextlib.closing(apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            await until(lambda: not list(db.execute("SELECT stream FROM staging UNION SELECT stream FROM chunks")))


async def test_what_waits_for_a_large_append_counts_as_queued(
    start: Start, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbroken.engine.commit.QUEUE_MAX", 5)
    async with start() as engine:
        await engine.create("/a")
        tasks = [send(engine, "/a", BIG)]
        await until(lambda: hold.written_bytes > 0)
        for _ in range(5):
            tasks.append(send(engine, "/a", b"x"))
            await until(lambda: not engine._committer._queue)
        with pytest.raises(errors.Overloaded):
            await send(engine, "/a", b"x")
        hold.held = False
        assert all(isinstance(outcome, Appended) for outcome in await asyncio.gather(*tasks))
