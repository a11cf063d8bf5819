"""POST: append to a stream, and close it."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.conftest import Serve
from tests.server.site import BYTES, JSON, TEXT, closed, offset, problem_code, producer
from unbroken.testing import encode_chunk, encode_request


async def test_appends_add_up(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        for number, body in enumerate((b"one", b"two", b"six")):
            response = await site.post("/a", TEXT, body)
            assert (response.status, response.body) == (204, b"")
            assert response["stream-next-offset"] == offset(1, 3 * number + 3)
            assert response.get("stream-closed") is None
        assert (await site.get("/a")).body == b"onetwosix"


async def test_concurrent_appends_are_all_there_once(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        words = [b"<%d>" % number for number in range(100)]
        ends = await asyncio.gather(*(site.append("/a", TEXT, word) for word in words))
        assert len(set(ends)) == 100, "every append has an end of its own"
        body = (await site.get("/a")).body
        assert sorted(body.replace(b">", b"> ").split()) == sorted(words)
        for word, end in zip(words, ends, strict=True):
            assert body[: int(end[-16:])].endswith(word), "the offset given back is the end of this very append"


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        ({}, b"x", (400, "invalid-body")),
        (BYTES, b"x", (409, "content-type-mismatch")),
        (JSON, b"[1]", (409, "content-type-mismatch")),
        (TEXT, b"", (400, "invalid-body")),
        ({}, b"", (400, "invalid-body")),
        ({**TEXT, "stream-closed": "false"}, b"", (400, "invalid-body")),
        ({**TEXT, "stream-closed": "1"}, b"", (400, "invalid-body")),
        ({**TEXT, "stream-seq": ""}, b"x", (400, "invalid-header")),
        ({**TEXT, "content-type": "nonsense"}, b"x", (400, "invalid-header")),
    ],
)
async def test_refused_append_changes_nothing(serve: Serve, fields: dict, body: bytes, expected: tuple) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        assert problem_code(await site.post("/a", fields, body)) == expected
        page = await site.get("/a")
        assert (page.body, page.get("stream-closed")) == (b"hello", None)
        assert (await site.post("/a", {"content-type": "TEXT/plain; charset=x"}, b"!")).status == 204


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
async def test_unknown_stream(serve: Serve, method: str) -> None:
    async with serve() as site:
        response = await site.request(method, "/nowhere", TEXT, b"x" if method == "POST" else None)
        assert response.status == 404


async def test_chunked_append(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}))
        await connection.send(encode_chunk(b"half, ") + encode_chunk(b"whole") + encode_chunk(b""))
        assert (await connection.read_response()).status == 204
        assert (await site.get("/a")).body == b"half, whole"


async def test_chunked_append_without_content_is_empty(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(
            encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}) + encode_chunk(b"")
        )
        assert problem_code(await connection.read_response()) == (400, "invalid-body")


# --- closing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["true", "True", "TRUE"])
async def test_close(serve_memory: Serve, flag: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        response = await site.post("/a", {"stream-closed": flag})
        assert (response.status, response["stream-closed"]) == (204, "true")
        assert response["stream-next-offset"] == offset(1, 5)
        assert (await site.head("/a"))["stream-closed"] == "true"


async def test_closing_again_changes_nothing(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        for _ in range(3):
            response = await site.post("/a", {"stream-closed": "true"})
            assert (response.status, response["stream-closed"]) == (204, "true")
            assert response["stream-next-offset"] == offset(1, 5)


async def test_append_and_close_in_one_step(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        response = await site.post("/a", closed(TEXT), b" world")
        assert (response.status, response["stream-closed"]) == (204, "true")
        page = await site.get("/a")
        assert (page.body, page["stream-closed"], page["stream-up-to-date"]) == (b"hello world", "true", "true")


@pytest.mark.parametrize("fields", [TEXT, closed(TEXT), {}, BYTES, {**TEXT, "stream-seq": "1"}])
async def test_closed_stream_takes_no_data(serve: Serve, fields: dict[str, str]) -> None:
    async with serve() as site:
        await site.create("/a", closed(TEXT), b"hello")
        response = await site.post("/a", fields, b"more")
        assert problem_code(response) == (409, "stream-closed")
        assert (response["stream-closed"], response["stream-next-offset"]) == ("true", offset(1, 5))
        assert (await site.get("/a")).body == b"hello"


async def test_refused_closing_append_does_not_close(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        assert problem_code(await site.post("/a", closed(BYTES), b"x")) == (409, "content-type-mismatch")
        assert (await site.head("/a")).get("stream-closed") is None


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", None])
async def test_content_type_of_an_empty_closing_post_is_ignored(serve_memory: Serve, content_type: str | None) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        fields = {} if content_type is None else {"content-type": content_type}
        assert (await site.post("/a", closed(fields), b"")).status == 204


async def test_an_empty_array_is_a_body(serve: Serve) -> None:
    """``[]`` is 400 on POST, with Stream-Closed too: it is not the empty body that closes a stream."""
    async with serve() as site:
        await site.create("/json", JSON)
        assert problem_code(await site.post("/json", closed(JSON), b"[]")) == (400, "invalid-body")
        assert (await site.head("/json")).get("stream-closed") is None
        await site.create("/text", TEXT)
        assert problem_code(await site.post("/text", closed(JSON), b"[]")) == (409, "content-type-mismatch")
        assert (await site.head("/text")).get("stream-closed") is None
        await site.create("/closed", closed(JSON))
        assert problem_code(await site.post("/closed", closed(JSON), b"[]")) == (409, "stream-closed")


# --- Stream-Seq ----------------------------------------------------------------------------------------------------


async def test_stream_seq_must_grow_bytewise(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        for seq, status in [
            ("a", 204),
            ("a", 409),
            ("B", 409),
            ("aa", 204),
            ("b", 204),
            ("10", 409),
            ("é", 204),
            ("~", 409),
        ]:
            response = await site.post("/a", {**TEXT, "stream-seq": seq}, b"x")
            assert response.status == status, seq
            if status == 409:
                assert problem_code(response) == (409, "sequence-regression")
        assert (await site.post("/a", TEXT, b"x")).status == 204, "without the header nothing is compared"
        assert (await site.get("/a")).body == b"x" * 5


async def test_stream_seq_is_compared_to_its_last_byte(serve: Serve) -> None:
    """``a`` followed by byte A0 (in UTF-8 the end of ``à``) is greater than ``a``: it is no white space to strip."""
    async with serve() as site:
        await site.create("/a", TEXT)
        assert (await site.post("/a", {**TEXT, "stream-seq": "a"}, b"x")).status == 204
        assert (await site.post("/a", {**TEXT, "stream-seq": "a\xa0"}, b"x")).status == 204


# --- producers -----------------------------------------------------------------------------------------------------


def _facts(response: object) -> dict[str, str]:
    names = ("producer-epoch", "producer-seq", "producer-expected-seq", "producer-received-seq")
    return {name: value for name in names if (value := response.get(name)) is not None}  # type: ignore[attr-defined]


def _accepted(epoch: int, seq: int) -> dict[str, str]:
    return {"producer-epoch": str(epoch), "producer-seq": str(seq)}


def _gap(expected: int, received: int) -> dict[str, str]:
    return {"producer-expected-seq": str(expected), "producer-received-seq": str(received)}


async def test_producer_table(serve: Serve) -> None:
    """Epoch and sequence, one request after the other: (epoch, seq, status, facts, appended)."""
    steps = [
        (3, 1, 409, _gap(0, 1), False),  # unknown producer
        (3, 0, 200, _accepted(3, 0), True),
        (3, 0, 204, _accepted(3, 0), False),  # retry
        (3, 2, 409, _gap(1, 2), False),
        (3, 1, 200, _accepted(3, 1), True),
        (3, 0, 204, _accepted(3, 1), False),  # late retry: the highest accepted is told
        (2, 5, 403, {"producer-epoch": "3"}, False),  # a zombie
        (2, 0, 403, {"producer-epoch": "3"}, False),
        (4, 1, 400, {}, False),  # a new epoch starts at 0
        (4, 0, 200, _accepted(4, 0), True),
        (3, 2, 403, {"producer-epoch": "4"}, False),
        (2**53 - 1, 0, 200, _accepted(2**53 - 1, 0), True),
    ]
    async with serve() as site:
        await site.create("/a", TEXT)
        length = 0
        for epoch, seq, status, facts, appended in steps:
            response = await site.post("/a", {**TEXT, **producer("p", epoch, seq)}, b"x")
            assert (response.status, _facts(response)) == (status, facts), (epoch, seq)
            length += appended
            assert (await site.head("/a"))["stream-next-offset"] == offset(1, length)
            if status < 300:
                assert response["stream-next-offset"] == offset(1, length)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (producer("p", 5, 9), (409, "producer-sequence-gap")),
        (producer("p", 0, 0), (403, "stale-producer-epoch")),
        (producer("p", 2, 1), (400, "invalid-header")),
    ],
)
async def test_producer_codes(serve: Serve, fields: dict[str, str], expected: tuple[int, str]) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        epoch = 5 if fields["producer-epoch"] == "5" else 1
        await site.append("/a", {**TEXT, **producer("p", epoch, 0)}, b"x")
        assert problem_code(await site.post("/a", {**TEXT, **fields}, b"x")) == expected


async def test_producers_do_not_know_each_other(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        await site.create("/b", TEXT)
        for path, name in (("/a", "p"), ("/a", "P"), ("/a", "p q"), ("/a", "pà"), ("/a", "p\xc3"), ("/b", "p")):
            response = await site.post(path, {**TEXT, **producer(name, 0, 0)}, b"x")
            assert response.status == 200, (path, name)


async def test_producer_ids_differ_in_their_last_byte(serve: Serve) -> None:
    """``à`` in UTF-8 ends with byte A0, which is no white space in a header (RFC 9110 section 5.6.3)."""
    async with serve() as site:
        await site.create("/a", TEXT)
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"x")).status == 200
        assert (await site.post("/a", {**TEXT, **producer("p\xa0", 0, 0)}, b"x")).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"producer-id": "p"},
        {"producer-epoch": "0"},
        {"producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "0"},
        {"producer-id": "p", "producer-seq": "0"},
        {"producer-epoch": "0", "producer-seq": "0"},
        producer("", 0, 0),
        producer("p" * 257, 0, 0),
        producer("p", "", 0),
        *(producer("p", bad, 0) for bad in ("-1", "+0", "00", "1.0", "1e3", "x", "9007199254740992", "0, 0")),
        *(producer("p", 0, bad) for bad in ("-1", "+0", "00", "1.0", "1e3", "x", "9007199254740992", "9" * 40)),
    ],
)
async def test_malformed_producer_headers(serve_memory: Serve, fields: dict[str, str]) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        assert problem_code(await site.post("/a", {**TEXT, **fields}, b"x")) == (400, "invalid-header")
        assert (await site.get("/a")).body == b""


async def test_producer_closing_append_is_recognised_when_repeated(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        await site.append("/a", {**TEXT, **producer("p", 1, 0)}, b"one ")
        last = closed({**TEXT, **producer("p", 1, 1)})
        first = await site.post("/a", last, b"two")
        assert (first.status, first["stream-closed"]) == (200, "true")
        for _ in range(2):
            again = await site.post("/a", last, b"two")
            assert (again.status, again["stream-closed"], again["stream-next-offset"]) == (204, "true", offset(1, 7))
            assert _facts(again) == _accepted(1, 1)
        assert (await site.get("/a")).body == b"one two"
        # Another producer, sequence or epoch is not that repetition.
        for other, status in ((producer("q", 1, 1), 409), (producer("p", 1, 2), 409), (producer("p", 0, 1), 403)):
            assert (await site.post("/a", closed({**TEXT, **other}), b"two")).status == status


async def test_producer_close_only(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"x")
        for _ in range(2):
            response = await site.post("/a", closed(producer("p", 0, 0)))
            assert (response.status, response["stream-closed"]) == (204, "true")
            assert _facts(response) == _accepted(0, 0)


async def test_refused_append_does_not_advance_the_producer(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON)
        await site.append("/a", {**JSON, "stream-seq": "5"}, b"[0]")
        for fields, body in (
            ({**JSON, **producer("p", 0, 0)}, b"not JSON"),
            ({**TEXT, **producer("p", 0, 0)}, b"x"),
            ({**JSON, **producer("p", 0, 0), "stream-seq": "5"}, b"[1]"),
        ):
            assert (await site.post("/a", fields, body)).status in (400, 409)
        assert (await site.post("/a", {**JSON, **producer("p", 0, 0)}, b"[1]")).status == 200
        # A duplicate does not move Stream-Seq either.
        await site.append("/a", {**JSON, **producer("p", 0, 0), "stream-seq": "9"}, b"[1]")
        assert (await site.post("/a", {**JSON, "stream-seq": "6"}, b"[2]")).status == 204


async def test_pipelined_producer_requests_keep_their_order(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:
        await site.create("/a", TEXT)
        requests = [encode_request("POST", "/a", {**TEXT, **producer("p", 0, seq)}, b"<%d>" % seq) for seq in range(20)]
        await connection.send(b"".join(requests))
        assert [(await connection.read_response()).status for _ in requests] == [200] * 20
        assert (await site.get("/a")).body == b"".join(b"<%d>" % seq for seq in range(20))


# --- which error comes first ---------------------------------------------------------------------------------------

_STALE = producer("p", 0, 0)
_GAP = producer("p", 1, 5)
_BAD = {"producer-id": "p"}


@pytest.mark.parametrize(
    ("path", "fields", "body", "expected"),
    [
        ("/none", {**BYTES, **_BAD}, b"", (404, "stream-not-found")),
        ("/closed", {**BYTES, **_BAD}, b"x", (400, "invalid-header")),
        ("/closed", {**BYTES, **_STALE}, b"x", (403, "stale-producer-epoch")),
        ("/closed", {**BYTES, **_GAP}, b"x", (409, "stream-closed")),
        ("/closed", {}, b"x", (409, "stream-closed")),
        ("/closed", JSON, b"not JSON", (409, "stream-closed")),
        ("/open", {**BYTES, **_STALE}, b"x", (403, "stale-producer-epoch")),
        ("/open", {**BYTES, **_GAP}, b"x", (409, "content-type-mismatch")),
        ("/open", _GAP, b"x", (400, "invalid-body")),
        ("/open", {**JSON, **_GAP, "stream-seq": "0"}, b"not JSON", (400, "invalid-body")),
        ("/open", {**JSON, **producer("p", 2, 5), "stream-seq": "0"}, b"not JSON", (400, "invalid-body")),
        ("/open", {**JSON, **_GAP, "stream-seq": "0"}, b"[1]", (409, "producer-sequence-gap")),
        ("/open", {**JSON, **producer("p", 2, 5), "stream-seq": "0"}, b"[1]", (400, "invalid-header")),
        ("/open", {**JSON, **producer("p", 1, 1), "stream-seq": "0"}, b"[1]", (409, "sequence-regression")),
    ],
)
async def test_precedence(serve: Serve, path: str, fields: dict, body: bytes, expected: tuple) -> None:
    async with serve() as site:
        for name in ("/open", "/closed"):
            await site.create(name, JSON)
            await site.append(name, {**JSON, **producer("p", 1, 0), "stream-seq": "5"}, b"[0]")
        await site.post("/closed", closed())
        assert problem_code(await site.post(path, fields, body)) == expected


async def test_duplicate_comes_before_stream_seq(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        fields = {**TEXT, **producer("p", 0, 0), "stream-seq": "1"}
        assert (await site.post("/a", fields, b"x")).status == 200
        assert (await site.post("/a", fields, b"x")).status == 204


# --- bodies over the limit -----------------------------------------------------------------------------------------


async def test_body_over_the_limit_is_refused_by_its_announced_length(serve_memory: Serve) -> None:
    async with serve_memory(max_body=1000) as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(encode_request("POST", "/a", {**TEXT, "content-length": "1001"}))
        response = await connection.read_response()
        assert problem_code(response) == (413, "body-too-large"), "before a byte of it was sent"
        assert (await site.post("/a", TEXT, b"x" * 1000)).status == 204
        assert (await site.post("/a", {**TEXT, "content-length": "9" * 19}, b"")).status == 413


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_body_over_the_limit_is_refused_while_it_arrives(serve_memory: Serve, method: str) -> None:
    async with serve_memory(max_body=1000) as site, site.connect() as connection:
        await site.create("/a", TEXT)
        await connection.send(encode_request(method, "/a", {**TEXT, "transfer-encoding": "chunked"}))
        for _ in range(10):
            await connection.send(encode_chunk(b"x" * 101))  # the body does not end
        assert problem_code(await connection.read_response()) == (413, "body-too-large")
        assert (await site.get("/a")).body == b""
