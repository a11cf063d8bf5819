"""Pages in a real Chromium, for the tests of any folder: the fixtures `page` and `chromium`.

    def test_shows_what_arrives(page: Page, unbroken_process: ServerProcess) -> None:
        page.goto(f"{unbroken_process.url}/page")
        expect(page.locator("#output")).to_have_text("hello")

Such tests are plain functions, not coroutines: Playwright's blocking API has an event loop of its own under way as long
as the browser runs. One browser serves the tests with pages that follow one another; it is ended before any other test,
and after one that failed. Each test begins without cookies, storage or cache. The browser is the system's; nothing is
downloaded. It resolves no names but ``localhost``, so that no page depends on the network.

A test fails if a page of its said something on the console that is an error, or threw, unless it expects that
(`Chromium.expect_errors`). Chromium itself reports each request that failed, also one that a script has handled.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, WebError

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
    """A browser as one test has it.

    Args:
        context: in which all pages of the test are tabs that share storage and cache.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.failed = False
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


_RUNNING = pytest.StashKey[tuple["Browser", ExitStack]]()


def _browser(config: pytest.Config) -> Browser:
    """The browser that runs, or a new one."""
    if found := config.stash.get(_RUNNING, None):
        return found[0]
    path = _program()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with ExitStack() as stack:
        kind = stack.enter_context(sync_playwright()).chromium
        sandbox = os.getuid() != 0
        browser = stack.enter_context(kind.launch(executable_path=path, args=FLAGS, chromium_sandbox=sandbox))
        config.stash[_RUNNING] = browser, stack.pop_all()
    return browser


def _end_browser(config: pytest.Config) -> None:
    if found := config.stash.get(_RUNNING, None):
        del config.stash[_RUNNING]
        found[1].close()


def _program() -> str:
    """Where Chromium is; the test is skipped without one, but fails in CI."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    reason = "Chromium is not installed (Debian and Ubuntu: apt install chromium)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End the browser if it is another kind of test's turn: that may need an event loop of its own."""
    if "chromium" not in getattr(item, "fixturenames", ()):
        _end_browser(item.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Close a test's pages before the servers that they talk to end, and judge what they have said until then."""
    started = getattr(item, "funcargs", {}).get("chromium")
    if started is None:
        yield
        return
    try:
        yield
    except BaseException:
        started.failed = True
        raise
    finally:
        started.close_pages()
    assert started.unexpected_errors == []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the browser."""
    _end_browser(session.config)


@pytest.fixture
def chromium(request: pytest.FixtureRequest) -> Iterator[Chromium]:
    """A browser without a page yet."""
    with _browser(request.config).new_context() as context:
        context.set_default_timeout(TIMEOUT_MS)
        started = Chromium(context)
        yield started
    if started.failed:  # perhaps in the midst of a call to it
        _end_browser(request.config)


@pytest.fixture
def page(chromium: Chromium) -> Page:
    """An empty page, in a context of the test's own."""
    return chromium.new_page()
