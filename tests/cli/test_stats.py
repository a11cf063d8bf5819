"""``unbroken stats``: once, as JSON, and on a terminal, where it goes on until Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx2
import pytest

from unbroken.cli.stats import parse_metrics
from unbroken.testing import Address, threaded_server

TEXT = {"content-type": "text/plain"}


class Done(NamedTuple):
    """What the command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def server() -> Iterator[Address]:
    with threaded_server() as address:
        for path in ("/a", "/b"):
            httpx2.put(address.url + path, headers=TEXT, content=b"hello")
        httpx2.post(address.url + "/a", headers=TEXT, content=b"!")
        httpx2.get(address.url + "/missing")
        yield address


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unbroken", "stats", *arguments]


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("UNBROKEN_")},
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "TERM": "xterm-256color",
    "COLUMNS": "100",
}


def stats(*arguments: str) -> Done:
    done = subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(command: list[str], streams: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    """A command, which does not outlive the block."""
    with subprocess.Popen(command, env=ENVIRONMENT, **streams) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


STREAMS = ("stdin", "stdout", "stderr")


def test_once(server: Address) -> None:
    code, out, err = stats(server.url)
    assert (code, err) == (0, "")
    rows = {line.split("  ")[0].strip(): line.split() for line in out.splitlines() if line.strip()}
    assert rows["streams"][1:] == ["2", "11", "B"]
    assert rows["appends"][1].endswith("/s")
    assert rows["refused"][1:] == ["1", "stream-not-found"]


def test_json(server: Address) -> None:
    code, out, err = stats(server.url, "--json")
    assert (code, err) == (0, "")
    samples = json.loads(out)
    assert samples["unbroken_streams"] == 2
    assert samples['unbroken_http_requests_total{method="POST",status="204"}'] == 1
    assert samples['unbroken_append_seconds_bucket{le="+Inf"}'] == 1


def test_watching_on_a_terminal(server: Address) -> None:
    """One screen that is written over, with rates; Ctrl-C ends it without a word."""
    leader, follower = pty.openpty()
    with started(command(server.url, "--watch", "--interval", "0.1"), dict.fromkeys(STREAMS, follower)) as process:
        os.close(follower)
        shown = b""
        while shown.count(b"live reads") < 3:
            shown += os.read(leader, 4096)
        # Not every look is drawn: there are appends until one that met some is.
        while not re.search(rb"p50, p99 at most.{0,40}[0-9.]+ ms, [0-9.]+ ms", shown[-2000:], re.DOTALL):
            httpx2.post(server.url + "/a", headers=TEXT, content=b"!")
            shown += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(leader, 4096)
            except OSError:  # the other side is closed
                break
            shown += more
        assert process.wait(20) == 130
    os.close(leader)
    assert b"Traceback" not in shown
    assert b"\x1b[" in shown


def test_watching_in_a_pipe(server: Address) -> None:
    """A line of JSON each time; who has seen enough ends it."""
    with started(
        command(server.url, "--json", "--watch", "--interval", "0.1"), dict.fromkeys(STREAMS, subprocess.PIPE)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["unbroken_streams"] == 2
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_nobody_there() -> None:
    code, out, err = stats("http://127.0.0.1:9")
    assert (code, out) == (3, "")
    assert "is the server running there?" in err


def test_not_understood() -> None:
    code, _, err = stats("nonsense")
    assert code == 2
    assert "not the URL of a server" in err


def test_lines_that_are_something_else_are_left_out() -> None:
    text = '# HELP a b\n# TYPE a counter\na 1\nb{x="y z"} 2.5 1700000000\nc NaN\nd +Inf\n\nnonsense\ne{ 1\nf x\n'
    samples = parse_metrics(text)
    assert {name: samples[name] for name in ("a", 'b{x="y z"}', "d")} == {"a": 1, 'b{x="y z"}': 2.5, "d": float("inf")}
    assert set(samples) == {"a", 'b{x="y z"}', "c", "d"}
