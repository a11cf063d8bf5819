"""``unbroken token``, and what ``unbroken serve`` says to those who would stand open on a network."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.process import server_process
from tests.server.site import TEXT
from tests.server.tokens import bearer, key_file
from unbroken.cli.main import main
from unbroken.testing import connect

Done = tuple[int, str, str]
Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["unbroken", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


async def test_the_life_of_a_token(run: Run, tmp_path: Path) -> None:
    """Made, used on a server that asks for it since, listed, revoked under a running server."""
    code, out, err = run("token", "create", "a test", "--admin", "/a/**", "--read", "/b", "--data-dir", "data")
    token = out.strip()
    assert code == 0
    assert re.fullmatch(r"unb_[0-9a-f]{10}_[A-Za-z0-9_-]{43}", token), "nothing else, so that a script can take it"
    token_id = token[4:14]
    assert f"{token_id} (a test) may: read:/b admin:/a/**" in err
    assert "from its next start on" in err
    assert "next start" not in run("token", "create", "x", "--read", "/b", "--data-dir", "data")[2]

    async with server_process(tmp_path) as server:
        async with connect(*server.address) as client:
            assert (await client.request("PUT", "/a/1", {**bearer(token), **TEXT}, b"x")).status == 201
            assert (await client.request("PUT", "/c", {**bearer(token), **TEXT}, b"x")).status == 403
            assert (await client.request("GET", "/a/1")).status == 401
            code, out, err = run("token", "revoke", token_id, "--data-dir", "data")
            assert (code, out, err) == (0, "", f"revoked {token_id}\n")
            async with asyncio.timeout(10):
                while (await client.request("GET", "/a/1", bearer(token))).status != 401:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        _, log = await server.wait()
    assert token not in log

    code, out, _ = run("token", "ls", "--data-dir", "data")
    assert code == 0
    assert token_id not in out
    assert out.splitlines()[0].split() == ["ID", "NAME", "EXPIRES", "SCOPE"]
    assert out.splitlines()[1].split()[1:] == ["x", "never", "read:/b"]
    check_no_file_holds(token[15:], tmp_path)


def check_no_file_holds(secret: str, directory: Path) -> None:
    for path in directory.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_lists_for_programs(run: Run) -> None:
    run("token", "create", "für später", "--append", "/a b/*", "--expires", "90d", "--file", "t.json")
    code, out, err = run("token", "ls", "--json", "--file", "t.json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert (listed["name"], listed["scope"]) == ("für später", "append:/a%20b/*")
    assert listed["expiresAt"] > listed["createdAt"]
    assert set(listed) == {"id", "name", "scope", "createdAt", "expiresAt"}


def test_without_tokens(run: Run, tmp_path: Path) -> None:
    code, out, err = run("token", "ls")
    assert (code, out) == (0, "")
    assert "unbroken token create" in err
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["create", "x"], 2, "say what it may do"),
        (["create", "x", "--read", "/a*"], 2, "* stands for a whole segment"),
        (["create", "x", "--read", "a"], 2, "must begin with /"),
        (["create", "", "--read", "/a"], 2, "1 to 100 printable characters"),
        (["create", "\x1b[2J", "--read", "/a"], 2, "1 to 100 printable characters"),
        (["create", "x", "--read", "/a", "--expires", "soon"], 2, "30m, 12h or 90d"),
        (["create", "x", "--read", "/a", "--expires", "0d"], 2, "30m, 12h or 90d"),
        (["create", "x", "--read", "/a", "--file", "/dev/null/t.json"], 1, "cannot"),
        (["revoke", "0123456789"], 1, "there is no token 0123456789"),
        (["ls", "--file", "."], 1, "cannot read"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, message: str) -> None:
    found, out, err = run("token", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_open_server_on_a_network(run: Run, tmp_path: Path, host: str) -> None:
    code, out, err = run("serve", "--host", host, "--port", "0")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for way in ("unbroken token create", "--jwt-keys", "127.0.0.1", "--insecure"):
        assert way in err
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


async def test_on_a_network_with_tokens_or_knowingly(tmp_path: Path) -> None:
    for flags, status in ((("--jwt-keys", key_file(tmp_path)), 401), (("--insecure",), 404)):
        async with (
            server_process(tmp_path, "--host", "0.0.0.0", *flags) as server,
            connect("127.0.0.1", server.address.port) as client,
        ):
            assert (await client.request("GET", "/a", {"host": "anything.example"})).status == status


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jwt-keys", "none.pem"], "cannot read none.pem"),
        (["--jwt-keys", "short"], "short: a shared secret must have at least 32"),
        (["--jwt-keys", "env:NOWHERE"], "the environment has no NOWHERE"),
        (["--jwt-keys", "http://issuer.example/jwks"], "begin with https://"),
        (["--tokens-file", "damaged.json"], "damaged.json is damaged"),
        (["--tls-cert", "none.pem"], "both --tls-cert and --tls-key"),
        (["--allowed-hosts", "a:80"], "is not a host name"),
    ],
)
def test_what_keeps_a_server_from_starting(run: Run, tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "short").write_text("too-short-but-secret")
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "damaged.json").chmod(0o600)
    code, out, err = run("serve", "--port", "0", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "too-short-but-secret" not in err


async def test_the_greeting_shows_how_to_use_a_token(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "unbroken", "serve", "--port", "0", "--store", "memory"),
        *("--jwt-keys", key_file(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            lines = [await process.stdout.readline() for _ in range(5)]
    finally:
        process.terminate()
        await process.communicate()
    assert all(b'-H "Authorization: Bearer $TOKEN"' in line for line in lines if b"curl" in line)
