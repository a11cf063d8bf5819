"""What the server may hold, and what a client may take: refused with a code of its own, and everything else goes on."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, closed, problem_code, producer, until
from unbroken.engine.quotas import PathQuota
from unbroken.errors import RateLimited
from unbroken.protocol.scopes import Principal, grant
from unbroken.server.access import AccessRequest
from unbroken.server.settings import Settings
from unbroken.server.shares import Bucket, WriteRates
from unbroken.testing import connect, encode_request, live_server


async def test_stream_that_is_full(serve: Serve) -> None:
    async with serve(max_stream_size=10) as site:
        await site.create("/a", TEXT, b"12345")
        assert problem_code(await site.post("/a", TEXT, b"678901")) == (413, "stream-full")
        assert problem_code(await site.put("/b", TEXT, b"x" * 11)) == (413, "stream-full")
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"67890")).status == 200
        assert problem_code(await site.post("/a", {**TEXT, **producer("p", 0, 1)}, b"1")) == (413, "stream-full")
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"67890")).status == 204
        assert (await site.post("/a", closed())).status == 204
        assert (await site.get("/a")).body == b"1234567890"


async def test_stream_with_too_many_producers(serve: Serve) -> None:
    async with serve(max_producers=2) as site:
        await site.create("/a", TEXT)
        for name in "pq":
            assert (await site.post("/a", {**TEXT, **producer(name, 0, 0)}, b"x")).status == 200
        refused = await site.post("/a", {**TEXT, **producer("r", 0, 0)}, b"x")
        assert problem_code(refused) == (413, "too-many-producers")
        assert "higher epoch" in json.loads(refused.body)["detail"]
        assert (await site.post("/a", {**TEXT, **producer("q", 0, 0)}, b"x")).status == 204
        assert (await site.post("/a", {**TEXT, **producer("q", 1, 0)}, b"x")).status == 200
        assert (await site.post("/a", TEXT, b"x")).status == 204
        assert (await site.post("/a", closed())).status == 204
        assert (await site.get("/a")).body == b"xxxx"


async def test_too_many_streams(serve: Serve) -> None:
    async with serve(max_streams=2) as site:
        await until(lambda: site.engine.usage.measured)
        for path in ("/a", "/b"):
            await site.create(path, TEXT, b"x")
        refused = await site.put("/c", TEXT)
        assert problem_code(refused) == (507, "too-many-streams")
        assert int(refused["retry-after"]) > 0
        assert problem_code(await site.put("/c", {"stream-forked-from": "/a"})) == (507, "too-many-streams")
        assert (await site.put("/a", TEXT)).status == 200
        assert (await site.post("/a", TEXT, b"y")).status == 204
        assert (await site.delete("/b")).status == 204
        assert (await site.put("/c", TEXT)).status == 201


async def test_too_much_in_all(serve: Serve) -> None:
    async with serve(max_total_size=10) as site:
        await until(lambda: site.engine.usage.measured)
        await site.create("/a", TEXT, b"12345")
        await site.create("/b", TEXT, b"12345")
        for refused in (await site.post("/a", TEXT, b"6"), await site.put("/c", TEXT, b"1")):
            assert problem_code(refused) == (507, "total-size-exceeded")
        assert (await site.put("/c", TEXT)).status == 201
        assert (await site.get("/b")).body == b"12345"
        assert (await site.delete("/b")).status == 204
        assert (await site.post("/a", TEXT, b"6")).status == 204


async def test_tenant_that_has_its_share(serve: Serve) -> None:
    quota = (PathQuota("/users/*", 2, 10), PathQuota("/users", None, 15))
    async with serve(quota=quota) as site:
        await until(lambda: site.engine.usage.measured)
        await site.create("/users/ann/a", TEXT, b"12345")
        await site.create("/users/ann/b", TEXT)
        refused = await site.put("/users/ann/c", TEXT)
        assert problem_code(refused) == (507, "path-quota-exceeded")
        assert json.loads(refused.body)["detail"] == "there may be at most 2 streams at and below /users/ann"
        assert int(refused["retry-after"]) > 0
        for refused in (
            await site.post("/users/ann/b", TEXT, b"123456"),
            await site.post("/users/ann/b", {**TEXT, **producer("p", 0, 0)}, b"123456"),
            await site.put("/users/ben/a", {"stream-forked-from": "/users/ann/a"}, b"12345678901"),
        ):
            assert problem_code(refused) == (507, "path-quota-exceeded")
        await site.create("/users/ben/a", TEXT, b"1234567890")
        refused = await site.post("/users/ann/a", TEXT, b"6")
        assert json.loads(refused.body)["detail"] == "there may be at most 15 bytes in all at and below /users"
        assert (await site.post("/users/ann/a", closed())).status == 204
        assert (await site.get("/users/ann/a")).body == b"12345"
        assert (await site.delete("/users/ben/a")).status == 204
        assert (await site.post("/users/ann/b", TEXT, b"12345")).status == 204
        metrics = (await site.get("/-/metrics")).body.decode()
        assert 'unbroken_refusals_total{code="path-quota-exceeded"} 5' in metrics
        assert "unbroken_quota_prefixes 2" in metrics
        assert "ann" not in metrics


async def test_what_a_tenant_has_is_told(serve: Serve) -> None:
    async with serve(quota=(PathQuota("/users/*", 1000), PathQuota("/*/*", None, 2**30))) as site:
        await until(lambda: site.engine.usage.measured)
        for path in ("/users/ann", "/users/ann/a", "/users/annabel"):
            await site.create(path, TEXT, b"12345")
        expected = [
            {"prefix": "/users/ann", "pattern": "/users/*", "streams": 2, "totalBytes": 10, "maxStreams": 1000},
            {"prefix": "/users/ann", "pattern": "/*/*", "streams": 2, "totalBytes": 10, "maxTotalBytes": 2**30},
        ]
        for prefix in ("/users/ann", "/users/ann/"):
            listing = json.loads((await site.get(f"/-/streams?prefix={prefix}&limit=1")).body)
            assert listing["quotas"] == expected
        for prefix in ("/users/cid", "/users/an"):
            listing = json.loads((await site.get(f"/-/streams?prefix={prefix}")).body)
            assert [quota["streams"] for quota in listing["quotas"]] == [0, 0]
        for prefix in ("/", "/users", "/users/ann/a"):
            assert "quotas" not in json.loads((await site.get(f"/-/streams?prefix={prefix}")).body)


@pytest.mark.parametrize("limit", ["max_stream_size", "max_producers", "max_streams", "max_total_size"])
async def test_no_limit(serve_memory: Serve, limit: str) -> None:
    async with serve_memory(**{limit: None}) as site:
        await until(lambda: site.engine.usage.measured)
        await site.create("/a", TEXT, b"x")
        assert (await site.post("/a", {**TEXT, **producer("p", 0, 0)}, b"x")).status == 200


# --- rates of writing ------------------------------------------------------------------------------------------------


async def test_more_bytes_than_the_rate_have_to_wait(serve: Serve) -> None:
    """A body is let in whole, and paid for afterwards; every way of writing counts."""
    async with serve(append_bandwidth=10) as site:
        await site.create("/a", TEXT, b"x" * 600)
        proxied = {**TEXT, "x-forwarded-proto": "ws"}
        for refused in (
            await site.post("/a", TEXT, b"y"),
            await site.post("/a", proxied, b"y"),
            await site.put("/b", TEXT),
        ):
            assert problem_code(refused) == (429, "rate-limited")
            assert 50 <= int(refused["retry-after"]) <= 60
        assert (await site.get("/a")).body == b"x" * 600
        assert (await site.delete("/a")).status == 204


async def test_refused_upload_is_not_read(serve: Serve) -> None:
    """The refusal comes before the body does."""
    async with serve(append_bandwidth=10) as site, site.connect() as connection:
        await site.create("/a", TEXT, b"x" * 600)
        await connection.send(encode_request("POST", "/a", {**TEXT, "content-length": "1000000"}))
        assert problem_code(await connection.read_response()) == (429, "rate-limited")


def _by_cookie(request: AccessRequest) -> Principal | None:
    name = request.headers.get("cookie")
    return Principal(name, grant(admin="/**")) if name else None


async def test_each_client_has_a_share_of_its_own() -> None:
    settings = Settings(principal_append_bandwidth=10, principal_live_reads=1)
    async with live_server(settings=settings, authorize=_by_cookie) as server, connect(*server.address) as connection:
        ann, ben = {**TEXT, "cookie": "ann"}, {**TEXT, "cookie": "ben"}
        assert (await connection.request("PUT", "/a", ann, b"x" * 600)).status == 201
        assert problem_code(await connection.request("POST", "/a", ann, b"y")) == (429, "rate-limited")
        assert (await connection.request("POST", "/a", ben, b"y")).status == 204
        async with connect(*server.address) as following:
            await following.send(encode_request("GET", "/a?offset=now&live=sse", ann))
            assert (await following.read_head()).status == 200
            await following.read_part()
            for live in ("sse", "long-poll"):
                refused = await connection.request("GET", f"/a?offset=now&live={live}", ann)
                assert problem_code(refused) == (429, "too-many-live-reads")
                assert int(refused["retry-after"]) > 0
            assert (await connection.request("GET", "/a?offset=now&live=long-poll&timeout=0", ben)).status == 204
            assert (await connection.request("GET", "/a", ann)).status == 200
        assert (await connection.request("GET", "/a?offset=-1&live=long-poll", ann)).status in (200, 429)
        await until(lambda: server.app.app.live_reads == 0)
        assert (await connection.request("GET", "/a?offset=-1&live=long-poll", ann)).status == 200


def test_bucket_gives_back_what_the_rate_says() -> None:
    bucket = Bucket(10, 0.0)
    assert bucket.wait_s(0.0) == 0
    for _ in range(10):
        bucket.take(1)
    assert bucket.wait_s(0.0) == pytest.approx(0, abs=1e-6)
    bucket.take(20)
    assert bucket.wait_s(0.0) == pytest.approx(2)
    assert bucket.wait_s(1.5) == pytest.approx(0.5)
    assert bucket.wait_s(2.1) == 0
    assert bucket.wait_s(1000.0) == 0
    bucket.take(10.5)
    assert bucket.wait_s(1000.0) > 0, "no more than a second's worth is saved up"


def test_shares_of_many_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.server.shares._CLIENTS_MAX", 3)
    rates = WriteRates(Settings(principal_append_rate=1), lambda: 0.0)
    clients = [Principal(str(number), grant(read="/**")) for number in range(5)]
    for client in clients:
        rates.admit(client)
    with pytest.raises(RateLimited):
        rates.admit(clients[4])
    rates.admit(clients[0])


# --- live reads ------------------------------------------------------------------------------------------------------


async def test_live_reads_are_limited(serve: Serve) -> None:
    async with serve(max_live_reads=2) as site:
        await site.create("/a", TEXT, b"x")
        async with site.waiting("/a?offset=now&live=long-poll"), site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            for live in ("sse", "long-poll"):
                refused = await site.get(f"/a?offset=-1&live={live}")
                assert problem_code(refused) == (503, "overloaded")
                assert int(refused["retry-after"]) > 0
            assert (await site.get("/a")).body == b"x"
        await until(lambda: site.app.app.live_reads == 0)
        assert (await site.get("/a?offset=-1&live=long-poll")).status == 200


async def test_refused_live_reads_are_not_counted(serve: Serve) -> None:
    async with serve(max_live_reads=1) as site:
        await site.create("/a", TEXT, b"x")
        for target in ("/a?live=sse", "/a?offset=bad&live=sse", "/missing?offset=-1&live=long-poll"):
            assert (await site.get(target)).status in (400, 404)
        assert site.app.app.live_reads == 0
