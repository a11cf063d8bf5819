"""What is measured."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec

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
from benchmarks.load import AppendLoad, FanOutLoad, Load, Observed, ReadLoad, Target, quantile_ms
from benchmarks.processes import LOAD_CPU, SERVER_CPU, Fsyncs, Process, counting_fsyncs, run_pinned
from benchmarks.raw import Batches, Written
from benchmarks.verify import check_appends, check_bytes, check_messages

__all__ = ["RAW", "SCENARIOS", "Figures", "Measure", "Pace", "Scenario"]

RAW = "raw file, the same batches"

_TEXT = "text/plain"
_JSON = "application/json"
_GRACE_S = 120.0
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Pace:
    """How long everything takes.

    Args:
        rounds: how often each contender is measured.
        warmup_s: seconds before anything is counted.
        duration_s: seconds that are counted.
        fill_mib: size of the streams that are read.
    """

    rounds: int
    warmup_s: float
    duration_s: float
    fill_mib: int


class Figures(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one run of one contender gave; what does not apply is None.

    Args:
        rate: in the scenario's unit.
        p50_ms: median latency.
        p99_ms: latency that one in a hundred exceeds.
        cpu_us: processor time of the server for one of the things that the rate counts, in microseconds.
        commits: of the store, for one append.
        fsyncs: of the server, for one append.
        written: bytes that the server had written to disk, for each appended byte.
        load_cpu: share of its core that the load generator used.
        others: share of the server's core that something else used.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    commits: float | None = None
    fsyncs: float | None = None
    written: float | None = None
    load_cpu: float | None = None
    others: float | None = None


Measure = Callable[[], dict[str, Figures]]


class Scenario(ABC):
    """Something to measure.

    Attributes:
        name: for the command line.
        title: for people.
        unit: of the rate.
        contenders: who can do it, that which the others are compared with first.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]

    @abstractmethod
    def session(self, contender: Contender, pace: Pace, directory: Path) -> AbstractContextManager[Measure]:
        """Run a contender, ready to be measured again and again until the block is left.

        Args:
            contender: one of ``contenders``.
            pace: how long.
            directory: an empty one.

        Returns:
            What measures once, and gives figures by name: the contender's, and what can only be measured beside it.

        Raises:
            LostData: in the end, what was acknowledged is not there.
        """


def _generate(load: Load, pace: Pace) -> Observed:
    timeout_s = pace.warmup_s + pace.duration_s + _GRACE_S
    command = [sys.executable, "-m", "benchmarks.load"]
    answer = run_pinned(command, LOAD_CPU, msgspec.json.encode(load), timeout_s)
    return msgspec.json.decode(answer, type=Observed)


def _target(server: Process, pace: Pace) -> Target:
    return Target(server.port, server.pid, SERVER_CPU, pace.warmup_s, pace.duration_s)


def _figures(observed: Observed, things: float) -> Figures:
    """Figures of a run in which so many things were done."""
    return Figures(
        rate=things / observed.seconds,
        p50_ms=quantile_ms(observed.latencies_ms, 0.5),
        p99_ms=quantile_ms(observed.latencies_ms, 0.99),
        cpu_us=1e6 * observed.server_cpu_s / things if things else None,
        load_cpu=observed.load_cpu,
        others=observed.others_s / observed.seconds,
    )


class Appends(Scenario):
    """Small appends: connections that each wait for the acknowledgement of the last one."""

    unit = "appends/s"
    contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    size_bytes = 256

    def __init__(self, connections: int, streams: int) -> None:
        self.name = f"append-{connections}x{streams}"
        self.title = (
            f"Appends of {self.size_bytes} B, {connections} connection{'s' * (connections > 1)}, "
            f"{streams} stream{'s' * (streams > 1)}"
        )
        self._connections = connections
        self._paths = [f"/v1/stream/{number}" for number in range(streams)]

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        acknowledged: list[int] = []
        with contender.start(directory) as server:
            with Streams(server.port) as streams:
                for path in self._paths:
                    streams.create(path, _TEXT)

            def measure() -> dict[str, Figures]:
                target = _target(server, pace)
                load = AppendLoad(target, self._paths, self._connections, self.size_bytes, len(acknowledged))
                last_commit = newest_commit(directory) if contender is SQLITE else 0
                with counting_fsyncs(server.pid) if contender.durable else nullcontext(Fsyncs()) as fsyncs:
                    observed = _generate(load, pace)
                acknowledged.extend(observed.acknowledged)
                batches = commit_sizes(directory, last_commit) if contender is SQLITE else []
                return self._figures(contender, observed, fsyncs, batches, directory)

            yield measure
            if contender.stores:
                with Streams(server.port) as streams:
                    check_appends(streams, self._paths, self.size_bytes, acknowledged)

    def _figures(
        self, contender: Contender, observed: Observed, fsyncs: Fsyncs, batches: list[int], directory: Path
    ) -> dict[str, Figures]:
        figures = _figures(observed, observed.operations)
        appends = sum(observed.acknowledged)
        if contender.durable and observed.payload_bytes:
            figures.written = observed.server_written_bytes / observed.payload_bytes
            figures.fsyncs = None if fsyncs.count is None else fsyncs.count / appends
        if not batches:
            return {contender.name: figures}
        figures.commits = len(batches) / appends
        return {contender.name: figures, RAW: _write_raw(batches, appends, directory)}


