"""Forks: a stream that begins with another one's data."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import BYTES, JSON, TEXT, closed, offset, problem_code, producer, until
from unbroken.testing import encode_request


def _fork(source: str = "/a", at: str | None = None, sub: str | None = None, **more: str) -> dict[str, str]:
    fields = {"stream-forked-from": source, **{name.replace("_", "-"): value for name, value in more.items()}}
    if at is not None:
        fields["stream-fork-offset"] = at
    if sub is not None:
        fields["stream-fork-sub-offset"] = sub
    return fields


async def test_fork_at_the_tail(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        response = await site.create("/b", _fork())
        assert response["content-type"] == "text/plain"
        assert response["stream-next-offset"] == offset(2, 5)
        assert response["location"] == "http://localhost/b"
        await site.append("/b", TEXT, b" fork")
        await site.append("/a", TEXT, b" source")
        assert (await site.get("/b")).body == b"hello fork"
        assert (await site.get("/a")).body == b"hello source"


@pytest.mark.parametrize(
    ("at", "sub", "inherited"),
    [
        ("-1", None, b""),
        ("now", None, b"hello world"),
        ("0000000000000000_0000000000000000", None, b""),
        (offset(1, 0), None, b""),
        (offset(1, 5), None, b"hello"),
        (offset(1, 11), None, b"hello world"),
        (offset(1, 5), "0", b"hello"),
        (offset(1, 5), "1", b"hello "),
        (offset(1, 5), "6", b"hello world"),
        ("-1", "3", b"hel"),
    ],
)
async def test_fork_of_bytes(serve: Serve, at: str, sub: str | None, inherited: bytes) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello world")
        await site.create("/b", _fork(at=at, sub=sub), b"!")
        await site.append("/a", TEXT, b"not here")
        assert (await site.get("/b")).body == inherited + b"!"
        for page in (await site.get("/b"), await site.get(f"/b?offset={offset(2, len(inherited))}")):
            assert page["stream-next-offset"] == offset(2, len(inherited) + 1)


@pytest.mark.parametrize(
    ("at", "sub", "inherited"),
    [
        ("-1", "0", b""),
        ("-1", "1", b"1"),
        ("-1", "3", b"1,22,333"),
        (offset(1, 2), None, b"1"),
        (offset(1, 2), "1", b"1,22"),
        (offset(1, 9), None, b"1,22,333"),
        (None, None, b"1,22,333"),
    ],
)
async def test_fork_of_messages(serve: Serve, at: str | None, sub: str | None, inherited: bytes) -> None:
    async with serve(page_size=16) as site:
        await site.create("/a", JSON, b"[1,22,333]")
        await site.create("/b", _fork(at=at, sub=sub), b'["own"]')
        await site.append("/a", JSON, b"4444")
        assert (await site.get("/b")).body == b"[" + b",".join(filter(None, [inherited, b'"own"'])) + b"]"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (_fork("/none"), (404, "stream-not-found")),
        (_fork(at="nonsense"), (400, "invalid-offset")),
        (_fork(at=""), (400, "invalid-offset")),
        (_fork(at=offset(1, 6)), (400, "invalid-offset")),
        (_fork(at="9999999999999999_9999999999999999"), (400, "invalid-offset")),
        (_fork(at=offset(1, 5), sub="1"), (400, "invalid-offset")),
        (_fork(at="-1", sub="6"), (400, "invalid-offset")),
        (_fork(sub="1"), (400, "invalid-offset")),
        (_fork(at="-1", sub="-1"), (400, "invalid-header")),
        (_fork(at="-1", sub="01"), (400, "invalid-header")),
        (_fork(at="-1", sub="x"), (400, "invalid-header")),
        (_fork(at="-1", sub=""), (400, "invalid-header")),
        (_fork(at="-1", sub="9" * 30), (400, "invalid-header")),
        ({"stream-fork-offset": "-1"}, (400, "invalid-header")),
        ({"stream-fork-sub-offset": "0"}, (400, "invalid-header")),
        (_fork(content_type="application/json"), (409, "content-type-mismatch")),
        (_fork("a"), (400, "invalid-path")),
        (_fork("//a"), (400, "invalid-path")),
        (_fork("/a/"), (400, "invalid-path")),
        (_fork("/a%2Fb"), (400, "invalid-path")),
        (_fork("/./a"), (400, "invalid-path")),
        (_fork("http://localhost/a"), (400, "invalid-path")),
        (_fork(""), (400, "invalid-path")),
    ],
)
async def test_refused_fork_leaves_nothing(serve: Serve, fields: dict[str, str], expected: tuple[int, str]) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        assert problem_code(await site.put("/b", fields)) == expected
        assert (await site.head("/b")).status == 404
        await site.delete("/a")
        assert (await site.get("/a")).status == 404, "no count of references was left behind"


async def test_fork_inside_a_message_is_refused(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", JSON, b'["abc"]')
        assert problem_code(await site.put("/b", _fork(at=offset(1, 2)))) == (400, "invalid-offset")
        assert problem_code(await site.put("/b", _fork(at=offset(1, 2), sub="1"))) == (400, "invalid-offset")
        assert problem_code(await site.put("/b", _fork(at="-1", sub="2"))) == (400, "invalid-offset")


@pytest.mark.parametrize("spelling", ["/caf%C3%A9/%C3%A0", "/caf\xc3\xa9/\xc3\xa0"])
async def test_source_path_is_decoded_like_a_target(serve_memory: Serve, spelling: str) -> None:
    async with serve_memory() as site:
        await site.create("/caf%C3%A9/%C3%A0", TEXT, b"x")
        await site.create("/b", _fork(spelling))
        assert (await site.get("/b")).body == b"x"


async def test_offsets_of_a_fork(serve: Serve) -> None:
    """Inherited data keeps the source's offsets; what the source got after the fork point does not exist here."""
    async with serve(page_size=16) as site:
        await site.create("/a", TEXT, b"0123456789abcdefghij")
        await site.create("/b", _fork(at=offset(1, 18)), b"XYZ")
        await site.append("/a", TEXT, b"klmnop")
        page = await site.get("/b")
        assert (page.body, page["stream-next-offset"]) == (b"0123456789abcdef", offset(1, 16))
        page = await site.get(f"/b?offset={offset(1, 16)}")
        assert (page.body, page["stream-next-offset"]) == (b"ghXYZ", offset(2, 21))
        for spelling in (offset(1, 18), offset(2, 18)):
            assert (await site.get(f"/b?offset={spelling}")).body == b"XYZ"
        assert offset(1, 16) < offset(1, 18) < offset(2, 18) < offset(2, 21), "they sort in stream order"
        assert problem_code(await site.get(f"/b?offset={offset(1, 19)}")) == (400, "invalid-offset")
        assert problem_code(await site.get(f"/b?offset={offset(2, 22)}")) == (400, "invalid-offset")
        assert problem_code(await site.get(f"/a?offset={offset(2, 19)}")) == (400, "invalid-offset")


