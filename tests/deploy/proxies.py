"""nginx and Caddy as somebody deploys them: with the very files in ``deploy/``, but for addresses and places."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Certificate, make_certificate
from unbroken.testing import Address

__all__ = ["DEPLOY", "FRONTS", "Front", "Nginx", "Proxy", "caddy", "nginx", "program", "rendered"]

DEPLOY = Path(__file__).parents[2] / "deploy"

_AROUND = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 8192;
pid {root}/nginx.pid;
error_log {root}/start.log warn;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen unix:{root}/status;
        access_log off;
        location / {{ stub_status; }}
    }}
    include {root}/unbroken.conf;
}}
"""
"""What a distribution's nginx.conf has around the files in conf.d, and nginx's own figures at a socket."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Args:
        plain: where it speaks HTTP/1.1 without TLS. Only here: what is deployed does not.
        tls: where it speaks HTTP/2 and HTTP/1.1 with TLS.
        certificate: what it shows.
        root: where its files are.
    """

    plain: Address
    tls: Address
    certificate: Certificate
    root: Path

    @property
    def logs(self) -> str:
        """All that it has written to any log."""
        return "".join(path.read_text() for path in self.root.glob("*.log"))


Front = Callable[[Path, Address], AbstractContextManager[Proxy]]


@dataclass(frozen=True)
class Nginx(Proxy):
    """A running nginx.

    Args:
        redirecting: where it sends everybody to TLS.
    """

    redirecting: Address

    @property
    def access_log(self) -> str:
        return (self.root / "access.log").read_text()

    async def requests_under_way(self) -> int:
        """How many requests wait for an answer, not counting the one that asks."""
        reader, writer = await asyncio.open_unix_connection(self.root / "status")
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            figures = (await reader.read()).decode()
        finally:
            writer.close()
        match = re.search(r"Writing: (\d+)", figures)
        assert match is not None, figures
        return int(match[1]) - 1


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped without it, but fails in CI."""
    if found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"):
        return found
    reason = f"{name} is not installed (Debian and Ubuntu: apt install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def rendered(name: str, replacements: Mapping[str, str]) -> str:
    """A file in ``deploy/`` with other addresses and places. Each of the texts to replace must be there."""
    text = (DEPLOY / name).read_text()
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def listening(count: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen on free ports, to be inherited."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048)) for _ in range(count)]


@contextmanager
def nginx(root: Path, origin: Address, changes: Mapping[str, str] | None = None) -> Iterator[Nginx]:
    """nginx in front of a server; nothing of it is left at the end of the block.

    Args:
        root: a directory for its files, which it makes.
        origin: where the server listens, or will.
        changes: more texts of its configuration to replace.
    """
    path = program("nginx", "nginx-light")
    root.mkdir()
    certificate = make_certificate(root)
    with listening(3) as sockets:
        redirecting, tls, plain = (Address(*each.getsockname()) for each in sockets)
        site = {
            "server 127.0.0.1:9999 ": f"server {origin.host}:{origin.port} ",
            "listen 80;": f"listen {redirecting.host}:{redirecting.port};",
            "listen 443 ssl http2;": f"listen {tls.host}:{tls.port} ssl http2; listen {plain.host}:{plain.port};",
            "listen [::]:80;": "",
            "listen [::]:443 ssl http2;": "",
            "streams.example.com;": "localhost;",
            "/etc/letsencrypt/live/streams.example.com/fullchain.pem": str(certificate.chain),
            "/etc/letsencrypt/live/streams.example.com/privkey.pem": str(certificate.key),
            "/var/cache/nginx-unbroken": f"{root}/cache",
            "/var/log/nginx/unbroken.log": f"{root}/access.log",
            "/var/log/nginx/unbroken-error.log": f"{root}/error.log",
            **(changes or {}),
        }
        (root / "unbroken.conf").write_text(rendered("nginx/unbroken.conf", site))
        user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
        (root / "nginx.conf").write_text(_AROUND.format(root=root, user=user))
        inherited = [each.fileno() for each in sockets]
        process = subprocess.Popen(
            [path, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "start.log")],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            # The sockets that it is to take instead of opening its own, as after an upgrade of its binary.
            env={**os.environ, "NGINX": "".join(f"{number};" for number in inherited)},
        )
    with process:
        try:
            _wait_until((root / "nginx.pid").exists, process, root)
            yield Nginx(plain, tls, certificate, root, redirecting)
        finally:
            process.terminate()  # not killed: its worker would live on


@contextmanager
def caddy(root: Path, origin: Address) -> Iterator[Proxy]:
    """Caddy in front of a server; see `nginx`."""
    path = program("caddy", "caddy")
    root.mkdir()
    certificate = make_certificate(root)
    with listening(2) as sockets:
        tls, plain = (Address(*each.getsockname()) for each in sockets)
    text = rendered("Caddyfile", {"UNBROKEN_ORIGIN:127.0.0.1:9999": f"UNBROKEN_ORIGIN:{origin.host}:{origin.port}"})
    options, _, site = text.partition("streams.example.com {")
    assert options.count("\n{\n") == 1
    options = options.replace("\n{\n", "\n{\nadmin off\nauto_https off\ndefault_bind 127.0.0.1\n")
    secured = f"https://localhost:{tls.port} {{\ntls {certificate.chain} {certificate.key}\n{site}"
    (root / "Caddyfile").write_text(f"{options}{secured}\nhttp://:{plain.port} {{\n{site}")
    with (root / "caddy.log").open("w") as log:
        process = subprocess.Popen(
            [path, "run", "--adapter", "caddyfile", "--config", str(root / "Caddyfile")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "XDG_DATA_HOME": f"{root}/data", "XDG_CONFIG_HOME": f"{root}/config"},
        )
    with process:
        try:
            _wait_until(lambda: "serving initial configuration" in (root / "caddy.log").read_text(), process, root)
            yield Proxy(plain, tls, certificate, root)
        finally:
            process.kill()


FRONTS: list[Front] = [nginx, caddy]


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], root: Path) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        logs = "".join(path.read_text() for path in root.glob("*.log"))
        assert process.poll() is None, logs
        assert time.monotonic() < deadline_s, logs
        time.sleep(0.01)
