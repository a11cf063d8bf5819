"""Pages in a real Chromium, for the tests of any folder: the fixtures `page` and `chromium`.

    def test_shows_what_arrives(page: Page, unbroken_process: ServerProcess) -> None:
        page.goto(f"{unbroken_process.url}/page")
        expect(page.locator("#output")).to_have_text("hello")

Such tests are plain functions, not coroutines: Playwright's blocking API has an event loop of its own under way as long
as the fixture lives. For the same reason each test gets a browser of its own, which costs it half a second; so it also
begins without cookies, storage or cache. The browser is the system's; nothing is downloaded. It resolves no names but
``localhost``, so that no page depends on the network.

A test fails if a page of its said something on the console that is an error, or threw, unless it expects that
(`Chromium.expect_errors`). Chromium itself reports each request that failed, also one that a script has handled.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, WebError

__all__ = ["Chromium", "chromium", "page"]

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
"""Besides those that Playwright gives: headless, a fresh profile, no first run, no updates, no traffic of its own."""
TIMEOUT_MS = 30_000.0


class Chromium:
    """A running browser.

    Args:
        context: its one context, in which all pages of a test are tabs that share storage and cache.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self._errors: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        context.on("console", self._heard)
        context.on("weberror", self._thrown)

    def new_page(self) -> Page:
        """Open another tab."""
        return self.context.new_page()

    def expect_errors(self, *patterns: str) -> None:
        """Let errors pass that one of these regular expressions is found in, from now on and before."""
        self._expected += map(re.compile, patterns)

    @property
    def errors(self) -> list[str]:
        """What was said on the console as an error, or thrown and not caught, in all pages."""
        return list(self._errors)

    @property
    def unexpected_errors(self) -> list[str]:
        """Those of `errors` that the test did not expect."""
        return [error for error in self._errors if not any(pattern.search(error) for pattern in self._expected)]

    def close_pages(self) -> None:
        """Close all tabs. What they have said until then has arrived."""
        for page in self.context.pages:
            page.close()

    def _heard(self, message: ConsoleMessage) -> None:
        source = message.location["url"]
        if message.type in ("error", "assert") and not source.endswith("/favicon.ico"):  # no page asked for that
            self._errors.append(f"{message.text} ({source})")

    def _thrown(self, error: WebError) -> None:
        self._errors.append(error.error.stack or error.error.message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Close a test's pages before the servers that they talk to end, and judge what they have said until then."""
    started = getattr(item, "funcargs", {}).get("chromium")
    try:
        yield
    finally:
        if started is not None:
            started.close_pages()
    if started is not None:
        assert started.unexpected_errors == []


def program() -> str:
    """Where Chromium is; the test is skipped without one, but fails in CI."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    reason = "Chromium is not installed (Debian and Ubuntu: apt install chromium)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    """A browser without a page yet."""
    path = program()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=FLAGS, chromium_sandbox=os.getuid() != 0) as browser,
        browser.new_context() as context,
    ):
        context.set_default_timeout(TIMEOUT_MS)
        started = Chromium(context)
        yield started


@pytest.fixture
def page(chromium: Chromium) -> Page:
    """An empty page in a browser of the test's own."""
    return chromium.new_page()