async def test_what_a_fork_does_not_inherit(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT)
        await site.append("/a", closed({**TEXT, **producer("p", 4, 0), "stream-seq": "9"}), b"hello")
        response = await site.create("/b", _fork())
        assert response.get("stream-closed") is None
        assert (await site.post("/b", {**TEXT, **producer("p", 0, 0), "stream-seq": "1"}, b"!")).status == 200
        assert (await site.get("/b")).body == b"hello!"


async def test_what_a_fork_inherits(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/ttl", {"content-type": "text/plain;charset=x", "stream-ttl": "60"})
        await site.create("/date", {**TEXT, "stream-expires-at": "2030-01-01T00:00:00Z"})
        await site.create("/ttl-fork", _fork("/ttl"))
        await site.create("/date-fork", _fork("/date"))
        await site.create("/own", _fork("/ttl", stream_ttl="5"))
        await site.create("/own-date", _fork("/ttl", stream_expires_at="2031-01-01T00:00:00Z"))
        head = await site.head("/ttl-fork")
        assert (head["content-type"], head["stream-ttl"]) == ("text/plain;charset=x", "60")
        assert (await site.head("/date-fork"))["stream-expires-at"] == "2030-01-01T00:00:00.000Z"
        assert (await site.head("/own"))["stream-ttl"] == "5"
        own = await site.head("/own-date")
        assert (own.get("stream-ttl"), own["stream-expires-at"]) == (None, "2031-01-01T00:00:00.000Z")


async def test_fork_may_be_created_closed(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        response = await site.create("/b", closed(_fork()), b"!")
        assert response["stream-closed"] == "true"
        page = await site.get("/b")
        assert (page.body, page["stream-closed"]) == (b"hello!", "true")
        assert (await site.head("/a")).get("stream-closed") is None


async def test_appends_to_the_source_do_not_wake_readers_of_the_fork(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", _fork())
        async with site.waiting("/b?offset=now&live=long-poll") as answer:
            for _ in range(3):
                await site.append("/a", TEXT, b"x")
            assert not answer.done()
            await site.append("/b", TEXT, b"own")
            assert (await answer).body == b"own"


async def test_closing_or_deleting_the_source_does_not_concern_the_fork(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", _fork())
        async with site.waiting("/b?offset=now&live=long-poll") as answer:
            await site.post("/a", closed())
            await site.delete("/a")
            await site.append("/b", TEXT, b"own")
            assert (await answer).body == b"own"
        assert (await site.get("/b")).body == b"helloown"


async def test_fork_is_followed_through_inherited_data(serve: Serve) -> None:
    async with serve(page_size=16) as site:
        await site.create("/a", JSON, b"[" + b",".join(b"%d" % n for n in range(30)) + b"]")
        await site.create("/b", _fork(), b"[30]")
        async with site.events("/b?offset=-1&live=sse") as events:
            await site.append("/b", closed(JSON), b"[31]")
            found = await events.rest()
        numbers = ",".join(event.data.strip("[]") for event in found if event.type == "data")
        assert numbers == ",".join(str(n) for n in range(32))


# --- repetition ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [_fork(), _fork(at=offset(1, 2)), _fork(at=offset(1, 2), sub="1"), _fork(stream_ttl="60"), _fork(at="-1")],
)
async def test_repeated_fork_request_is_confirmed(serve: Serve, fields: dict[str, str]) -> None:
    """Although the source has grown since, and the fork too."""
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", fields, b"own")
        await site.append("/a", TEXT, b" world")
        await site.append("/b", TEXT, b"!")
        response = await site.put("/b", fields, b"own")
        assert response.status == 200
        assert (await site.get("/b")).body.endswith(b"own!")


@pytest.mark.parametrize("fields", [_fork(), _fork(at=offset(1, 2)), _fork(at="-1", sub="1")])
async def test_repeated_fork_request_is_confirmed_although_the_source_is_deleted(
    serve: Serve, fields: dict[str, str]
) -> None:
    """The stream exists with this very configuration: 200. What became of its source does not matter."""
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", fields)
        await site.delete("/a")
        assert (await site.put("/b", fields)).status == 200


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_fork(), TEXT),
        (TEXT, _fork()),
        (_fork(), _fork("/other")),
        (_fork(), _fork(at=offset(1, 5))),
        (_fork(at=offset(1, 2)), _fork(at=offset(1, 3))),
        (_fork(at=offset(1, 2)), _fork(at=offset(1, 1), sub="1")),
        (_fork(stream_ttl="60"), _fork()),
        (_fork(), _fork(stream_ttl="60")),
        (_fork(), closed(_fork())),
        (_fork(), _fork(at="nonsense")),
    ],
)
async def test_other_request_conflicts_with_a_fork(serve: Serve, first: dict, second: dict) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/other", TEXT, b"hello")
        await site.create("/b", first)
        assert problem_code(await site.put("/b", second))[0] in (400, 409)
        assert (await site.put("/b", first)).status == 200


