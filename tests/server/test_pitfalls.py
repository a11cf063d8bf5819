"""What other servers fell into: one test per item of the list at the end of WIRE.md.

Elsewhere: what needs crashes or the store's insides (a deletion that comes back, a torn tail, a failed fsync) is among
the store's tests; the buffer of a stalled reader is measured in `test_hostile`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.engine.gated_store import GatedStore
from tests.server.conftest import Serve
from tests.server.site import JSON, TEXT, Site, closed, offset, problem_code, producer, until
from tests.server.test_long_poll import INTERVAL
from unbroken.server.settings import Settings
from unbroken.store.sqlite import SqliteStore
from unbroken.testing import ManualClock, connect, encode_chunk, encode_request, live_server


async def test_producer_is_remembered_together_with_its_data(tmp_path: Path) -> None:
    """Producer state lost between data and state writes (false 409): it is known again after a restart."""
    clock = ManualClock()
    last = {**TEXT, **producer("p", 7, 2)}
    async with live_server(SqliteStore(tmp_path), clock=clock) as server:
        site = Site(server, clock)
        await site.create("/a", TEXT)
        for seq in range(3):
            await site.append("/a", {**TEXT, **producer("p", 7, seq)}, b"<%d>" % seq)
    async with live_server(SqliteStore(tmp_path), clock=clock) as server:
        site = Site(server, clock)
        again = await site.post("/a", last, b"<2>")
        assert (again.status, again["producer-seq"]) == (204, "2")
        assert (await site.post("/a", {**TEXT, **producer("p", 7, 3)}, b"<3>")).status == 200
        assert (await site.post("/a", {**TEXT, **producer("p", 6, 0)}, b"x")).status == 403
        assert (await site.get("/a")).body == b"<0><1><2><3>"


async def test_live_readers_are_not_woken_before_durability() -> None:
    """Live reader woken before durability: neither it nor a plain read sees a byte of a commit still under way."""
    store, clock = GatedStore(), ManualClock()
    async with live_server(store, clock=clock) as server:
        site = Site(server, clock)
        await site.create("/a", TEXT)
        store.shut_gate()
        async with (
            site.waiting("/a?offset=now&live=long-poll") as polled,
            site.events("/a?offset=-1&live=sse") as events,
        ):
            assert (await events.batch())[0] is None
            append = asyncio.create_task(site.post("/a", closed(TEXT), b"durable?"))
            await store.at_gate.wait()
            # A whole request and its answer pass; whoever had been woken would have been heard of by now.
            page = await site.get("/a")
            assert (page.body, page["stream-next-offset"], page.get("stream-closed")) == (b"", offset(1, 0), None)
            head = await site.head("/a")
            assert (head["stream-next-offset"], head.get("stream-closed")) == (offset(1, 0), None)
            assert not polled.done()
            assert not append.done()
            store.open_gate()
            assert (await append).status == 204
            assert (await polled).body == b"durable?"
            assert (await events.batch())[0] == "durable?"


async def test_client_gone_in_the_middle_of_an_append(serve: Serve) -> None:
    """Client gone mid-append leaving the tail stuck: nothing of it is stored, and the next append goes on as if."""
    async with serve() as site:
        await site.create("/a", TEXT, b"before ")
        for end in ("abort", "close"):
            async with site.connect() as connection:
                fields = {**TEXT, "content-length": "100", "expect": "100-continue"}
                await connection.send(encode_request("POST", "/a", fields))
                await connection.read_interim()
                await connection.send(b"half of it")
                if end == "abort":
                    connection.abort()
        await site.append("/a", TEXT, b"after")
        page = await site.get("/a")
        assert (page.body, page["stream-next-offset"]) == (b"before after", offset(1, 12))


async def test_client_gone_before_the_answer(serve: Serve) -> None:
    """Client gone mid-append: a whole request counts although nobody waits for its answer, and its retry is seen."""
    async with serve() as site:
        await site.create("/a", TEXT)
        fields = {**TEXT, **producer("p", 0, 0)}
        async with site.connect() as connection:
            await connection.send(encode_request("POST", "/a", fields, b"once"))
        response = await site.post("/a", fields, b"once")
        assert response.status in (200, 204)
        await until(lambda: site.engine.head("/a").tail == 4)
        assert (await site.get("/a")).body == b"once"


async def test_json_is_not_serialised_anew(serve: Serve) -> None:
    """JSON re-serialised (big ints rounded, duplicate keys dropped)."""
    message = b'{"id":9007199254740993,"big":123456789012345678901234567890,"z":1,"a":1.0,"a":1e2,"s":"\\u00e9\\/"}'
    async with serve() as site:
        await site.create("/a", JSON, b"[" + message + b"]")
        await site.append("/a", JSON, message)
        assert (await site.get("/a")).body == b"[" + message + b"," + message + b"]"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e", b"0x1"])
async def test_numbers_that_json_does_not_have(serve_memory: Serve, number: bytes) -> None:
    """NaN accepted."""
    async with serve_memory() as site:
        await site.create("/a", JSON)
        for body in (number, b"[" + number + b"]", b'{"a":[' + number + b"]}", b'["\\ud800",' + number + b"]"):
            assert problem_code(await site.post("/a", JSON, body)) == (400, "invalid-body")


async def test_character_split_over_two_appends(serve: Serve) -> None:
    """A UTF-8 character split over two appends breaking SSE."""
    async with serve() as site:
        await site.create("/a", TEXT)
        async with site.events("/a?offset=-1&live=sse") as events:
            for byte in "Grüße, 世界 😀".encode():
                await site.append("/a", TEXT, bytes([byte]))
            await site.post("/a", closed())
            found = await events.rest()
        assert "".join(event.data for event in found if event.type == "data") == "Grüße, 世界 😀"
        assert "\ufffd" not in events.raw.decode("utf-8")


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
async def test_payload_cannot_forge_an_event(serve: Serve, line_end: str) -> None:
    """SSE event injection through CR."""
    forged = line_end.join(["x", "", "event: control", 'data: {"streamClosed":true}', "id: 9", "", "retry: 1", ":", ""])
    async with serve() as site:
        await site.create("/text", closed(TEXT), forged.encode())
        async with site.events("/text?offset=-1&live=sse") as events:
            found = await events.rest()
        assert [event.type for event in found] == ["data", "control"]
        assert found[0].data == forged.replace("\r\n", "\n").replace("\r", "\n")
        assert found[1].control["streamNextOffset"] == offset(1, len(forged))
        await site.create("/json", closed(JSON), f'["a",{line_end}{{{line_end}"b"{line_end}:1}}]'.encode())
        async with site.events("/json?offset=-1&live=sse") as events:
            found = await events.rest()
        assert [event.type for event in found] == ["data", "control"]
        assert json.loads(found[0].data) == ["a", {"b": 1}]


async def test_body_is_bounded(serve: Serve) -> None:
    """Unbounded body (50 MB accepted): there is a limit by default, and it is held with and without Content-Length."""
    assert Settings().max_body == 64 * 1024 * 1024
    async with serve(max_body=10_000) as site:
        await site.create("/a", TEXT)
        assert problem_code(await site.post("/a", TEXT, b"x" * 10_001)) == (413, "body-too-large")
        async with site.connect() as connection:
            await connection.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}))
            await connection.send(encode_chunk(b"x" * 6_000) * 2)
            assert problem_code(await connection.read_response()) == (413, "body-too-large")
        assert (await site.get("/a")).body == b""


async def test_read_is_bounded(serve: Serve) -> None:
    """Unbounded read (250 MB in one response): a page by default, also for live reads."""
    mebibyte = 1024 * 1024
    assert Settings().page_size == mebibyte
    async with serve() as site:
        await site.create("/a", TEXT, b"x" * (3 * mebibyte + 1))
        for live in ("", "&live=long-poll"):
            response = await site.get(f"/a?offset=-1{live}")
            assert len(response.body) == mebibyte
            assert response.get("stream-up-to-date") is None
        async with site.events("/a?offset=-1&live=sse") as events:
            sizes = [len((await events.batch())[0] or "") for _ in range(4)]
        assert sizes == [mebibyte, mebibyte, mebibyte, 1]


async def test_etag_says_whether_the_stream_is_closed(serve: Serve) -> None:
    """ETag unchanged by close: a reader that revalidates would never learn of it."""
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        for target in ("/a?offset=-1", f"/a?offset={offset(1, 5)}"):
            tag = (await site.get(target))["etag"]
            assert (await site.get(target, {"if-none-match": tag})).status == 304
        await site.post("/a", closed())
        for target in ("/a?offset=-1", f"/a?offset={offset(1, 5)}"):
            response = await site.get(target, {"if-none-match": tag})
            assert (response.status, response["stream-closed"]) == (200, "true")
            assert (await site.get(target, {"if-none-match": response["etag"]}))["stream-closed"] == "true"


async def test_cursor_jitter_is_random(serve_memory: Serve) -> None:
    """Constant "random" cursor jitter: clients that are all ahead would stay in step for ever."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        target = f"/a?offset=-1&live=long-poll&cursor={INTERVAL}"
        # 30 equal draws out of 180 values are less likely than a broken machine.
        seen = {(await site.get(target))["stream-cursor"] for _ in range(30)}
        assert len(seen) > 1