def _write_raw(sizes: list[int], appends: int, directory: Path) -> Figures:
    """Write the batches that the server formed to a file, on the server's core."""
    batches = Batches(str(directory), sizes)
    command = [sys.executable, "-m", "benchmarks.raw"]
    answer = run_pinned(command, SERVER_CPU, msgspec.json.encode(batches), _GRACE_S)
    written = msgspec.json.decode(answer, type=Written)
    took_ms = sorted(1000 * seconds for seconds in written.batch_seconds)
    return Figures(
        rate=appends / written.seconds,
        p50_ms=quantile_ms(took_ms, 0.5),
        p99_ms=quantile_ms(took_ms, 0.99),
        cpu_us=1e6 * written.cpu_s / appends,
        commits=len(sizes) / appends,
        fsyncs=len(sizes) / appends,
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
                load = AppendLoad(_target(server, pace), ["/v1/stream/0"], 64, Appends.size_bytes)
                observed = _generate(load, pace)
                return {contender.name: _figures(observed, observed.operations)}

            yield measure


class CatchUp(Scenario):
    """Catch-up reads of one stream. What is durable is read after a restart, from disk, not from a hot tail."""

    unit = "MiB/s"
    contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _path = "/v1/stream/0"
    _readers = 4

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        if contender.durable:
            with contender.start(directory) as server, Streams(server.port) as streams:
                self._fill(streams, pace.fill_mib)
        with contender.start(directory) as server:
            if contender.stores:
                with Streams(server.port) as streams:
                    if not contender.durable:
                        self._fill(streams, pace.fill_mib)
                    self._check(streams, pace.fill_mib)

            def measure() -> dict[str, Figures]:
                observed = _generate(ReadLoad(_target(server, pace), self._path, self._readers), pace)
                return {contender.name: _figures(observed, observed.payload_bytes / _MIB)}

            yield measure

    @abstractmethod
    def _fill(self, streams: Streams, mib: int) -> None:
        """Create the stream and write to it."""

    @abstractmethod
    def _check(self, streams: Streams, mib: int) -> None:
        """Check that all of it is there."""


class CatchUpBytes(CatchUp):
    """Of bytes, appended 1 MiB at a time."""

    name = "catch-up-bytes"
    title = "Catch-up reads of bytes, pages of 1 MiB, 4 connections"

    def _fill(self, streams: Streams, mib: int) -> None:
        streams.create(self._path, "application/octet-stream")
        for _ in range(mib):
            streams.append(self._path, "application/octet-stream", b"." * _MIB)

    def _check(self, streams: Streams, mib: int) -> None:
        check_bytes(streams, self._path, mib * _MIB)


class CatchUpMessages(CatchUp):
    """Of small JSON messages, appended 1,000 at a time."""

    name = "catch-up-json"
    title = "Catch-up reads of JSON messages of about 100 B, 4 connections"
    _batch = 1000
    _batches_per_mib = 10
    _share = 4  # of the size that bytes have, since one server needs 10 s for 16 MiB

    def _fill(self, streams: Streams, mib: int) -> None:
        streams.create(self._path, _JSON)
        for start in range(0, self._messages(mib), self._batch):
            messages = (b'{"n":%d,"text":"%b"}' % (start + index, b"." * 83) for index in range(self._batch))
            streams.append(self._path, _JSON, b"[" + b",".join(messages) + b"]")

    def _check(self, streams: Streams, mib: int) -> None:
        check_messages(streams, self._path, self._messages(mib))

    def _messages(self, mib: int) -> int:
        return mib // self._share * self._batches_per_mib * self._batch


class FanOut(Scenario):
    """One writer and many SSE readers."""

    unit = "deliveries/s"
    contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _path = "/v1/stream/0"
    _size_bytes = 256

    def __init__(self, readers: int, *, wait: bool) -> None:
        self.name = f"fan-out-{readers}" if wait else f"fan-out-{readers}-flood"
        when = "every reader has received the last" if wait else "the last was acknowledged"
        self.title = f"SSE: 1 writer, {readers} readers; the next append of {self._size_bytes} B comes when {when}"
        self._readers = readers
        self._wait = wait

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        appended_bytes = 0
        with contender.start(directory) as server:
            with Streams(server.port) as streams:
                streams.create(self._path, _TEXT)

            def measure() -> dict[str, Figures]:
                nonlocal appended_bytes
                load = FanOutLoad(_target(server, pace), self._path, self._readers, self._size_bytes, self._wait)
                observed = _generate(load, pace)
                appended_bytes += sum(observed.acknowledged) * self._size_bytes
                figures = _figures(observed, observed.operations)
                if not self._wait:
                    figures.p50_ms = figures.p99_ms = None
                return {contender.name: figures}

            yield measure
            if contender.stores:
                with Streams(server.port) as streams:
                    check_bytes(streams, self._path, appended_bytes)


SCENARIOS: Sequence[Scenario] = (
    Generator(),
    Appends(1, 1),
    Appends(1, 100),
    Appends(64, 1),
    Appends(64, 100),
    CatchUpBytes(),
    CatchUpMessages(),
    FanOut(200, wait=True),
    FanOut(200, wait=False),
)
