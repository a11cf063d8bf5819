"""What others wrote, run by Node.js: the protocol's reference server, to test our clients with a server that is not
ours, and its client, to test our server with a client that is not ours.

Where Node.js, or what make installs for it, is not there, such tests are skipped; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from unbroken.testing import ServerProcess

__all__ = ["PEERS", "ReferenceServer", "need_package", "need_reference", "node"]

PEERS = Path(__file__).parents[1] / "peers"


class ReferenceServer(ServerProcess):
    """The reference server in a process of its own, to be killed and started again.

    Args:
        data_dir: of its file store; in memory, and forgotten at each start, if None.
        wait_s: how long it lets a live read wait.
    """

    def __init__(self, data_dir: Path | None = None, *, wait_s: float = 2.0) -> None:
        flags = ["--wait", str(wait_s)]
        super().__init__(data_dir or Path(), *flags, *(["--data", str(data_dir)] if data_dir else []))

    def command(self, port: int) -> list[str]:
        return [node(), str(PEERS / "reference.mjs"), "--port", str(port), *self.flags]


def node() -> str:
    """Where Node.js is."""
    found = shutil.which("node")
    assert found is not None
    return found


def need_reference() -> None:
    """Skip the test if the reference server cannot be run here."""
    need_package("@durable-streams/server")


def need_package(name: str) -> None:
    """Skip the test if Node.js, or a package of ``peers/package.json``, is not here."""
    reason = _missing(name)
    if not reason:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _missing(name: str) -> str:
    if shutil.which("node") is None:
        return f"{name} needs Node.js"
    if not (PEERS / "node_modules" / name).is_dir():
        return f"{name} is not installed: make peers/node_modules/.installed"
    return ""
