"""The example of a chat, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Chromium
from tests.web.models import Speaker, speaker
from tests.web.serving import AppProcess
from unbroken.testing.threads import in_thread

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat"
LOST = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


@pytest.fixture
def model() -> Iterator[Speaker]:
    with in_thread(speaker, "unbroken-speaker") as model:
        yield model


@pytest.fixture
def chat(model: Speaker, tmp_path: Path) -> Iterator[AppProcess]:
    """The example, with a model that says what the test says."""
    environ = {"OPENAI_BASE_URL": f"{model.url}/v1", "OPENAI_API_KEY": "-", "CHAT_DATA": str(tmp_path / "data")}
    with AppProcess(EXAMPLE / "app.py", environ) as app:
        yield app


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_refresh_and_a_second_tab_in_the_middle_of_an_answer(
    chat: AppProcess, model: Speaker, page: Page, chromium: Chromium
) -> None:
    page.goto(chat.url)
    ask(page, "Tell me a story")
    model.say("Once upon ")
    expect(page.locator(".answer .text")).to_have_text("Once upon")
    page.reload()
    expect(page.locator(".question")).to_have_text("Tell me a story")
    expect(page.locator(".answer .text")).to_have_text("Once upon")
    other = chromium.new_page()
    other.goto(page.url)
    expect(other.locator(".answer .text")).to_have_text("Once upon")
    model.say("a time.", end=True)
    for tab in (page, other):
        expect(tab.locator(".answer[data-outcome=done] .text")).to_have_text("Once upon a time.")
        expect(tab.get_by_role("button", name="Send")).to_be_visible()
    ask(other, "And then?")
    model.wait_asked(2)
    model.say("The end.", end=True)
    for tab in (page, other):  # what is asked in one is seen in both
        expect(tab.locator(".question")).to_have_text(["Tell me a story", "And then?"])
        expect(tab.locator(".answer[data-outcome=done] .text")).to_have_text(["Once upon a time.", "The end."])
    said = [message["content"] for message in model.requests[1]["messages"]]
    assert said[1:] == ["Tell me a story", "Once upon a time.", "And then?"]
    assert len(model.requests) == 2


def test_a_stop_from_another_tab(chat: AppProcess, model: Speaker, page: Page, chromium: Chromium) -> None:
    page.goto(chat.url)
    ask(page, "Count")
    model.say("one two")
    expect(page.locator(".answer .text")).to_have_text("one two")
    other = chromium.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Stop").click()
    for tab in (page, other):
        expect(tab.locator(".answer[data-outcome=cancelled] .text")).to_have_text("one two")
        expect(tab.locator(".note")).to_contain_text("Stopped.")
    model.wait_ended(1)


def test_the_server_is_killed_in_the_middle_of_an_answer(
    chat: AppProcess, model: Speaker, page: Page, chromium: Chromium
) -> None:
    chromium.expect_errors(*LOST)
    page.goto(chat.url)
    ask(page, "Tell me a story")
    model.say("Once upon ")
    expect(page.locator(".answer .text")).to_have_text("Once upon")
    chat.kill()
    expect(page.locator("#status")).to_have_text("Connecting again…")
    chat.start()
    expect(page.locator(".answer[data-outcome=interrupted] .text")).to_have_text("Once upon")
    expect(page.locator(".note")).to_contain_text("The answer was interrupted.")
    expect(page.locator("#status")).to_have_text("")
    page.reload()
    expect(page.locator(".answer[data-outcome=interrupted] .text")).to_have_text("Once upon")
    page.get_by_role("button", name="Try again").click()
    model.wait_asked(2)
    model.say("Twice upon a time.", end=True)
    expect(page.locator(".answer[data-outcome=done] .text")).to_have_text("Twice upon a time.")
    expect(page.locator(".question")).to_have_count(1)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_the_server_is_stopped_and_a_question_waits_for_it(
    chat: AppProcess, model: Speaker, page: Page, chromium: Chromium
) -> None:
    chromium.expect_errors(*LOST, "503")
    page.goto(chat.url)
    expect(page.locator("#status")).to_have_text("")
    chat.stop()
    ask(page, "Are you there?")
    chat.start()
    model.say("Again I am.", end=True)
    expect(page.locator(".answer[data-outcome=done] .text")).to_have_text("Again I am.")
    expect(page.locator(".question")).to_have_count(1)


def test_on_a_phone_with_the_model_of_the_example(chromium: Chromium, tmp_path: Path) -> None:
    with AppProcess(EXAMPLE / "model.py", {"DELAY_S": "0.001"}) as model:
        environ = {"OPENAI_BASE_URL": f"{model.url}/v1", "CHAT_DATA": str(tmp_path / "data")}
        with AppProcess(EXAMPLE / "app.py", environ) as app:
            page = chromium.new_page()
            page.set_viewport_size({"width": 360, "height": 640})
            page.goto(app.url)
            ask(page, "Long" * 100)
            expect(page.locator(".answer[data-outcome=done] .text")).to_contain_text("from exactly where you were.")
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            assert page.evaluate("document.querySelector('main').scrollWidth") <= 360
            answer = page.locator(".answer .text").bounding_box()
            composer = page.locator("#composer").bounding_box()
            assert answer is not None
            assert composer is not None
            assert composer["y"] + composer["height"] <= 640
            assert answer["y"] + answer["height"] <= composer["y"] + 1, "the end of the answer is in view"
            page.close()


def request(method: str, url: str, data: object = None) -> int:
    body = None if data is None else json.dumps(data).encode()
    try:
        with urlopen(Request(url, body, {"content-type": "application/json"}, method=method), timeout=20) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def test_a_question_that_is_repeated_is_asked_once(chat: AppProcess, model: Speaker) -> None:
    question = {"key": "k1", "text": "Hello"}
    for _ in range(3):
        assert request("POST", f"{chat.url}/api/chats/c1/questions", question) == 200
    model.say("Hi", end=True)
    with urlopen(f"{chat.url}/streams/chats/c1", timeout=20) as response:
        assert json.load(response) == [{**question, "again": False}]
    assert len(model.requests) == 1
    assert request("POST", f"{chat.url}/api/chats/c1/questions", {"key": "k/1", "text": "Hello"}) == 422
    assert request("POST", f"{chat.url}/api/chats/c1/questions", {"key": "k2", "text": ""}) == 422


def test_the_page_may_not_write_streams(chat: AppProcess) -> None:
    assert request("PUT", f"{chat.url}/api/chats/c1") == 200
    for method, path in (("PUT", "/chats/c2"), ("POST", "/chats/c1"), ("DELETE", "/chats/c1"), ("GET", "/-/streams")):
        assert request(method, f"{chat.url}/streams{path}", {}) == 403
