"""A restored store: nothing that was given out in an earlier life of it comes to mean something else."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.conftest import room
from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, full_disk, miniature
from tests.store.workload import look, workload
from unbroken.engine.engine import Engine
from unbroken.errors import InvalidOffset, OffsetGone, ProducerGap, StoreError, StreamExists, UnbrokenError
from unbroken.protocol.commands import Appended, Command, Delete, Release
from unbroken.protocol.content import SEPARATOR
from unbroken.protocol.offsets import Offset
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import StreamState, offset_at, resolve_offset
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite import restore as restoring
from unbroken.store.sqlite.backup import backup
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.restore import restore
from unbroken.store.sqlite.schema import DATABASE_NAME, RESTORING_NAME
from unbroken.testing.store_bench import append, create, execute, fork, read_stream, settle

LATER_US = 1_800_000_000_000_000
moments = count(LATER_US, 1_000_000)


async def restored(source: Path, directory: Path) -> SqliteStore:
    """The store of a restored backup, open."""
    await restore(source, directory, now_us=next(moments))
    assert check(directory) == []
    return await opened(directory)


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX)
    await store.open()
    return store


def state(store: SqliteStore, path: str) -> StreamState:
    found = store.state(path)
    assert found is not None, path
    return found


async def done(store: SqliteStore, *commands: Command) -> list[Any]:
    outcomes = await execute(store, *commands)
    assert not [outcome for outcome in outcomes if isinstance(outcome, UnbrokenError)]
    return outcomes


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


# --- whatever happens -------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """Something to do with the stream at a path, or the next where it makes sense."""

    kind: str
    path: int
    other: int
    size_bytes: int
    fraction: float


PATHS = [f"/{name}" for name in "abcdef"]
steps = st.builds(
    Step,
    st.sampled_from(["create", "json", "append", "append", "append", "fork", "fork", "close", "delete", "settle"]),
    st.integers(0, len(PATHS) - 1),
    st.integers(0, len(PATHS) - 1),
    st.sampled_from([0, 1, 5, 30, LARGE_BYTES + 3]),
    st.sampled_from([0.0, 0.4, 0.5, 1.0]),
)
lives = st.lists(st.lists(steps, max_size=12), min_size=1, max_size=3)


class History:
    """Streams through several lives, and what was seen of them: for each offset, all bytes before it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[Offset, bytes] = {}
        self.bodies = count(1)
        self.store = SqliteStore(root / "first", overlay_bytes_max=OVERLAY_BYTES_MAX)

    async def live(self, drawn: list[Step]) -> None:
        for step in drawn:
            if step.kind == "settle":
                await settle(self.store)
            for command in self.commands(step):
                await done(self.store, command)
            await self.look()

    def commands(self, step: Step) -> list[Command]:
        state = self.find(step.path, taken=step.kind not in ("create", "json", "fork"))
        path = self.free(step.path)
        body = b"%d," % next(self.bodies) * step.size_bytes
        match step.kind:
            case "create" | "json" if path:
                json = step.kind == "json"
                return [create(path, self.body(body, json=json), json=json)]
            case "append" if state and not state.closed and body:
                return [append(state.path, self.body(body, json=state.json), json=state.json)]
            case "close" if state:
                return [append(state.path, json=state.json, close=True)]
            case "fork" if path and (source := self.find(step.other, taken=True)):
                point = source.own_start + int((source.tail - source.own_start) * step.fraction)
                if source.json and point not in (0, source.tail):
                    point = source.own_start
                return [fork(path, source, point)]
            case "delete" if state:
                return [Delete(state.path)]
        return [Release(hold.source_path, hold.source_number, hold.fork) for hold in self.store.holds(1)]

    def body(self, body: bytes, *, json: bool) -> bytes:
        return b'"%b"' % body if json else body

    def find(self, first: int, *, taken: bool) -> StreamState | None:
        for path in (*PATHS[first:], *PATHS[:first]):
            if (state := self.store.state(path)) is not None and not state.gone:
                return state
        return None

    def free(self, first: int) -> str | None:
        return next((path for path in (*PATHS[first:], *PATHS[:first]) if self.store.state(path) is None), None)

    async def contents(self) -> dict[str, tuple[StreamState, bytes]]:
        states = self.store.states("/", "", 100)
        return {state.path: (state, await read_stream(self.store, state)) for state in states}

    async def look(self) -> None:
        """Every offset that is given out now is remembered; every one that ever was is kept, or refused."""
        streams = await self.contents()
        for state, data in streams.values():
            for offset, before in self.seen.items():
                position = resolve_offset(state, offset)
                if isinstance(position, UnbrokenError):
                    assert isinstance(position, OffsetGone | InvalidOffset)
                else:
                    assert position == len(before)
                    assert data[:position] == before
        for state, data in streams.values():
            starts = [0, *(end for _, end in state.lineage)]
            for position in {*starts, state.own_start + 1, (state.own_start + state.tail) // 2, state.tail}:
                if position <= state.tail:
                    given = (offset_at(state, position), data[:position])
                    assert self.seen.setdefault(*given) == given[1]

    def resolved(self, state: StreamState) -> dict[Offset, int | UnbrokenError]:
        return {offset: resolve_offset(state, offset) for offset in self.seen}


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(first=st.lists(steps, min_size=3, max_size=25), rest=lives, kept=st.sampled_from([2, 32]), chain=st.booleans())
def test_an_offset_means_the_same_for_ever(first: list[Step], rest: list[list[Step]], kept: int, chain: bool) -> None:
    """One backup restored several times; or, as a chain, each life from a backup of the one before."""
    memory = room()
    with (
        tempfile.TemporaryDirectory(dir=memory, prefix="unbroken-restore-") as directory,
        miniature(),
        patch.object(restoring, "FORMER_MAX", kept),
    ):
        asyncio.run(several_lives(Path(directory), first, rest, chain=chain))


async def several_lives(root: Path, first: list[Step], rest: list[list[Step]], *, chain: bool) -> None:
    history = History(root)
    await history.store.open()
    await history.live(first)
    saved: Path | None = None
    there: dict[str, tuple[StreamState, bytes]] = {}
    known: dict[str, dict[Offset, int | UnbrokenError]] = {}
    for life, drawn in enumerate((*rest, [])):
        if chain or saved is None:
            saved = root / f"{life}.db"
            backup(history.store.directory, saved)
            there = await history.contents()
            known = {path: history.resolved(state) for path, (state, _) in there.items()}
            await history.live(drawn)  # what is lost
        await history.store.close()
        history.store = await restored(saved, root / f"life{life}")
        now = await history.contents()
        assert now.keys() == there.keys()
        for path, (before, data) in there.items():
            assert now[path][1] == data
            compare_offsets(before, now[path][0], known[path], history.resolved(now[path][0]))
        await history.look()
        await history.live(drawn)
    await history.store.close()
    assert check(history.store.directory) == []


def compare_offsets(
    before: StreamState, after: StreamState, known: dict[Offset, int | UnbrokenError], now: dict[Offset, Any]
) -> None:
    kept = {number for number, _ in after.lineage} | {after.number}
    for offset, position in now.items():
        found = known.get(offset)
        if isinstance(found, int) and offset.number in kept:
            assert position == found  # what counted at the time of the backup still does
        elif offset.number == before.number and offset.position > before.tail:
            assert isinstance(position, OffsetGone)  # it was given out later


# --- one by one -------------------------------------------------------------------------------------------------------


async def test_everything_is_there(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    for commands in (await workload()).transactions:
        await execute(store, *commands)
    before = await look(store)
    backup(tmp_path / "data", tmp_path / "saved.db")
    await store.close()
    store = await restored(tmp_path / "saved.db", tmp_path / "new")
    after = await look(store)
    assert {path: data for path, (_, data) in after.streams.items()} == {
        path: data for path, (_, data) in before.streams.items()
    }
    assert len(after.producers) == len(before.producers) > 0
    assert len(after.holds) == len(before.holds)
    for path, (state, _) in before.streams.items():
        now = after.streams[path][0]
        can_grow = not state.closed and not state.gone
        assert now.former == ((state.number,) if can_grow else ())
        assert (now.number > LATER_US) == can_grow
        assert (now.tail, now.closed_by, now.stream_seq, now.forks, now.lifetime, now.created_ms) == (
            *(state.tail, state.closed_by, state.stream_seq, state.forks, state.lifetime, state.created_ms),
        )
    assert after.next_number > LATER_US
    await store.close()


async def test_two_restores_share_no_number_and_no_name(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await done(store, create("/a"), create("/b"))
    await store.close()
    numbers, names = set(), {store.identity}
    for life in ("1", "2"):
        store = await restored(tmp_path / "data", tmp_path / life)
        await done(store, create("/c"))
        numbers |= {state(store, path).number for path in ("/a", "/b", "/c")}
        names.add(store.identity)
        await store.close()
    assert len(numbers) == 6
    assert len(names) == 3


async def test_pages_and_messages_across_the_seam(tmp_path: Path) -> None:
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/m", content_type="application/json", data=b"[1,2,3]")
        before = engine.head("/m").tail_offset
        backup(tmp_path / "data", tmp_path / "saved.db")
        lost = (await engine.append("/m", b"[4,5]")).next_offset
    await restore(tmp_path / "saved.db", tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new"), page_bytes=16) as engine:
        assert (await engine.read("/m", before)).messages == []
        await engine.append("/m", b'["six",7]')
        assert (await engine.read("/m")).messages == [b"1", b"2", b"3", b'"six"', b"7"]
        assert (await engine.read("/m", before)).messages == [b'"six"', b"7"]
        with pytest.raises(OffsetGone, match="restored"):
            await engine.read("/m", lost)
        page = await engine.read("/m")
        assert (await engine.read("/m", page.next_offset)).up_to_date
        await engine.fork("/f", "/m", offset=before, sub_offset=1)
        assert (await engine.read("/f")).messages == [b"1", b"2", b"3", b'"six"']
        with pytest.raises(InvalidOffset, match="inside a message"):
            await engine.read("/m", Offset(before.number, 1))
        with pytest.raises(InvalidOffset, match="inside a message"):
            await engine.read("/m", Offset(engine.head("/m").number, before.position + 1))
    assert check(tmp_path / "new") == []


async def test_producers_go_on(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    stamps = [ProducerStamp("p", 4, seq) for seq in range(4)]
    await done(store, create("/a"), append("/a", b"0", producer=stamps[0]), append("/a", b"1", producer=stamps[1]))
    backup(tmp_path / "data", tmp_path / "saved.db")
    await done(store, append("/a", b"2", producer=stamps[2]))
    await store.close()
    store = await restored(tmp_path / "saved.db", tmp_path / "new")
    repeated, gap, following = await execute(
        *(store, append("/a", b"1", producer=stamps[1]), append("/a", b"3", producer=stamps[3])),
        append("/a", b"2", producer=stamps[2]),
    )
    assert isinstance(repeated, Appended)
    assert repeated.duplicate
    assert isinstance(gap, ProducerGap)
    assert isinstance(following, Appended)
    assert not following.duplicate
    assert await read_stream(store, state(store, "/a")) == b"012"
    await store.close()
    assert check(tmp_path / "new") == []


async def test_forks_live_and_die(tmp_path: Path) -> None:
    """Made before and after, of restored ones; made again; deleted in any order."""
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/source", data=b"source")
        point = offset_at(engine.head("/source"), 3)
        await engine.fork("/old", "/source", offset=point)
        await engine.append("/old", b"-old")
        await engine.fork("/deep", "/old")
        await engine.fork("/closed", "/source")
        await engine.close("/closed")
        backup(tmp_path / "data", tmp_path / "saved.db")
    await restore(tmp_path / "saved.db", tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new")) as engine:
        for path, source, offset in [("/old", "/source", point), ("/deep", "/old", None)]:
            assert (await engine.fork(path, source, offset=offset)).existed
        await engine.append("/source", b"-more")
        await engine.append("/old", b"er")
        await engine.fork("/new", "/source", offset=point)
        await engine.fork("/newer", "/source")
        with pytest.raises(StreamExists):
            await engine.fork("/old", "/source")
        bodies = {path: (await engine.read(path)).body for path in ("/old", "/deep", "/closed", "/new", "/newer")}
        assert bodies == {
            "/old": b"sou-older",
            "/deep": b"sou-old",
            "/closed": b"source",
            "/new": b"sou",
            "/newer": b"source-more",
        }
        assert engine.head("/source").forks == 4
        for path in ("/source", "/old", "/deep", "/newer", "/closed", "/new"):
            await engine.delete(path)
        await settled(engine)
        assert engine.store.states("/", "", 10) == []
    assert check(tmp_path / "new") == []
    await nothing_left(tmp_path / "new")


async def test_a_release_that_was_under_way(tmp_path: Path) -> None:
    """The fork was deleted before the backup, and its source released after the restore."""
    store = await opened(tmp_path / "data")
    await done(store, create("/source", b"source"), fork("/fork", "/source"))
    await done(store, Delete("/fork"))
    backup(tmp_path / "data", tmp_path / "saved.db")
    await store.close()
    store = await restored(tmp_path / "saved.db", tmp_path / "new")
    (hold,) = store.holds(10)
    assert hold.source_number == state(store, "/source").number > LATER_US
    await done(store, Release(hold.source_path, hold.source_number, hold.fork))
    assert state(store, "/source").forks == 0
    await done(store, Delete("/source"))
    await settle(store)
    await store.close()
    await nothing_left(tmp_path / "new")


async def settled(engine: Engine) -> None:
    """Until every deleted fork has released its source."""
    for _ in range(1000):
        if not engine.store.holds(1) and not engine.store.states("/", "", 1):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not all was released")


async def nothing_left(directory: Path) -> None:
    store = await opened(directory)
    await settle(store)
    await store.close()
    assert check(directory) == []
    db = apsw.Connection(str(directory / DATABASE_NAME))
    for table in ("streams", "chunks", "producers", "trash"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)], table
    db.close()


async def test_many_restores(tmp_path: Path) -> None:
    """A lineage does not grow without end, and what forks share is still shared."""
    store = await opened(tmp_path / "0")
    await done(store, create("/a", b"0,"), create("/idle", b"idle"), create("/m", b"[0]", json=True))
    expected, forks = b"0,", {}
    tails = [state(store, "/a").tail_offset]
    for life in range(1, 2 * restoring.FORMER_MAX):
        await store.close()
        store = await restored(tmp_path / str(life - 1), tmp_path / str(life))
        shutil.rmtree(tmp_path / str(life - 1))
        await done(store, append("/a", b"%d," % life), append("/m", b"[%d]" % life, json=True))
        expected += b"%d," % life
        tails.append(state(store, "/a").tail_offset)
        if life % 10 == 1:
            await done(store, fork(f"/f{life}", "/a"), append(f"/f{life}", b"own"))
            forks[f"/f{life}"] = expected + b"own"
    now = state(store, "/a")
    assert len(now.lineage) == len(now.former) == restoring.FORMER_MAX
    assert len(state(store, "/idle").lineage) == restoring.FORMER_MAX
    assert await read_stream(store, now) == expected
    assert (await read_stream(store, state(store, "/m"))).count(SEPARATOR) == 2 * restoring.FORMER_MAX
    for path, data in forks.items():
        assert await read_stream(store, state(store, path)) == data
    kept = [offset for offset in tails if isinstance(resolve_offset(now, offset), int)]
    assert kept == tails[-restoring.FORMER_MAX - 1 :]
    assert all(isinstance(resolve_offset(now, offset), OffsetGone) for offset in tails[: -len(kept)])
    await done(store, fork("/again", "/a"), *(Delete(path) for path in forks), Delete("/a"))
    await store.close()
    assert check(store.directory) == []


async def test_what_is_in_the_log_counts(tmp_path: Path) -> None:
    """As a copy of both files of a server that was killed has it."""
    store = await opened(tmp_path / "data")
    await done(store, create("/a", b"logged"))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    await store.close()
    (tmp_path / "copy" / "lock").unlink()
    assert (tmp_path / "copy" / f"{DATABASE_NAME}-wal").stat().st_size
    store = await restored(tmp_path / "copy" / DATABASE_NAME, tmp_path / "new")
    assert await read_stream(store, state(store, "/a")) == b"logged"
    await store.close()


async def test_streams_that_came_and_went(tmp_path: Path) -> None:
    """All of them is folded, and the journal still tells of it."""
    store = await opened(tmp_path / "data")
    await done(store, create("/a", b"stays"), create("/b", b"goes"))
    await done(store, Delete("/b"), create("/b", b"goes too"), Delete("/b"))
    await done(store, create("/c"), Delete("/c"))
    backup(tmp_path / "data", tmp_path / "saved.db")
    await store.close()
    store = await restored(tmp_path / "saved.db", tmp_path / "new")
    assert [state.path for state in store.states("/", "", 10)] == ["/a"]
    await done(store, create("/b", b"new"), create("/c", b"new"))
    await store.close()
    store = await restored(tmp_path / "new", tmp_path / "again")
    assert await read_stream(store, state(store, "/b")) == b"new"
    await store.close()


async def test_a_body_that_was_under_way_is_discarded(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await done(store, create("/a", b"there"))
    async with store.transaction(["/a"]) as transaction:
        transaction.stage(state(store, "/a").number, 5, b"x" * 100, 0)
    backup(tmp_path / "data", tmp_path / "saved.db")
    await store.close()
    store = await restored(tmp_path / "saved.db", tmp_path / "new")
    await done(store, append("/a", b"-more"))
    assert await read_stream(store, state(store, "/a")) == b"there-more"
    await store.close()
    assert check(tmp_path / "new") == []


# --- refusals ---------------------------------------------------------------------------------------------------------


async def small_backup(tmp_path: Path) -> Path:
    store = await opened(tmp_path / "data")
    await done(store, create("/a", b"a" * 100), create("/b"))
    await store.close()
    backup(tmp_path / "data", tmp_path / "saved.db")
    return tmp_path / "saved.db"


async def test_only_into_nothing(tmp_path: Path) -> None:
    saved = await small_backup(tmp_path)
    with pytest.raises(StoreError, match=r"not empty: there is unbroken\.db"):
        await restore(saved, tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(StoreError, match=r"not empty: there is letter\.txt"):
        await restore(saved, tmp_path / "other")
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    await (await restored(saved, tmp_path / "disk")).close()


async def test_damage_is_not_restored(tmp_path: Path) -> None:
    saved = await small_backup(tmp_path)
    db = apsw.Connection(str(saved))
    db.execute("UPDATE chunks SET data = zeroblob(length(data))")
    db.close()
    with pytest.raises(StoreError, match="the backup is damaged: stream 1"):
        await restore(saved, tmp_path / "new")
    with pytest.raises(StoreError, match="interrupted"):
        await SqliteStore(tmp_path / "new").open()
    for content in (b"", b"short", b"long" * 1000):
        saved.write_bytes(content)
        with pytest.raises(StoreError):
            await restore(saved, tmp_path / "new")
    with pytest.raises(StoreError, match="there is no database at"):
        await restore(tmp_path / "nothing.db", tmp_path / "new")


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    saved = await small_backup(tmp_path)
    db = apsw.Connection(str(saved))
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StoreError, match="has format 7; this version reads up to 1"):
        await restore(saved, tmp_path / "new")


async def test_the_clock_must_be_possible(tmp_path: Path) -> None:
    saved = await small_backup(tmp_path)
    for now_us in (0, 10**16):
        with pytest.raises(StoreError, match="clock"):
            await restore(saved, tmp_path / "new", now_us=now_us)
    assert not (tmp_path / "new").exists()


async def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """Numbers that the earlier life gave out after the backup are not given out again."""
    saved = await small_backup(tmp_path)
    store = await restored(saved, tmp_path / "1")
    await store.close()
    numbers = set()
    for life in ("2", "3"):
        await restore(tmp_path / "1", tmp_path / life, now_us=LATER_US - 10**12)
        store = await opened(tmp_path / life)
        assert state(store, "/a").number > LATER_US + 10**9
        numbers |= {state(store, path).number for path in ("/a", "/b")}
        await store.close()
        assert check(tmp_path / life) == []
    assert len(numbers) == 4


async def test_a_full_disk(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await done(store, create("/a", b"unfolded"))
    backup(tmp_path / "data", tmp_path / "saved.db")
    await store.close()
    with full_disk(), pytest.raises(StoreError, match="disk is almost full; nothing was restored"):
        await restore(tmp_path / "saved.db", tmp_path / "new")
    await (await restored(tmp_path / "saved.db", tmp_path / "new")).close()


async def test_what_is_in_use_is_left_alone(tmp_path: Path) -> None:
    saved = await small_backup(tmp_path)
    store = await opened(tmp_path / "data")
    with pytest.raises(StoreError, match="in use"):
        await restore(tmp_path / "data", tmp_path / "new")
    with pytest.raises(StoreError, match="in use"):
        await restore(saved, tmp_path / "data")
    await store.close()


# --- kill -9 ----------------------------------------------------------------------------------------------------------

KILLED = """
import asyncio, os, signal, sys
from unbroken.store.sqlite import restore, schema
source, target, event = sys.argv[1:]
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
def before(name, module=restore):
    setattr(module, name, die)
match event:
    case "copying" | "checking" | "restoring":
        progress = lambda doing, done: doing == event and die()
    case "renamed":
        progress = None
        restore.shutil.rmtree = lambda path, ignore_errors=False: ignore_errors or die()
    case _:
        progress = None
        before(event)
asyncio.run(restore.restore(source, target, progress=progress))
"""


@pytest.mark.parametrize(
    "event", ["copying", "checking", "restoring", "renumber", "_forget_oldest", "SqliteStore", "Snapshot", "renamed"]
)
async def test_killed_at_any_moment(tmp_path: Path, event: str) -> None:
    saved = await small_backup(tmp_path)
    new = tmp_path / "new"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(saved), str(new), event)
    assert await process.wait() == -signal.SIGKILL
    complete = (new / DATABASE_NAME).exists()
    assert complete == (event == "renamed")
    if not complete:
        assert (new / RESTORING_NAME).exists()
        with pytest.raises(StoreError, match="interrupted"):
            await SqliteStore(new).open()
        await restore(saved, new)
    assert check(new) == []
    store = await opened(new)
    assert await read_stream(store, state(store, "/a")) == b"a" * 100
    assert state(store, "/a").former == (1,)
    await store.close()
    if not complete:
        assert sorted(path.name for path in new.iterdir()) == ["lock", DATABASE_NAME]
