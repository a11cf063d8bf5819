"""Files for pages, as browsers and caches ask for them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tests.server.conftest import Serve
from tests.server.site import problem_code
from unbroken.server.static import STATIC_PATHS

PATH = "/-/unbroken.js"
FOLDER = files("unbroken.server") / "static"
CONTENT = (FOLDER / "unbroken.js").read_bytes()


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


async def test_the_inspector_runs_nothing_but_its_own(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        nonces = set()
        for _ in range(2):
            page = await site.get("/-/ui")
            assert (page.status, page["content-type"]) == (200, "text/html; charset=utf-8")
            assert page["cache-control"] == "no-store"
            policy = dict(part.split(" ", 1) for part in page["content-security-policy"].split("; "))
            (nonce,) = re.findall(r"'nonce-([\w-]{20,})'", policy["script-src"])
            nonces.add(nonce)
            assert policy == {
                "default-src": "'none'",
                "script-src": f"'nonce-{nonce}'",
                "style-src": f"'nonce-{nonce}'",
                "connect-src": "'self'",
                "img-src": "data:",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
                "require-trusted-types-for": "'script'",
                "trusted-types": "'none'",
            }
            assert page["x-frame-options"] == "DENY"
            assert page["referrer-policy"] == "no-referrer"
            text = page.body.decode()
            assert "{nonce}" not in text
            assert text.count(nonce) == len(re.findall(r"<(?:script|link rel=\"stylesheet\"|style)", text)) == 2
            assert not re.search(r" (?:style|on\w+)=|//|<script>", text)
        assert len(nonces) == 2


async def test_every_part_of_the_inspector_is_served(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        for file in (FOLDER / "ui").iterdir():
            path = "/-/ui" if file.name == "index.html" else f"/-/ui/{file.name}"
            assert path in STATIC_PATHS
            response = await site.get(path)
            assert response.status == 200
            if path != "/-/ui":
                assert response.body == file.read_bytes()
                assert response["cache-control"] == "no-cache"
                assert (await site.get(path, {"if-none-match": response["etag"]})).status == 304
        for path in ("/-/ui/", "/-/ui/index.html", "/-/ui/../unbroken.js", "/-/ui/nothing.js"):
            assert (await site.get(path)).status in (400, 404)
