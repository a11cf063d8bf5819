"""PUT: create a stream, or confirm an identical one."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import BYTES, JSON, TEXT, closed, offset, problem_code
from unbroken.testing import encode_chunk, encode_request


async def test_creation_says_what_there_is_now(serve: Serve) -> None:
    async with serve() as site:
        response = await site.put("/a", TEXT, b"hello")
        assert response.status == 201
        assert response["content-type"] == "text/plain"
        assert response["stream-next-offset"] == offset(1, 5)
        assert response["location"] == "http://localhost/a"
        assert response.get("stream-closed") is None
        assert response.body == b""
        assert (await site.get("/a")).body == b"hello"


async def test_content_type_is_kept_as_given_and_octet_stream_by_default(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/plain", {"content-type": 'Text/Plain;charset="UTF-8"'})
        assert (await site.head("/plain"))["content-type"] == 'Text/Plain;charset="UTF-8"'
        assert (await site.get("/plain"))["content-type"] == 'Text/Plain;charset="UTF-8"'
        assert (await site.create("/bytes"))["content-type"] == "application/octet-stream"


async def test_every_stream_has_a_number_of_its_own(serve: Serve) -> None:
    async with serve() as site:
        assert (await site.create("/a"))["stream-next-offset"] == offset(1, 0)
        assert (await site.create("/b"))["stream-next-offset"] == offset(2, 0)
        await site.delete("/a")
        assert (await site.create("/a"))["stream-next-offset"] == offset(3, 0)


@pytest.mark.parametrize("spelling", ["text/plain", "TEXT/Plain", "text/plain; charset=latin-1", "text/plain;x"])
async def test_confirming_ignores_case_and_parameters_of_the_type(serve_memory: Serve, spelling: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", {"content-type": "text/plain;charset=utf-8"}, b"hello")
        response = await site.put("/a", {"content-type": spelling})
        assert response.status == 200
        assert response["content-type"] == "text/plain;charset=utf-8"
        assert response["stream-next-offset"] == offset(1, 5)


async def test_body_of_a_confirming_put_is_ignored(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b"[1]")
        for body in (b"[1]", b"[2,3]", b"not JSON"):
            response = await site.put("/a", JSON, body)
            assert response.status == 200
            assert response["stream-next-offset"] == offset(1, 2)
        assert (await site.get("/a")).body == b"[1]"


FUTURE = "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (TEXT, TEXT, 200),
        (TEXT, BYTES, 409),
        (TEXT, {}, 409),
        (BYTES, {}, 200),
        ({}, BYTES, 200),
        (TEXT, closed(TEXT), 409),
        (closed(TEXT), TEXT, 409),
        (closed(TEXT), closed(TEXT), 200),
        (closed(TEXT), {**TEXT, "stream-closed": "TRUE"}, 200),
        (TEXT, {**TEXT, "stream-closed": "yes"}, 200),
        ({"stream-ttl": "60"}, {"stream-ttl": "60"}, 200),
        ({"stream-ttl": "60"}, {"stream-ttl": "61"}, 409),
        ({"stream-ttl": "60"}, {}, 409),
        ({}, {"stream-ttl": "60"}, 409),
        ({"stream-expires-at": FUTURE}, {"stream-expires-at": FUTURE}, 200),
        ({"stream-expires-at": FUTURE}, {"stream-expires-at": "2030-01-01T02:00:00.000+02:00"}, 200),
        ({"stream-expires-at": FUTURE}, {"stream-expires-at": "2030-01-01t00:00:00z"}, 200),
        ({"stream-expires-at": FUTURE}, {"stream-expires-at": "2030-01-01T00:00:01Z"}, 409),
        ({"stream-expires-at": FUTURE}, {"stream-ttl": "60"}, 409),
        ({"stream-expires-at": FUTURE}, {}, 409),
    ],
)
async def test_repeated_put_confirms_or_conflicts(serve: Serve, first: dict, second: dict, status: int) -> None:
    async with serve() as site:
        await site.create("/a", first)
        response = await site.put("/a", second)
        assert response.status == status
        assert response.get("location") is None
        if status == 409:
            assert problem_code(response) == (409, "stream-exists")
        else:
            assert response.get("stream-closed") == ("true" if "stream-closed" in first else None)


@pytest.mark.parametrize("ttl", ["0", "1", "86400", "9223372036854775807"])
async def test_ttl_is_reported_as_given(serve: Serve, ttl: str) -> None:
    async with serve() as site:
        assert (await site.put("/a", {"stream-ttl": ttl})).status == 201
        head = await site.head("/a")
        if ttl == "0":
            assert head.status == 404
        else:
            assert head["stream-ttl"] == ttl
            site.clock.advance(0.9)
            assert (await site.head("/a"))["stream-ttl"] == ttl, "not what is left of it"


@pytest.mark.parametrize(
    "ttl", ["", "-1", "+1", "01", "00", "1.0", "1e3", "0x10", "1 2", "1_0", "ten", "9223372036854775808", "9" * 300]
)
async def test_malformed_ttl(serve_memory: Serve, ttl: str) -> None:
    async with serve_memory() as site:
        assert problem_code(await site.put("/a", {"stream-ttl": ttl})) == (400, "invalid-header")
        assert (await site.head("/a")).status == 404


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "tomorrow",
        "1893456000",
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2030-01-01 00:00:00Z",
        "2030-02-30T00:00:00Z",
        "2030-01-01T24:00:00Z",
        "2030-01-01T00:00:61Z",
        "2030-01-01T00:00:00+24:00",
        "2030-1-1T00:00:00Z",
        "2030-01-01T00:00:00.Z",
        "99999-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
    ],
)
async def test_malformed_expiry(serve_memory: Serve, moment: str) -> None:
    async with serve_memory() as site:
        assert problem_code(await site.put("/a", {"stream-expires-at": moment})) == (400, "invalid-header")


async def test_ttl_and_expiry_exclude_each_other(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        response = await site.put("/a", {"stream-ttl": "60", "stream-expires-at": FUTURE})
        assert problem_code(response) == (400, "invalid-header")


@pytest.mark.parametrize("over", [{"stream-ttl": "0"}, {"stream-expires-at": "2020-01-01T00:00:00Z"}])
async def test_stream_that_is_born_expired(serve: Serve, over: dict[str, str]) -> None:
    async with serve() as site:
        assert (await site.put("/a", {**TEXT, **over}, b"gone")).status == 201
        for response in (await site.get("/a"), await site.post("/a", TEXT, b"x"), await site.delete("/a")):
            assert problem_code(response) == (404, "stream-not-found")
        assert (await site.head("/a")).status == 404
        again = await site.create("/a", TEXT, b"new")
        assert again["stream-next-offset"] == offset(2, 3)


async def test_created_closed(serve: Serve) -> None:
    async with serve() as site:
        response = await site.create("/a", closed(TEXT), b"all there is")
        assert response["stream-closed"] == "true"
        page = await site.get("/a")
        assert (page.body, page["stream-closed"]) == (b"all there is", "true")
        assert problem_code(await site.post("/a", TEXT, b"more")) == (409, "stream-closed")


async def test_chunked_body_is_stored(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:
        await connection.send(encode_request("PUT", "/a", {**TEXT, "transfer-encoding": "chunked"}))
        for part in (b"one ", b"two ", b"three", b""):
            await connection.send(encode_chunk(part))
        response = await connection.read_response()
        assert (response.status, response["stream-next-offset"]) == (201, offset(1, 13))
        assert (await site.get("/a")).body == b"one two three"


@pytest.mark.parametrize(
    "content_type", ["text", "/plain", "text/", "text/plain, text/html", "té/xt", "a/" + "b" * 300]
)
async def test_malformed_content_type(serve_memory: Serve, content_type: str) -> None:
    async with serve_memory() as site:
        assert problem_code(await site.put("/a", {"content-type": content_type})) == (400, "invalid-header")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/a/b/c", "/a/b/c"),
        ("/a%20b", "/a%20b"),
        ("/%C3%A9t%C3%A9", "/%C3%A9t%C3%A9"),
        ("/100%25", "/100%25"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
        ("/~a-b_c.d!$&'()*+,;=:@", "/~a-b_c.d!$&'()*+,;=:@"),
    ],
)
async def test_location_leads_back_to_the_stream(serve: Serve, path: str, location: str) -> None:
    async with serve() as site:
        response = await site.create(path, TEXT, b"here")
        assert response["location"] == f"http://localhost{location}"
        assert (await site.get(response["location"].removeprefix("http://localhost"))).body == b"here"


async def test_location_follows_host_or_public_url(serve_memory: Serve) -> None:
    async with serve_memory(allowed_hosts=("streams.test",)) as site:
        response = await site.create("/a", {"host": "streams.test:81", "x-forwarded-host": "evil.test"})
        assert response["location"] == "http://streams.test:81/a"


async def test_location_follows_public_url(serve_memory: Serve) -> None:
    async with serve_memory(public_url="https://streams.example/base") as site:
        assert (await site.create("/a"))["location"] == "https://streams.example/base/a"


async def test_deleted_path_is_free(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"old")
        response = await site.delete("/a")
        assert (response.status, response.body) == (204, b"")
        for again in (await site.delete("/a"), await site.get("/a"), await site.post("/a", TEXT, b"x")):
            assert problem_code(again) == (404, "stream-not-found")
        await site.create("/a", JSON, b"[1]")
        assert (await site.get("/a")).body == b"[1]"


async def test_head_tells_what_a_stream_is(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**closed(TEXT), "stream-expires-at": "2030-01-01T02:00:00+02:00"}, b"hello")
        response = await site.head("/a")
        assert response.status == 200
        assert response["content-type"] == "text/plain"
        assert response["stream-next-offset"] == offset(1, 5)
        assert response["stream-closed"] == "true"
        assert response["stream-expires-at"] == "2030-01-01T00:00:00.000Z"
        assert response.get("stream-ttl") is None
        assert response["cache-control"] == "no-store"
        assert response.body == b""
        assert (await site.head("/b")).status == 404
