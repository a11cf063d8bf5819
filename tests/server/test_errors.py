"""What every refusal has in common. `tests.server.site.check_always` looks at each response of every test."""

from __future__ import annotations

import pytest

from tests.engine.gated_store import GatedStore
from tests.server.conftest import Serve
from tests.server.site import TEXT, Site, problem_code
from unbroken import errors
from unbroken.testing import ManualClock, live_server


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "MKCOL", "PROPFIND"])
async def test_unknown_method(serve_memory: Serve, method: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        response = await site.request(method, "/a")
        assert problem_code(response) == (405, "method-not-allowed")
        allowed = {name.strip() for name in response["allow"].split(",")}
        assert allowed == {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


@pytest.mark.parametrize("path", ["/-/health", "/-/ready", "/-/metrics", "/-/unbroken.js", "/-/ui"])
async def test_what_is_only_looked_at(serve_memory: Serve, path: str) -> None:
    async with serve_memory() as site:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            refused = await site.request(method, path, TEXT, b"")
            assert problem_code(refused) == (405, "method-not-allowed")
            assert refused["allow"] == "GET, HEAD, OPTIONS"
        assert (await site.get(path)).status == (await site.head(path)).status == 200
        assert (await site.request("OPTIONS", path)).status == 204


async def test_unknown_headers_and_parameters_are_ignored(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        extra = {"x-anything": "1", "stream-unknown": "1", "range": "bytes=0-1", "accept": "image/png"}
        await site.create("/a?x=1&offset", {**TEXT, **extra}, b"hello")
        response = await site.get("/a?x=1&&=&y=%FF&offset=-1", extra)
        assert (response.status, response.body) == (200, b"hello")


async def test_head_of_a_refusal_has_no_body(serve_memory: Serve) -> None:
    async with serve_memory() as site, site.connect() as connection:
        for target in ("/missing", "//bad"):
            response = await connection.request("HEAD", target)
            assert response.status in (400, 404)
        assert (await connection.request("GET", "/-/health")).status == 200, "the connection is still in step"


async def test_connection_is_reused_after_refusals(serve_memory: Serve) -> None:
    async with serve_memory(max_body=100) as site, site.connect() as connection:
        for method, target, body, status in [
            ("POST", "/missing", b"x" * 50, 404),
            ("PUT", "//bad", b"x" * 50, 400),
            ("PATCH", "/a", b"x" * 50, 405),
            ("PUT", "/a", b"x" * 500, 413),
            ("PUT", "/a", b"x" * 50, 201),
            ("GET", "/a", b"a body on GET is ignored", 200),
            ("DELETE", "/a", b"and on DELETE", 204),
        ]:
            assert (await connection.request(method, target, TEXT, body)).status == status, method


async def test_draining_server_says_so(serve_memory: Serve) -> None:
    """Until its end a draining server goes on with short requests; readiness tells load balancers to look elsewhere."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"x")
        site.engine.drain()
        assert (await site.get("/-/health")).status == 200
        response = await site.get("/-/ready")
        assert problem_code(response) == (503, "draining")
        assert int(response["retry-after"]) > 0
        assert (await site.get("/a")).body == b"x"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("disk on fire"), (503, "outcome-unknown")),
        (errors.OutcomeUnknown("fsync failed"), (503, "outcome-unknown")),
        (errors.StorageFull("no space left"), (507, "storage-full")),
    ],
)
async def test_store_that_cannot_write(error: Exception, expected: tuple[int, str]) -> None:
    """The write says that its outcome is unknown, later ones are refused, reads go on, readiness tells."""
    store, clock = GatedStore(), ManualClock()
    async with live_server(store, clock=clock) as server:
        site = Site(server, clock)
        await site.create("/a", TEXT, b"durable")
        assert (await site.get("/-/ready")).status == 200
        store.error = error
        assert problem_code(await site.post("/a", TEXT, b"x")) == expected
        for method, body in (("POST", b"x"), ("PUT", b"x"), ("DELETE", None)):
            response = await site.request(method, "/a", TEXT, body)
            assert problem_code(response) == (503, "store-read-only")
        page = await site.get("/a")
        assert (page.status, page.body) == (200, b"durable")
        assert (await site.get("/a?offset=now&live=long-poll&timeout=0")).status == 204
        assert problem_code(await site.get("/-/ready")) == (503, "store-read-only")
        assert (await site.get("/-/health")).status == 200


async def test_too_many_writes_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.engine.commit.QUEUE_MAX", 0)
    clock = ManualClock()
    async with live_server(clock=clock) as server:
        response = await Site(server, clock).put("/a", TEXT)
        assert problem_code(response) == (503, "overloaded")
        assert int(response["retry-after"]) > 0
