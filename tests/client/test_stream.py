"""What a handle does to its stream, on a real server."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from tests.client.serving import JSON, a_stream, connected
from unbroken import errors
from unbroken.client import Position
from unbroken.server.settings import Settings


async def test_a_stream_from_its_creation_to_its_deletion() -> None:
    async with connected() as client:
        stream = client.stream("/a/b")
        created = await stream.create(content_type="text/plain; charset=utf-8", ttl_s=60, data="hé")
        assert (created.content_type, created.closed) == ("text/plain; charset=utf-8", False)
        done = await stream.append(" und ")
        assert (await stream.head()).next_offset == done.next_offset != created.next_offset
        closed = await stream.append(b"tsch\xc3\xbcss", close=True)
        assert closed.closed
        info = await stream.head()
        assert (info.closed, info.ttl_s, info.next_offset) == (True, 60, closed.next_offset)
        assert await stream.read_text() == "hé und tschüss"
        await stream.delete()
        with pytest.raises(errors.StreamNotFound) as caught:
            await stream.read()
        assert caught.value.request is not None
        assert str(caught.value.request) == f"GET {client.url}/a/b"
        assert (caught.value.code, caught.value.status, caught.value.offset) == ("stream-not-found", 404, "-1")


async def test_create_does_not_take_what_is_there_and_ensure_does() -> None:
    async with connected() as client:
        stream = client.stream("/a")
        end = datetime.now(UTC) + timedelta(hours=1)
        first = await stream.ensure(content_type=JSON, expires_at=end)
        assert first.expires_at is not None
        assert await stream.ensure(content_type=JSON, expires_at=end) == await stream.head()
        with pytest.raises(errors.StreamExists):
            await stream.create(content_type=JSON, expires_at=end)
        with pytest.raises(errors.StreamExists):
            await stream.ensure(content_type="text/plain")
        with pytest.raises(ValueError, match="exclude each other"):
            await stream.ensure(ttl_s=1, expires_at=end)
        with pytest.raises(ValueError, match="time zone"):
            await stream.ensure(expires_at=datetime(2030, 1, 1))  # noqa: DTZ001


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Struct(msgspec.Struct):
    x: int


class Model(pydantic.BaseModel):
    x: int


async def test_json_messages_are_what_they_were() -> None:
    values: list[Any] = [{"a": 1}, [1, 2], [], "x", None, 12345678901234567890123, Point(1, 2), Struct(3), Model(x=4)]
    plain = [*values[:6], {"x": 1, "y": 2}, {"x": 3}, {"x": 4}]
    async with a_stream() as stream:
        await stream.append_json(*values[:4])
        await stream.append_json(*values[4:], [Model(x=5)])
        assert await stream.read_json() == [*plain, [{"x": 5}]]
        with pytest.raises(TypeError):
            await stream.append_json(object())
        with pytest.raises(ValueError, match="at least one"):
            await stream.append_json()


@pytest.mark.parametrize("kind", [Point, Struct, Model])
async def test_messages_are_decoded_to_a_type(kind: Any) -> None:
    async with a_stream() as stream:
        await stream.append_json({"x": 1, "y": 2}, {"x": 3, "y": 4})
        read = await stream.read_json(type=kind)
        assert [type(value) for value in read] == [kind, kind]
        assert [value.x for value in read] == [1, 3]


class Nested(msgspec.Struct):
    inner: Model


async def test_models_within_types() -> None:
    async with a_stream() as stream:
        await stream.append_json(None, {"x": 1})
        assert await stream.read_json(type=Model | None) == [None, Model(x=1)]
        await stream.append_json(Nested(Model(x=2)), {"inner": {"x": "no number"}})
        async with stream.follow("-1,2", type=Nested, live=False) as messages:
            assert (await anext(aiter(messages))).value == Nested(Model(x=2))
            with pytest.raises(errors.InvalidMessage):
                await anext(aiter(messages))
        with pytest.raises(errors.InvalidMessage, match="cannot be decoded"):
            await stream.read_json(type=complex)


async def test_a_message_of_another_type_is_told_and_can_be_passed_over() -> None:
    async with a_stream() as stream:
        await stream.append_json(1, 2, "three", 4)
        async with stream.follow(type=int, live=False) as messages:
            reading = aiter(messages)
            assert [(await anext(reading)).value, (await anext(reading)).value] == [1, 2]
            with pytest.raises(errors.InvalidMessage) as caught:
                await anext(reading)
            assert (caught.value.data, caught.value.position) == (b'"three"', "-1,3")
            assert [message.value async for message in messages] == [4]
        async with stream.follow(caught.value.position, type=int, live=False) as messages:
            assert [message.value async for message in messages] == [4]


async def test_json_that_only_the_standard_library_reads() -> None:
    async with a_stream() as stream:
        await stream.append(rb'["\ud83d", 1e400, {"a": 1, "a": 2}]')
        assert await stream.read_json() == ["\ud83d", float("inf"), {"a": 2}]
        async with stream.follow(live=False) as messages:
            assert [message.data async for message in messages] == [rb'"\ud83d"', b"1e400", b'{"a": 1, "a": 2}']
        raw = await stream.read_json(type=msgspec.Raw)
        assert [bytes(message) for message in raw] == [rb'"\ud83d"', b"1e400", b'{"a": 1, "a": 2}']
        await stream.append_json(*raw)
        assert len(await stream.read_json()) == 6
        for data in (b"[1]", bytearray(b"1")):
            with pytest.raises(TypeError, match="Raw"):
                await stream.append_json(data)


async def test_an_iterator_is_sent_as_it_comes() -> None:
    async def pieces() -> AsyncIterator[str | bytes]:
        yield "a"
        yield ""
        yield b"b"
        yield "ç"

    async with a_stream("text/plain") as stream:
        await stream.append(pieces(), close=True)
        assert await stream.read_text() == "abç"


async def test_seq_keeps_writers_in_order() -> None:
    async with a_stream() as stream:
        await stream.append_json(1, seq="b")
        with pytest.raises(errors.SequenceRegression):
            await stream.append_json(2, seq="a")
        await stream.append_json(3, seq="c")
        assert await stream.read_json() == [1, 3]


async def test_a_closed_stream_takes_nothing_more() -> None:
    async with a_stream() as stream:
        await stream.append_json(1)
        end = await stream.close()
        assert end == await stream.close()
        with pytest.raises(errors.StreamClosed) as caught:
            await stream.append_json(2)
        assert caught.value.next_offset == end.next_offset


async def test_forks() -> None:
    async with a_stream() as stream:
        await stream.append_json(*range(3))
        middle = (await stream.head()).next_offset
        await stream.append_json(*range(3, 6))
        whole = await stream.fork("/whole")
        await whole.append_json("more")
        assert await whole.read_json() == [0, 1, 2, 3, 4, 5, "more"]
        part = await stream.fork("/part", offset=middle, sub_offset=1)
        assert await part.read_json() == [0, 1, 2, 3]
        same = await stream.fork("/same", offset=Position(middle, 1))
        assert await same.read_json() == [0, 1, 2, 3]
        with pytest.raises(errors.StreamExists):
            await stream.fork("/part", offset=middle)
        with pytest.raises(ValueError, match="needs an offset"):
            await stream.fork("/other", sub_offset=1)


@pytest.mark.parametrize("content_type", [JSON, "text/plain", "application/octet-stream"])
async def test_pages_and_reads_from_every_position(content_type: str) -> None:
    async with a_stream(content_type, Settings(page_size=16)) as stream:
        parts = [f"{number:02}" for number in range(20)]
        for part in parts:
            await (stream.append_json(int(part)) if content_type == JSON else stream.append(part))
        pages = [page async for page in stream.pages()]
        assert len(pages) > 2
        assert [page.up_to_date for page in pages] == [*[False] * (len(pages) - 1), True]
        whole = await stream.read()
        for skip in range(len(parts) * 2 + 1):
            rest = await stream.read(Position("-1", skip if content_type != JSON else skip // 2))
            if content_type == JSON:
                assert msgspec.json.decode(rest) == list(range(skip // 2, 20))
            else:
                assert rest == whole[skip:]
        with pytest.raises(errors.InvalidOffset, match="not the one that was read before"):
            await stream.read(Position("-1", 41))
