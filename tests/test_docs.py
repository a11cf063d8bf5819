"""The docs say what is: references are complete, and every snippet of the README runs."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tools.cli_reference import PAGE, page
from unbroken import errors
from unbroken.cli.serve import serve
from unbroken.engine.engine import Engine
from unbroken.server.settings import Settings
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.store.sqlite.transfer import export_streams, import_streams
from unbroken.testing import ServerProcess, connect, fixtures, serve_asgi
from unbroken.tokens import Verifier, grant, parse_keys

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    listed = set(re.findall(r"\| (\d+) \| `([a-z-]+)` \|", text))
    every = [
        error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, errors.UnbrokenError)
    ]
    assert {(str(error.status), error.code) for error in every if not error.__subclasses__()} <= listed
    assert listed <= {(str(error.status), error.code) for error in every}


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for setting in dataclasses.fields(Settings):
        flag, variable = f"--{setting.name.replace('_', '-')}", f"UNBROKEN_{setting.name.upper()}"
        row = next((line for line in text.splitlines() if line.startswith(f"| `{flag}`")), "")
        assert f"`{variable}`" in row, flag
        assert f"`{setting.name}`" in row, flag
        if isinstance(setting.default, str):
            assert f"`{setting.default}`" in row, flag


def test_every_setting_has_a_flag() -> None:
    given = set(inspect.signature(serve).parameters) - {"config"}
    assert given == {setting.name for setting in dataclasses.fields(Settings)}


def run_curl(script: str, url: str) -> str:
    script = script.replace("http://127.0.0.1:9999", url).replace("curl -N", "curl --max-time 2 -sN")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_five_minutes_of_the_readme(tmp_path: Path) -> None:
    first, follow, messages, producer, rest = (text for text in snippets("sh") if "curl" in text)
    with ServerProcess(tmp_path / "data") as server:
        url = server.url
        created = run_curl(first, url)
        assert "201 Created" in created
        assert created.count("204 No Content") == 2
        assert created.endswith("hello world")
        followed = run_curl(follow, url)
        assert "event: data\ndata:hello world\nid:" in followed
        assert '"upToDate":true' in followed
        assert run_curl(messages, url) == '[{"n":1},{"n":2}]'
        assert "200 OK" in run_curl(producer, url)
        assert "204 No Content" in run_curl(producer, url)
        last = run_curl(rest, url)
        assert "201 Created" in last
        assert last.count("204 No Content") == 2
        assert "stream-closed: true" in last


def within(code: str, *names: str) -> str:
    """A snippet that awaits, as the body of a coroutine function."""
    return f"async def snippet({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in code.splitlines())


def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    (script,) = (text for text in snippets("sh") if text.startswith("printf"))
    with ServerProcess(tmp_path / "data") as server:
        assert run_commands(script, tmp_path, UNBROKEN_URL=server.url) == '{"n":2}\n'


def test_the_client_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, *_ = snippets("python")
    with ServerProcess(tmp_path / "data") as server:
        names: dict[str, Any] = {}
        exec(within(client.replace("http://127.0.0.1:9999", server.url) + "            break\n"), names)
        asyncio.run(names["snippet"]())
    assert capsys.readouterr().out == "{'text': 'hello'} 0000000000000001_0000000000000017\n"


async def generate(prompt: str) -> AsyncIterator[str]:
    yield f"You said: {prompt}"


async def test_the_answers_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answers, *_ = snippets("python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"generate": generate}
    exec(answers, names)
    async with serve_asgi(names["app"]) as address, httpx2.AsyncClient(base_url=address.url) as http:
        for _ in range(2):
            told = (await http.post("/answers/1", params={"prompt": "hello"})).text
            assert '"You said: hello"' in told


def test_the_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, mounting, in_process = snippets("python")
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(mounting, names)
    code = in_process.replace("print(page.body, page.next_offset)", "return page.body")
    exec(within(code, "streams"), names)
    assert asyncio.run(run_in_lifespan(names)) == b"Once upon a time"


async def run_in_lifespan(names: dict[str, Any]) -> Any:
    streams = names["streams"]
    async with streams.lifespan():
        return await names["snippet"](streams)


OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_the_commands_of_operations(tmp_path: Path) -> None:
    """In order, on a database with what they name."""
    asyncio.run(filled(tmp_path / "unbroken-data"))
    scripts = [
        text for text in snippets("sh", OPERATIONS) if not any(word in text for word in ("litestream", "curl", "stats"))
    ]
    assert len(scripts) == 3
    printed = run_commands("".join(scripts), tmp_path)
    for said in ("monday.db: 2 streams, ", "sound: 2 streams", "restored-data: 2 streams, sound", "1 streams imported"):
        assert said in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("archive-data", "chats.export", "everything.export", "monday.db", "restored-data", "unbroken-data")
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_requests_of_operations(tmp_path: Path) -> None:
    scripts = [text for text in snippets("sh", OPERATIONS) if "curl" in text]
    with ServerProcess(tmp_path / "data") as server:
        said = [run_curl(script, server.url) for script in scripts]
        (script,) = (text for text in snippets("sh", OPERATIONS) if "unbroken stats" in text)
        assert "live reads" in run_commands(script.replace("http://127.0.0.1:9999", server.url), tmp_path)
    assert "unbroken_writable 1" in said[0]
    assert "x-request-id: order-4711" in said[1]


async def filled(directory: Path) -> None:
    async with Engine(SqliteStore(directory)) as engine:
        await engine.create("/chats/1", content_type="text/plain", data=b"hello")
        await engine.create("/events", content_type="application/json", data=b"[1,2]")


SECURITY = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_security(tmp_path: Path) -> None:
    """A token is made, used and revoked."""
    use, life = snippets("sh", SECURITY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = f'unbroken() {{ "{sys.executable}" -m unbroken "$@"; }}\nset -eo pipefail\n'
    making, listing, revoking = life.splitlines()

    def shell(script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", program + script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    token = shell(making).strip()
    admin = shell("unbroken token create admin --admin '/**'").strip()
    with ServerProcess(tmp_path / "unbroken-data") as server:
        url = server.url + "/chats/7"
        assert run_curl(f"curl -s -X PUT -d hello -H 'Authorization: Bearer {admin}' {url}", server.url) == ""
        assert run_curl(use.replace("$TOKEN", admin), server.url) == "hello"
        assert '"code": "insufficient-scope"' in run_curl(use.replace("$TOKEN", token), server.url)
        assert '"code": "unauthorized"' in run_curl(f"curl -s {url}", server.url)
    token_id = token[4:14]
    assert "nightly import" in shell(listing)
    shell(revoking.replace("4f1d0c2a9b", token_id))
    assert "nightly import" not in shell(listing)


def test_the_python_of_security(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is minted is one; the application lets its users to their own streams, and gives them links."""
    minting, application = snippets("python", SECURITY)
    names: dict[str, Any] = {}
    exec(minting, names)
    key = names["key"]
    assert Verifier().check(names["token"], parse_keys(key), time.time()).scopes == grant(read="/chats/7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMS_KEY", key)
    exec(application, names)
    asyncio.run(use_as_a_user(names))


