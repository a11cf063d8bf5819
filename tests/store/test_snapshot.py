"""A snapshot shows what the store shows, whatever is folded, and goes on showing it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from tests.store.workload import look, workload
from unbroken.errors import StoreError
from unbroken.protocol.commands import Delete
from unbroken.protocol.lifetime import Instant
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import StreamState
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.testing.store_bench import append, create, execute, fork, settle


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


async def opened(directory: Path, overlay_bytes_max: int = OVERLAY_BYTES_MAX) -> SqliteStore:
    store = SqliteStore(directory, overlay_bytes_max=overlay_bytes_max)
    await store.open()
    return store


def data(snapshot: Snapshot, path: str) -> bytes:
    state = snapshot.state(path)
    assert state is not None
    runs = list(snapshot.runs(state))
    for run, before in zip(runs[1:], runs, strict=False):
        assert run.position == before.position + len(before.data)
    return b"".join(run.data for run in runs)


@pytest.mark.parametrize("overlay_bytes", [1, OVERLAY_BYTES_MAX, 10**9])
async def test_it_shows_what_the_store_shows(tmp_path: Path, overlay_bytes: int) -> None:
    store = await opened(tmp_path / "data", overlay_bytes)
    for commands in (await workload()).transactions:
        await execute(store, *commands)
        expected = await look(store)
        with Snapshot(tmp_path / "data") as snapshot:
            assert snapshot.identity == store.identity
            assert snapshot.last_number + 1 == expected.next_number
            assert [state.path for state in snapshot.states()] == sorted(expected.streams)
            for path, (state, content) in expected.streams.items():
                assert snapshot.state(path) == state
                assert data(snapshot, path) == content
                known = {key[1]: producer for key, producer in expected.producers.items() if key[0] == state.number}
                assert snapshot.producers(state.number) == known
            assert snapshot.state("/nothing") is None
    await store.close()
    assert check(tmp_path / "data") == []


async def test_it_stands_still(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a", b"before"), create("/b", b"b" * 100))
    with Snapshot(tmp_path / "data") as snapshot:
        await execute(store, append("/a", b" after"), create("/c"), Delete("/b"))
        await settle(store)
        await execute(store, append("/a", b"x" * LARGE_BYTES))
        assert [state.path for state in snapshot.states()] == ["/a", "/b"]
        assert data(snapshot, "/a") == b"before"
        assert data(snapshot, "/b") == b"b" * 100
    with Snapshot(tmp_path / "data") as snapshot:
        assert [state.path for state in snapshot.states()] == ["/a", "/c"]
        assert [state.path for state in snapshot.states("/c")] == ["/c"]
        assert [state.path for state in snapshot.states("/", after="/a")] == ["/c"]
    await store.close()


async def test_commit_times(tmp_path: Path) -> None:
    """Of folded bytes, unfolded ones, and inherited ones."""
    store = await opened(tmp_path / "data")

    async def at(time_ms: int, *commands: object) -> None:
        await execute(store, *commands, now=Instant(time_ms, time_ms))  # type: ignore[arg-type]

    await at(10, create("/a", b"1"))
    await at(20, append("/a", b"22"))
    await settle(store)
    await at(15, append("/a", b"333"), append("/a", b"4"))
    await at(30, fork("/f", "/a"), append("/f", b"55"))
    with Snapshot(tmp_path / "data") as snapshot:
        state = snapshot.state("/f")
        assert state is not None
        assert list(snapshot.runs(state)) == [(0, 10, b"1"), (1, 20, b"22"), (3, 15, b"3334"), (7, 30, b"55")]
        assert snapshot.unfolded
    await store.close()


async def test_producers_of_both_layers(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a"), append("/a", b"0", producer=ProducerStamp("p", 1, 0)))
    await execute(store, append("/a", b"0", producer=ProducerStamp("q", 0, 0)))
    await settle(store)
    await execute(store, append("/a", b"1", producer=ProducerStamp("p", 1, 1)))
    with Snapshot(tmp_path / "data") as snapshot:
        assert snapshot.producers(1) == {"p": Producer(1, 1), "q": Producer(0, 0)}
    await store.close()


async def test_missing_bytes_are_said(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a", b"a" * 100))
    await store.close()
    db = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME))
    db.execute("DELETE FROM chunks WHERE start = 48")
    db.close()
    with Snapshot(tmp_path / "data" / DATABASE_NAME) as snapshot, pytest.raises(StoreError, match="bytes 48 to 100"):
        data(snapshot, "/a")


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a"))
    await store.close()
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    with Snapshot(tmp_path / "data") as snapshot:
        assert isinstance(snapshot.state("/a"), StreamState)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before


@pytest.mark.parametrize(("content", "message"), [(b"x" * 9000, "is not a database"), (b"", "is not an Unbroken")])
def test_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StoreError, match=message):
        Snapshot(tmp_path / "file")
    with pytest.raises(StoreError, match="there is no"):
        Snapshot(tmp_path)
    with pytest.raises(StoreError, match="there is no"):
        Snapshot(tmp_path / "nothing")


async def test_a_newer_format_and_damage_are_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a"))
    await store.close()
    db = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME))
    db.execute("UPDATE journal SET records = x'93'")
    with pytest.raises(StoreError, match="does not match its checksum"):
        Snapshot(tmp_path / "data")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StoreError, match="has format 2; this version reads up to 1"):
        Snapshot(tmp_path / "data")
