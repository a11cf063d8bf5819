"""The guide, docs/web.md: its snippets run."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.web.helpers import Model, collect, events, home, text_of
from tests.web.serving import AppProcess
from unbroken.client import AsyncClient
from unbroken.web.answers import Answers, BaseAnswers

GUIDE = (Path(__file__).parents[2] / "docs" / "web.md").read_text()


def snippets(language: str) -> list[str]:
    fenced = GUIDE.split("```")[1::2]
    return [text.partition("\n")[2] for text in fenced if text.partition("\n")[0] == language]


def application(name: str, folder: Path) -> AppProcess:
    """A snippet that is an application, in a process of its own in a folder of its own."""
    (text,) = (text for text in snippets("python") if text.startswith(f"# {name}\n"))
    file = folder / name
    file.write_text(text.replace('data_dir="streams"', f"data_dir={str(folder / 'streams')!r}"))
    return AppProcess(file)


def post(url: str, body: object = None) -> bytes:
    headers = {"content-type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers, method="POST"), timeout=20) as response:
        data: bytes = response.read()
        return data


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_beginning(tmp_path: Path, page: Page) -> None:
    with application("main.py", tmp_path) as app:
        _, script = snippets("sh")
        script = script.replace("http://127.0.0.1:8000", app.url).replace("curl -N", "curl -sN")
        done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=True)
        first, second = done.stdout.split(b'"outcome":"done"}\n\n')[:2]
        assert text_of(first + b'"outcome":"done"}\n\n') == "You said: hello "
        assert second == first
        assert post(f"{app.url}/answers/1/stop") == b"false"
        page.goto(f"{app.url}/openapi.json")
        (script,) = snippets("js")
        shown = page.evaluate(
            f"""async () => {{
                const output = document.createElement("p")
                {script}
                while (source.readyState !== EventSource.CLOSED) await new Promise((done) => setTimeout(done, 10))
                return output.textContent
            }}"""
        )
        assert shown == "You said: hello "
        page.close()


def test_use_chat(tmp_path: Path) -> None:
    with application("ui.py", tmp_path) as app:
        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
        body = {"id": "c1", "messages": [message], "trigger": "submit-message"}
        first = post(f"{app.url}/api/chat", body)
        assert text_of(first) == "You said: hi"
        assert first.endswith(b"data: [DONE]\n\n")
        assert post(f"{app.url}/api/chat", body) == first
        assert post(f"{app.url}/api/chat", {**body, "trigger": "regenerate-message"}) != first
        with urlopen(f"{app.url}/api/chat/c1/stream", timeout=20) as response:
            assert response.status == 204
        assert post(f"{app.url}/api/chat/c1/stop") == b"false"


def test_django(tmp_path: Path) -> None:
    with application("asgi.py", tmp_path) as app:
        assert text_of(post(f"{app.url}/answers/1?prompt=hello")) == "You said: hello"
        with urlopen(f"{app.url}/answers/1", timeout=20) as response:
            assert text_of(response.read()) == "You said: hello"


async def test_several_processes() -> None:
    (text,) = (text for text in snippets("python") if "AsyncClient" in text)
    async with home("remote") as place:
        client = place.connect()
        assert isinstance(client, AsyncClient)
        names: dict[str, Any] = {}
        exec(text.replace("http://127.0.0.1:9999", client.url).replace("web.fastapi", "web"), names)
        answers: Answers = names["answers"]
        async with answers.lifespan():
            assert text_of(await collect(await answers.respond("k", Model("a", done=True)))) == "a"
        await client.close()


async def test_the_events_of_the_guide() -> None:
    (example,) = (text for text in snippets("") if "begin" in text)
    async with home("embedded") as place, place.answers() as answers:
        body = await collect(await answers.respond("1", Model("You said: ", done=True)))
        shape = [(event.type, set(event.data), event.data["type"]) for event in events(body)]
        shown = events(example.encode() + b"\n")
        assert [(event.type, set(event.data), event.data["type"]) for event in shown] == shape
        assert all(re.fullmatch(r"[0-9]{16}_[0-9]{16}", event.id) for event in shown)


def test_all_settings_are_in_the_guide() -> None:
    parameters = inspect.signature(BaseAnswers.__init__).parameters
    for name, parameter in parameters.items():
        if name in ("self", "streams"):
            continue
        row = next((line for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row, name
        assert f"{name}:" in (Answers.__doc__ or ""), name
        if isinstance(parameter.default, int | float) and name != "max_bytes":
            assert f"| {parameter.default:g} |" in row or f"| {parameter.default} |" in row, name


def test_all_methods_are_in_the_guide() -> None:
    for name, method in vars(BaseAnswers).items():
        if inspect.iscoroutinefunction(method) and not name.startswith("_"):
            assert f"{name}(" in GUIDE, name
    assert asyncio.iscoroutinefunction(BaseAnswers.respond)
