"""Start server processes, each on a core of its own, watch what they use, and end them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "LOAD_CPU",
    "SERVER_CPU",
    "Fsyncs",
    "Memory",
    "Process",
    "Usage",
    "counting_fsyncs",
    "kill",
    "memory",
    "run_pinned",
    "running",
    "usage",
]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 120.0
_STOP_S = 60.0
_LISTENING = re.compile(rb"listening on http://127\.0\.0\.1:(\d+)")

_cpus = sorted(os.sched_getaffinity(0))
SERVER_CPU = _cpus[0]
LOAD_CPU = _cpus[-1]


class Usage(NamedTuple):
    """What a process has used so far.

    Args:
        cpu_s: user and system time of all its threads.
        written_bytes: what it had the file system write.
        core_busy_s: time that the server's core was busy, with whatever.
    """

    cpu_s: float
    written_bytes: int
    core_busy_s: float

    def since(self, before: Usage) -> Usage:
        """The difference."""
        return Usage(
            self.cpu_s - before.cpu_s,
            self.written_bytes - before.written_bytes,
            self.core_busy_s - before.core_busy_s,
        )


def usage(pid: int, cpu: int) -> Usage:
    """What a process, and everything on its core, has used so far."""
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
    core = next(line.split() for line in Path("/proc/stat").read_text().splitlines() if f"cpu{cpu} " in line)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, core[1:9])
    busy = user + nice + system + irq + softirq + steal
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(io["write_bytes"]), busy / _TICKS_PER_S)


class Process(NamedTuple):
    """A server that listens on a port of the loopback interface.

    Args:
        pid: of the process.
        port: where it listens.
        began_s: when it was executed, on the clock of `time.perf_counter`.
        start_s: how long it took from then until it said that it listens.
    """

    pid: int
    port: int
    began_s: float
    start_s: float


class Memory(NamedTuple):
    """What a process has in memory: all of it, and what is not backed by a file."""

    resident_bytes: int
    anonymous_bytes: int


def memory(pid: int) -> Memory:
    """What a process has in memory now."""
    lines = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, anonymous = (1024 * int(lines[name].removesuffix("kB")) for name in ("VmRSS", "RssAnon"))
    return Memory(resident, anonymous)


@contextlib.contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """Children started inside run on this core."""
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, _cpus)


@contextlib.contextmanager
def running(command: Sequence[str], directory: Path) -> Iterator[Process]:
    """Run a server on the server's core, until the block is left.

    Args:
        command: a program that writes "listening on http://127.0.0.1:<port>" to standard output.
        directory: where it runs.

    Raises:
        RuntimeError: it did not start.
    """
    began_s = time.perf_counter()
    with (
        tempfile.TemporaryFile() as errors,
        _pinned(SERVER_CPU),
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        os.sched_setaffinity(0, _cpus)
        try:
            port = _port(child)
            if port is None:
                errors.seek(0)
                raise RuntimeError(f"{command[0]} did not start: {errors.read()[-2000:].decode(errors='replace')}")
            yield Process(child.pid, port, began_s, time.perf_counter() - began_s)
        finally:
            _end(child)


def _port(child: subprocess.Popen[bytes]) -> int | None:
    assert child.stdout is not None
    said = b""
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    end_s = time.monotonic() + _START_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not poll.poll(1000 * left_s):
            break
        part = os.read(child.stdout.fileno(), 4096)
        said += part
        if match := _LISTENING.search(said):
            return int(match[1])
        if not part:
            break
    return None


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()


def kill(process: Process) -> None:
    """End a server at once, as a crash would."""
    os.kill(process.pid, signal.SIGKILL)


def run_pinned(command: Sequence[str], cpu: int, given: bytes, timeout_s: float) -> bytes:
    """Run a program to its end on a core.

    Returns:
        What it wrote to standard output.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    with _pinned(cpu), subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as child:
        os.sched_setaffinity(0, _cpus)
        try:
            answer, errors = child.communicate(given, timeout_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command} took over {timeout_s:g} s") from None
        finally:
            child.kill()
    if child.returncode != 0:
        raise RuntimeError(f"{command} failed: {errors.decode(errors='replace')[-2000:]}")
    return answer


class Fsyncs:
    """How often a process asked for its files to be synced; ``count`` is None where nobody can tell."""

    count: int | None = None


_EVENTS = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"


@contextlib.contextmanager
def counting_fsyncs(pid: int) -> Iterator[Fsyncs]:
    """Count a process's fsync and fdatasync calls while the block runs, with ``perf`` where it may be used."""
    fsyncs = Fsyncs()
    perf = shutil.which("perf")
    if perf is None:
        yield fsyncs
        return
    command = [perf, "stat", "-x", ",", "-e", _EVENTS, "-p", str(pid)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as counter:
        time.sleep(0.2)  # until it has attached; it says nothing
        try:
            yield fsyncs
        finally:
            counter.send_signal(signal.SIGINT)
            _, said = counter.communicate()
    counts = [line.split(b",")[0] for line in said.splitlines() if b"sys_enter_f" in line]
    if counts and all(count.isdigit() for count in counts):
        fsyncs.count = sum(map(int, counts))
