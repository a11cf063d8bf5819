"""Files for pages, as browsers and caches ask for them."""

from __future__ import annotations

from importlib.resources import files

import pytest

from tests.server.conftest import Serve
from tests.server.site import problem_code

PATH = "/-/unbroken.js"
CONTENT = (files("unbroken.server") / "static" / "unbroken.js").read_bytes()


async def test_the_module_comes_with_its_type_and_is_cached(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        response = await site.get(PATH)
        assert (response.status, response.body) == (200, CONTENT)
        assert response["content-type"] == "text/javascript; charset=utf-8"
        assert response["cache-control"] == "public, max-age=3600"
        again = await site.get(PATH, {"if-none-match": f'"other", {response["etag"]}'})
        assert (again.status, again.body, again["etag"]) == (304, b"", response["etag"])
        assert (await site.get(PATH, {"if-none-match": '"other"'})).status == 200
        head = await site.head(PATH)
        assert (head.status, head.body, head["etag"]) == (200, b"", response["etag"])


async def test_pages_elsewhere_may_import_it_by_the_rules_of_cors(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        here = await site.get(PATH, {"origin": "http://localhost:3000"})
        assert here["access-control-allow-origin"] == "http://localhost:3000"
        assert here["vary"] == "Origin"
        there = await site.get(PATH, {"origin": "https://example.com"})
        assert there.get("access-control-allow-origin") is None
        assert there["vary"] == "Origin"
    async with serve_memory(cors_origin=("*",)) as site:
        assert (await site.get(PATH))["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_it_cannot_be_written(serve_memory: Serve, method: str) -> None:
    async with serve_memory() as site:
        response = await site.request(method, PATH, {"content-type": "text/javascript"}, b"alert(1)")
        assert problem_code(response) == (405, "method-not-allowed")
        assert response["allow"] == "GET, HEAD, OPTIONS"
        assert (await site.get(PATH)).body == CONTENT
