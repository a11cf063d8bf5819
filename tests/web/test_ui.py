"""The AI SDK's own useChat, in a browser, and what its earlier versions make of our streams."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.routing import Route

from tests.browser import Chromium
from tests.peers import PEERS
from tests.web.helpers import Model, until
from tests.web.models import Speaker, speaker
from tests.web.serving import AppProcess
from unbroken.server.factory import create_app
from unbroken.testing import serve_asgi
from unbroken.testing.threads import in_thread
from unbroken.web.starlette import Answers as StarletteAnswers
from unbroken.web.ui import ui_message

LOST = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


def need_sdk() -> None:
    """Skip the test if the AI SDK is not installed here."""
    if shutil.which("node") is not None and (PEERS / "node_modules" / "ai").is_dir():
        return
    reason = "the AI SDK needs Node.js, and make peers/node_modules/.installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def model() -> Iterator[Speaker]:
    with in_thread(speaker, "unbroken-speaker") as model:
        yield model


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's script, with the SDK's own modules in it."""
    need_sdk()
    file = tmp_path_factory.mktemp("page") / "page.js"
    bundle = [str(PEERS / "node_modules" / ".bin" / "esbuild"), "use-chat.jsx", "--bundle", "--format=esm"]
    bundle += ["--jsx=automatic", "--define:process.env.NODE_ENV='production'", "--log-level=warning"]
    subprocess.run([*bundle, f"--outfile={file}"], cwd=PEERS, check=True, timeout=60)
    return file


@pytest.fixture
def chat(script: Path, model: Speaker, tmp_path: Path) -> Iterator[AppProcess]:
    """The application with the page."""
    environ = {"OPENAI_BASE_URL": model.url, "SCRIPT": str(script), "DATA": str(tmp_path / "data")}
    with AppProcess(Path(__file__).parent / "ui" / "app.py", environ) as app:
        yield app


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_use_chat_resumes(chat: AppProcess, model: Speaker, page: Page, chromium: Chromium) -> None:
    page.goto(f"{chat.url}/#c1")
    expect(page.locator("#status")).to_have_text("ready")  # 204: nothing to resume
    ask(page, "A story")
    model.say("Once upon ")
    expect(page.locator(".assistant")).to_have_text("Once upon ")
    page.reload()
    expect(page.locator(".assistant")).to_have_text("Once upon ")
    expect(page.locator("#status")).to_have_text("streaming")
    other = chromium.new_page()
    other.goto(page.url)
    expect(other.locator(".assistant")).to_have_text("Once upon ")
    model.say("a time.", end=True)
    for tab in (page, other):
        expect(tab.locator("#status")).to_have_text("ready")
        expect(tab.locator(".user")).to_have_text(["A story"])
        expect(tab.locator(".assistant")).to_have_text(["Once upon a time."])
    page.reload()  # now it comes with the history
    expect(page.locator("#status")).to_have_text("ready")
    expect(page.locator(".assistant")).to_have_text(["Once upon a time."])
    ask(page, "And then?")
    model.wait_asked(2)
    model.say("The end", end=False)
    page.reload()
    expect(page.locator(".assistant")).to_have_text(["Once upon a time.", "The end"])
    model.say(".", end=True)
    expect(page.locator(".assistant")).to_have_text(["Once upon a time.", "The end."])
    assert len(model.requests) == 2


def test_use_chat_and_a_stop(chat: AppProcess, model: Speaker, page: Page, chromium: Chromium) -> None:
    page.goto(f"{chat.url}/#c1")
    ask(page, "Count")
    model.say("one two")
    expect(page.locator(".assistant")).to_have_text("one two")
    other = chromium.new_page()
    other.goto(page.url)
    expect(other.locator(".assistant")).to_have_text("one two")
    other.get_by_role("button", name="Stop").click()
    for tab in (page, other):
        expect(tab.locator("#status")).to_have_text("ready")
        expect(tab.locator("#error")).to_have_text("")
        expect(tab.locator(".assistant")).to_have_text(["one two"])
    model.wait_ended(1)
    page.get_by_role("button", name="Again").click()
    model.wait_asked(2)
    model.say("one two three", end=True)
    expect(page.locator(".assistant")).to_have_text(["one two three"])
    page.reload()
    expect(page.locator(".assistant")).to_have_text(["one two three"])


