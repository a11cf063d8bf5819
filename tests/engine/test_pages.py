"""Pages of JSON streams: however small they are asked for, a message comes whole, and costs what its size says."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.protocol.offsets import Offset
from unbroken.store.memory import MemoryStore

JSON = "application/json"
MEBIBYTE = 1024 * 1024


class CountingStore(MemoryStore):
    """A store that knows how often its bytes were asked for, and how many of them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.read_bytes = 0

    def read_cached(self, number: int, start: int, end: int) -> bytes:
        self.reads += 1
        self.read_bytes += end - start
        return super().read_cached(number, start, end)


class HeldStore(MemoryStore):
    """A store of which each task gets its first page at once, and the rest when it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.readers: set[asyncio.Task[object] | None] = set()

    async def read(self, number: int, start: int, end: int) -> bytes:
        if (reader := asyncio.current_task()) in self.readers:
            await self.go_on.wait()
        self.readers.add(reader)
        return super().read_cached(number, start, end)

    def read_cached(self, number: int, start: int, end: int) -> None:  # type: ignore[override]
        return None


def _message(size_bytes: int) -> bytes:
    return b'"' + b"x" * (size_bytes - 2) + b'"'


async def test_tiny_pages_of_a_large_message_take_few_reads() -> None:
    """Whoever asks for pages of one byte does not decide by how much it is read."""
    store, message = CountingStore(), _message(4 * MEBIBYTE)
    async with Engine(store) as engine:
        await engine.create("/a", content_type=JSON, data=message)
        for read in (engine.read("/a", limit_bytes=1), engine.read_before("/a", limit_bytes=1)):
            store.reads = 0
            assert (await read).messages == [message]
            assert store.reads < 20


@pytest.mark.parametrize("way", ["forward", "back"])
async def test_those_who_wait_for_a_large_message_hold_nothing(way: str) -> None:
    """Few are served at a time, and thousands may come."""
    store, message = HeldStore(), _message(3 * MEBIBYTE // 2)
    async with Engine(store) as engine, asyncio.TaskGroup() as group:
        await engine.create("/a", content_type=JSON, data=message)
        tracemalloc.start()
        read = engine.read if way == "forward" else engine.read_before
        reads = [group.create_task(read("/a")) for _ in range(30)]
        await until(lambda: len(store.readers) == len(reads))
        held_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        store.go_on.set()
        for one in reads:
            assert (await one).messages == [message]
    assert held_bytes < 5 * MEBIBYTE


async def test_fork_before_a_large_message_reads_none_of_it() -> None:
    store = CountingStore()
    async with Engine(store) as engine:
        await engine.create("/a", content_type=JSON, data=b"[1]")
        await engine.append("/a", _message(MEBIBYTE))
        store.read_bytes = 0
        await engine.fork("/b", "/a", offset=Offset(1, 2))
        assert store.read_bytes < 10
        assert (await engine.read("/b")).messages == [b"1"]


@pytest.mark.parametrize("size", [4094, 4095, 4096, 4097, 12_287, 12_288, 12_289, 100_000])
async def test_messages_about_as_large_as_what_is_read_at_once(size: int) -> None:
    messages = [b"1", _message(size), b"2", _message(size), b"3"]
    async with Engine(MemoryStore()) as engine:
        await engine.create("/a", content_type=JSON, data=b"[" + b",".join(messages) + b"]")
        forwards: list[bytes] = []
        page = await engine.read("/a", limit_bytes=1)
        while page.data:
            forwards += page.messages
            page = await engine.read("/a", page.next_offset, limit_bytes=1)
        backwards: list[bytes] = []
        page = await engine.read_before("/a", limit_bytes=1)
        while page.data:
            backwards = page.messages + backwards
            page = await engine.read_before("/a", page.offset, limit_bytes=1)
        assert forwards == backwards == messages


@given(
    sizes=st.lists(st.integers(min_value=2, max_value=40), min_size=1, max_size=30),
    at=st.integers(min_value=0, max_value=30),
    count=st.integers(min_value=0, max_value=31),
    step=st.integers(min_value=1, max_value=50),
)
async def test_fork_so_many_messages_further(sizes: list[int], at: int, count: int, step: int) -> None:
    messages = [_message(size) for size in sizes]
    at = min(at, len(messages))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unbroken.engine.pages._STEP_BYTES_MAX", step)
        async with Engine(MemoryStore()) as engine:
            await engine.create("/a", content_type=JSON, data=b"[" + b",".join(messages) + b"]")
            offset = Offset(1, sum(len(message) + 1 for message in messages[:at]))
            if at + count > len(messages):
                with pytest.raises(errors.InvalidOffset):
                    await engine.fork("/b", "/a", offset=offset, sub_offset=count)
                return
            await engine.fork("/b", "/a", offset=offset, sub_offset=count)
            assert (await engine.read("/b")).messages == messages[: at + count]


async def test_fork_inside_a_message_is_refused() -> None:
    async with Engine(MemoryStore()) as engine:
        await engine.create("/a", content_type=JSON, data=b"[123,4]")
        for position in (1, 2, 3, 5):
            for sub_offset in (0, 1):
                with pytest.raises(errors.InvalidOffset):
                    await engine.fork("/b", "/a", offset=Offset(1, position), sub_offset=sub_offset)


async def test_fork_too_many_messages_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may be a terabyte: nobody has it all read to count its messages."""
    monkeypatch.setattr("unbroken.engine.pages._STEP_BYTES_MAX", 16)
    monkeypatch.setattr("unbroken.engine.pages.COUNTED_BYTES_MAX", 32)
    store = CountingStore()
    async with Engine(store) as engine:
        await engine.create("/a", content_type=JSON, data=b"[" + b",".join([b"1"] * 1000) + b"]")
        await engine.fork("/near", "/a", offset="-1", sub_offset=16)
        store.reads = 0
        with pytest.raises(errors.InvalidOffset, match="nearer"):
            await engine.fork("/far", "/a", offset="-1", sub_offset=900)
        assert store.reads < 5
        await engine.fork("/far", "/a", offset=Offset(1, 2 * 890), sub_offset=10)
        assert len((await engine.read("/far")).messages) == 900
