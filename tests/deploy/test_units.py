"""The systemd unit and the Dockerfile: what can be known of them without systemd as init, and without Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.proxies import DEPLOY, program, rendered
from unbroken.server.settings import load_settings
from unbroken.testing import ServerProcess

ROOT = DEPLOY.parent
UNIT = "systemd/unbroken.service"


def run(*command: str, **options: object) -> str:
    """A command's output; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, with a program that is there."""
    for path in (DEPLOY / "systemd").iterdir():
        changes = {"/opt/unbroken/bin/unbroken": sys.executable} if path.suffix == ".service" else {}
        (tmp_path / path.name).write_text(rendered(f"systemd/{path.name}", changes))
    return tmp_path


def test_systemd_understands_the_units(units: Path) -> None:
    found = sorted(str(path) for path in units.iterdir())
    assert len(found) == 3
    assert run(program("systemd-analyze", "systemd"), "verify", "--man=no", *found).strip() == ""


@pytest.mark.parametrize(("name", "exposure_max"), [("unbroken", 1.2), ("unbroken-backup", 0.6)])
def test_the_services_expose_little(units: Path, name: str, exposure_max: float) -> None:
    unit = str(units / f"{name}.service")
    report = run(program("systemd-analyze", "systemd"), "security", "--offline=yes", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert exposure is not None, report
    # Newer versions of systemd look at more.
    assert float(exposure[1]) <= exposure_max + 0.5


def test_the_settings_of_the_service() -> None:
    settings = load_settings(config=DEPLOY / "unbroken.toml", environ={})
    assert str(settings.data_dir) == "/var/lib/unbroken"
    assert "StateDirectory=unbroken\n" in (DEPLOY / UNIT).read_text()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_the_server_is_ready_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind(f"\0{address}" if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{address}" if abstract else address)
        with ServerProcess(tmp_path / "data") as server:
            assert sock.recv(100) == b"READY=1"
            assert server.stop() == 0
            assert sock.recv(100) == b"STOPPING=1"


# --- Docker ----------------------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """A line of a Dockerfile, continued ones joined."""

    name: str
    text: str

    @property
    def exec_form(self) -> list[str]:
        return [str(word) for word in json.loads(self.text)]


def stages() -> Iterator[list[Instruction]]:
    """The Dockerfile's instructions, by stage."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [at for at, line in enumerate(lines) if line.name == "FROM"]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield [Instruction(line.name, line.text.strip()) for line in lines[start:end]]


BUILD, FINAL = stages()


def only(stage: list[Instruction], name: str) -> Instruction:
    (found,) = [line for line in stage if line.name == name]
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    words = [word for line in stage if line.name == "ENV" for word in shlex.split(line.text)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def sent_to_the_builder(name: str) -> bool:
    """By the rules of .dockerignore: the last line that fits decides."""
    ignored = False
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(name.partition("/")[0], pattern):
            ignored = not line.startswith("!")
    return not ignored


def test_the_image_is_small_and_its_user_is_nobody_special() -> None:
    bases = [only(stage, "FROM").text.split()[0] for stage in (BUILD, FINAL)]
    assert bases[0] == bases[1], "the environment links to the base's Python"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    copied = [line.text for line in FINAL if line.name == "COPY"]
    assert copied == ["--from=build /opt/unbroken /opt/unbroken"]
    user, group = only(FINAL, "USER").text.split(":")
    assert int(user) == int(group) > 1000
    assert f"--uid {user}" in only(FINAL, "RUN").text
    names = [line.name for line in FINAL]
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")
    assert only(FINAL, "VOLUME").text == environment(FINAL)["UNBROKEN_DATA_DIR"] == only(FINAL, "WORKDIR").text
    assert only(FINAL, "EXPOSE").text == environment(FINAL)["UNBROKEN_PORT"]
    assert not {"ADD", "ARG"} & {line.name for line in [*BUILD, *FINAL]}


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    copied = [word for line in BUILD if line.name == "COPY" for word in line.text.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists()
        assert sent_to_the_builder(name)
    for name in (".git", ".venv", "unbroken-data", "tests", "tokens.json", "key.pem"):
        assert not sent_to_the_builder(name)


def test_the_image_is_healthy_while_the_server_is(tmp_path: Path) -> None:
    check = only(FINAL, "HEALTHCHECK").text
    program_, *arguments = json.loads(check[check.index("CMD") + 3 :])
    assert program_ == "python"
    with ServerProcess(tmp_path / "data") as server:
        command = [sys.executable, *arguments]
        port = {"UNBROKEN_PORT": server.url.rpartition(":")[2]}
        run(*command, env={**os.environ, **port})
        server.kill()
        done = subprocess.run(command, env={**os.environ, **port}, capture_output=True, timeout=30, check=False)
        assert done.returncode == 1


@pytest.mark.full
def test_the_steps_of_the_build(tmp_path: Path) -> None:
    """In a folder of its own, which stands for the image: it installs, and what is installed serves."""
    source, image = tmp_path / "src", tmp_path / "unbroken"
    source.mkdir()
    for line in BUILD:
        if line.name == "COPY":
            *names, target = line.text.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / target)
                else:
                    shutil.copy(ROOT / name, source / target)
    script = (
        only(BUILD, "RUN").text.replace("/opt/unbroken", str(image)).replace("python -m", f"{sys.executable} -m", 1)
    )
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    run("sh", "-ec", script, cwd=source, env={**keep, **environment(BUILD)})
    assert not (image / "bin" / "pip").exists()
    size_bytes = sum(path.stat().st_size for path in image.rglob("*") if path.is_file() and not path.is_symlink())
    assert size_bytes < 120 * 2**20
    settings = {**keep, **environment(FINAL), "PATH": f"{image}/bin:{os.environ['PATH']}"}
    command = [*only(FINAL, "ENTRYPOINT").exec_form, *only(FINAL, "CMD").exec_form]
    assert command == ["unbroken", "serve"]
    settings |= {"UNBROKEN_HOST": "127.0.0.1", "UNBROKEN_PORT": "0", "UNBROKEN_DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen([f"{image}/bin/{command[0]}", command[1]], stdout=subprocess.PIPE, env=settings) as process:
        try:
            assert process.stdout is not None
            assert b"listening on" in process.stdout.readline()
        finally:
            process.terminate()
    assert process.returncode == 0


def test_compose_names_what_there_is() -> None:
    """Docker's own parser is not at hand; what it would look for is."""
    text = (DEPLOY / "compose.yaml").read_text()
    settings = dict(re.findall(r"^      UNBROKEN_(\w+): (\S+)$", text, re.MULTILINE))
    upstream = settings.pop("ORIGIN")
    assert upstream == f"unbroken:{only(FINAL, 'EXPOSE').text}"
    assert "{$UNBROKEN_ORIGIN:" in (DEPLOY / "Caddyfile").read_text()
    loaded = load_settings(environ={f"UNBROKEN_{name}": value for name, value in settings.items()})
    assert loaded.public_url == "https://streams.example.com"
    assert f"streams:{only(FINAL, 'VOLUME').text}\n" in text
    assert (DEPLOY / "../deploy/Dockerfile").exists()
    assert not re.search("SECRET|PASSWORD|TOKEN", text)