# --- deletion ------------------------------------------------------------------------------------------------------


async def test_deleted_source_lives_on_in_its_forks(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", _fork())
        assert (await site.delete("/a")).status == 204
        for method, target, body in [
            ("GET", "/a", None),
            ("GET", "/a?offset=-1&live=sse", None),
            ("GET", "/a?offset=-1&live=long-poll", None),
            ("POST", "/a", b"x"),
            ("DELETE", "/a", None),
        ]:
            assert problem_code(await site.request(method, target, TEXT, body)) == (410, "stream-gone"), method
        assert (await site.head("/a")).status == 410
        assert problem_code(await site.put("/a", TEXT)) == (409, "stream-exists")
        assert problem_code(await site.put("/c", _fork())) == (409, "fork-source-gone")
        assert (await site.get("/b")).body == b"hello"
        await site.append("/b", TEXT, b"!")
        await site.delete("/b")
        assert (await site.create("/a", TEXT))["stream-next-offset"] == offset(3, 0), "the last fork took it along"


async def test_source_is_gone_for_good_with_its_last_fork(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        for fork in ("/b", "/c"):
            await site.create(fork, _fork())
        await site.delete("/a")
        await site.delete("/b")
        assert (await site.get("/a")).status == 410
        await site.delete("/c")
        await until(lambda: site.engine.store.state("/a") is None)
        assert problem_code(await site.get("/a")) == (404, "stream-not-found")


async def test_deletion_cascades(serve: Serve) -> None:
    """/a <- /b <- /c: each goes when the last stream that lives on it is gone."""
    async with serve() as site:
        await site.create("/a", TEXT, b"1")
        await site.create("/b", _fork("/a"), b"2")
        await site.create("/c", _fork("/b"), b"3")
        await site.create("/d", _fork("/a"), b"4")
        await site.delete("/a")
        await site.delete("/b")
        assert [(await site.head(path)).status for path in ("/a", "/b", "/c", "/d")] == [410, 410, 200, 200]
        assert (await site.get("/c")).body == b"123"
        await site.delete("/c")
        await until(lambda: site.engine.store.state("/b") is None)
        assert [(await site.head(path)).status for path in ("/a", "/b", "/d")] == [410, 404, 200]
        assert (await site.get("/d")).body == b"14"
        await site.delete("/d")
        await until(lambda: site.engine.store.state("/a") is None)
        assert list(site.engine.store.holds(10)) == []


async def test_expired_source_lives_on_in_its_forks(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-ttl": "10"}, b"hello")
        await site.create("/b", _fork(stream_ttl="1000"))
        site.clock.advance(11)
        assert (await site.get("/a")).status == 410
        assert (await site.head("/a")).status == 410
        assert problem_code(await site.put("/a", TEXT)) == (409, "stream-exists")
        assert problem_code(await site.put("/c", _fork())) == (409, "fork-source-gone")
        assert (await site.get("/b")).body == b"hello"
        site.clock.advance(1001)
        assert (await site.head("/b")).status == 404
        await until(lambda: site.engine.store.state("/a") is None)
        assert (await site.head("/a")).status == 404


async def test_expired_fork_gives_its_source_free_when_its_path_is_taken(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.create("/b", _fork(stream_ttl="10"))
        await site.delete("/a")
        site.clock.advance(11)
        await site.create("/b", TEXT, b"new")
        await until(lambda: site.engine.store.state("/a") is None)
        assert (await site.get("/b")).body == b"new"


async def test_fork_of_itself(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", {**TEXT, "stream-ttl": "10"}, b"x")
        assert problem_code(await site.put("/a", _fork())) == (409, "stream-exists")
        assert problem_code(await site.put("/b", _fork("/b"))) == (404, "stream-not-found")
        site.clock.advance(11)
        assert problem_code(await site.put("/a", _fork())) == (404, "stream-not-found")


async def test_chain_of_forks(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/0", TEXT, b"0,")
        for number in range(1, 40):
            await site.create(f"/{number}", _fork(f"/{number - 1}"), b"%d," % number)
        assert (await site.get("/39")).body == b"".join(b"%d," % number for number in range(40))
        for number in range(39):
            await site.delete(f"/{number}")
        assert (await site.get("/39")).body == b"".join(b"%d," % number for number in range(40))
        await site.delete("/39")
        await until(lambda: all(site.engine.store.state(f"/{number}") is None for number in range(40)))


async def test_fork_point_given_before_the_source_existed_is_not_ignored(serve: Serve) -> None:
    """The source is created while the fork's body is still on its way. It may be found or not, but the fork never
    silently begins somewhere else than was asked."""
    async with serve() as site, site.connect() as connection:
        fields = {**_fork(at=offset(1, 2)), "content-length": "1", "expect": "100-continue"}
        await connection.send(encode_request("PUT", "/b", fields))
        await connection.read_interim()
        await site.create("/a", BYTES, b"hello")
        await connection.send(b"!")
        response = await connection.read_response()
        if response.status == 201:
            assert (await site.get("/b")).body == b"he!"
        else:
            assert response.status in (404, 409)
