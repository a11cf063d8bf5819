"""A real ``unbroken serve`` in a process of its own, to be killed and started again.

with ServerProcess(tmp_path / "streams") as server:
    ...                 # any HTTP client, at server.url
    server.kill()       # as kill -9 does
    server.start()      # on the same data and the same port
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from unbroken.testing.live import Address

__all__ = ["ServerProcess"]

_END_S = 20.0


class ServerProcess:
    """A server process on the durable store. A context manager; nothing of it is left at the end of the block.

    Args:
        data_dir: where its data is, or will be.
        flags: more of those of ``unbroken serve``, such as ``"--page-size=64KiB"``.
    """

    def __init__(self, data_dir: Path | str, *flags: str) -> None:
        self.data_dir = Path(data_dir)
        self.flags = flags
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    @property
    def address(self) -> Address:
        """Where it listens; the same after each start."""
        return Address("127.0.0.1", self._port)

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return self.address.url

    @property
    def log(self) -> str:
        """What it has written to standard error, over all its starts."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read()

    def command(self, port: int) -> list[str]:
        """What is run. A subclass may run any server that writes "listening on http://127.0.0.1:<port>".

        Args:
            port: of the loopback interface; 0 for a free one.
        """
        command = [sys.executable, "-m", "unbroken", "serve", "--host", "127.0.0.1", "--port", str(port)]
        return [*command, "--data-dir", str(self.data_dir), *self.flags]

    def start(self) -> None:
        """Start it, and wait until it can be connected to.

        Raises:
            RuntimeError: it runs already, or it ended; the message has what it said.
        """
        if self._process is not None:
            raise RuntimeError("the server runs already")
        if self._log is None:
            self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed at the end of the block)
        command = self.command(self._port)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)  # noqa: S603
        self._process = process
        assert process.stdout is not None
        greetings = (re.search(r"listening on http://127\.0\.0\.1:(\d+)", line) for line in process.stdout)
        listening = next(filter(None, greetings), None)
        if listening is None:
            self.kill()
            raise RuntimeError(f"the server did not start: {self.log}")
        self._port = int(listening[1])

    def kill(self) -> None:
        """End it at once, as ``kill -9`` or the kernel would. What was acknowledged is there at the next start."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and wait until it has.

        Returns:
            Its exit code: 0 if all is well.
        """
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Stop it and start it again, on the same data and the same port."""
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            raise RuntimeError("the server does not run")
        with process:  # closes its pipe
            process.send_signal(number)
            try:
                return process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._process is not None:
            self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None
