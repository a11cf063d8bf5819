"""Who is measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from benchmarks import nginx
from benchmarks.processes import Process, running

__all__ = [
    "CLIENT",
    "FLOOR",
    "GENERATOR",
    "MEMORY",
    "NGINX",
    "NODE_FILES",
    "NODE_MEMORY",
    "OFFICIAL_CLIENT",
    "PARSER",
    "SQLITE",
    "Contender",
    "commit_sizes",
    "left_out",
    "newest_commit",
]

_ROOT = Path(__file__).parent.parent
_PEERS = _ROOT / "peers"
_INSTALL_S = 300.0


@dataclass(frozen=True)
class Contender:
    """A server.

    Args:
        name: as it is shown.
        command: how it is started, but for where its data is.
        data_flags: what tells it where its data is, ``{}`` being the directory; none if it keeps nothing on disk.
        stores: whether it keeps anything at all.
    """

    name: str
    command: Sequence[str]
    data_flags: Sequence[str] = ()
    stores: bool = True

    @property
    def durable(self) -> bool:
        """Whether it acknowledges only what is on disk."""
        return bool(self.data_flags)

    def start(self, directory: Path) -> AbstractContextManager[Process]:
        """Run it, its data below this directory, until the block is left."""
        data = directory / "data"
        return running([*self.command, *(flag.format(data) for flag in self.data_flags)], _ROOT)


def _unbroken(store: str) -> list[str]:
    return [sys.executable, "-m", "unbroken", "serve", "--port", "0", "--log-level", "warning", "--store", store]


def _floor(kind: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.floor", kind]


_NODE = ["node", str(_PEERS / "reference.mjs")]

GENERATOR = Contender("same bytes to every packet", _floor("socket"), stores=False)
PARSER = Contender("HTTP parser and nothing else", _floor("parser"), stores=False)
FLOOR = Contender("handler that does nothing", _floor("asgi"), stores=False)
MEMORY = Contender("Unbroken, memory", _unbroken("memory"))
SQLITE = Contender("Unbroken, sqlite", _unbroken("sqlite"), ("--data-dir", "{}"))
NGINX = Contender("nginx, static files", [sys.executable, "-m", "benchmarks.nginx"], ("{}",))
NODE_MEMORY = Contender("Node reference, memory", _NODE)
NODE_FILES = Contender("Node reference, file store", _NODE, ("--data", "{}"))

_PEER_PYTHON = _PEERS / "python" / "bin" / "python"

CLIENT = Contender("Unbroken client", [sys.executable, "-m", "benchmarks.clients.ours"], stores=False)
OFFICIAL_CLIENT = Contender(
    "official client", [str(_PEER_PYTHON), str(_ROOT / "benchmarks" / "clients" / "official.py")], stores=False
)


def newest_commit(directory: Path) -> int:
    """The number of the latest commit of an Unbroken server on sqlite, which may be running."""
    return max((number for number, _ in _journal(directory, 0)), default=0)


def commit_sizes(directory: Path, after: int) -> list[int]:
    """Sizes in bytes of the commits after that with a number.

    The journal has a row for each commit; rows go when they are some seconds old and the server is idle.
    """
    return [size for _, size in _journal(directory, after)]


def _journal(directory: Path, after: int) -> list[tuple[int, int]]:
    database = directory / "data" / "unbroken.db"
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        query = "SELECT id, length(records) FROM journal WHERE id > ? ORDER BY id"
        return cast("list[tuple[int, int]]", connection.execute(query, (after,)).fetchall())
    finally:
        connection.close()


def left_out() -> dict[str, str]:
    """The contenders that cannot be measured here, by name, and why.

    Installs the Node.js reference server where the tests have it too, and the official Python client beside it, if they
    are not there.
    """
    no_node, no_nginx, no_client = _install_node(), nginx.missing(), _install_client()
    reasons = {NODE_MEMORY.name: no_node, NODE_FILES.name: no_node, NGINX.name: no_nginx}
    reasons[OFFICIAL_CLIENT.name] = no_client
    return {name: reason for name, reason in reasons.items() if reason}


def _install_node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "Node.js with npm is not there"
    if not (_PEERS / "node_modules" / "@durable-streams" / "server" / "package.json").is_file():
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=_PEERS, check=True, capture_output=True, timeout=_INSTALL_S)
        except (subprocess.SubprocessError, OSError) as error:
            return f"npm could not install it: {error}"
    return ""


def _install_client() -> str:
    """In an environment of its own: it needs another HTTP library than ours."""
    if _PEER_PYTHON.is_file():
        return ""
    target = _PEER_PYTHON.parent.parent
    make = [sys.executable, "-m", "venv", str(target)]
    install = [str(_PEER_PYTHON), "-m", "pip", "install", "--quiet", "-r", str(_PEERS / "requirements.txt")]
    try:
        for command in (make, install):
            subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        return f"pip could not install it: {error}"
    return ""
