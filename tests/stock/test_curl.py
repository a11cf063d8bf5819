"""curl follows, and goes on where it was, across a restart of the server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from unbroken.testing import ServerProcess

CURL = shutil.which("curl") or ""

pytestmark = pytest.mark.skipif(not CURL and os.environ.get("CI") != "true", reason="curl is not installed")


def curl(*arguments: str) -> str:
    """Run it to its end; what it printed."""
    command = [CURL, "-sS", "--fail", "--max-time", "20", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def write(url: str, data: str, *flags: str) -> None:
    curl("-H", "Content-Type: text/plain", "--data-binary", data, *flags, url)


def follow_until(text: str, *arguments: str) -> str:
    """Follow until a text has come, and interrupt it; everything that has come."""
    with subprocess.Popen([CURL, "-sN", *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "\n" and text in "".join(lines):
                process.terminate()
                break
        process.wait(10)
    return "".join(lines)


def data(events: str) -> str:
    """The text in events."""
    found = re.findall(r"^event: data\n((?:data:.*\n)+)", events, re.MULTILINE)
    return "".join("\n".join(line[5:] for line in lines.splitlines()) for lines in found)


@pytest.mark.parametrize("how", ["Last-Event-ID", "offset"])
def test_it_goes_on_where_it_was(unbroken_process: ServerProcess, how: str) -> None:
    url = f"{unbroken_process.url}/log"
    curl("-X", "PUT", "-H", "Content-Type: text/plain", url)
    write(url, "one €\n")
    write(url, "two\n")
    first = follow_until("upToDate", f"{url}?offset=-1&live=sse")
    assert data(first) == "one €\ntwo\n"
    position = re.findall(r"^id:(.*)$", first, re.MULTILINE)[-1]
    unbroken_process.kill()
    unbroken_process.start()
    write(url, "three\n")
    arguments = [f"{url}?offset={position}&live=sse"]
    if how == "Last-Event-ID":
        arguments = ["-H", f"Last-Event-ID: {position}", f"{url}?offset=-1&live=sse"]
    assert data(follow_until("upToDate", *arguments)) == "three\n"
    write(url, "four", "-H", "Stream-Closed: true")
    last = curl("-N", *arguments)
    assert data(last) == "three\nfour"
    assert '"streamClosed":true' in last
    assert curl(url) == "one €\ntwo\nthree\nfour"
    position = re.findall(r"^id:(.*)$", last, re.MULTILINE)[-1]
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    assert curl(*status, "-H", f"Last-Event-ID: {position}", f"{url}?offset=-1&live=sse") == "204"


def test_waiting_by_long_poll(unbroken_process: ServerProcess) -> None:
    url = f"{unbroken_process.url}/log"
    curl("-X", "PUT", "-H", "Content-Type: text/plain", url)
    with subprocess.Popen(
        [CURL, "-sS", f"{url}?offset=-1&live=long-poll"], stdout=subprocess.PIPE, text=True
    ) as waiting:
        write(url, "news")
        assert waiting.communicate(timeout=30)[0] == "news"
