"""Small appends, creation of streams, and what the load generator can drive."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from benchmarks.bare import Commits
from benchmarks.contenders import (
    FLOOR,
    GENERATOR,
    MEMORY,
    NODE_FILES,
    NODE_MEMORY,
    PARSER,
    SQLITE,
    Contender,
    commit_sizes,
    newest_commit,
)
from benchmarks.http import Streams
from benchmarks.load import AppendLoad, CreateLoad, Observed, quantile_ms
from benchmarks.processes import SERVER_CPU, Fsyncs, counting_fsyncs, run_pinned
from benchmarks.raw import Batches, Written
from benchmarks.scenarios.base import (
    PREFIX,
    Figures,
    Measure,
    Pace,
    Scenario,
    check_streams,
    create_streams,
    figures_of,
    generate,
    path_of,
    sample_of,
    target_of,
)
from benchmarks.verify import check_appends

__all__ = ["BARE", "RAW", "Appends", "Creates", "Generator"]

RAW = "raw file, the same batches"
BARE = "bare SQLite, commits of one row"

_WRITE_S = 120.0

_WITH_NODE = ((1, 1), (64, 100))
"""Connections and streams with which the Node.js server is measured without being asked for, for the time it takes."""


class Appends(Scenario):
    """Small appends: connections that each wait for the acknowledgement of the last one."""

    unit = "appends/s"
    contenders: Sequence[Contender] = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    size_bytes = 256

    def __init__(self, connections: int, streams: int) -> None:
        self.name = f"append-{connections}x{streams}"
        plural = "" if connections == 1 else "s", "" if streams == 1 else "s"
        self.title = (
            f"Appends of {self.size_bytes} B, {connections} connection{plural[0]}, {streams:,} stream{plural[1]}"
        )
        self._connections = connections
        self._streams = streams
        if (connections, streams) not in _WITH_NODE:
            self.when_named = (NODE_MEMORY, NODE_FILES)
        if streams > 100:
            # With more streams than it keeps files open, 100, it says of streams that they are not there.
            self.contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY)

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        acknowledged: list[int] = []
        paths = [path_of(number) for number in range(self._streams)]
        with contender.start(directory) as server:
            create_streams(server, 0, self._streams)

            def measure() -> dict[str, Figures]:
                # Before the load, after which the server is still busy with it for a while.
                bare = self._bare(contender, pace, directory)
                load = AppendLoad(target_of(server, pace), paths, self._connections, self.size_bytes, len(acknowledged))
                last_commit = newest_commit(directory) if contender is SQLITE else 0
                with counting_fsyncs(server.pid) if contender.durable else nullcontext(Fsyncs()) as fsyncs:
                    observed = generate(load)
                acknowledged.extend(observed.acknowledged)
                batches = commit_sizes(directory, last_commit) if contender is SQLITE else []
                return self._figures(contender, observed, fsyncs, batches, directory) | bare

            yield measure
            if contender.stores:
                with Streams(server.port) as streams:
                    check_appends(streams, paths, self.size_bytes, acknowledged)

    def _figures(
        self, contender: Contender, observed: Observed, fsyncs: Fsyncs, batches: list[int], directory: Path
    ) -> dict[str, Figures]:
        figures = figures_of(observed, observed.operations)
        appends = sum(observed.acknowledged)
        if contender.durable and observed.payload_bytes:
            figures.written = observed.server_written_bytes / observed.payload_bytes
            figures.fsyncs = None if fsyncs.count is None else fsyncs.count / appends
        if not batches:
            return {contender.name: figures}
        figures.commits = len(batches) / appends
        return {contender.name: figures, RAW: _write_raw(batches, appends, directory)}

    def _bare(self, contender: Contender, pace: Pace, directory: Path) -> dict[str, Figures]:
        """What one commit of one append takes by itself, where each append is a commit."""
        if contender is not SQLITE or self._connections > 1:
            return {}
        commits = Commits(str(directory), self.size_bytes, pace.duration_s / 2)
        written = _write("benchmarks.bare", msgspec.json.encode(commits))
        return {BARE: _written_figures(written, len(written.batch_seconds), 1.0)}


def _write_raw(sizes: list[int], appends: int, directory: Path) -> Figures:
    """Write the batches that the server formed to a file, on the server's core."""
    written = _write("benchmarks.raw", msgspec.json.encode(Batches(str(directory), sizes)))
    return _written_figures(written, appends, len(sizes) / appends)


def _write(module: str, given: bytes) -> Written:
    answer = run_pinned([sys.executable, "-m", module], SERVER_CPU, given, _WRITE_S)
    return msgspec.json.decode(answer, type=Written)


def _written_figures(written: Written, appends: int, syncs: float) -> Figures:
    took_ms = sorted(1000 * seconds for seconds in written.batch_seconds)
    return Figures(
        rate=appends / written.seconds,
        p50_ms=quantile_ms(took_ms, 0.5),
        p99_ms=quantile_ms(took_ms, 0.99),
        cpu_us=1e6 * written.cpu_s / appends,
        commits=syncs,
        fsyncs=syncs,
    )


class Generator(Scenario):
    """What the load generator can drive at most."""

    name = "generator"
    title = "What the load generator can drive: appends of 256 B, 64 connections"
    unit = "appends/s"
    contenders = (FLOOR, PARSER, GENERATOR)

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        with contender.start(directory) as server:

            def measure() -> dict[str, Figures]:
                load = AppendLoad(target_of(server, pace), [path_of(0)], 64, Appends.size_bytes)
                observed = generate(load)
                return {contender.name: figures_of(observed, observed.operations)}

            yield measure


class Creates(Scenario):
    """New streams, as many as there is time for."""

    name = "create-64"
    title = "Creation of empty streams, 64 connections"
    unit = "streams/s"
    contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _connections = 64

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        created = 0
        with contender.start(directory) as server:

            def measure() -> dict[str, Figures]:
                nonlocal created
                load = CreateLoad(target_of(server, pace), PREFIX, self._connections, created, None)
                observed = generate(load)
                created += sum(observed.acknowledged)
                return {contender.name: figures_of(observed, observed.operations)}

            yield measure
            if contender.stores:
                check_streams(server, sample_of(created), 0)
                check_streams(server, [created], None)
