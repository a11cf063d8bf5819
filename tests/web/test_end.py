"""The end of a process, as its readers see it: asked to stop, and killed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.web.helpers import events, text_of
from tests.web.models import Speaker, speaker
from tests.web.serving import AppProcess
from unbroken.testing.threads import in_thread

APP = Path(__file__).parent / "ui" / "app.py"


@pytest.fixture
def model() -> Iterator[Speaker]:
    with in_thread(speaker, "unbroken-speaker") as model:
        yield model


def app(model: Speaker, folder: Path, grace_s: float) -> AppProcess:
    environ = {"OPENAI_BASE_URL": model.url, "SCRIPT": "", "DATA": str(folder / "data"), "GRACE_S": str(grace_s)}
    return AppProcess(APP, environ)


@contextmanager
def asked(server: AppProcess) -> Iterator[HTTPResponse]:
    """A question, and the response on which its answer comes."""
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    body = json.dumps({"id": "c1", "messages": [message], "trigger": "submit-message"}).encode()
    url, headers = f"{server.url}/api/chat", {"content-type": "application/json"}
    with urlopen(Request(url, body, headers, method="POST"), timeout=20) as response:
        yield response


def read_until(response: HTTPResponse, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        line = response.readline()
        assert line, seen
        seen += line
    return seen + response.readline()


@contextmanager
def stopping(server: AppProcess) -> Iterator[None]:
    """While it is asked to stop, listens no more, and goes on with what it has to do."""
    thread = threading.Thread(target=server.stop)
    thread.start()
    deadline = time.monotonic() + 20
    try:
        while True:
            try:
                socket.create_connection(server.address, timeout=5).close()
            except ConnectionError:
                break
            assert time.monotonic() < deadline
        yield
    finally:
        thread.join()


def test_an_answer_may_finish_while_its_process_is_asked_to_stop(model: Speaker, tmp_path: Path) -> None:
    with app(model, tmp_path, 3600) as server:
        with asked(server) as response:
            model.say("one")
            seen = read_until(response, b'"one"')
            with stopping(server):
                model.say(" two", end=True)
                seen += response.read()
        assert text_of(seen) == "one two"
        assert events(seen)[-2].data == {"type": "finish", "finishReason": "stop"}
        assert "Traceback" not in server.log


def test_an_answer_that_takes_longer_than_the_grace_time_is_interrupted(model: Speaker, tmp_path: Path) -> None:
    with app(model, tmp_path, 0.1) as server:
        with asked(server) as response:
            model.say("one")
            seen = read_until(response, b'"one"')
            with stopping(server):
                seen += response.read()
        assert text_of(seen) == "one"
        assert events(seen)[-2].data == {"type": "error", "errorText": "The answer was interrupted."}
        assert "Traceback" not in server.log
        model.wait_ended(1)


def test_an_answer_whose_process_is_killed_is_interrupted_at_the_next_start(model: Speaker, tmp_path: Path) -> None:
    with app(model, tmp_path, 0.1) as server:
        with asked(server) as response:
            model.say("one")
            read_until(response, b'"one"')
            server.kill()
        server.start()
        with asked(server) as response:  # the same request again joins, and does not start anew
            seen = response.read()
        assert text_of(seen) == "one"
        assert events(seen)[-2].data["errorText"] == "The answer was interrupted."
        assert len(model.requests) == 1
