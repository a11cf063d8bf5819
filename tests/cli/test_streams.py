"""The commands that speak to a server, as their users call them: in pipes, on terminals, and with everything wrong."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from unbroken.cli.main import main
from unbroken.client import AsyncStream
from unbroken.errors import ProtocolViolation
from unbroken.testing import Address, ServerProcess, threaded_server


class Done(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def server() -> Iterator[Address]:
    with threaded_server() as address:
        yield address


@contextmanager
def started(url: str, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own; its standard streams are pipes unless said otherwise."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UNBROKEN_")},
        "UNBROKEN_URL": url,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TERM": "xterm-256color",
        "COLUMNS": "200",
    }
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "unbroken", *arguments]
    with subprocess.Popen(command, env=environment, **{**pipes, **streams}) as process:
        try:
            yield process
        finally:
            process.kill()


class Cli:
    """Runs commands to their end: in this process, or, if they read standard input, in one of their own."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def run(self, *arguments: str, stdin: bytes | None = None, url: str = "") -> Done:
        if stdin is not None:
            with started(url or self.url, *arguments) as process:
                out, err = process.communicate(stdin, timeout=60)
            return Done(process.returncode, out.decode(), err.decode())
        self._monkeypatch.setenv("UNBROKEN_URL", url or self.url)
        self._monkeypatch.setattr(sys, "argv", ["unbroken", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        return Done(int(ended.value.code or 0), *self._capfd.readouterr())

    def ok(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert (done.code, done.err) == (0, ""), done
        return done.out


@pytest.fixture
def cli(server: Address, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return Cli(server.url, monkeypatch, capfd)


def read_until(descriptor: int, wanted: str) -> str:
    """What comes out of a terminal or a pipe, up to what is waited for."""
    text = b""
    while wanted.encode() not in text:
        part = os.read(descriptor, 65536)
        assert part, text
        text += part
    return text.decode()


def test_a_stream_from_its_beginning_to_its_end(cli: Cli) -> None:
    first = cli.ok("create", "/log", "--text", "--data", "one\n").strip()
    assert re.fullmatch(r"\d{16}_\d{16}", first)
    assert cli.ok("append", "/log", "--data", "two\n") == ""
    assert cli.ok("append", "/log", stdin=b"three\nfour") == ""
    assert cli.ok("read", "/log") == "one\ntwo\nthree\nfour"
    assert cli.ok("read", f"{cli.url}/log", "--offset", first) == "two\nthree\nfour"
    assert cli.ok("read", "/log", "-n", "2") == "three\nfour"
    assert cli.ok("read", "/log", "-n", "9") == "one\ntwo\nthree\nfour"
    assert cli.ok("read", "/log", "-n", "0") == ""
    assert cli.ok("append", "/log", "--data", "!\n", "--close") == ""
    assert cli.ok("follow", "/log", "-n", "1") == "four!\n"
    assert "state         closed" in cli.ok("head", "/log")
    assert cli.ok("delete", "/log") == ""
    assert cli.run("head", "/log").code == 1


def test_messages_come_one_a_line(cli: Cli) -> None:
    cli.ok("create", "/events", "--json", "--data", '[{"n": 1},\n{"n":\n 2}]')
    cli.ok("append", "/events", stdin=b'[[3, "x\\u2028y"], 12345678901234567890123]')
    assert cli.ok("read", "/events").splitlines() == [
        '{"n": 1}',
        '{"n":2}',
        '[3, "x\\u2028y"]',
        "12345678901234567890123",
    ]
    assert cli.ok("read", "/events", "--raw").startswith('{"n": 1}\n{"n":\n 2}\n')
    assert cli.ok("read", "/events", "-n", "1") == "12345678901234567890123\n"
    lines = [json.loads(line) for line in cli.ok("read", "/events", "--json").splitlines()]
    assert [line["value"] for line in lines][:2] == [{"n": 1}, {"n": 2}]
    # Each position is where to go on after its message, also in the midst of what came together.
    for number, line in enumerate(lines):
        rest = cli.ok("read", "/events", "--json", "--offset", line["position"]).splitlines()
        assert [json.loads(each)["position"] for each in rest] == [each["position"] for each in lines[number + 1 :]]


def test_lines_become_messages(cli: Cli) -> None:
    cli.ok("append", "/log", "--lines", "--create", "application/json", stdin=b'1\n\n[2,3]\r\n{"a":"\xc3\xbc"}')
    assert cli.ok("read", "/log") == '1\n[2,3]\n{"a":"ü"}\n'
    done = cli.run("append", "/log", "--lines", stdin=b"4\n5\n1,2\n6\n")
    assert done.code == 1
    assert "line 3: invalid JSON" in done.err
    assert cli.ok("read", "/log", "-n", "2") == "4\n5\n"
    assert cli.run("append", "/log", stdin=b"{").code == 1


def test_binary_streams(cli: Cli, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 3
    (tmp_path / "file").write_bytes(data)
    cli.ok("create", "/blob")
    cli.ok("append", "/blob", str(tmp_path / "file"))
    with started(cli.url, "read", "/blob") as process:
        assert process.communicate(timeout=60) == (data, b"")
    pieces = [json.loads(line) for line in cli.ok("read", "/blob", "--json").splitlines()]
    assert {*pieces[0]} == {"position", "base64"}


def test_fork_and_list(cli: Cli) -> None:
    cli.ok("create", "/a/1", "--json", "--data", "[1,2,3]")
    cli.ok("fork", "/a/1", "/a/2", "--offset", "-1", "--skip", "2")
    cli.ok("create", "/b", "--ttl", "60")
    cli.ok("close", "/a/2")
    assert cli.ok("read", "/a/2") == "1\n2\n"
    assert cli.ok("ls") == "/a/1\n/a/2\n/b\n"
    assert cli.ok("ls", "/a/", "--limit", "1") == "/a/1\n"
    (line,) = cli.ok("ls", "/a/2", "--long").splitlines()
    assert re.search(r"Z  closed  \d{16}_\d{16}  application/json +/a/2$", line)
    listed = [json.loads(line) for line in cli.ok("ls", "--json").splitlines()]
    assert listed[2]["ttlSeconds"] == 60
    head = json.loads(cli.ok("head", "/b", "--json"))
    assert (head["content_type"], head["ttl_s"], head["closed"]) == ("application/octet-stream", 60, False)


def test_errors_are_one_line_that_says_what_to_do(cli: Cli) -> None:
    cli.ok("create", "/there", "--text")
    cli.ok("create", "/there", "--text", "--exist-ok")
    cli.ok("create", "/closed", "--closed")
    for arguments, code, said in [
        (["read", "/nothing"], 1, "`unbroken create` makes one"),
        (["append", "/nothing", "--data", "x"], 1, "no stream"),
        (["create", "/there", "--text"], 1, "--exist-ok"),
        (["append", "/closed", "--data", "x"], 1, "unbroken fork"),
        (["read", "there"], 2, "neither a path such as"),
        (["read", "/there", "--offset", "nonsense"], 1, "offset"),
        (["read", "/there", "--offset", "1,x"], 2, "position"),
        (["read", "/there", "-n", "1", "--offset", "now"], 2, "give one of"),
        (["read", "/there", "--since", "yesterday"], 2, "neither a time such as"),
        (["append", "/there", "/no/such/file"], 1, "No such file"),
        (["ls", "--url", "nonsense"], 2, "not the URL of a server"),
        (["head", "/there", "-H", "nonsense"], 2, "not a header"),
    ]:
        done = cli.run(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), (arguments, done)
        assert said in done.err
        assert done.err.startswith("unbroken: ")
    done = cli.run("head", "/a", url="http://127.0.0.1:9")
    assert done.code == 3
    assert "is the server running there?" in done.err


def test_follow_goes_on_where_it_was(cli: Cli, tmp_path: Path) -> None:
    cli.ok("create", "/events", "--json", "--data", "[1,2]")
    kept = str(tmp_path / "position")
    for expected in (["1", "2"], ["3", "4"]):
        with started(cli.url, "follow", "/events", "--resume", kept) as process:
            assert process.stdout is not None
            assert [process.stdout.readline().decode().strip() for _ in expected] == expected
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (130, b"", b"")
        cli.ok("append", "/events", "--data", "[3,4]")
    cli.ok("close", "/events")
    assert cli.ok("follow", "/events", "--resume", kept) == "3\n4\n"


def test_a_pipe_is_followed_line_by_line_through_a_crash_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """tail -F app.log | unbroken append, and unbroken follow beside it; neither ends when the server does."""
    with ServerProcess(tmp_path / "data") as server, ExitStack() as processes:
        writer = processes.enter_context(
            started(server.url, "append", "/log", "--lines", "--create", "text/plain", stderr=None)
        )
        cli = Cli(server.url, monkeypatch, capfd)
        assert writer.stdin is not None
        writer.stdin.write(b"1\n2")
        writer.stdin.flush()
        while cli.run("head", "/log").code:
            pass
        reader = processes.enter_context(started(server.url, "follow", "/log"))
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"1\n"
        server.kill()
        writer.stdin.write(b"\n3\n")
        writer.stdin.flush()
        server.start()
        assert [reader.stdout.readline() for _ in range(2)] == [b"2\n", b"3\n"]
        writer.stdin.close()
        assert writer.wait(30) == 0
        assert cli.run("close", "/log").code == 0
        assert reader.communicate(timeout=30) == (b"", b"")
        assert reader.returncode == 0


def test_a_reader_that_has_seen_enough_ends_the_command(cli: Cli) -> None:
    """unbroken follow /log | head -1: also while nothing more comes."""
    cli.ok("create", "/log", "--text", "--data", "one\n")
    with started(cli.url, "follow", "/log") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        assert process.stderr is not None
        assert (process.wait(30), process.stderr.read()) == (0, b"")


def test_interrupted_while_nothing_comes_in(cli: Cli) -> None:
    cli.ok("create", "/log", "--text")
    with started(cli.url, "append", "/log", "--lines") as process:
        assert process.stdin is not None
        process.stdin.write(b"last words\n")
        process.stdin.flush()
        while not cli.ok("read", "/log"):
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def take_terminal() -> None:
    """Ctrl-C is for whom the terminal belongs to."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(url: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal of its own, and what is typed into and read from."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    try:
        with started(url, *arguments, start_new_session=True, preexec_fn=take_terminal, **streams) as process:
            yield process, ours
    finally:
        os.close(theirs)
        os.close(ours)


def test_on_a_terminal(cli: Cli) -> None:
    cli.ok("create", "/events", "--json", "--data", '[{"name":"x","n":1}]')
    cli.ok("create", "/blob", "--data", "\x1b[31m")
    with on_terminal(cli.url, "read", "/events") as (process, screen):
        shown = read_until(screen, "\n")
        assert "\x1b[" in shown
        assert re.sub(r"\x1b\[[0-9;]*m", "", shown).strip() == '{"name":"x","n":1}'
        assert process.wait(30) == 0
    with on_terminal(cli.url, "read", "/blob") as (process, screen):
        assert "not for a terminal" in read_until(screen, "--raw")
        assert process.wait(30) == 2
    with on_terminal(cli.url, "append", "/blob") as (process, screen):
        assert "Ctrl-D ends it" in read_until(screen, "\n")
        os.write(screen, b"typed\n\x04")
        assert process.wait(30) == 0
    assert cli.ok("read", "/blob").endswith("typed\n")
    with on_terminal(cli.url, "follow", "/events") as (process, screen):
        read_until(screen, "\n")
        os.write(screen, b"\x03")
        assert process.wait(30) == 130


def test_bench_measures_and_leaves_nothing(cli: Cli) -> None:
    out = cli.ok(
        *("bench", cli.url, "--seconds", "0.2", "-c", "4", "--streams", "3", "--followers", "5", "--json"),
    )
    figures = [json.loads(line) for line in out.splitlines()]
    assert [figure["unit"] for figure in figures] == ["/s", "/s", "MiB/s", "/s"]
    assert all(figure["operations"] > 0 and figure["per_second"] > 0 for figure in figures)
    assert cli.ok("ls") == ""
    table = cli.ok("bench", "--seconds", "0.1", "-c", "2", "--streams", "2", "--followers", "2")
    assert "deliveries to 2 live readers" in table
    assert cli.run("bench", "--seconds", "0.1", url="http://127.0.0.1:9").code == 3


def test_the_last_of_many(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the end, or, where a server cannot do that, to the end; with the same result."""
    lines = [f"line {number} {'x' * (number % 97)}" for number in range(5000)]
    cli.ok("append", "/text", "--lines", "--create", "text/plain", stdin="\n".join(lines).encode())
    cli.ok(
        "append", "/json", "--lines", "--create", "application/json", stdin="\n".join(map(str, range(70_000))).encode()
    )

    def check() -> None:
        for count in (1, 2, 100, 4999, 6000):
            assert cli.ok("read", "/text", "-n", str(count)) == "\n".join(lines[-count:])
        for count in (1, 20_000, 80_000):
            assert cli.ok("read", "/json", "-n", str(count)).split() == [str(n) for n in range(70_000)][-count:]

    check()
    asked = []

    def backwards(stream: AsyncStream) -> None:
        asked.append(stream)
        raise ProtocolViolation

    monkeypatch.setattr(AsyncStream, "backwards", backwards)
    check()
    assert asked
