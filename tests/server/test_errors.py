"""What every refusal has in common. `tests.server.site.check_always` looks at each response of every test."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, problem_code


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "MKCOL", "PROPFIND"])
async def test_unknown_method(serve_memory: Serve, method: str) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT)
        response = await site.request(method, "/a")
        assert problem_code(response) == (405, "method-not-allowed")
        allowed = {name.strip() for name in response["allow"].split(",")}
        assert allowed == {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


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
