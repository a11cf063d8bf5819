"""Any ASGI application in a process of its own, to be stopped, killed and started again.

python -m tests.web.serving examples/chat/app.py 0
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from unbroken.testing import ServerProcess

__all__ = ["AppProcess"]


class AppProcess(ServerProcess):
    """A process that serves the ``app``, or ``application``, of a Python file with uvicorn, as people do.

    Args:
        file: the Python file.
        environ: what is added to its environment.
    """

    def __init__(self, file: Path, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(Path())
        self._file = file
        self._environ = dict(environ or {})

    def command(self, port: int) -> list[str]:
        assignments = [f"{name}={value}" for name, value in self._environ.items()]
        path = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
        return ["env", path, *assignments, sys.executable, "-m", "tests.web.serving", str(self._file), str(port)]


def app_of(file: str) -> object:
    """The application of a Python file, imported as a module."""
    sys.path.insert(0, str(Path(file).parent))
    module = importlib.import_module(Path(file).stem)
    return getattr(module, "app", None) or module.application


async def serve(app: object, port: int) -> None:
    """Serve it, and say where."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", port)) as listener:
        listening = asyncio.create_task(server.serve([listener]))
        while not server.started and not listening.done():  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        if server.started:
            print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)  # noqa: T201
        await listening


if __name__ == "__main__":
    asyncio.run(serve(app_of(sys.argv[1]), int(sys.argv[2])))
