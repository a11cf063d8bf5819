"""A page that follows many streams at once, behind nginx: over HTTP/2 as many as it likes, over HTTP/1.1 six."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.browser import Chromium
from tests.deploy.proxies import Nginx, nginx
from unbroken.testing import ServerProcess

STREAMS = 10
FOLLOW = """count => {
    window.seen = {}
    window.sources = Array.from({length: count}, (_, number) => {
        const source = new EventSource(`/s/${number}?offset=-1&live=sse`)
        source.addEventListener('data', event => { seen[number] = event.data })
        return source
    })
}"""
OPEN = "() => sources.filter(source => source.readyState === EventSource.OPEN).length"
SEEN = "() => Object.keys(seen).length"


@pytest.fixture
def proxy(unbroken_process: ServerProcess) -> Iterator[Nginx]:
    """nginx in front of a server with some streams."""
    with nginx(unbroken_process.data_dir.parent / "nginx", unbroken_process.address) as proxy:
        for number in range(STREAMS):
            answer = httpx2.put(f"{proxy.plain.url}/s/{number}", headers={"content-type": "text/plain"})
            assert answer.status_code == 201
        yield proxy


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    """A page of a browser that trusts everybody."""
    assert chromium.context.browser is not None
    with chromium.context.browser.new_context(ignore_https_errors=True) as context:
        yield context.new_page()


def append_everywhere(proxy: Nginx) -> None:
    for number in range(STREAMS):
        url = f"{proxy.plain.url}/s/{number}"
        assert httpx2.post(url, headers={"content-type": "text/plain"}, content=b"news").status_code == 204


def test_http_2_lifts_the_limit(page: Page, proxy: Nginx) -> None:
    page.goto(f"https://localhost:{proxy.tls.port}/-/health")
    assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
    page.evaluate(FOLLOW, STREAMS)
    page.wait_for_function(f"({OPEN})() === {STREAMS}")
    append_everywhere(proxy)
    page.wait_for_function(f"({SEEN})() === {STREAMS}")
    assert page.evaluate(OPEN) == STREAMS


def test_http_1_has_six(page: Page, proxy: Nginx) -> None:
    page.goto(f"http://localhost:{proxy.plain.port}/-/health")
    page.evaluate(FOLLOW, STREAMS)
    page.wait_for_function(f"({OPEN})() >= 6")
    append_everywhere(proxy)
    page.wait_for_function(f"({SEEN})() >= 6")
    assert (page.evaluate(OPEN), page.evaluate(SEEN)) == (6, 6)
    page.evaluate("sources.find(source => source.readyState === EventSource.OPEN).close()")
    page.wait_for_function(f"({SEEN})() === 7")
    assert page.evaluate(OPEN) == 6


def test_the_inspector_behind_nginx(page: Page, proxy: Nginx) -> None:
    """Where it is, it and the server know: by TLS, at another port, over HTTP/2."""
    page.goto(f"https://localhost:{proxy.tls.port}/-/ui#/s/7")
    expect(page.locator(".follow")).to_have_attribute("data-state", "live")
    append_everywhere(proxy)
    expect(page.locator(".content")).to_contain_text("news")
    created = page.evaluate("fetch('/new', {method: 'PUT'}).then(answer => answer.headers.get('location'))")
    assert created == f"https://localhost:{proxy.tls.port}/new"
