"""``unbroken serve`` as its users start it: a process of its own, watched from outside."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from unbroken.testing import Address

__all__ = ["ServerProcess", "server_process"]


class ServerProcess:
    """A running server process."""

    def __init__(self, process: asyncio.subprocess.Process, address: Address) -> None:
        self.address = address
        self._process = process

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self, timeout_s: float = 15.0) -> tuple[int, str]:
        """Wait for its end: exit code, and what it wrote to standard error."""
        async with asyncio.timeout(timeout_s):
            _, log = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, log.decode()

    @property
    def memory_bytes(self) -> int:
        """Resident now."""
        return self._status("VmRSS")

    @property
    def peak_memory_bytes(self) -> int:
        """The most that was resident at any time."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))  # noqa: PTH208


@asynccontextmanager
async def server_process(
    tmp_path: Path, *flags: str, program: tuple[str, ...] = ("-m", "unbroken")
) -> AsyncIterator[ServerProcess]:
    """Start a server on a free port; killed at the end of the block if it is still there.

    Args:
        tmp_path: where its data goes.
        flags: of ``unbroken serve``.
        program: what Python runs.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            greeting = (await process.stdout.readline()).decode()
        match = re.search(r"https?://([^:]+):(\d+)", greeting)
        assert match is not None, greeting
        yield ServerProcess(process, Address(match[1], int(match[2])))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
