"""``/-/metrics``: in a form that others read, right, and the same size whatever clients do."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Serve
from tests.server.site import BYTES, TEXT, Site, check_always, problem_code, until
from unbroken.measures import Histogram
from unbroken.protocol.scopes import Principal, grant
from unbroken.server.access import AccessRequest
from unbroken.testing import RawResponse, ServerProcess, connect, encode_request, live_server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def parse(response: RawResponse) -> Samples:
    assert response.status == 200
    assert response["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response["cache-control"] == "no-store"
    samples: Samples = {}
    for family in text_string_to_metric_families(response.body.decode()):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


async def scrape(site: Site) -> Samples:
    response = await site.get("/-/metrics")
    check_always(response, "GET")
    return parse(response)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"unbroken_{name}", tuple(sorted(labels.items()))), 0)


async def test_what_happens_is_counted(serve: Serve) -> None:
    async with serve() as site:
        await until(lambda: site.engine.usage.measured)
        before = await scrape(site)
        await site.create("/a", TEXT, b"hello")
        for _ in range(3):
            await site.append("/a", TEXT, b"!")
        await site.get("/a")
        await site.get("/missing")
        await site.post("/a", BYTES, b"!")
        await site.request("BREW", "/a")
        after = await scrape(site)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("http_requests_total", method="PUT", status="201") == 1
    assert grown("http_requests_total", method="POST", status="204") == 3
    assert grown("http_requests_total", method="POST", status="409") == 1
    assert grown("http_requests_total", method="GET", status="404") == 1
    assert grown("refusals_total", code="stream-not-found") == 1
    assert grown("refusals_total", code="content-type-mismatch") == 1
    assert grown("append_seconds_count") == 3
    assert grown("append_seconds_sum") > 0
    assert grown("appended_bytes_total") == 8
    assert grown("connections_total") > 8
    assert grown("streams") == 1
    assert grown("stored_bytes") == 8
    assert grown("commit_seconds_count") >= 4
    assert grown("batch_writes_count") == grown("commit_seconds_count")
    assert value(after, "batch_writes_bucket", le="+Inf") == value(after, "batch_writes_count")
    assert value(after, "writable") == 1
    assert ("process_cpu_seconds_total", ()) in after


async def test_live_reads_and_connections_are_counted(serve: Serve) -> None:
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        async with site.events("/a?offset=-1&live=sse") as one, site.events("/a?offset=-1&live=sse") as other:
            await one.batch()
            await other.batch()
            await until(lambda: len(site.engine.waiters) == 2)
            samples = await scrape(site)
            assert value(samples, "live_reads") == value(samples, "waiting_readers") == 2
            assert value(samples, "connections") == 3
            assert value(samples, "frames_total", result="hit") == 1
            assert value(samples, "frames_total", result="miss") == 1

        async def all_gone() -> bool:
            samples = await scrape(site)
            return value(samples, "live_reads") == 0 and value(samples, "connections") == 1

        while not await all_gone():
            pass


async def test_refusals_that_are_no_requests_are_counted(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        async with site.connect() as connection:
            await connection.send(b"\x00\x00\x00\r\n\r\n")
            assert problem_code(await connection.read_response()) == (400, "invalid-request")
        async with site.connect() as connection:
            assert (await connection.request("GET", "/a", {"x": "y" * 70_000})).status == 431
        samples = await scrape(site)
        assert value(samples, "refusals_total", code="invalid-request") == 1
        assert value(samples, "refusals_total", code="head-too-large") == 1


async def test_there_are_no_more_series_whatever_clients_do(serve: Serve) -> None:
    async with serve() as site, site.connect() as connection:

        async def be_busy(number: int) -> None:
            path = f"/stream-{number}"
            await connection.request("PUT", path, TEXT, b"x")
            await connection.request("POST", path, {**TEXT, "producer-id": f"p{number}"}, b"x")
            await connection.request("GET", f"{path}?offset=-1&x={number}", {"if-none-match": f'"{number}"'})
            for method in ("PROPFIND", "LOCK") if number else ("PATCH", "MKCOL"):
                await connection.request(method, path)
            await connection.request("DELETE", path)

        await be_busy(0)
        await until(lambda: site.engine.usage.measured)
        before = set(await scrape(site))
        for number in range(1, 100):
            await be_busy(number)
        assert set(await scrape(site)) == before
        assert b"stream-" not in (await site.get("/-/metrics")).body


async def test_other_methods(serve_memory: Serve) -> None:
    async with serve_memory() as site:
        head = await site.head("/-/metrics")
        assert (head.status, head.body) == (200, b"")
        refused = await site.post("/-/metrics", TEXT, b"x")
        assert problem_code(refused) == (405, "method-not-allowed")
        assert refused["allow"] == "GET, HEAD, OPTIONS"


def _by_cookie(request: AccessRequest) -> Principal | None:
    scopes = {
        "monitor": grant(read="/-/metrics"),
        "boss": grant(admin="/**"),
        "reader": grant(read="/**"),
    }
    name = request.headers.get("cookie", "")
    return Principal(name, scopes[name]) if name in scopes else None


@pytest.mark.parametrize(("who", "status"), [("monitor", 200), ("boss", 200), ("reader", 403), ("nobody", 401)])
async def test_who_may_look(who: str, status: int) -> None:
    async with live_server(authorize=_by_cookie) as server, connect(*server.address) as connection:
        assert (await connection.request("GET", "/-/metrics", {"cookie": who})).status == status


async def test_every_metric_is_documented_and_nothing_else(tmp_path: Path) -> None:
    """In the table of docs/operations.md, with its kind and labels."""
    documented = {
        line.split("`")[1]: line.split("|")[2].strip()
        for line in OPERATIONS.splitlines()
        if line.startswith(("| `unbroken_", "| `process_"))
    }
    with ServerProcess(tmp_path / "data") as server:
        async with connect(*server.address) as connection:
            await connection.request("PUT", "/a", TEXT, b"x")
            await connection.request("POST", "/a", TEXT, b"x")
            await connection.send(encode_request("GET", "/missing"))
            assert (await connection.read_response()).status == 404
            text = (await connection.request("GET", "/-/metrics")).body.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.samples, family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name + ("{" + ", ".join(labels) + "}" if labels else "")] = family.type
    assert found == documented


def test_histogram() -> None:
    histogram = Histogram((1, 2, 5))
    for observed in (0, 1, 1.5, 2, 3, 5, 6, 100):
        histogram.observe(observed)
    assert histogram.cumulative() == [2, 4, 6, 8]
    assert histogram.total == 118.5
