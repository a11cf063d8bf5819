"""`unbroken.js` with tokens, and in pages of another origin."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import JSON, Lab, ended, follow, request, told
from unbroken import tokens
from unbroken.testing import Address, ServerProcess
from unbroken.testing.proxy import PASS, Answer, Fault, FaultyProxy, ProxiedRequest

FAILED = "Failed to load resource"


class Guard:
    """Lets requests for a stream pass that have a token it likes."""

    def __init__(self, *tokens: str) -> None:
        self._wanted = {f"Bearer {token}" for token in tokens}
        self.seen: list[str] = []

    def __call__(self, request: ProxiedRequest) -> Fault:
        if not request.target.startswith("/a"):
            return PASS
        self.seen.append(request.fields.get("authorization", ""))
        return PASS if self.seen[-1] in self._wanted else Answer(401)


@pytest.mark.parametrize("token", ["'right'", "() => 'right'", "async () => 'right'"])
def test_tokens_are_sent(page: Page, lab: Lab, unbroken_proxy: FaultyProxy, token: str) -> None:
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = guard = Guard("right")
    page.evaluate(f"append('/a', 1, {{ token: {token} }})")
    page.evaluate(f"producer('/a', {{ token: {token} }}).send(2)")
    follow(page, "/a", {"live": False}, f"{{ token: {token} }}")
    page.evaluate("reading.done")
    assert told(page, "messages", 0) == [1, 2]
    assert guard.seen == ["Bearer right"] * 3


def test_a_token_that_was_refused_is_refreshed_once(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    chromium.expect_errors(FAILED)
    lab.create("/a", body=b"[1]")
    lab.open(page)
    unbroken_proxy.plan = guard = Guard("new")
    follow(page, "/a", {"live": False}, "{ token: ({ refresh }) => refresh ? 'new' : 'old' }")
    page.evaluate("reading.done")
    assert guard.seen == ["Bearer old", "Bearer new"]
    unbroken_proxy.plan = guard = Guard()
    for code in (
        "follow('/a', { token: () => 'old' }).done",
        "append('/a', 1, { token: () => 'old' })",
        "producer('/a', { token: () => 'old' }).send(1)",
    ):
        assert page.evaluate(f"{code}.catch((error) => error.status)") == 401
    assert guard.seen == ["Bearer old"] * 6
    follow(page, "/a", {"token": "old"})
    assert told(page, "errors", 1)[0]["status"] == 401
    assert len(guard.seen) == 7
    ended(page)


def test_tokens_that_last_a_moment(page: Page, chromium: Chromium, tmp_path: Path) -> None:
    """A live read outlives the token with which it began: the server ends it, and the page comes with a new one."""
    chromium.expect_errors(FAILED)
    key = "0123456789abcdef0123456789abcdef"
    (tmp_path / "key").write_text(key)
    admin = f"Bearer {tokens.mint(key, admin='/**', ttl_s=600)}"
    with ServerProcess(tmp_path / "data", "--jwt-keys", str(tmp_path / "key")) as server:
        request("PUT", f"{server.url}/a", JSON, authorization=admin)
        page.expose_function("mint", lambda: tokens.mint(key, read="/a", ttl_s=1))
        page.goto(f"{server.url}/-/health")
        page.evaluate("""async () => {
            const { follow } = await import("/-/unbroken.js")
            window.told = { messages: [] }
            let token
            const renew = async ({ refresh }) => (token = refresh || !token ? await mint() : token)
            follow("/a", { token: renew, onMessage: (message) => told.messages.push(message) })
        }""")
        for number in range(4):
            request("POST", f"{server.url}/a", JSON, b"%d" % number, authorization=admin)
            assert told(page, "messages", number + 1) == list(range(number + 1))
            page.wait_for_timeout(500)


def test_a_token_may_be_hard_to_get(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    """It comes over the network too."""
    lab.create("/a", body=b"[1]")
    lab.open(page)
    unbroken_proxy.plan = Guard("right")
    script = "{ token: () => { if (window.tries-- > 0) throw new TypeError('Failed to fetch'); return 'right' } }"
    page.evaluate("window.tries = 2; 0")
    follow(page, "/a", script=script)
    assert told(page, "messages", 1) == [1]
    assert told(page, "statuses", 0).count("waiting") == 2


def test_other_headers_and_tokens_in_the_url(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.create("/a", body=b"[1]")
    lab.open(page)
    seen: list[tuple[str, str | None]] = []

    def plan(request: ProxiedRequest) -> Fault:
        seen.append((request.target, request.fields.get("x-tenant")))
        return PASS

    unbroken_proxy.plan = plan
    follow(page, "/a?token=a%2Bb", {"live": False}, "{ headers: async () => ({ 'X-Tenant': 'me' }) }")
    page.evaluate("reading.done")
    assert seen == [("/a?token=a%2Bb&offset=-1", "me")]


def test_a_fetch_of_the_pages_own(page: Page, lab: Lab) -> None:
    lab.create("/a", body=b"[1]")
    lab.open(page)
    follow(
        page, "/a", {"live": False}, "{ fetch: (url, init) => { told.asked = String(url); return fetch(url, init) } }"
    )
    page.evaluate("reading.done")
    assert page.evaluate("told.asked") == f"{lab.url}/a?offset=-1"


def test_pages_of_another_origin(page: Page, chromium: Chromium, lab: Lab, unbroken_server: Address) -> None:
    """The module, its requests with all their headers, and what the answers say."""
    lab.create("/a", body=b"[1]")
    chromium.expect_errors(FAILED)
    other = unbroken_server.url.replace("127.0.0.1", "localhost")
    page.goto(f"{other}/-/health")
    found = page.evaluate(
        """async (url) => {
            const { append, follow, producer } = await import(`${url}/-/unbroken.js`)
            const [found, options] = [[], { token: "any" }]
            const reading = follow(`${url}/a`, { ...options, onMessage: (message) => found.push(message) })
            await append(`${url}/a`, 2, options)
            await producer(`${url}/a`, options).close(3)
            await reading.done
            const { status, code } = await append(`${url}/a`, 4, options).catch((error) => error)
            return [...found, status, code, location.origin]
        }""",
        lab.url,
    )
    assert found == [1, 2, 3, 409, "stream-closed", other]
