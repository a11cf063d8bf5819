"""How long small appends wait while something large goes on beside them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.contenders import SQLITE, Contender, commit_sizes, newest_commit
from benchmarks.http import Streams
from benchmarks.load import AppendLoad, Bodies, Deletes, Observed, quantile_ms
from benchmarks.processes import SERVER_CPU, Process, run_pinned
from benchmarks.raw import Beside, Written
from benchmarks.scenarios.base import (
    MIB,
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
    target_of,
)
from benchmarks.verify import check_appends, check_bytes

__all__ = ["BESIDE_BODIES", "Pauses"]

_BODY_BYTES = 64 * MIB
_BODIES_MAX = 8
_DELETES = 10_000
_DELETE_CONNECTIONS = 16
_DELETED_BYTES = 4096
_SETTLE_S = 2.0
"""Until the server has tidied up after what was before."""

_WRITE_S = 120.0
BESIDE_BODIES = "beside bodies of 64 MiB"
_RAW = "raw files, the same writes"

_STREAMS = 100
_LARGE = _STREAMS
"""Number of the stream that gets the large bodies; those that are deleted follow."""
_CREATED = f"{PREFIX}large-"


class _State:
    """What was done to a server in all rounds."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.bodies = 0
        self.created_large = 0
        self.created = 0
        self.deleted: list[int] = []


class Pauses(Scenario):
    """Small appends: undisturbed, beside bodies of 64 MiB to another stream, beside streams that are created with as
    much, and beside deletes of other streams.

    What was written beside the bodies is then written to plain files in the same time: a log, synced for each commit,
    and a database. An append waits for two commits at most, the one that is under way and its own.

    A run lasts as long as it is given, whatever is left of the disturbance: the longest of many latencies grows with
    their number.
    """

    name = "pauses"
    title = (
        "Appends of 256 B, 64 connections, 100 streams: undisturbed, beside bodies of 64 MiB to another stream, beside "
        f"streams created with 64 MiB, and beside deletes of {_DELETES:,} streams of 4 KiB over {_DELETE_CONNECTIONS} "
        "connections"
    )
    unit = "appends/s"
    contenders = (SQLITE,)
    rounds_max = 3
    size_bytes = 256
    _connections = 64

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        state = _State()
        paths = [path_of(number) for number in range(_STREAMS)]
        with contender.start(directory) as server:
            create_streams(server, 0, _LARGE + 1)

            def measure() -> dict[str, Figures]:
                time.sleep(_SETTLE_S)
                alone = self._append(server, pace, state, None)
                last_commit = newest_commit(directory)
                bodies = self._append(server, pace, state, Bodies(path_of(_LARGE), _BODY_BYTES, _BODIES_MAX))
                state.bodies += bodies.beside
                raw = _write_raw(directory, bodies, commit_sizes(directory, last_commit))
                first_large = state.created_large
                creations = self._append(server, pace, state, Bodies(_CREATED, _BODY_BYTES, _BODIES_MAX, first_large))
                state.created_large += creations.beside
                first = _LARGE + 1 + state.created
                create_streams(server, first, _DELETES, _DELETED_BYTES)
                state.created += _DELETES
                time.sleep(_SETTLE_S)
                load = Deletes(PREFIX, first, _DELETES, _DELETE_CONNECTIONS)
                deletes = self._append(server, pace, state, load)
                state.deleted.extend(range(first, first + deletes.beside))
                return {
                    contender.name: _pauses(alone),
                    BESIDE_BODIES: _pauses(bodies),
                    _RAW: raw,
                    "beside creations with 64 MiB": _pauses(creations),
                    "beside deletes": _pauses(deletes),
                }

            yield measure
            with Streams(server.port) as streams:
                check_appends(streams, paths, self.size_bytes, state.acknowledged)
                check_bytes(streams, path_of(_LARGE), state.bodies * _BODY_BYTES)
                for number in range(state.created_large):
                    check_bytes(streams, f"{_CREATED}{number}", _BODY_BYTES)
            created = range(_LARGE + 1, _LARGE + 1 + state.created)
            check_streams(server, state.deleted, None)
            check_streams(server, set(created).difference(state.deleted), _DELETED_BYTES)

    def _append(self, server: Process, pace: Pace, state: _State, beside: Bodies | Deletes | None) -> Observed:
        paths = [path_of(number) for number in range(_STREAMS)]
        target = target_of(server, replace(pace, duration_s=pace.disturbed_s))
        first_index = len(state.acknowledged)
        observed = generate(AppendLoad(target, paths, self._connections, self.size_bytes, first_index, beside))
        state.acknowledged.extend(observed.acknowledged)
        return observed


def _write_raw(directory: Path, bodies: Observed, sizes: list[int]) -> Figures:
    """Write what the store wrote beside the bodies: each piece of them to a log and, later, to the database."""
    large_bytes = bodies.beside * _BODY_BYTES
    batch_bytes = (sum(sizes) + large_bytes) // len(sizes)
    beside = Beside(str(directory), bodies.seconds, len(sizes), batch_bytes, large_bytes)
    answer = run_pinned([sys.executable, "-m", "benchmarks.raw"], SERVER_CPU, msgspec.json.encode(beside), _WRITE_S)
    written = msgspec.json.decode(answer, type=Written)
    took_ms = sorted(1000 * seconds for seconds in written.batch_seconds)
    return Figures(
        rate=bodies.operations / written.seconds,
        p50_ms=quantile_ms(took_ms, 0.5),
        p99_ms=quantile_ms(took_ms, 0.99),
        longest_ms=took_ms[-1],
        cpu_us=1e6 * written.cpu_s / bodies.operations,
    )


def _pauses(observed: Observed) -> Figures:
    figures = figures_of(observed, observed.operations)
    figures.longest_ms = observed.longest_ms
    figures.beside = observed.beside / observed.seconds if observed.beside else None
    return figures
