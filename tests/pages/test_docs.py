"""docs/browser.md: its page does what it says, and its snippets run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Chromium
from tests.pages.lab import JSON, Lab, request
from unbroken.testing import ServerProcess

TEXT = (Path(__file__).parents[2] / "docs" / "browser.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def notes_url(tmp_path: Path, unbroken_process: ServerProcess) -> Iterator[str]:
    """Where the page is, served as the docs say, but on a free port."""
    (page,), (command,) = snippets("html"), snippets("sh")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "notes.html").write_text(page.replace("http://127.0.0.1:9999", unbroken_process.url))
    assert "python3 -m http.server 8000" in command
    arguments = command.replace("8000", "0").split()[1:]
    server = subprocess.Popen(
        [sys.executable, "-u", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        yield f"http://127.0.0.1:{port[1]}/notes.html"
    finally:
        server.kill()
        server.communicate()


def write(page: Page, note: str) -> None:
    page.get_by_label("A note").fill(note)
    page.get_by_role("button", name="Add").click()


def test_the_page_to_begin_with(chromium: Chromium, unbroken_process: ServerProcess, notes_url: str) -> None:
    chromium.expect_errors("ERR_", "404")
    one, two = tabs = [chromium.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(notes_url)
        expect(tab.locator("output")).to_have_text("live")
    write(one, "bread")
    write(two, "butter")
    notes = ["bread", "butter"]
    for tab in tabs:
        expect(tab.locator("li")).to_have_count(2)
    unbroken_process.kill()
    for tab in tabs:
        expect(tab.locator("output")).to_have_class(re.compile("waiting|connecting"))
        write(tab, "<b>jam</b>")
    unbroken_process.start()
    for tab in tabs:
        expect(tab.locator("li")).to_have_count(4)
        assert sorted(tab.locator("li").all_text_contents()[:2]) == notes
        assert tab.locator("li").all_text_contents()[2:] == ["<b>jam</b>"] * 2
        expect(tab.locator("output")).to_have_text("live")
    request("DELETE", f"{unbroken_process.url}/notes")
    expect(one.locator("output")).to_have_text("no stream at this path")


def test_the_snippets_run(page: Page, lab: Lab) -> None:
    """All at once, as a page's own code; the last one closes the stream that the first one follows."""
    for path, content_type in (("/chats/7", JSON), ("/events", JSON), ("/files/1", "text/x-log")):
        lab.create(path, content_type)
    lab.open(page)
    codes = snippets("js")
    for code in codes:
        page.add_script_tag(content=f"{code}\nwindow.done = (window.done ?? 0) + 1", type="module")
    page.wait_for_function("(count) => window.done === count", arg=len(codes))
    assert [message["text"] for message in lab.read("/chats/7")] == ["hello", "one", "two", "the last one"]
