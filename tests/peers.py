"""The protocol's Node.js reference server, for tests that our clients work with servers that are not ours.

Where Node.js, or what make installs for it, is not there, such tests are skipped; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from unbroken.testing import ServerProcess

__all__ = ["ReferenceServer", "need_reference"]

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
        node = shutil.which("node")
        assert node is not None
        return [node, str(PEERS / "reference.mjs"), "--port", str(port), *self.flags]


def need_reference() -> None:
    """Skip the test if the reference server cannot be run here."""
    reason = _missing()
    if not reason:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _missing() -> str:
    if shutil.which("node") is None:
        return "the reference server needs Node.js"
    if not (PEERS / "node_modules" / "@durable-streams" / "server").is_dir():
        return "the reference server is not installed: make peers/node_modules/.installed"
    return ""
