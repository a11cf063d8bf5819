"""JSON mode: messages in, the same bytes out."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import Serve
from tests.server.site import JSON, closed, offset, problem_code

EXACT = [
    b"0",
    b"-0",
    b"-0.0",
    b"9007199254740993",
    b"123456789012345678901234567890",
    b"1e400",
    b"-1.50E+03",
    b"0.1000000000000000055511151231257827",
    b'{"b":1,"a":2}',
    b'{"a":1,"a":2}',
    b'{"":0}',
    b'{ "a" : [ 1 , 2 ] }',
    b"[[1,2],[3]]",
    b"[[]]",
    b"[{}]",
    b'"\\u00e9"',
    b'"\xc3\xa9"',
    b'"\\/\\b\\f\\n\\r\\t\\"\\\\"',
    b'"\\ud83d"',
    b'"\\ude00\\ud83d"',
    b'"\\uD83D\\uDE00"',
    b'{"\\ud800":"\\udfff"}',
    b'["\\ud83d","\\\\ud83d",{"a":"\\\\\\ud83d"}]',
    b'"\xf0\x9f\x98\x80"',
    b'"\xe2\x80\xa8"',
    b'"\\u0000\\u001e"',
    b'"\x7f"',
    b"true",
    b"null",
    b'""',
]


@pytest.mark.parametrize("message", EXACT)
async def test_message_comes_back_byte_for_byte(serve: Serve, message: bytes) -> None:
    """Alone, surrounded by white space, and in an array; by catch-up read and by SSE."""
    alone = message if not message.startswith(b"[") else b"[" + message + b"]"
    async with serve() as site:
        await site.create("/a", JSON)
        for body in (alone, b" \t\r\n" + alone + b"\n ", b"[ " + message + b"\n,\t" + message + b" ]"):
            await site.append("/a", JSON, body)
        wanted = b"[" + b",".join([message] * 4) + b"]"
        assert (await site.get("/a")).body == wanted
        async with site.events("/a?offset=-1&live=sse") as events:
            data, _ = await events.batch()
            assert data is not None
            assert data.encode() == wanted


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"[NaN]",
        b'{"a":NaN}',
        b"Infinity",
        b"-Infinity",
        b'["\\ud83d",NaN]',
        b'["\\ud83d",Infinity]',
        b" ",
        b"{",
        b"[",
        b"[1",
        b"[1,]",
        b"[,1]",
        b"[1,,2]",
        b"[1]]",
        b"[1] 2",
        b"1 2",
        b"{}{}",
        b'{"a":1,}',
        b"{a:1}",
        b"{'a':1}",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"0x1",
        b"tru",
        b"True",
        b"undefined",
        b'"\n"',
        b'"\x00"',
        b'"\x1e"',
        b'["a\x1eb"]',
        b"[1\x1e2]",
        b"\x1e",
        b'"\\x41"',
        b'"\\u12"',
        b'"\\u12G4"',
        b'["\\ud83d","\x1e"]',
        b'["\\ud83d",1 2]',
        b'"\\ud83d" 1',
        b'"abc',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc3"',
        b'"\xc0\xaf"',
        b"\xef\xbb\xbf1",
        b"1\x00",
        b"// c\n1",
        b"[1]\x0b",
        b"\xa01",
    ],
)
async def test_not_json(serve_memory: Serve, body: bytes) -> None:
    async with serve_memory() as site:
        await site.create("/a", JSON, b"[1]")
        assert problem_code(await site.post("/a", JSON, body)) == (400, "invalid-body")
        assert problem_code(await site.put("/b", JSON, body)) == (400, "invalid-body")
        assert (await site.get("/a")).body == b"[1]"
        assert (await site.head("/b")).status == 404


async def test_exactly_one_level_is_flattened(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b"[1,[2,[3]],[]]")
        await site.append("/a", JSON, b"[[4,5]]")
        await site.append("/a", JSON, b'{"six":[6]}')
        assert (await site.get("/a")).body == b'[1,[2,[3]],[],[4,5],{"six":[6]}]'


async def test_empty_arrays(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b" [ ] ")
        assert (await site.get("/a")).body == b"[]"
        for body in (b"[]", b" [\n] "):
            assert problem_code(await site.post("/a", JSON, body)) == (400, "invalid-body")
        await site.append("/a", JSON, b"[[]]")
        assert (await site.get("/a")).body == b"[[]]"


async def test_offsets_sit_between_messages(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON)
        ends = [0] + [int((await site.append("/a", JSON, body))[-16:]) for body in (b'"ab"', b"[1,22]", b"{}")]
        assert ends == [0, 5, 10, 13], "each message and one byte"
        boundaries = {0, 5, 7, 10, 13}
        messages = {0: ["ab", 1, 22, {}], 5: [1, 22, {}], 7: [22, {}], 10: [{}], 13: []}
        for position in range(14):
            response = await site.get(f"/a?offset={offset(1, position)}")
            if position in boundaries:
                assert response.json() == messages[position]
            else:
                assert problem_code(response) == (400, "invalid-offset")


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_live_read_from_inside_a_message_is_refused(serve_memory: Serve, live: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", JSON, b'["abc"]')
        response = await site.get(f"/a?offset={offset(1, 2)}&live={live}")
        assert problem_code(response) == (400, "invalid-offset")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_depth_is_limited(serve_memory: Serve, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    async with serve_memory() as site:
        await site.create("/a", JSON)
        deep = b"[" + opening * 512 + b"1" + closing * 512 + b"]"
        assert (await site.post("/a", JSON, deep)).status == 204
        for depth in (513, 1_000, 100_000):
            body = b"[" + opening * depth + b"1" + closing * depth + b"]"
            assert problem_code(await site.post("/a", JSON, body)) == (400, "invalid-body")
        assert problem_code(await site.post("/a", JSON, opening * 100_000)) == (400, "invalid-body")
        brackets_in_text = b'"' + opening.replace(b'"', b"") * 100_000 + b'"'
        assert (await site.post("/a", JSON, brackets_in_text)).status == 204


async def test_number_of_messages_is_limited(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        await site.create("/a", JSON)
        assert (await site.post("/a", JSON, b"[" + b"1," * 99_999 + b"1]")).status == 204
        response = await site.post("/a", JSON, b"[" + b"1," * 100_000 + b"1]")
        assert problem_code(response) == (413, "too-many-messages")
        inside_one_message = b"[[" + b"1," * 200_000 + b"1]]"
        assert (await site.post("/a", JSON, inside_one_message)).status == 204
        assert (await site.head("/a"))["stream-next-offset"] == offset(1, 200_000 + len(inside_one_message) - 1)


@pytest.mark.parametrize("unit", [b'{"n":1,"s":"a,b]}[{"}', b'"\\ud83d, ]"', b"[1, [2], {}]"])
async def test_large_body_is_cut_at_the_right_places(serve: Serve, unit: bytes) -> None:
    """Bodies over 1 MiB are split in slices, off the event loop; nobody may notice."""
    count = 1_100_000 // (len(unit) + 3)
    body = b"[" + b" ,\n".join([unit] * count) + b"]"
    assert len(body) > 1024 * 1024
    async with serve(page_size=16 * 1024 * 1024) as site:
        await site.create("/a", JSON)
        await site.append("/a", JSON, body)
        assert (await site.get("/a")).body == b"[" + b",".join([unit] * count) + b"]"
        broken = b"[" + b" ,\n".join([*[unit] * count, b"nul", *[unit] * 10]) + b"]"
        assert problem_code(await site.post("/a", JSON, broken)) == (400, "invalid-body")
        missing = b"[" + b",".join([*[unit] * count, b" ", unit]) + b"]"
        assert problem_code(await site.post("/a", JSON, missing)) == (400, "invalid-body")


async def test_json_content_type_with_parameters(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {"content-type": "Application/JSON; charset=utf-8"}, b"[1]")
        await site.append("/a", JSON, b"[2]")
        response = await site.get("/a")
        assert (response.body, response["content-type"]) == (b"[1,2]", "Application/JSON; charset=utf-8")
        assert problem_code(await site.post("/a", JSON, b"nul")) == (400, "invalid-body")


async def test_like_json_is_bytes(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {"content-type": "application/x-ndjson"}, b"not JSON\n")
        await site.append("/a", {"content-type": "application/x-ndjson"}, b"[1]")
        assert (await site.get("/a")).body == b"not JSON\n[1]"


async def test_closing_with_the_last_message(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b'[{"a":1}]')
        assert (await site.post("/a", closed(JSON), b"[2,3]"))["stream-closed"] == "true"
        response = await site.get("/a")
        assert (json.loads(response.body), response["stream-closed"]) == ([{"a": 1}, 2, 3], "true")
