"""Very many streams with little in each: memory, disk, and how long a restart takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.contenders import SQLITE
from benchmarks.http import Streams
from benchmarks.load import AppendLoad, Observed, quantile_ms
from benchmarks.processes import Process, kill, memory
from benchmarks.scenarios.base import (
    Pace,
    check_streams,
    create_streams,
    generate,
    path_of,
    sample_of,
    target_of,
)
from benchmarks.verify import check_appends

__all__ = ["Fact", "ManyStreams"]

_MB = 1_000_000
_CREATION_BYTES = 64
_APPEND_BYTES = 256
_CONNECTIONS = 64
_USED_STEP = 97
_USED_MAX = 10_000


class Fact(msgspec.Struct):
    """One thing that was found.

    Args:
        title: for people.
        value: in the unit.
        unit: of the value.
    """

    title: str
    value: float
    unit: str


class ManyStreams:
    """Streams created with a small body each, then little by little all that may happen to a server full of them."""

    name = "many-streams"
    title = f"Many streams, each created with {_CREATION_BYTES} B: Unbroken, sqlite"

    def run(self, pace: Pace, directory: Path) -> dict[str, Fact]:
        """Measure once.

        Args:
            pace: how many streams, how long.
            directory: an empty one.

        Returns:
            What was found, by name.

        Raises:
            LostData: what was acknowledged is not there.
        """
        return _Run(pace, directory).facts()


class _Run:
    """One run: its facts so far, and what must be there."""

    def __init__(self, pace: Pace, directory: Path) -> None:
        self._pace = pace
        self._directory = directory
        self._count = pace.streams
        self._used = sorted({number * _USED_STEP % self._count for number in range(min(_USED_MAX, self._count))})
        self._acknowledged: list[int] = []
        self._facts: dict[str, Fact] = {}

    def facts(self) -> dict[str, Fact]:
        """Run it."""
        with SQLITE.start(self._directory) as server:
            self._note_memory(server, "empty", "before")
            self._load(server)
            self._note_memory(server, "loaded", "right after the last creation")
            self._note_sizes("loaded", "right after the last creation")
            time.sleep(self._pace.idle_s)
            self._note_memory(server, "idle", f"{self._pace.idle_s:g} s later")
            self._note_sizes("idle", f"{self._pace.idle_s:g} s later")
            self._append(server)
            kill(server)
        with self._restarted("killed", "SIGKILL, just after appends") as server:
            self._note_memory(server, "killed", "after this restart")
            self._note_appends(self._append(server))
            self._check(server)
            self._note_memory(server, "used", f"after appends to {len(self._used):,} of the streams, and reads")
            stopping_s = time.perf_counter()
        self._note("stop", "SIGTERM to the end of the process", time.perf_counter() - stopping_s, "s")
        with self._restarted("terminated", "SIGTERM") as server:
            self._check(server)
        return self._facts

    def _note(self, name: str, title: str, value: float, unit: str) -> None:
        self._facts[name] = Fact(title, value, unit)
        print(f"  {title}: {value:,.2f} {unit}", file=sys.stderr, flush=True)

    def _note_memory(self, server: Process, name: str, when: str) -> None:
        used = memory(server.pid)
        self._note(f"{name}_resident", f"VmRSS {when}", used.resident_bytes / _MB, "MB")
        self._note(f"{name}_anonymous", f"RssAnon {when}", used.anonymous_bytes / _MB, "MB")

    def _note_sizes(self, name: str, when: str) -> None:
        for kind, title in (("db", "database"), ("db-wal", "its write-ahead log")):
            file = self._directory / "data" / f"unbroken.{kind}"
            size_bytes = file.stat().st_size if file.exists() else 0
            self._note(f"{name}_{kind}", f"{title} {when}", size_bytes / _MB, "MB")

    def _load(self, server: Process) -> None:
        created = create_streams(server, 0, self._count, _CREATION_BYTES)
        self._note("streams", "streams", self._count, "")
        self._note("creates", "creation over 64 connections", self._count / created.seconds, "/s")
        p99_ms = quantile_ms(created.latencies_ms, 0.99)
        self._note("creates_p99", "p99 of a creation", p99_ms or 0.0, "ms")
        self._note("creates_longest", "longest creation", created.latencies_ms[-1], "ms")

    def _append(self, server: Process) -> Observed:
        paths = [path_of(number) for number in self._used]
        target = target_of(server, replace(self._pace, duration_s=self._pace.disturbed_s))
        observed = generate(AppendLoad(target, paths, _CONNECTIONS, _APPEND_BYTES, len(self._acknowledged)))
        self._acknowledged.extend(observed.acknowledged)
        return observed

    def _note_appends(self, observed: Observed) -> None:
        rate = observed.operations / observed.seconds
        self._note("appends", f"appends of 256 B to {len(self._used):,} of them, 64 connections", rate, "/s")
        self._note("appends_p99", "p99 of these", quantile_ms(observed.latencies_ms, 0.99) or 0.0, "ms")

    @contextmanager
    def _restarted(self, name: str, after: str) -> Iterator[Process]:
        with SQLITE.start(self._directory) as server:
            with Streams(server.port) as streams:
                next(streams.pages(path_of(self._count - 1)))
            read_s = time.perf_counter() - server.began_s
            self._note(f"{name}_listening", f"restart after {after}, until it listens", server.start_s, "s")
            self._note(f"{name}_read", "... until the first successful read", read_s, "s")
            yield server

    def _check(self, server: Process) -> None:
        with Streams(server.port) as streams:
            paths = [path_of(number) for number in self._used]
            check_appends(streams, paths, _APPEND_BYTES, self._acknowledged, _CREATION_BYTES)
        check_streams(server, sample_of(self._count).difference(self._used), _CREATION_BYTES)
        check_streams(server, [self._count], None)
