"""The protocol's own TypeScript client, unchanged, against our server."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.peers import PEERS, need_package, node
from unbroken.testing import ServerProcess

COUNT = 400


@pytest.fixture(autouse=True)
def client() -> None:
    need_package("@durable-streams/client")


def command(*arguments: object) -> list[str]:
    return [node(), str(PEERS / "client.mjs"), *map(str, arguments)]


def test_everything_once(unbroken_process: ServerProcess) -> None:
    arguments = command("basics", f"{unbroken_process.url}/a")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    head = found.pop("head")
    assert found == {
        "json": [{"n": 1}, [2, 3]],
        "text": "one €\ntwo\r\n",
        "bytes": [0, 255, 1],
        "conflict": 409,
        "again": 409,
        "closed": ["FetchError", 409],
        "gone": {"exists": False},
    }
    assert head["exists"] is True
    assert head["contentType"] == "application/json"
    assert head["streamClosed"] is False


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_following_and_producing_while_the_server_is_killed(unbroken_process: ServerProcess, live: str) -> None:
    """Its reader begins anew where it was, its producer repeats what got no answer: everything is there once."""
    url = f"{unbroken_process.url}/a"
    urlopen(Request(url, method="PUT", headers={"Content-Type": "application/json"})).close()
    with ExitStack() as stack:
        follower, producer = (
            stack.enter_context(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            for arguments in (command("follow", url, live), command("produce", url, COUNT))
        )
        stack.callback(producer.kill)
        stack.callback(follower.kill)
        assert follower.stdout is not None
        lines = []
        for _ in range(2):
            lines += [follower.stdout.readline() for _ in range(COUNT // 5)]
            unbroken_process.kill()
            unbroken_process.start()
        errors, trouble = producer.communicate(timeout=60)
        assert (errors, trouble) == ("[]\n", "")
        lines += follower.stdout
        assert follower.wait(60) == 0
    expected: list[Any] = [{"n": number} for number in range(COUNT)]
    assert [json.loads(line) for line in lines] == expected
    with urlopen(url) as response:
        assert json.load(response) == expected
