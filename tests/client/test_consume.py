"""Consumers that go on where they were, and the stores that keep where that is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.client.serving import a_stream
from unbroken import Client
from unbroken.client import AsyncStream, FileOffsets, Message, OffsetStore, Position, SqliteOffsets
from unbroken.testing import threaded_server


@pytest.fixture(params=["file", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], OffsetStore]]:
    """Opens the store, as after a restart."""
    databases: list[SqliteOffsets] = []

    def open_store() -> OffsetStore:
        if request.param == "file":
            return FileOffsets(tmp_path / "offsets")
        databases.append(SqliteOffsets(tmp_path / "offsets"))
        return databases[-1]

    yield open_store
    for database in databases:
        database.close()


def test_positions_are_kept(opened: Callable[[], OffsetStore]) -> None:
    store = opened()
    assert store.load("a") is None
    store.save("a", "1_2,3")
    store.save("ü", "7")
    store.save("a", "1_9")
    for kept in (store, opened()):
        assert [kept.load(key) for key in ("a", "ü", "b")] == ["1_9", "7", None]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileOffsets(tmp_path / "offsets")
    store.save("a", "1")

    def fails(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        store.save("a", "2")
    assert store.load("a") == "1"
    monkeypatch.undo()
    assert FileOffsets(tmp_path / "offsets").load("a") == "1"
    store.save("b", "3")
    assert [path.name for path in tmp_path.iterdir()] == ["offsets"]
    (tmp_path / "offsets").write_text("[]")
    with pytest.raises(ValueError, match="not a file of positions"):
        FileOffsets(tmp_path / "offsets").load("a")


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    offsets = SqliteOffsets(tmp_path / "app.db")
    with offsets.transaction("a", Position("1", 2)) as db:
        db.execute("CREATE TABLE seen (value)")
        db.execute("INSERT INTO seen VALUES (1)")

    def fail() -> None:
        with offsets.transaction("a", "9") as db:
            db.execute("INSERT INTO seen VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    offsets.close()
    with sqlite3.connect(tmp_path / "app.db") as own:
        offsets = SqliteOffsets(own)
        assert offsets.load("a") == "1,2"
        assert own.execute("SELECT * FROM seen").fetchall() == [(1,)]
        offsets.close()
        assert own.execute("SELECT 1").fetchone() == (1,)
    own.close()
    other = apsw.Connection(str(tmp_path / "app.db"))
    with other:
        SqliteOffsets.save_in(other, "a", Position("5"))
    assert [*other.execute("SELECT * FROM unbroken_offsets")] == [("a", "5")]
    other.close()


async def taken(stream: AsyncStream, store: Any, count: int | None = None, **options: Any) -> list[Any]:
    """What a consumer gets: so many messages, or all. It leaves while it handles the last one."""
    values: list[Any] = []
    async with stream.consume(store, key="k", live=False, **options) as messages:
        async for message in messages:
            values.append(message.value)
            if len(values) == count:
                break
    return values


async def test_it_goes_on_where_it_was(opened: Callable[[], OffsetStore]) -> None:
    async with a_stream() as stream:
        await stream.append_json(*range(4))
        await stream.append_json(*range(4, 8))
        assert await taken(stream, opened(), 3) == [0, 1, 2]
        assert await taken(stream, opened(), 1) == [2]  # it was not done with it
        assert await taken(stream, opened()) == [*range(2, 8)]
        assert await taken(stream, opened()) == []
        await stream.append_json(8)
        assert await taken(stream, opened()) == [8]


async def test_an_error_leaves_what_was_not_handled(opened: Callable[[], OffsetStore]) -> None:
    async def handle() -> None:
        async with stream.consume(opened(), key="k", live=False) as messages:
            async for message in messages:
                assert message.value < 2

    async with a_stream() as stream:
        await stream.append_json(*range(4))
        with pytest.raises(AssertionError):
            await handle()
        assert await taken(stream, opened()) == [2, 3]


async def test_saving_by_hand_and_in_between(tmp_path: Path) -> None:
    saved: list[str] = []

    class Store:
        async def load(self, key: str) -> str | None:
            return saved[-1] if saved else None

        async def save(self, key: str, position: str) -> None:
            saved.append(position)

    async with a_stream() as stream:
        await stream.append_json(*range(3))
        assert await taken(stream, Store(), save_every_s=0) == [0, 1, 2]
        assert saved == ["-1,1", "-1,2", (await stream.head()).next_offset]
        saved.clear()
        async with stream.consume(Store(), key="k", type=int) as messages:
            assert (await anext(aiter(messages))).value == 0
            await messages.save()
            assert saved == ["-1,1"]
            assert (await anext(aiter(messages))).value == 1
        assert saved == ["-1,1"]


async def test_now_is_settled_at_the_first_start(tmp_path: Path) -> None:
    store = FileOffsets(tmp_path / "offsets")
    async with a_stream() as stream:
        await stream.append_json(1)
        assert await taken(stream, store, start="now") == []
        await stream.append_json(2)
        assert await taken(stream, store, start="now") == [2]


async def test_each_message_once_with_what_is_made_of_it(tmp_path: Path) -> None:
    """The consumer dies again and again, before and after its writes; the table has each message once."""
    offsets = SqliteOffsets(tmp_path / "app.db")
    with offsets.transaction("", "") as db:
        db.execute("CREATE TABLE seen (value)")

    def handle(message: Message[int], died: set[tuple[int, str]]) -> None:
        with offsets.transaction("k", message.position) as db:
            db.execute("INSERT INTO seen VALUES (?)", (message.value,))
            if message.value % 3 == 0 and (message.value, "before") not in died:
                died.add((message.value, "before"))
                raise KeyboardInterrupt
        if message.value % 4 == 0 and (message.value, "after") not in died:
            died.add((message.value, "after"))
            raise KeyboardInterrupt

    async def live(died: set[tuple[int, str]]) -> bool:
        try:
            async with stream.consume(offsets, key="k", live=False) as messages:
                async for message in messages:
                    handle(message, died)
        except KeyboardInterrupt:
            return False
        return True

    async with a_stream() as stream:
        await stream.append_json(*range(20))
        died: set[tuple[int, str]] = set()
        while not await live(died):
            pass
        assert len(died) == 12
    with offsets.transaction("", "") as db:
        assert [value for (value,) in db.execute("SELECT * FROM seen ORDER BY rowid")] == [*range(20)]
    offsets.close()


def test_a_synchronous_consumer(opened: Callable[[], OffsetStore]) -> None:
    with threaded_server() as address, Client(address.url) as client:
        stream = client.stream("/a")
        stream.create(content_type="application/json")
        stream.append_json(*range(5))
        with stream.consume(opened(), live=False) as messages:
            assert [message.value for message, _ in zip(messages, range(3), strict=False)] == [0, 1, 2]
        with stream.consume(opened(), live=False) as messages:
            assert [message.value for message in messages] == [3, 4]
