"""What is imported when, and what is public."""

from __future__ import annotations

import subprocess
import sys

import unbroken
from unbroken import client

WITHOUT = """
import sys
sys.modules["httpx2"] = None
import unbroken
from unbroken.asgi import create_app
create_app(store="memory")
assert "unbroken.client" not in sys.modules
for name in ("Client", "AsyncClient"):
    try:
        getattr(unbroken, name)
    except ImportError as error:
        assert "unbroken[client]" in str(error)
    else:
        raise AssertionError(name)
"""


def test_a_server_needs_no_client() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_is_where_people_look_for_it() -> None:
    assert unbroken.AsyncClient is client.AsyncClient
    assert unbroken.Client is client.Client
    assert {"AsyncClient", "Client"} <= set(dir(unbroken))
    assert not hasattr(unbroken, "Nothing")


def test_both_clients_are_the_same() -> None:
    for kind in ("Client", "Stream", "Follow", "Producer", "Consumer"):
        one, other = getattr(client, kind), getattr(client, f"Async{kind}")
        assert public(one) == public(other)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}
