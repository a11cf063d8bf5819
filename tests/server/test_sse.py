"""GET with ``live=sse``: framing, resumption, ends."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress

import pytest

from tests.server.conftest import Serve
from tests.server.site import BYTES, JSON, TEXT, Site, begin, closed, offset, problem_code, until
from tests.server.sse import EventStream, parse_events
from tests.server.test_long_poll import INTERVAL


async def test_framing_to_the_byte(serve: Serve) -> None:
    """``event:`` with a space, ``data:`` without, LF line ends, one id per batch, a control event after each."""
    async with serve() as site:
        await site.create("/a", TEXT, b"one\ntwo")
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await site.append("/a", TEXT, b"x")
            await events.batch()
            await site.post("/a", closed())
            await events.rest()
        one, two = offset(1, 7), offset(1, 8)
        assert events.raw.decode() == (
            f"event: data\ndata:one\ndata:two\nid:{one}\n\n"
            f'event: control\ndata:{{"streamNextOffset":"{one}","streamCursor":"{INTERVAL}","upToDate":true}}\n\n'
            f"event: data\ndata:x\nid:{two}\n\n"
            f'event: control\ndata:{{"streamNextOffset":"{two}","streamCursor":"{INTERVAL}","upToDate":true}}\n\n'
            f'event: control\ndata:{{"streamNextOffset":"{two}","upToDate":true,"streamClosed":true}}\nid:{two}\n\n'
        )


async def test_head_of_the_response(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse") as events:
            head = events.response
            assert head["content-type"].split(";")[0] == "text/event-stream"
            assert "no-cache" in head["cache-control"]
            assert head["x-accel-buffering"] == "no"
            assert "last-event-id" in head["vary"].lower()
            assert head.get("etag") is None
            assert head.get("content-length") is None
            assert head.get("stream-sse-data-encoding") is None


async def test_reader_at_the_tail_gets_a_control_event_at_once(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        for query in ("now", offset(1, 5)):
            async with site.events(f"/a?offset={query}&live=sse") as events:
                data, control = await events.batch()
                assert data is None
                assert control == {
                    "streamNextOffset": offset(1, 5),
                    "streamCursor": str(INTERVAL),
                    "upToDate": True,
                }


async def test_follows(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b"[1]")
        async with site.events("/a?offset=-1&live=sse") as events:
            assert (await events.batch())[0] == "[1]"
            for number in range(5):
                end = await site.append("/a", JSON, b'[{"n":%d},2]' % number)
                data, control = await events.batch()
                assert json.loads(data or "") == [{"n": number}, 2]
                assert (control["streamNextOffset"], control["upToDate"]) == (end, True)


async def test_closed_with_the_last_data(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"one ")
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await site.post("/a", closed(TEXT), b"two")
            data, control = await events.batch()
            assert (data, control["streamClosed"], control["streamNextOffset"]) == ("two", True, offset(1, 7))
            assert "streamCursor" not in control
            assert await events.rest() == []
            assert events.ended


async def test_closing_append_right_after_the_connect(serve: Serve) -> None:
    """The data comes before ``streamClosed``, whichever of the two requests wins."""
    async with serve() as site:
        for number in range(20):
            path = f"/race/{number}"
            await site.create(path, TEXT)
            async with site.connect() as connection:
                _, response = await asyncio.gather(
                    site.post(path, closed(TEXT), b"last words"),
                    begin(connection, "GET", f"{path}?offset=-1&live=sse"),
                )
                found = await EventStream(connection, response).rest()
            kinds = [(event.type, "streamClosed" in event.data) for event in found]
            assert kinds[-2:] == [("data", False), ("control", True)]
            assert [event.data for event in found if event.type == "data"] == ["last words"]


async def test_closed_stream_is_replayed_and_ended(serve: Serve) -> None:
    async with serve(page_size=16) as site:
        await site.create("/a", closed(TEXT), b"0123456789abcdefXYZ")
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
        assert [event.data for event in found if event.type == "data"] == ["0123456789abcdef", "XYZ"]
        controls = [event.control for event in found if event.type == "control"]
        assert [control.get("upToDate") for control in controls[:1]] == [None], "more is there"
        assert "streamClosed" not in controls[0]
        assert controls[-1]["streamClosed"] is True


async def test_every_event_can_be_decoded_alone(serve: Serve) -> None:
    messages = [{"n": number, "text": "\n€ 😀 \r"} for number in range(50)]
    async with serve(page_size=64) as site:
        await site.create("/a", closed(JSON), json.dumps(messages).encode())
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
        batches = [json.loads(event.data) for event in found if event.type == "data"]
        assert len(batches) > 10
        assert [message for batch in batches for message in batch] == messages
        assert [event.type for event in found] == ["data", "control"] * len(batches)


async def test_bytes_go_as_base64(serve: Serve) -> None:
    data = bytes(range(256))
    async with serve(page_size=100) as site:
        await site.create("/a", closed(BYTES), data)
        async with site.events("/a?offset=-1&live=sse") as events:
            assert events.response["stream-sse-data-encoding"] == "base64"
            found = await events.rest()
        parts = [event.data for event in found if event.type == "data"]
        assert b"".join(base64.b64decode(part, validate=True) for part in parts) == data
        assert len(parts) == 3


@pytest.mark.parametrize(
    ("content_type", "encoded"),
    [
        ("text/plain", False),
        ("TEXT/Markdown; charset=utf-8", False),
        ("application/json", False),
        ("application/json; x=1", False),
        ("application/octet-stream", True),
        ("application/x-ndjson", True),
        ("application/problem+json", True),
        ("image/png", True),
        ("application/text", True),
    ],
)
async def test_which_types_are_text(serve_memory: Serve, content_type: str, encoded: bool) -> None:
    async with serve_memory() as site:
        await site.create("/a", closed({"content-type": content_type}), b"[1]")
        async with site.events("/a?offset=-1&live=sse") as events:
            assert (events.response.get("stream-sse-data-encoding") == "base64") is encoded
            data, _ = await events.batch()
            assert data == ("WzFd" if encoded else "[1]")


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        " one space",
        "  two",
        "a\n b\n  c",
        "\n",
        "\n\n",
        "ends with\n",
        "\nstarts",
        ":no comment",
        "data: x",
        "id:9\nevent: control\ndata:{}",
        "tab\there",
        "nul\x00",
        "\ufeffbom",
        "line\u2028separators\u2029\x85\x0b\x0c\x1c",
        "€😀é",
    ],
)
async def test_text_survives(serve_memory: Serve, text: str) -> None:
    """Whatever has LF line ends comes out as it went in."""
    async with serve_memory() as site:
        await site.create("/a", closed(TEXT), text.encode())
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
        assert "".join(event.data for event in found if event.type == "data") == text
        assert {event.type for event in found} <= {"data", "control"}


# --- resumption ----------------------------------------------------------------------------------------------------


async def test_resume_by_last_event_id_is_byte_exact(serve: Serve) -> None:
    """Cut the connection after any event: what a native EventSource then asks for gives exactly the rest."""
    text = "zwölf Boxkämpfer 😀 jagen\n Viktor\n".encode() * 3
    async with serve(page_size=16) as site:
        await site.create("/a", closed(TEXT), text)
        async with site.events("/a?offset=-1&live=sse") as events:
            whole = await events.rest()
        seen = ""
        for event in whole:
            seen += event.data if event.type == "data" else ""
            if event.id is None:
                continue
            # The URL still has the first offset: the header overrides it.
            again = await site.get("/a?offset=-1&live=sse", {"last-event-id": event.id})
            rest = parse_events(again.body.decode())[0] if again.status == 200 else []
            assert seen + "".join(one.data for one in rest if one.type == "data") == text.decode()
        assert again.status == 204


async def test_each_batch_has_one_id(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse") as events:
            control = await events.next()
            assert control.id == control.control["streamNextOffset"] == offset(1, 0)
            await site.append("/a", TEXT, b"hello")
            data, control = await events.next(), await events.next()
            assert data.id == offset(1, 5) == control.control["streamNextOffset"]
            assert control.id is None
            await site.post("/a", closed())
            control = await events.next()
            assert control.id == offset(1, 5)


async def test_last_event_id_overrides_the_offset(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello world")
        for query in ("offset=-1&", "offset=now&", ""):
            async with site.connect() as connection:
                response = await begin(connection, "GET", f"/a?{query}live=sse", {"last-event-id": offset(1, 6)})
                assert response["cache-control"] == "no-store"
                assert "last-event-id" in response["vary"].lower()
                data, _ = await EventStream(connection, response).batch()
                assert data == "world"


@pytest.mark.parametrize("last", ["x", offset(1, 12), offset(2, 0)])
async def test_bad_last_event_id(serve_memory: Serve, last: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello world")
        response = await site.get("/a?offset=-1&live=sse", {"last-event-id": last})
        assert problem_code(response) == (400, "invalid-offset")


async def test_last_event_id_of_an_earlier_stream(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello world")
        await site.delete("/a")
        await site.create("/a", TEXT, b"other data")
        response = await site.get("/a?offset=-1&live=sse", {"last-event-id": offset(1, 3)})
        assert problem_code(response) == (410, "offset-gone")


async def test_204_stops_an_event_source_at_the_end_of_a_closed_stream(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", closed(TEXT), b"hello")
        response = await site.get("/a?offset=-1&live=sse", {"last-event-id": offset(1, 5)})
        assert (response.status, response.body) == (204, b"")
        assert response["cache-control"] == "no-store"
        assert "last-event-id" in response["vary"].lower()
        # Without the header the end is told by an event, as to every other client.
        async with site.events(f"/a?offset={offset(1, 5)}&live=sse") as events:
            assert (await events.batch())[1]["streamClosed"] is True


@pytest.mark.parametrize("last", ["-1", "now", "0000000000000000_0000000000000000"])
async def test_204_sends_a_real_offset(serve_memory: Serve, last: str) -> None:
    """``-1``, ``now`` and the zero offset are accepted and never sent (`check_always`)."""
    async with serve_memory() as site:
        await site.create("/a", closed(TEXT))
        response = await site.get("/a?offset=-1&live=sse", {"last-event-id": last})
        assert response.status == 204
        assert response["stream-next-offset"] == offset(1, 0)


async def test_open_stream_is_followed_from_its_last_event_id(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        async with site.events("/a?offset=-1&live=sse", {"last-event-id": offset(1, 5)}) as events:
            assert (await events.batch())[0] is None
            await site.append("/a", TEXT, b"!")
            assert (await events.batch())[0] == "!"


# --- characters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["é", "€", "😀"])
async def test_character_split_over_appends(serve: Serve, character: str) -> None:
    """Bytes of an incomplete character are held back: the offset excludes them, and nobody is told to be up to date."""
    raw = character.encode()
    async with serve() as site:
        await site.create("/a", TEXT, b"ab")
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            for count in range(1, len(raw)):
                await site.append("/a", TEXT, raw[count - 1 : count])
                data, control = await events.batch()
                assert (data, control["streamNextOffset"]) == (None, offset(1, 2))
                assert "upToDate" not in control
            await site.append("/a", TEXT, raw[-1:] + b"!")
            data, control = await events.batch()
            assert (data, control["upToDate"]) == (character + "!", True)
            assert control["streamNextOffset"] == offset(1, 3 + len(raw))


async def test_reader_that_resumes_inside_a_character_gets_it_whole(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, "a€".encode()[:3])
        async with site.events("/a?offset=-1&live=sse") as events:
            data, control = await events.batch()
        assert (data, control["streamNextOffset"]) == ("a", offset(1, 1))
        async with site.events(f"/a?offset={control['streamNextOffset']}&live=sse") as events:
            data, control = await events.batch()
            assert (data, control["streamNextOffset"]) == (None, offset(1, 1))
            assert "upToDate" not in control
            await site.append("/a", TEXT, "€".encode()[2:])
            assert (await events.batch())[0] == "€"


async def test_incomplete_character_is_replaced_at_the_close(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, "a€".encode()[:3])
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await site.post("/a", closed())
            data, control = await events.batch()
            assert (data, control["streamClosed"]) == ("\ufffd", True)
            assert control["streamNextOffset"] == offset(1, 3)
        # The same again for a reader that comes when all is over.
        async with site.events("/a?offset=-1&live=sse") as events:
            assert (await events.batch())[0] == "a\ufffd"
        assert (await site.get("/a")).body == "a€".encode()[:3], "stored bytes do not change"


async def test_bytes_that_are_no_text_do_not_break_the_stream(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"a\xff\xfeb\xc3")
        async with site.events("/a?offset=-1&live=sse") as events:
            data, _ = await events.batch()
            assert data == "a\ufffd\ufffdb"
            await site.append("/a", TEXT, b"(c")
            assert (await events.batch())[0] == "\ufffd(c"


async def test_page_cut_inside_a_character(serve: Serve) -> None:
    text = "€" * 40
    async with serve(page_size=16) as site:
        await site.create("/a", closed(TEXT), text.encode())
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
        assert "".join(event.data for event in found if event.type == "data") == text


# --- times and ends ------------------------------------------------------------------------------------------------


async def test_heartbeat_comments(serve_memory: Serve) -> None:
    async with serve_memory(sse_heartbeat=0.02) as site:
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            while len(events.comments) < 3:
                assert await events.read()
            await site.append("/a", TEXT, b"x")
            assert (await events.batch())[0] == "x"


async def test_connection_ends_cleanly_after_its_lifetime(serve_memory: Serve) -> None:
    async with serve_memory(sse_lifetime=0.05, sse_heartbeat=60) as site:
        await site.create("/a", TEXT, b"x")
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
            assert events.ended
        assert [event.type for event in found] == ["data", "control"]
        assert "streamClosed" not in found[-1].control


async def test_busy_connection_ends_after_its_lifetime_too(serve: Serve) -> None:
    async with serve(sse_lifetime=0.1) as site:
        await site.create("/a", TEXT)

        async def keep_busy() -> None:
            while True:
                await site.append("/a", TEXT, b"x")

        writer = asyncio.create_task(keep_busy())
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.rest()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        assert events.ended


async def test_deletion_ends_the_response(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing more can come, and it is nothing that went wrong: no error is logged."""
    async with serve() as site:
        await site.create("/a", TEXT, b"x")
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await site.delete("/a")
            await site.create("/a", TEXT, b"other")
            with suppress(EOFError):  # an end without the last chunk is one too
                assert await events.rest() == [], "never data of another stream"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_reader_that_goes_away_is_forgotten(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await until(lambda: len(site.engine.waiters) == 1)
        await until(lambda: len(site.engine.waiters) == 0)


async def test_followers_share_data_but_not_cursors(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"x")
        async with (
            site.events("/a?offset=-1&live=sse") as plain,
            site.events(f"/a?offset=-1&live=sse&cursor={INTERVAL + 500}") as ahead,
        ):
            first, second = await plain.batch(), await ahead.batch()
            assert first[0] == second[0] == "x"
            assert int(first[1]["streamCursor"]) == INTERVAL
            assert int(second[1]["streamCursor"]) > INTERVAL + 500
            site.clock.advance(60)
            await site.append("/a", TEXT, b"y")
            after, ahead_after = await plain.batch(), await ahead.batch()
            assert int(after[1]["streamCursor"]) == INTERVAL + 3
            assert int(ahead_after[1]["streamCursor"]) >= int(second[1]["streamCursor"]), "monotonic per connection"


async def test_streams_of_equal_length_are_not_mixed_up(serve: Serve) -> None:
    """Frames are shared by position; never across streams, forks or re-creations."""
    async with serve() as site:
        await site.create("/a", TEXT, b"mine")
        await site.create("/b", TEXT, b"your")
        await site.create("/fork", {"stream-forked-from": "/a", "stream-fork-offset": "-1"}, b"fork")
        for _ in range(2):
            for path, data in (("/a", "mine"), ("/b", "your"), ("/fork", "fork")):
                async with site.events(f"{path}?offset=-1&live=sse") as events:
                    assert (await events.batch())[0] == data
        await site.delete("/b")
        await site.create("/b", TEXT, b"next")
        async with site.events("/b?offset=-1&live=sse") as events:
            assert (await events.batch())[0] == "next"


async def test_many_followers_all_get_everything(serve: Serve) -> None:
    async def follow(site: Site) -> list[int]:
        async with site.events("/a?offset=-1&live=sse") as events:
            found = await events.rest()
        return [n for event in found if event.type == "data" for n in json.loads(event.data)]

    async with serve() as site:
        await site.create("/a", JSON)
        readers = [asyncio.create_task(follow(site)) for _ in range(30)]
        await until(lambda: len(site.engine.waiters) == 30)
        for number in range(50):
            await site.append("/a", JSON, b"%d" % number)
        await site.post("/a", closed())
        for reader in readers:
            assert await reader == list(range(50))


async def test_unknown_stream(serve: Serve) -> None:
    async with serve() as site:
        assert problem_code(await site.get("/none?offset=-1&live=sse")) == (404, "stream-not-found")
