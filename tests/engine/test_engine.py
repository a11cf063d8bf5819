"""The engine's public API: streams without HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conftest import Start
from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.protocol.commands import Append, Create, Delete
from unbroken.protocol.content import Content
from unbroken.protocol.offsets import Anchor, Offset
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.memory import MemoryStore
from unbroken.testing import ManualClock


async def test_example_of_the_module() -> None:
    async with Engine(MemoryStore()) as engine:
        await engine.create("/greetings", content_type="text/plain")
        await engine.append("/greetings", b"hello")
        async for page in engine.follow("/greetings"):
            assert page.body == b"hello"
            break


async def test_create_and_confirm(start: Start) -> None:
    async with start() as engine:
        first = await engine.create("/a", content_type="text/plain", data=b"hello", ttl_s=60)
        assert (first.existed, first.next_offset, first.closed) == (False, Offset(1, 5), False)
        again = await engine.create("/a", content_type="Text/Plain; x=y", data=b"ignored", ttl_s=60)
        assert (again.existed, again.next_offset, again.content_type) == (True, Offset(1, 5), "text/plain")
        with pytest.raises(errors.StreamExists):
            await engine.create("/a", content_type="text/plain")
        with pytest.raises(errors.StreamExists):
            await engine.create("/a", content_type="text/html", ttl_s=60)


async def test_bad_arguments(start: Start) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with start() as engine:
        for lifetime in (
            {"ttl_s": -1},
            {"ttl_s": 1, "expires_at": now},
            {"expires_at": datetime(2027, 1, 1)},  # noqa: DTZ001 (without a zone is what is wrong with it)
        ):
            with pytest.raises(ValueError, match=r"ttl_s|time zone"):
                await engine.create("/a", **lifetime)
        for path in ("a", "/a/", "//a", "/", "/a\x00", "/a\\b", "/-/x", "/\ud800"):
            with pytest.raises(errors.InvalidPath):
                await engine.create(path)
            with pytest.raises(errors.InvalidPath):
                engine.head(path)
        with pytest.raises(errors.InvalidBody):
            await engine.create("/a", content_type="application/json", data=b"not JSON")
        with pytest.raises(ValueError, match="page_bytes"):
            Engine(MemoryStore(), page_bytes=15)
        with pytest.raises(errors.StreamNotFound):
            engine.head("/a")


async def test_append_and_read(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", content_type="application/json")
        assert (await engine.append("/a", b'[1, "two"]')).next_offset == Offset(1, 8)
        page = await engine.read("/a")
        assert (page.body, page.messages) == (b'[1,"two"]', [b"1", b'"two"'])
        assert (page.next_offset, page.up_to_date, page.closed) == (Offset(1, 8), True, False)
        offsets: dict[Offset | Anchor | str, list[bytes]] = {
            Offset(1, 2): [b'"two"'],
            "0000000000000001_0000000000000002": [b'"two"'],
            Anchor.NOW: [],
            "now": [],
            page.next_offset: [],
            "-1": [b"1", b'"two"'],
            Anchor.BEGINNING: [b"1", b'"two"'],
        }
        for offset, messages in offsets.items():
            assert (await engine.read("/a", offset)).messages == messages


async def test_refusals_are_raised(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", content_type="application/json")
        await engine.append("/a", b"1", stream_seq="5", producer=ProducerStamp("p", 2, 0))
        for refused, call in [
            (errors.StreamNotFound, engine.append("/none", b"1")),
            (errors.StreamNotFound, engine.read("/none")),
            (errors.StreamNotFound, engine.close("/none")),
            (errors.StreamNotFound, engine.delete("/none")),
            (errors.StreamNotFound, engine.fork("/b", "/none")),
            (errors.InvalidBody, engine.append("/a", b"")),
            (errors.InvalidBody, engine.append("/a", b"[]")),
            (errors.InvalidBody, engine.append("/a", b"NaN")),
            (errors.TooManyMessages, engine.append("/a", b"[" + b"1," * 100_000 + b"1]")),
            (errors.SequenceRegression, engine.append("/a", b"1", stream_seq="5")),
            (errors.StaleEpoch, engine.append("/a", b"1", producer=ProducerStamp("p", 1, 0))),
            (errors.ProducerGap, engine.append("/a", b"1", producer=ProducerStamp("p", 2, 2))),
            (errors.InvalidOffset, engine.read("/a", "nonsense")),
            (errors.InvalidOffset, engine.read("/a", Offset(1, 1))),
            (errors.InvalidOffset, engine.read("/a", Offset(1, 3))),
            (errors.InvalidOffset, engine.fork("/b", "/a", offset="-1", sub_offset=2)),
        ]:
            with pytest.raises(refused):
                await call
        assert (await engine.read("/a")).messages == [b"1"], "nothing of it had any effect"


async def test_execute_returns_refusals(start: Start) -> None:
    """For adapters: what the rules say is a result, not an exception."""
    async with start() as engine:
        assert isinstance(await engine.execute(Delete("/a")), errors.StreamNotFound)
        await engine.execute(Create("/a", "text/plain"))
        outcome = await engine.execute(Append("/a", "text/html", Content(b"x")))
        assert isinstance(outcome, errors.ContentTypeMismatch)


async def test_close(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"x")
        assert (await engine.close("/a")).closed
        assert (await engine.close("/a")).duplicate
        with pytest.raises(errors.StreamClosed) as refusal:
            await engine.append("/a", b"y")
        assert refusal.value.next_offset == str(Offset(1, 1))
        page = await engine.read("/a")
        assert (page.body, page.closed) == (b"x", True)
        await engine.create("/b", content_type="text/plain")
        assert (await engine.append("/b", b"last", close=True)).closed


async def test_fork(start: Start) -> None:
    async with start(page_bytes=16) as engine:
        await engine.create("/a", content_type="application/json", data=b"[1,2,3]", ttl_s=60)
        made = await engine.fork("/b", "/a", offset=Offset(1, 2), sub_offset=1, data=b'["own"]')
        assert (made.next_offset, made.content_type) == (Offset(2, 10), "application/json")
        await engine.append("/a", b"4")
        assert (await engine.read("/b")).messages == [b"1", b"2", b'"own"']
        assert engine.head("/b").lifetime.ttl_s == 60
        await engine.delete("/a")
        with pytest.raises(errors.StreamGone):
            engine.head("/a")
        with pytest.raises(errors.SourceGone):
            await engine.fork("/c", "/a")
        with pytest.raises(errors.StreamExists):
            await engine.create("/a")
        assert (await engine.read("/b")).messages == [b"1", b"2", b'"own"']
        await engine.delete("/b")
        await until(lambda: engine.store.state("/a") is None)


async def test_deleted_and_created_again(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", data=b"old")
        await engine.append("/a", b"!", producer=ProducerStamp("p", 5, 0), stream_seq="9")
        await engine.delete("/a")
        with pytest.raises(errors.StreamNotFound):
            await engine.read("/a")
        await engine.create("/a", data=b"new")
        for old in (Offset(1, 0), Offset(1, 3), Offset(1, 4)):
            with pytest.raises(errors.OffsetGone):
                await engine.read("/a", old)
        # Producers and Stream-Seq of the old stream are unknown to the new one.
        await engine.append("/a", b"!", producer=ProducerStamp("p", 0, 0), stream_seq="1")
        assert (await engine.read("/a")).body == b"new!"


async def test_concurrent_creations_make_one_stream(start: Start) -> None:
    async with start() as engine:
        made = await asyncio.gather(*(engine.create("/a", data=b"%d" % n) for n in range(20)))
        assert [one.existed for one in made].count(False) == 1
        assert len((await engine.read("/a")).body) <= 2


async def test_concurrent_appends_keep_their_order(start: Start) -> None:
    async with start() as engine:
        await engine.create("/a", content_type="text/plain")
        await asyncio.gather(*(engine.append("/a", b"%03d," % n) for n in range(300)))
        assert (await engine.read("/a")).body == b"".join(b"%03d," % n for n in range(300))


async def test_expires_at(start: Start, clock: ManualClock) -> None:
    async with start() as engine:
        moment = datetime.fromtimestamp(clock.now().wall_ms / 1000, UTC) + timedelta(seconds=10)
        await engine.create("/a", expires_at=moment)
        clock.advance(9.999)
        engine.head("/a")
        clock.advance(0.001)
        with pytest.raises(errors.StreamNotFound):
            engine.head("/a")


@given(
    messages=st.lists(st.integers(0, 10**30).map(lambda n: b"%d" % n), min_size=1, max_size=30),
    page_bytes=st.integers(16, 64),
)
async def test_pages_of_messages_fit_together(messages: list[bytes], page_bytes: int) -> None:
    """Whatever the page size: pages end between messages, lose nothing, and are the same from wherever one comes."""
    async with Engine(MemoryStore(), page_bytes=page_bytes) as engine:
        await engine.create("/a", content_type="application/json", data=b"[" + b",".join(messages) + b"]")
        page = await engine.read("/a")
        found = page.messages
        while not page.up_to_date:
            again = await engine.read("/a", page.next_offset)
            assert len(again.data) <= max(page_bytes, len(again.messages[0]) + 1)
            assert again == await engine.read("/a", str(page.next_offset))
            page = again
            found = found + page.messages
        assert found == messages


@given(parts=st.lists(st.binary(min_size=1, max_size=40), max_size=12), page_bytes=st.integers(16, 64))
async def test_follower_gets_every_byte_once(parts: list[bytes], page_bytes: int) -> None:
    async with Engine(MemoryStore(), page_bytes=page_bytes) as engine:
        await engine.create("/a")

        async def follow() -> bytes:
            pages = [page async for page in engine.follow("/a")]
            assert all(len(page.data) <= page_bytes for page in pages)
            assert [page.start for page in pages[1:]] == [page.end for page in pages[:-1]]
            return b"".join(page.data for page in pages)

        follower = asyncio.create_task(follow())
        for part in parts:
            await engine.append("/a", part)
        await engine.close("/a")
        assert await follower == b"".join(parts)
