"""nginx with the pages of one stream as static files: what catch-up reads could be at most.

Run as a process: ``python -m benchmarks.nginx DIRECTORY`` becomes nginx, which serves what `write_pages` put there on a
free port of the loopback interface, and keeps everything that it writes in the same directory.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["missing", "version", "write_pages"]

_START_S = 10.0

_CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/errors warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  map $arg_offset $page {{ default $arg_offset; "-1" 0; }}
  map $page $next {{
{next}
  }}
  map $page $caught_up {{ default ""; "{last}" true; }}
  server {{
    listen 127.0.0.1:{port};
    root {directory}/pages;
    default_type application/octet-stream;
    location /v1/stream/ {{
      add_header Stream-Next-Offset $next;
      add_header Stream-Up-To-Date $caught_up;
      try_files /$page =404;
    }}
  }}
}}
"""


def missing() -> str:
    """Why nginx cannot be measured; empty if it can."""
    return "" if _program() else "nginx is not installed (Debian and Ubuntu: apt install nginx-light)"


def version() -> str:
    """As it says it: it writes that to standard error."""
    program = _program()
    if program is None:
        return "none"
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("/")[2]


def _program() -> str | None:
    """Debian has it in a directory that is not in everybody's path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def write_pages(directory: Path, page: bytes, count: int) -> None:
    """Write what is to be served: the same page so many times, a file each."""
    pages = directory / "pages"
    pages.mkdir(parents=True)
    for number in range(count):
        (pages / str(number)).write_bytes(page)


def main(directory: Path) -> None:
    """Become nginx, while a child says so as soon as it listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    last = len(list((directory / "pages").iterdir())) - 1
    following = "\n".join(f'    "{number}" {number + 1};' for number in range(last + 1))
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, next=following, last=last, port=port))
    program = _program()
    assert program is not None
    if os.fork() == 0:
        _wait_for(port)
        print(f"listening on http://127.0.0.1:{port}", flush=True)
    else:
        # Its compiled-in error log would be opened before it reads the configuration.
        os.execv(program, [program, "-p", str(directory), "-e", f"{directory}/errors", "-c", str(configuration)])


def _wait_for(port: int) -> None:
    """Return when something listens on this port.

    Raises:
        TimeoutError: nothing does.
    """
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError("nginx did not start")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
