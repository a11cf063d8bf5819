"""The fixtures for pages hear what goes wrong in one."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.browser import Chromium
from unbroken.testing import Address


def test_a_page_without_errors(page: Page, chromium: Chromium, unbroken_server: Address) -> None:
    page.goto(f"{unbroken_server.url}/-/health")
    assert page.evaluate("[location.origin, 1 + 1]") == [unbroken_server.url, 2]
    assert chromium.errors == []


def test_errors_are_heard(page: Page, chromium: Chromium, unbroken_server: Address) -> None:
    page.goto(f"{unbroken_server.url}/-/health")
    page.evaluate("""() => {
        console.warn('harmless')
        console.error('one')
        setTimeout(() => { throw new Error('two') })
        Promise.reject(new Error('three'))
        return fetch('/nothing').then(() => new Promise(resolve => setTimeout(resolve)))
    }""")
    chromium.expect_errors("one", "three")
    assert [any(word in error for error in chromium.errors) for word in ("one", "two", "three", "404")] == [True] * 4
    assert len(chromium.errors) == 4
    assert len(chromium.unexpected_errors) == 2
    chromium.expect_errors("two", "404.*/nothing")
    assert chromium.unexpected_errors == []


def test_names_of_the_network_are_not_resolved(page: Page, chromium: Chromium) -> None:
    found = page.evaluate("fetch('http://example.com').then(() => 'found', error => String(error))")
    assert found == "TypeError: Failed to fetch"
    chromium.expect_errors("ERR_NAME_NOT_RESOLVED", "CORS")
