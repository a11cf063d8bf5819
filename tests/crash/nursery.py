"""``python -m tests.crash.nursery``: raises servers in a hurry.

It imports the server once and forks for each start, which takes a few milliseconds in place of half a second. Orders
come as lines of JSON on standard input, see `Order`, one at a time; answers go to standard output, between the servers'
greetings: ``pid <number>`` for an order, and ``ended <code>`` when that server has ended.

An order can say where its server dies: at a statement or at a disk operation, by its own hand, with SIGKILL. So a kill
hits a fold, a checkpoint or a recovery whenever that is wanted, not when chance finds one.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import apsw
import httptools  # noqa: F401 (as all that is imported here: the children have it then)
import uvloop  # noqa: F401

import unbroken.cli.serve  # noqa: F401
from tests.store.sizes import OVERLAY_BYTES_MAX, miniature
from unbroken.cli.main import main
from unbroken.store.sqlite import SqliteStore
from unbroken.testing.faults import FaultyDisk, Operation

__all__ = ["DIED_AT", "Death", "Order"]

DIED_AT = "died at"
"""What a server's log says before it dies by its own hand."""


@dataclass(frozen=True)
class Death:
    """When a server dies.

    Args:
        place: ``statement``, ``disk`` or ``close``: a statement while the store is being closed.
        what: regular expression for the SQL text; or a disk operation and a file, such as ``write database``.
        count: at which of those.
        after: when it has ended, in place of when it is about to begin. Statements only.
    """

    place: str
    what: str
    count: int
    after: bool = False


@dataclass(frozen=True)
class Order:
    """A server to start.

    Args:
        arguments: of ``unbroken``.
        log: the file that its standard error goes to.
        small: with every size of the store small, so that it folds, checkpoints and deletes all the time.
        death: when it dies by itself.
    """

    arguments: tuple[str, ...]
    log: str
    small: bool
    death: Death | None = None

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def decode(line: str) -> Order:
        values = json.loads(line)
        death = values.pop("death")
        return Order(**values, death=None if death is None else Death(**death))


class Fate:
    """Counts, and dies."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._left = death.count
        self._armed = death.place != "close"
        if death.place == "disk":
            self._disk = FaultyDisk()
            self._disk.watch = self._on_disk
            set_default("vfs", self._disk.name)
        else:
            apsw.connection_hooks.append(self._on_connection)
            self._wrap_close()

    def _wrap_close(self) -> None:
        close = SqliteStore.close

        async def armed(store: SqliteStore) -> None:
            self._armed = True
            await close(store)

        SqliteStore.close = armed  # type: ignore[assignment,method-assign]

    def _on_connection(self, db: apsw.Connection) -> None:
        event = apsw.SQLITE_TRACE_PROFILE if self._death.after else apsw.SQLITE_TRACE_STMT
        db.trace_v2(event, self._on_statement)

    def _on_statement(self, event: dict[str, Any]) -> None:
        if self._armed and re.search(self._death.what, event["sql"]):
            self._tick(event["sql"])

    def _on_disk(self, operation: Operation) -> None:
        if self._death.what == f"{operation.kind} {operation.file}":
            self._tick(self._death.what)

    def _tick(self, where: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(2, f"{DIED_AT} {self._death.place}: {' '.join(where.split())}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def set_default(name: str, value: object) -> None:
    """Change a default argument of the store."""
    defaults = SqliteStore.__init__.__kwdefaults__
    assert defaults is not None
    assert name in defaults
    defaults[name] = value


def be_server(order: Order) -> None:
    os.dup2(os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["unbroken", *order.arguments]
    with ExitStack() as sizes:
        if order.small:
            sizes.enter_context(miniature())
            set_default("overlay_bytes_max", OVERLAY_BYTES_MAX)
        fate = None if order.death is None else Fate(order.death)
        main()
        assert fate is None, "main does not return"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def nurse() -> None:
    """Take orders until standard input ends; then the server goes too."""
    ends, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pid = 0
    while True:
        ready, _, _ = select.select([0, ends], [], [])
        if ends in ready:
            os.read(ends, 1)
            _, status = os.waitpid(pid, 0)
            say(f"ended {os.waitstatus_to_exitcode(status)}")
            pid = 0
        elif order := os.read(0, select.PIPE_BUF):
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                be_server(Order.decode(order.decode()))
            say(f"pid {pid}")
        else:
            break
    if pid:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    nurse()
