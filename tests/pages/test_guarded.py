"""A page of one server that reads from another, which wants tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import JSON, Lab, follow, request, told
from tests.server.tokens import SECRET, key_file
from unbroken import tokens
from unbroken.server.settings import Settings
from unbroken.testing import Address, ManualClock, threaded_server


class Guarded:
    """The other server, and its tokens by the time of its clock."""

    def __init__(self, address: Address, clock: ManualClock) -> None:
        self.url = address.url
        self.clock = clock

    def token(self, **globs: str) -> str:
        return tokens.mint(SECRET, ttl_s=60, now_s=self.clock.now().wall_ms / 1000, **globs)

    def write(self, method: str, path: str, body: bytes) -> None:
        request(method, self.url + path, JSON, body, authorization=f"Bearer {self.token(admin='/**')}")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    clock = ManualClock()
    with threaded_server(settings=Settings(jwt_keys=(key_file(tmp_path),)), clock=clock) as address:
        yield Guarded(address, clock)


def test_an_event_source_with_a_token_in_its_url(page: Page, chromium: Chromium, lab: Lab, guarded: Guarded) -> None:
    """The browser's own, which can send no headers. It ends with its token, and does not come back with it."""
    chromium.expect_errors("401")
    guarded.write("PUT", "/chat", b'["one"]')
    lab.open(page)
    page.evaluate(
        """url => {
            window.told = { messages: [], errors: [] }
            window.source = new EventSource(url)
            source.addEventListener("data", event => told.messages.push(...JSON.parse(event.data)))
            source.addEventListener("error", () => told.errors.push(source.readyState))
        }""",
        f"{guarded.url}/chat?offset=-1&live=sse&token={guarded.token(read='/chat')}",
    )
    assert told(page, "messages", 1) == ["one"]
    guarded.write("POST", "/chat", b'"two"')
    assert told(page, "messages", 2) == ["one", "two"]
    guarded.clock.advance(60)
    guarded.write("POST", "/chat", b'"three"')
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert told(page, "messages", 2) == ["one", "two"]


def test_following_with_tokens_that_the_application_gives(
    page: Page, chromium: Chromium, lab: Lab, guarded: Guarded
) -> None:
    """A fresh one whenever the last has expired: it goes on where it was."""
    chromium.expect_errors("401")
    given = []

    def give() -> str:
        given.append(guarded.token(read="/chat"))
        return given[-1]

    page.expose_function("giveToken", give)
    guarded.write("PUT", "/chat", b"[0]")
    follow(lab.open(page), f"{guarded.url}/chat", {}, "{ token: () => giveToken() }")
    for count in range(1, 5):
        assert told(page, "messages", count)[:count] == list(range(count))
        guarded.clock.advance(61)
        guarded.write("POST", "/chat", b"%d" % count)
    assert told(page, "messages", 5) == [0, 1, 2, 3, 4]
    assert len(given) >= 4


def test_a_page_tells_why_it_may_not(page: Page, chromium: Chromium, lab: Lab, guarded: Guarded) -> None:
    chromium.expect_errors("401", "403")
    guarded.write("PUT", "/chat", b"[0]")
    lab.open(page)
    answers = page.evaluate(
        """async ([url, token]) => Promise.all([{}, { authorization: `Bearer ${token}` }].map(async headers => {
            const response = await fetch(url, { headers })
            const { code } = await response.json()
            return [response.status, code, response.headers.get("WWW-Authenticate")]
        }))""",
        [f"{guarded.url}/chat", guarded.token(read="/other")],
    )
    assert answers == [
        [401, "unauthorized", 'Bearer realm="unbroken"'],
        [403, "insufficient-scope", 'Bearer realm="unbroken", error="insufficient_scope", scope="read:/chat"'],
    ]


def test_a_stream_that_is_a_page_runs_nothing(page: Page, chromium: Chromium, guarded: Guarded) -> None:
    """It could read what the inspector keeps, being of the same origin."""
    chromium.expect_errors("sandbox")
    token = guarded.token(admin="/**")
    script = b"<body>before<script>document.body.textContent = 'ran'</script></body>"
    request("PUT", f"{guarded.url}/page", "text/html", script, authorization=f"Bearer {token}")
    page.goto(f"{guarded.url}/page?token={token}")
    assert page.locator("body").inner_text() == "before"
    assert page.evaluate("self.origin") == "null"
