"""A newcomer follows docs/deployment.md word by word, on a machine whose folders are below another one."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.proxies import DEPLOY, nginx, program
from tests.server.site import TEXT
from unbroken.testing import ServerProcess, connect

ROOT = DEPLOY.parent
GUIDE = (ROOT / "docs" / "deployment.md").read_text()

# What it takes to be root of a machine of one's own.
STUBS = """
set -euo pipefail
useradd() { :; }
systemctl() { echo "$@" >> "$MACHINE/systemctl"; }
runuser() { [ "$1 $2 $3" = "-u unbroken --" ]; shift 3; "$@"; }
install() { local words=(); while (($#)); do case "$1" in -o|-g) shift 2;; *) words+=("$1"); shift;; esac; done
  command install "${words[@]}"; }
"""
PLACES = (
    "/opt/unbroken",
    "/etc/unbroken",
    "/etc/systemd/system",
    "/var/lib/unbroken",
    "/var/backups/unbroken",
    "/var/cache/nginx-unbroken",
)


def section(title: str) -> str:
    """What stands below a heading."""
    found = re.search(rf"^##+ {title}\n(.*?)(?=^##? |\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def snippets(text: str, language: str = "sh") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Machine:
    """A machine to deploy on.

    Args:
        root: its file system, in part.
        port: where the server is to listen on the real machine.
    """

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        program = root / "opt/unbroken/bin/unbroken"
        for place in (program.parent, root / "etc/systemd/system", root / "var/lib", root / "var/backups"):
            place.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m unbroken "$@"\n')
        program.chmod(0o755)

    def here(self, text: str) -> str:
        """With this machine's places for those of a text."""
        for place in PLACES:
            text = text.replace(place, f"{self.root}{place}")
        return text.replace("http://127.0.0.1:9999", self.url)

    def run(self, script: str, **variables: str) -> str:
        """What a script prints. What would install packages is left out: the package is there."""
        lines = [line for line in script.splitlines() if not re.search(r"-m venv|pip install", line)]
        environment = {**os.environ, "MACHINE": str(self.root), "UNBROKEN_PORT": str(self._port), **variables}
        done = subprocess.run(
            ["bash", "-c", STUBS + self.here("\n".join(lines))],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def unit(self, name: str, key: str) -> str:
        """A setting of an installed unit."""
        text = (self.root / "etc/systemd/system" / name).read_text().replace("\\\n", " ")
        (value,) = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
        return str(value).replace("%%", "%")

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The service, as systemd would start it."""
        # No address of the outside world is in the settings but the public one.
        settings = self.root / "etc/unbroken/unbroken.toml"
        settings.write_text(self.here(settings.read_text()))
        environment = {**os.environ, "UNBROKEN_PORT": str(self._port)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = shlex.split(self.here(self.unit("unbroken.service", "ExecStart")))
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            try:
                assert process.stdout is not None
                assert "listening on" in process.stdout.readline()
                yield process
            finally:
                process.terminate()


@pytest.fixture
def machine(tmp_path: Path, free_port: int) -> Machine:
    return Machine(tmp_path / "machine", free_port)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_the_cache_is_emptied(machine: Machine) -> None:
    cache = machine.root / "var/cache/nginx-unbroken"
    (cache / "0/1a").mkdir(parents=True)
    (cache / "0/1a/page").write_text("what anybody could see")
    (empty,) = snippets(section("What readers share"))
    machine.run(empty)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert (machine.root / "systemctl").read_text() == "stop nginx\nstart nginx\n"


def test_from_an_empty_machine_to_a_service(machine: Machine) -> None:
    program("curl", "curl")
    prepare, make_token, start = snippets(section("As a service"))
    machine.run(prepare)
    token = machine.run(make_token).strip()
    reload, enable, ask = start.splitlines()
    machine.run(f"{reload}\n{enable}")
    assert (machine.root / "systemctl").read_text() == "daemon-reload\nenable --now unbroken\n"
    with machine.started():
        assert '"ready"' in machine.run(ask)
        (checks,) = snippets(section("When it runs"))
        _, *asked = checks.splitlines()
        said = machine.run("\n".join(asked), UNBROKEN_URL=machine.url, UNBROKEN_TOKEN=token)
        assert said.endswith("hello")
        (metrics,) = snippets(section("Metrics"))
        scraper = machine.run(metrics).strip()
        machine.run(snippets(section("Backup"))[0])
        machine.run(machine.unit("unbroken-backup.service", "ExecStart"))
        (backup,) = (machine.root / "var/backups/unbroken").iterdir()
        assert machine.run(f"/opt/unbroken/bin/unbroken fsck '/var/backups/unbroken/{backup.name}'").startswith("sound")
        scrape = f"curl -s --fail -H 'Authorization: Bearer {scraper}' {machine.url}/-/metrics"
        # A running server hears of a new token within a second.
        assert "unbroken_writable 1" in machine.run(f"for i in $(seq 50); do {scrape} && break; sleep 0.1; done")
    upgrade = snippets(section("Upgrade"))[0]
    machine.run(upgrade)
    assert (machine.root / "systemctl").read_text().endswith("start unbroken-backup\nrestart unbroken\n")


def test_without_a_token_it_does_not_start(machine: Machine) -> None:
    machine.run(snippets(section("As a service"))[0])
    settings = machine.root / "etc/unbroken/unbroken.toml"
    settings.write_text(machine.here(settings.read_text()))
    with pytest.raises(AssertionError, match=r"streams\.example\.com.*unbroken token create"):
        machine.run(machine.unit("unbroken.service", "ExecStart"))


async def test_a_server_that_anybody_may_read(tmp_path: Path) -> None:
    """nginx passes on reads of streams, and nothing else."""
    methods, paths = (text.strip() for text in snippets(section("nginx"), "nginx"))
    changes = {
        "        proxy_pass": f"        {methods}\n        proxy_pass",
        "    ssl_protocols": f"    {paths}\n    ssl_protocols",
    }
    with (
        ServerProcess(tmp_path / "data", "--insecure", "--public-url=https://localhost") as server,
        nginx(tmp_path / "nginx", server.address, changes) as proxy,
    ):
        async with connect(*server.address) as writer:
            assert (await writer.request("PUT", "/a", TEXT, b"for all")).status == 201
        for method, target, status in [
            ("GET", "/a", 200),
            ("HEAD", "/a", 200),
            ("PUT", "/b", 403),
            ("POST", "/a", 403),
            ("DELETE", "/a", 403),
            ("DELETE", "/-/streams?prefix=/", 403),
            ("GET", "/-/streams", 403),
            ("GET", "/%2d/streams", 403),
            ("GET", "//-/streams", 403),
            ("GET", "/-/metrics", 403),
            ("GET", "/-/ui", 403),
            ("GET", "/-/health", 200),
            ("GET", "/-/unbroken.js", 200),
        ]:
            async with connect(*proxy.plain) as client:
                assert (await client.request(method, target)).status == status, (method, target)