def test_use_chat_and_a_server_that_is_killed(chat: AppProcess, model: Speaker, page: Page, chromium: Chromium) -> None:
    chromium.expect_errors(*LOST)
    page.goto(f"{chat.url}/#c1")
    ask(page, "A story")
    model.say("Once upon ")
    expect(page.locator(".assistant")).to_have_text("Once upon ")
    chat.kill()
    expect(page.locator("#status")).to_have_text("error")
    chat.start()
    page.reload()
    expect(page.locator("#status")).to_have_text("ready")
    expect(page.locator(".assistant")).to_have_text(["Once upon "])  # kept, as the history has it
    page.get_by_role("button", name="Again").click()
    model.wait_asked(2)
    model.say("Twice upon a time.", end=True)
    expect(page.locator(".assistant")).to_have_text(["Twice upon a time."])


def test_use_chat_and_a_model_that_fails(chat: AppProcess, model: Speaker, page: Page) -> None:
    page.goto(f"{chat.url}/#c1")
    ask(page, "A story")
    model.say("Once upon ")
    model.fail()
    expect(page.locator("#error")).to_have_text("The answer failed.")
    expect(page.locator(".assistant")).to_have_text(["Once upon "])


ITEMS: list[Any] = [
    "Hello",
    {"type": "reasoning-start", "id": "r"},
    {"type": "reasoning-delta", "id": "r", "delta": "Hm"},
    {"type": "reasoning-end", "id": "r"},
    {"type": "tool-input-start", "toolCallId": "t1", "toolName": "weather"},
    {"type": "tool-input-delta", "toolCallId": "t1", "inputTextDelta": '{"city":"Oslo"}'},
    {"type": "tool-input-available", "toolCallId": "t1", "toolName": "weather", "input": {"city": "Oslo"}},
    {"type": "tool-output-available", "toolCallId": "t1", "output": "grey"},
    {"type": "tool-input-start", "toolCallId": "t2", "toolName": "clock"},
    {"type": "tool-input-available", "toolCallId": "t2", "toolName": "clock", "input": {}},
    {"type": "tool-output-error", "toolCallId": "t2", "errorText": "stopped"},
    {"type": "source-url", "sourceId": "s", "url": "https://example.com"},
    {"type": "file", "url": "data:,x", "mediaType": "text/plain"},
    {"type": "data-weather", "data": {"sky": "grey"}},
    {"type": "data-notice", "data": "seen only live", "transient": True},
    " world",
]


async def read_with(version: str, api: str, chat: str) -> dict[str, Any]:
    """What a version of the SDK makes of a running answer."""
    process = await asyncio.create_subprocess_exec(
        "node", "read-ui-stream.mjs", version, api, chat, cwd=PEERS, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    found: dict[str, Any] = json.loads(output)
    return found


@asynccontextmanager
async def serving(answers: StarletteAnswers) -> AsyncIterator[str]:
    """The endpoint that the SDK's transport resumes from."""

    async def resume(request: Any) -> Any:
        return await answers.resume(thread=request.path_params["chat"], request=request)

    routes = [Route("/api/chat/{chat}/stream", resume)]
    async with serve_asgi(Starlette(routes=routes, lifespan=answers.lifespan)) as address:
        yield f"{address.url}/api/chat"


@pytest.mark.parametrize("version", ["ai", "ai-v5"])
async def test_what_versions_of_the_sdk_make_of_it(version: str) -> None:
    need_sdk()
    streams = create_app(store="memory", watch_signals=False)
    answers = StarletteAnswers(streams, format="ui", watch_signals=False)
    async with serving(answers) as api:
        assert (await read_with(version, api, "c1"))["message"] is None
        model = Model(*ITEMS[:5])
        await answers.start("c1/k1", model, thread="c1")
        reading = asyncio.create_task(read_with(version, api, "c1"))
        await until(lambda: len(streams.engine.waiters) > 0)
        model.say(*ITEMS[5:])
        model.done()
        found = await reading
        answer = await answers.read("c1/k1")
        assert answer is not None
        assert "failure" not in found
        assert found["message"] == ui_message(answer)


@pytest.mark.parametrize("version", ["ai", "ai-v5"])
async def test_a_failure_as_versions_of_the_sdk_see_it(version: str) -> None:
    need_sdk()
    streams = create_app(store="memory", watch_signals=False)
    answers = StarletteAnswers(streams, format="ui", watch_signals=False)
    async with serving(answers) as api:
        model = Model("Hel")
        await answers.start("c1/k1", model, thread="c1")
        reading = asyncio.create_task(read_with(version, api, "c1"))
        await until(lambda: len(streams.engine.waiters) > 0)
        model.fail(RuntimeError("secret"))
        found = await reading
        assert found["failure"] == "The answer failed."
