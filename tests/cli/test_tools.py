"""The tools around a database, as their users call them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from tests.server.process import server_process
from tests.store.conftest import tmp_path  # noqa: F401 (a fixture)
from unbroken.cli.main import main
from unbroken.cli.terminal import Progress, format_moment, format_size
from unbroken.engine.engine import Engine
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.testing import connect


class Done(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Done]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,  # noqa: F811
) -> Iterator[Run]:
    """Runs ``unbroken`` in a folder where there is a database in ``data``."""
    asyncio.run(fill(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["unbroken", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        assert err.count("\n") <= 1 or "Usage" in err
        return Done(code, out, err)

    yield run
    for name in ("data", "new"):
        if (tmp_path / name / DATABASE_NAME).exists() and not (tmp_path / name / "damaged").exists():
            assert check(tmp_path / name) == []


async def fill(directory: Path) -> None:
    async with Engine(SqliteStore(directory)) as engine:
        await engine.create("/chats/1", content_type="text/plain", data=b"hello\n", ttl_s=3600)
        await asyncio.sleep(0.002)
        await engine.append("/chats/1", "wörld\x00".encode(), producer=ProducerStamp("me", 3, 0), stream_seq="7")
        await engine.create("/m", content_type="application/json", data=b'[1,{"a":2}]')
        await asyncio.sleep(0.002)
        await engine.fork("/m2", "/m", data=b"3")
        await engine.close("/m2")


def damage(directory: Path, statement: str) -> None:
    db = apsw.Connection(str(directory / DATABASE_NAME))
    db.execute(statement)
    db.close()
    (directory / "damaged").touch()


# --- fsck ------------------------------------------------------------------------------------------------------------


def test_fsck(run: Run) -> None:
    assert run("fsck", "data") == (0, "sound: 3 streams, 3 chunks, 25 B\n", "")
    assert run("fsck", f"data/{DATABASE_NAME}").code == 0
    report = json.loads(run("fsck", "data", "--json").out)
    assert report == {"sound": True, "faults": [], "streams": 3, "chunks": 3, "chunk_bytes": 25, "journal_rows": 1}
    damage(Path("data"), "UPDATE streams SET tail = tail + 1 WHERE path = '/m'; UPDATE chunks SET checksum = 0")
    done = run("fsck", "data")
    assert done.code == 1
    assert "stream 1: the chunk at 0 does not match its checksum" in done.lines
    assert len(done.lines) == 4
    assert done.err.startswith("unbroken: 4 faults (3 streams, 3 chunks, 25 B checked): keep a copy, and restore")
    done = run("fsck", "data", "--json")
    assert (done.code, json.loads(done.out)["sound"], done.err) == (1, False, "")


def test_fsck_where_there_is_nothing_to_check(run: Run) -> None:
    for target in ("nowhere", "."):
        done = run("fsck", target)
        assert (done.code, done.out) == (2, "")
        assert "there is no" in done.err


# --- dump ------------------------------------------------------------------------------------------------------------


def test_dump_lists_streams(run: Run) -> None:
    header, *rows = (line.split() for line in run("dump", "data").lines)
    assert header == ["NUMBER", "SIZE", "CREATED", "STATE", "LIFETIME", "FORKS", "TYPE", "PATH"]
    assert [(row[0], row[1], row[4], row[-1]) for row in rows] == [
        ("1", "13", "open", "/chats/1"),
        ("2", "10", "open", "/m"),
        ("3", "12", "closed", "/m2"),
    ]
    assert [line.split()[-1] for line in run("dump", "data", "--prefix", "/m").lines] == ["PATH", "/m", "/m2"]
    assert len(run("dump", "data", "--limit", "1").lines) == 2
    first, second, third = (json.loads(line) for line in run("dump", "data", "--json").lines)
    assert (first["path"], first["size"], first["ttl_s"], first["content_type"]) == ("/chats/1", 13, 3600, "text/plain")
    assert (second["forks"], third["closed"]) == (1, True)


def test_dump_shows_a_stream(run: Run) -> None:
    done = run("dump", "data", "/chats/1")
    for fact in (
        "3600 s after",
        "Stream-Seq    7",
        "producer      'me': epoch 3, last sequence 0",
        "size          13 ",
    ):
        assert fact in done.out
    *_, first, second = done.lines
    assert first.split()[:2] == ["0", "6"]
    assert first.endswith("hello\\n")
    assert second.split()[:2] == ["6", "7"]
    assert second.endswith("wörld\\x00")
    done = run("dump", "data", "/m2")
    assert "lineage       0 to 10: number 2, inherited" in done.out
    assert done.lines[-2].endswith('1␞{"a":2}␞')
    details, *records = (json.loads(line) for line in run("dump", "data", "/m2", "--json").lines)
    assert details["forked_from"] == "/m"
    assert details["next_offset"] == "0000000000000003_0000000000000012"
    assert [(record["position"], record["size"]) for record in records] == [(0, 10), (10, 2)]
    assert run("dump", "data", "/nothing") == (1, "", "unbroken: there is no stream at /nothing\n")


def test_dump_of_what_is_damaged(run: Run) -> None:
    damage(Path("data"), "DELETE FROM chunks WHERE stream = 1")
    done = run("dump", "data", "/chats/1")
    assert done.code == 1
    assert "bytes 0 to 13 are missing; see unbroken fsck" in done.err
    assert len(run("dump", "data").lines) == 4


def test_a_pipe_that_ends_early(run: Run) -> None:
    async def more() -> None:
        async with Engine(SqliteStore("data")) as engine:
            await asyncio.gather(*(engine.create(f"/many/{index}") for index in range(3_000)))

    asyncio.run(more())
    command = f"{sys.executable} -m unbroken dump data | head -n 2"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (0, 2, b"")


# --- backup and restore ----------------------------------------------------------------------------------------------


def test_backup_and_restore(run: Run) -> None:
    done = run("backup", "data", "saved.db")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("saved.db: 3 streams, ")
    assert run("backup", "data", "saved.db").err == "unbroken: saved.db is there already: name a new file\n"
    assert run("backup", "data", "saved.db", "--overwrite").code == 0
    done = run("restore", "saved.db", "new")
    assert done == (0, "new: 3 streams, sound; unbroken serve --data-dir new serves them\n", "")
    done = run("restore", "saved.db", "new")
    assert (done.code, done.out) == (1, "")
    assert "restore into a new directory" in done.err
    assert "number 1, its own, before a restore" in run("dump", "new", "/chats/1").out
    for arguments in (["backup", "data", "no/where.db"], ["backup", "nowhere", "x"], ["restore", "nothing.db", "x"]):
        done = run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.count("\n") == 1


# --- export and import -----------------------------------------------------------------------------------------------


def test_export_and_import(run: Run) -> None:
    done = run("export", "data", "-o", "streams")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("streams: 3 streams, ")
    assert run("export", "data", "-o", "streams").err == "unbroken: streams is there already: name a new file\n"
    assert run("import", "streams", "new") == (0, "new: 3 streams imported, 35 B\n", "")
    done = run("import", "streams", "new")
    assert (done.code, done.out) == (1, "")
    assert "/chats/1 is there already; 0 streams were imported before it. --skip-existing" in done.err
    done = run("import", "streams", "new", "--skip-existing")
    assert done == (0, "new: 0 streams imported, 0 B, 3 were there already\n", "")
    assert run("export", "data", "--prefix", "/chats/", "-o", "chats").code == 0
    assert run("import", "chats", "new", "--prefix-to", "/old/").code == 0
    assert [line.split()[-1] for line in run("dump", "new").lines[1:]] == ["/chats/1", "/m", "/m2", "/old/1"]
    assert run("export", "data", "/m").out.count('{"stream":"/m"') == 1
    assert sorted(path.name for path in Path().iterdir()) == ["chats", "data", "new", "streams"]


def test_exports_that_cannot_be(run: Run) -> None:
    for arguments, code, message in [
        (["export", "data", "/nothing", "-o", "file"], 1, "there is no stream at /nothing"),
        (["export", "data", "/m", "--prefix", "/m"], 2, "either a PATH or --prefix"),
        (["export", "data", "-o", "no/where"], 1, "No such file"),
        (["export", "nowhere", "-o", "file"], 1, "there is no database"),
        (["import", "nothing", "new"], 1, "nothing: No such file"),
        (["import", f"data/{DATABASE_NAME}", "new"], 1, "not an export"),
    ]:
        done = run(*arguments)
        assert (done.code, done.out) == (code, "")
        assert message in done.err
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_from_one_to_the_other(run: Run) -> None:
    command = f"{sys.executable} -m unbroken export data --prefix /m | {sys.executable} -m unbroken import - new"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"new: 2 streams imported, 22 B\n", b"")
    assert len(run("dump", "new").lines) == 3


# --- while a server runs ---------------------------------------------------------------------------------------------


async def command(directory: Path, *arguments: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "unbroken", *arguments),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def test_while_a_server_runs(tmp_path: Path) -> None:  # noqa: F811
    async with server_process(tmp_path) as server, connect(*server.address) as connection:
        fields = {"content-type": "text/plain"}
        await connection.request("PUT", "/a", fields, b"live")
        dumped, saved, exported, checked, imported = await asyncio.gather(
            command(tmp_path, "dump", "data", "/a"),
            command(tmp_path, "backup", "data", "saved.db"),
            command(tmp_path, "export", "data", "-o", "streams"),
            command(tmp_path, "fsck", "data"),
            command(tmp_path, "import", "missing", "data"),
        )
        assert dumped.out.endswith("live\n")
        assert (saved.code, exported.code) == (0, 0)
        assert checked.code == 2
        assert "in use by process" in checked.err
        assert imported.code == 1
        refused = await asyncio.gather(
            command(tmp_path, "import", "streams", "data"), command(tmp_path, "restore", "saved.db", "data")
        )
        assert all(done.code == 1 and "in use by process" in done.err for done in refused)
        response = await connection.request("POST", "/a", fields, b"r")
        assert response.status == 204
    assert (await command(tmp_path, "fsck", "saved.db")).code == 0


# --- how it looks ----------------------------------------------------------------------------------------------------


def test_every_command_says_its_exit_codes(run: Run) -> None:
    for name in ("fsck", "dump", "backup", "restore", "export", "import"):
        assert "Exit codes: 0" in " ".join(run(name, "--help").out.split())


def test_sizes_and_times() -> None:
    sizes = [0, 1023, 1024, 1024**2 - 1, 3 * 1024**2, 5 * 1024**4, 2**60]
    shown = ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 MiB", "5.0 TiB", "1048576.0 TiB"]
    assert [format_size(size) for size in sizes] == shown
    assert format_moment(0) == "1970-01-01T00:00:00.000Z"
    assert format_moment(10**17) == "100000000000000000 ms"


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress() as progress:
        progress("copying", 0.5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        for done in (0.0, 0.5, 0.501, 1.0):
            progress("copying", done)
    assert capsys.readouterr().err == "".join(
        f"\r\x1b[K{text}" for text in ("copying ...", "copying 50%", "copying 100%", "")
    )
