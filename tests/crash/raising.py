"""The nursery, from outside: servers that start in milliseconds and die where they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.crash.nursery import Order
from unbroken.testing import Address

__all__ = ["Nursery", "Raised", "nursery"]

START_S = 30.0


class Raised:
    """A server that was started.

    Attributes:
        address: where it listens; None if it died before.
        ended: its exit code, one day.
        is_over: it has ended.
    """

    def __init__(self, pid: int) -> None:
        self.address: Address | None = None
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_over = False
        self._pid = pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; it may have ended meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            if not self.is_over:
                os.kill(self._pid, number)


class Nursery:
    """Starts servers, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._watching: asyncio.Task[None] | None = None

    async def start(self, order: Order) -> Raised:
        """Start a server, and wait until it listens or is dead."""
        async with asyncio.timeout(START_S):
            if self._watching is not None:
                await self._watching
            assert self._process.stdin is not None
            self._process.stdin.write(f"{order.encode()}\n".encode())
            server = Raised(int((await self._line()).removeprefix("pid ")))
            listening = asyncio.Event()
            self._watching = asyncio.create_task(self._watch(server, listening))
            await listening.wait()
        return server

    async def _watch(self, server: Raised, listening: asyncio.Event) -> None:
        while True:
            line = await self._line()
            if match := re.search(r"listening on http://([^:]+):(\d+)", line):
                server.address = Address(match[1], int(match[2]))
                listening.set()
            if line.startswith("ended "):
                server.is_over = True
                listening.set()
                if not server.ended.done():  # who waited for it may have given up
                    server.ended.set_result(int(line.removeprefix("ended ")))
                return

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the nursery is gone"
        return line.decode().rstrip("\n")

    async def close(self) -> None:
        """End it, and the server, if there is one."""
        if self._watching is not None:
            self._watching.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.communicate()


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A nursery; nothing is left of it and its server when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.nursery"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    nursing = Nursery(process)
    try:
        yield nursing
    finally:
        await nursing.close()