async def test_cursor_never_sends_a_client_back(serve_memory: Serve) -> None:
    """Cursor not above the client's (refetch loop): whoever echoes cursors never asks for the same URL twice."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        cursor = -1
        for _ in range(20):
            response = await site.get(f"/a?offset=-1&live=long-poll&cursor={cursor}")
            assert int(response["stream-cursor"]) > cursor
            cursor = int(response["stream-cursor"])


@pytest.mark.parametrize("fields", [TEXT, JSON])
async def test_chunked_put_body_is_stored(serve: Serve, fields: dict[str, str]) -> None:
    """Chunked PUT body dropped."""
    async with serve() as site, site.connect() as connection:
        await connection.send(encode_request("PUT", "/a", {**fields, "transfer-encoding": "chunked"}))
        for byte in b"[1,2,3]":
            await connection.send(encode_chunk(bytes([byte])))
        await connection.send(encode_chunk(b""))
        assert (await connection.read_response()).status == 201
        assert (await site.get("/a")).body == b"[1,2,3]"


@pytest.mark.parametrize("ttl", [2**63, 2**64 - 1, 2**64, 10**30])
async def test_ttl_beyond_63_bits(serve_memory: Serve, ttl: int) -> None:
    """TTL of 2^64-1 crashing: it is refused, the largest that is allowed works, and the sweep survives both."""
    async with serve_memory() as site:
        assert problem_code(await site.put("/a", {**TEXT, "stream-ttl": str(ttl)})) == (400, "invalid-header")
        await site.create("/a", {**TEXT, "stream-ttl": str(2**63 - 1)}, b"x")
        await site.create("/short", {**TEXT, "stream-ttl": "1"}, b"x")
        site.clock.advance(10)
        await until(lambda: site.engine.store.state("/short") is None)
        assert (await site.get("/a")).body == b"x"


async def test_stream_created_anew_has_a_new_timer(serve: Serve) -> None:
    """Delete then re-create inheriting the old timer: neither its end nor its sweep touches the new stream."""
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-ttl": "10"})
        await site.create("/witness", {**TEXT, "stream-ttl": "10"})
        await site.delete("/a")
        site.clock.advance(5)
        await site.create("/a", {**TEXT, "stream-ttl": "10"}, b"new")
        site.clock.advance(6)
        await until(lambda: site.engine.store.state("/witness") is None)
        assert (await site.head("/a")).status == 200
        await site.delete("/a")
        await site.create("/a", TEXT, b"for ever")
        site.clock.advance(10**7)
        await site.create("/later", {"stream-ttl": "0"})
        await until(lambda: site.engine.store.state("/later") is None)
        assert (await site.get("/a")).body == b"for ever"


@pytest.mark.parametrize(
    "spelling",
    [
        "//secret",
        "/%2e/secret",
        "/x/%2e%2e/secret",
        "/secret/",
        "/secret/%2E",
        "/x/../secret",
        "/secret%2f",
        "/./secret",
    ],
)
async def test_no_second_spelling_reaches_a_stream(serve_memory: Serve, spelling: str) -> None:
    """Auth checked on the raw path and bypassed by ``//``, ``%2e``, a trailing slash: such paths are refused before
    anybody compares them, so there is nothing to bypass with."""
    async with serve_memory() as site:
        await site.create("/secret", TEXT, b"secret")
        for method in ("GET", "POST", "PUT", "DELETE"):
            response = await site.request(method, spelling, TEXT, b"x" if method in ("POST", "PUT") else None)
            assert problem_code(response) == (400, "invalid-path")
        response = await site.put("/fork", {"stream-forked-from": spelling})
        assert problem_code(response) == (400, "invalid-path")
        assert (await site.get("/secret")).body == b"secret"


async def test_refused_fork_holds_nothing(serve: Serve) -> None:
    """A refused fork leaking a reference count: its source could never be deleted for good."""
    async with serve() as site:
        await site.create("/a", JSON, b"[1]")
        await site.create("/taken", JSON)
        fork = {"stream-forked-from": "/a"}
        for path, fields, body in [
            ("/taken", fork, None),
            ("/b", {**fork, **TEXT}, None),
            ("/b", {**fork, "stream-fork-offset": offset(1, 3)}, None),
            ("/b", {**fork, "stream-fork-offset": "-1", "stream-fork-sub-offset": "2"}, None),
            ("/b", {**fork, "stream-ttl": "x"}, None),
            ("/b", fork, b"not JSON"),
        ]:
            assert (await site.put(path, fields, body)).status in (400, 409)
        async with connect(*site.address) as connection:
            await connection.send(encode_request("PUT", "/b", {**fork, "content-length": "10"}) + b"[")
        assert site.engine.head("/a").forks == 0
        assert (await site.delete("/a")).status == 204
        assert (await site.get("/a")).status == 404
        assert (await site.create("/a", TEXT))["stream-next-offset"] == offset(3, 0)