async def use_as_a_user(names: dict[str, Any]) -> None:
    alice = {"cookie": "session=c0ffee"}
    async with serve_asgi(names["app"]) as address, connect(*address) as client:
        await names["streams"].engine.create("/chats/7", content_type="text/plain", data=b"hello")
        assert (await client.request("PUT", "/streams/users/alice/1", alice, b"x")).status == 201
        assert (await client.request("PUT", "/streams/users/bob/1", alice, b"x")).status == 403
        assert (await client.request("PUT", "/streams/users/alice/2", None, b"x")).status == 401
        assert (await client.request("POST", "/chats/7/link", None, b"")).status == 401
        link = (await client.request("POST", "/chats/7/link", alice, b"")).json()
        assert (await client.request("GET", link)).body == b"hello"
        assert (await client.request("GET", link.replace("/7", "/8"))).status == 403
        names["streams"].engine.drain()


def test_the_export_format(tmp_path: Path) -> None:
    """The example is one, and the reader reads it, and what is exported."""
    text = (ROOT / "docs" / "export-format.md").read_text()
    (example,), (reader,) = snippets("", text), snippets("python", text)
    names: dict[str, Any] = {}
    exec(reader, names)
    ((head, data),) = names["streams"](io.BytesIO(example.encode()))
    assert (head["stream"], data) == ("/chats/7", b"hello world")
    asyncio.run(import_streams(io.BytesIO(example.encode()), tmp_path / "data", prefix_to="/"))
    asyncio.run(filled(tmp_path / "data"))
    file = io.BytesIO()
    with Snapshot(tmp_path / "data") as snapshot:
        export_streams(snapshot, file, now_ms=0)
    file.seek(0)
    assert {head["stream"]: data for head, data in names["streams"](file)} == {
        "/7": b"hello world",
        "/chats/1": b"hello",
        "/events": b"1\x1e2\x1e",
    }


def test_the_tests_of_the_testing_page(tmp_path: Path) -> None:
    """Each snippet is a file, named in its first line; together they are somebody's tests."""
    files = snippets("python", (ROOT / "docs" / "testing.md").read_text())
    for text in files:
        name = re.match(r"# (\w+\.py)\n", text)
        assert name is not None, text
        (tmp_path / name[1]).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"{len(files) - 1} passed" in done.stdout, done.stdout + done.stderr


def test_every_fixture_is_documented() -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    for name in fixtures.__all__:
        assert f"`{name}`" in text, name


CLI = PAGE.read_text()


def test_the_reference_of_the_command_line_is_what_the_commands_say() -> None:
    assert page() == CLI, "run `python tools/cli_reference.py`"


def test_the_commands_of_the_command_line_page(tmp_path: Path) -> None:
    """In order, against one server, and each says what it should."""
    greetings, events, bench = snippets("sh", CLI)
    with ServerProcess(tmp_path / "data") as server:
        said = [run_commands(script, tmp_path, UNBROKEN_URL=server.url) for script in (greetings, events, bench)]
    assert "hello\ncontent type  text/plain" in said[0]
    first, *described, last = said[1].splitlines()
    assert first == '{"n":2}'
    assert [json.loads(line)["value"] for line in described[:2]] == [{"n": 1}, {"n": 2}]
    assert (described[2:], last) == (['{"n":1}', '{"n":2}'], '{"n":3}')
    assert "deliveries to 5 live readers" in said[2]


def run_commands(script: str, directory: Path, **environment: str) -> str:
    """What a script of ``unbroken`` commands prints, none of which fails."""
    program = f'unbroken() {{ "{sys.executable}" -m unbroken "$@"; }}\nset -eo pipefail\n'
    done = subprocess.run(
        ["bash", "-c", program + script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
