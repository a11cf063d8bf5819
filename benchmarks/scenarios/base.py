"""What all scenarios share: how long they take, what they give, how they put a server under load."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.contenders import Contender
from benchmarks.load import CheckLoad, CreateLoad, Load, Observed, Target, quantile_ms
from benchmarks.processes import LOAD_CPU, SERVER_CPU, Process, run_pinned
from benchmarks.verify import LostData

__all__ = [
    "JSON",
    "MIB",
    "PREFIX",
    "TEXT",
    "Figures",
    "Measure",
    "Pace",
    "Scenario",
    "check_streams",
    "create_streams",
    "figures_of",
    "generate",
    "path_of",
    "sample_of",
    "target_of",
]

TEXT = "text/plain"
JSON = "application/json"
MIB = 1024 * 1024

PREFIX = "/v1/stream/"
"""Of the paths of all streams; a number follows."""

_GRACE_S = 120.0
_ALL_S = 1800.0
_CONNECTIONS = 64
_SAMPLE = 20_000
_NEWEST = 1_000


@dataclass(frozen=True)
class Pace:
    """How long everything takes.

    Args:
        rounds: how often each contender is measured.
        warmup_s: seconds before anything is counted.
        duration_s: seconds that are counted.
        fill_mib: size of the streams that are read.
        disturbed_s: seconds that are counted where something else goes on beside the load.
        streams: how many are created where it is about their number.
        idle_s: seconds without any request, to see what a server does by itself.
    """

    rounds: int
    warmup_s: float
    duration_s: float
    fill_mib: int
    disturbed_s: float
    streams: int
    idle_s: float


class Figures(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one run of one contender gave; what does not apply is None.

    Args:
        rate: in the scenario's unit.
        p50_ms: median latency.
        p99_ms: latency that one in a hundred exceeds.
        longest_ms: greatest latency.
        cpu_us: processor time of the server for one of the things that the rate counts, in microseconds.
        client_cpu_us: the same of the client, where it is the client that is measured.
        commits: of the store, for one append.
        fsyncs: of the server, for one append.
        written: bytes that the server had written to disk, for each appended byte.
        beside: what was done beside the load in the same time, a second.
        load_cpu: share of its core that the load generator used.
        others: share of the server's core that something else used.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    longest_ms: float | None = None
    cpu_us: float | None = None
    client_cpu_us: float | None = None
    commits: float | None = None
    fsyncs: float | None = None
    written: float | None = None
    beside: float | None = None
    load_cpu: float | None = None
    others: float | None = None

    @property
    def used_us(self) -> float | None:
        """Processor time of who is measured."""
        return self.cpu_us if self.client_cpu_us is None else self.client_cpu_us


Measure = Callable[[], dict[str, Figures]]


class Scenario(ABC):
    """Something to measure, of several contenders in turn.

    Attributes:
        name: for the command line.
        title: for people.
        unit: of the rate.
        contenders: who can do it, that which the others are compared with first.
        when_named: those of them who are measured only when the scenario is asked for by its name.
        rounds_max: how often they are measured at most.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]
    when_named: Sequence[Contender] = ()
    rounds_max: int | None = None

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


def path_of(number: int) -> str:
    """The path of a stream."""
    return f"{PREFIX}{number}"


def target_of(server: Process, pace: Pace) -> Target:
    """A server, as the target of a load that is counted for the usual time."""
    return Target(server.port, server.pid, SERVER_CPU, pace.warmup_s, pace.duration_s)


def generate(load: Load) -> Observed:
    """Put a server under load."""
    timeout_s = load.target.warmup_s + load.target.duration_s + _GRACE_S
    command = [sys.executable, "-m", "benchmarks.load"]
    answer = run_pinned(command, LOAD_CPU, msgspec.json.encode(load), timeout_s)
    return msgspec.json.decode(answer, type=Observed)


def figures_of(observed: Observed, things: float) -> Figures:
    """Figures of a run in which so many things were done."""
    return Figures(
        rate=things / observed.seconds,
        p50_ms=quantile_ms(observed.latencies_ms, 0.5),
        p99_ms=quantile_ms(observed.latencies_ms, 0.99),
        cpu_us=1e6 * observed.server_cpu_s / things if things else None,
        load_cpu=observed.load_cpu,
        others=observed.others_s / observed.seconds,
    )


def create_streams(server: Process, first: int, count: int, size_bytes: int = 0) -> Observed:
    """Create streams with numbers, each with a body of this size, as quickly as the server can."""
    target = Target(server.port, server.pid, SERVER_CPU, 0.0, _ALL_S)
    return generate(CreateLoad(target, PREFIX, min(_CONNECTIONS, count), first, count, size_bytes))


def sample_of(count: int) -> set[int]:
    """Streams to look at, of so many: all, or some and the newest, which had the least time to be stored."""
    return {*range(0, count, max(1, count // _SAMPLE)), *range(max(0, count - _NEWEST), count)}


def check_streams(server: Process, numbers: Iterable[int], size_bytes: int | None) -> None:
    """Check that streams hold what they were created with and nothing else; or, without a size, that they are gone.

    Raises:
        LostData: they do not, or are not.
    """
    target = Target(server.port, server.pid, SERVER_CPU, 0.0, _ALL_S)
    observed = generate(CheckLoad(target, PREFIX, _CONNECTIONS, list(numbers), size_bytes))
    if observed.wrong:
        expected = "gone" if size_bytes is None else f"of {size_bytes} bytes"
        raise LostData(f"streams are not {expected}: {'; '.join(observed.wrong)}")
