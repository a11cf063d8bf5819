"""A page in which `unbroken.js` is tried out, and short requests to the server beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from playwright.sync_api import Page

from unbroken.testing.proxy import Fault, Plan, ProxiedRequest, Script

__all__ = ["BYTES", "JSON", "TEXT", "Lab", "Recorder", "ended", "follow", "live", "request", "text", "told"]

TEXT, JSON, BYTES = "text/plain", "application/json", "application/octet-stream"
SCRIPT = (Path(__file__).parent / "lab.js").read_text()


def request(method: str, url: str, content_type: str = "", body: bytes = b"", **fields: str) -> bytes:
    """Do a request that must succeed.

    Args:
        method: such as PUT.
        url: of a stream.
        content_type: of the body; none if empty.
        body: of the request.
        fields: more headers, with underscores for hyphens.
    """
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if content_type:
        headers["Content-Type"] = content_type
    with urlopen(Request(url, body or None, headers, method=method), timeout=30) as response:
        data: bytes = response.read()
        return data


class Lab:
    """One server, and pages of it.

    Args:
        url: where pages find it: the server's own origin, or a proxy's.
        direct_url: where it is found without a proxy.
    """

    def __init__(self, url: str, direct_url: str = "") -> None:
        self.url = url
        self._direct_url = direct_url or url

    def open(self, page: Page) -> Page:
        """Load a page of the server's own origin, and what `follow` needs."""
        page.goto(f"{self.url}/-/health")
        page.evaluate(SCRIPT)
        return page

    def create(self, path: str, content_type: str = JSON, body: bytes = b"", **fields: str) -> None:
        """Create a stream."""
        request("PUT", self._direct_url + path, content_type, body, **fields)

    def append(self, path: str, body: bytes, content_type: str = JSON, **fields: str) -> None:
        """Append to it."""
        request("POST", self._direct_url + path, content_type, body, **fields)

    def close(self, path: str) -> None:
        """Close it."""
        request("POST", self._direct_url + path, stream_closed="true")

    def delete(self, path: str) -> None:
        """Delete it."""
        request("DELETE", self._direct_url + path)

    def read(self, path: str) -> Any:
        """All messages of a JSON stream that fits a page."""
        return json.loads(request("GET", self._direct_url + path))


class Recorder:
    """A plan of a proxy that keeps the requests.

    Args:
        plan: what happens to them; nothing by default.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        self.requests: list[ProxiedRequest] = []
        self._plan = plan or Script()

    def __call__(self, request: ProxiedRequest) -> Fault:
        """The fault for a request."""
        self.requests.append(request)
        return self._plan(request)


def follow(page: Page, path: str, options: Mapping[str, object] | None = None, script: str = "{}") -> None:
    """Begin to follow a stream.

    Args:
        page: where.
        path: of the stream.
        options: of ``follow``.
        script: more of them, in JavaScript.
    """
    page.evaluate(f"([path, options]) => start(path, {{ ...options, ...{script} }})", [path, dict(options or {})])


def told(page: Page, what: str, count: int) -> list[Any]:
    """What the page was told, when it is at least so much."""
    page.wait_for_function("([what, count]) => told[what].length >= count", arg=[what, count])
    found: list[Any] = page.evaluate(f"told.{what}")
    return found


def text(page: Page, expected: str) -> None:
    """Wait until the strings that have come make up a text."""
    page.wait_for_function("(expected) => told.messages.join('') === expected", arg=expected)


def live(page: Page) -> None:
    """Wait until all that is there has been read."""
    page.wait_for_function("told.statuses.at(-1) === 'live'")


def ended(page: Page) -> None:
    """Wait until reading has ended."""
    page.wait_for_function("told.statuses.at(-1) === 'ended'")
