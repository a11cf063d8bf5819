"""Pages across ``kill -9`` and restart of a real server: what a page shows is what the stream holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import JSON, TEXT, Lab, follow, live, request
from unbroken.testing import ServerProcess
from unbroken.testing.proxy import FaultyProxy, threaded_proxy

FAILED = "Failed to load resource"


@pytest.fixture
def before(unbroken_process: ServerProcess) -> Iterator[FaultyProxy]:
    """A proxy before the server: it answers 502 when that is not there."""
    with threaded_proxy(unbroken_process.url) as proxy:
        yield proxy


@pytest.fixture(params=["direct", "proxy"])
def url(request: pytest.FixtureRequest, unbroken_process: ServerProcess, before: FaultyProxy) -> str:
    """Where pages find the server."""
    return unbroken_process.url if request.param == "direct" else before.url


def test_two_tabs_show_the_same_and_all_of_it(chromium: Chromium, unbroken_process: ServerProcess, url: str) -> None:
    chromium.expect_errors(FAILED)
    lab = Lab(url, unbroken_process.url)
    lab.create("/a")
    tabs = [lab.open(chromium.new_page()) for _ in range(2)]
    count = 400
    for number, tab in enumerate(tabs):
        follow(tab, "/a")
        tab.evaluate(
            """([tab, count]) => {
                const writer = producer("/a", { batchBytes: 60 })
                window.written = Promise.all(Array.from({ length: count }, (_, number) => writer.send({ tab, number })))
            }""",
            [number, count],
        )
    for share in (0.2, 0.5, 0.8):
        tabs[0].wait_for_function("(count) => told.messages.length >= count", arg=int(share * 2 * count))
        unbroken_process.kill()
        unbroken_process.start()
    for tab in tabs:
        tab.evaluate("window.written")
    lab.close("/a")
    messages = lab.read("/a")
    for number, tab in enumerate(tabs):
        tab.evaluate("reading.done")
        shown = tab.evaluate("[...document.querySelectorAll('li')].map((item) => JSON.parse(item.textContent))")
        assert shown == messages
        assert [message["number"] for message in messages if message["tab"] == number] == list(range(count))


def test_a_page_that_is_loaded_while_the_server_is_away(
    page: Page, chromium: Chromium, unbroken_process: ServerProcess, before: FaultyProxy
) -> None:
    """The page comes from elsewhere, and knows where it was."""
    chromium.expect_errors(FAILED, "ERR_CONNECTION_REFUSED")
    lab = Lab(before.url, unbroken_process.url)
    lab.create("/a", JSON, b"[0, 1]")
    follow(lab.open(page), "/a", {"storageKey": "key"})
    live(page)
    page.evaluate("reading.stop()")
    lab.append("/a", b"[2]")
    lab.open(page)
    unbroken_process.kill()
    follow(page, "/a", {"storageKey": "key"})
    page.wait_for_function("told.statuses.filter((status) => status === 'waiting').length > 1")
    unbroken_process.start()
    live(page)
    assert page.evaluate("told.messages") == [2]


EVENT_SOURCE = """() => {
    window.source = new EventSource("/a?offset=-1&live=sse")
    window.ids = []
    document.body.replaceChildren()
    source.addEventListener("data", ({ data, lastEventId }) => {
        document.body.append(data)
        ids.push(lastEventId)
    })
}"""


def test_a_browsers_own_event_source_resumes_at_the_exact_byte(
    page: Page, chromium: Chromium, unbroken_process: ServerProcess
) -> None:
    """Without any code of ours in the page; also in the middle of a character."""
    chromium.expect_errors(FAILED, "ERR_")
    lab = Lab(unbroken_process.url)
    lab.create("/a", TEXT)
    page.goto(f"{lab.url}/-/health")
    page.evaluate(EVENT_SOURCE)
    for part in ("grün ".encode(), "€".encode()[:2]):
        lab.append("/a", part, TEXT)
    page.wait_for_function("document.body.textContent === 'grün '")
    unbroken_process.kill()
    page.wait_for_function("source.readyState === EventSource.CONNECTING")
    unbroken_process.start()
    lab.append("/a", "€".encode()[2:] + b"\nand so on\n", TEXT)
    lab.close("/a")
    # At the end of a closed stream the server's 204 stops it.
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    expected = "grün €\nand so on\n"
    assert page.locator("body").text_content() == expected
    assert request("GET", f"{lab.url}/a").decode() == expected
    ids = page.evaluate("ids")
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"\d{16}_\d{16}", offset) for offset in ids)
