"""The same load on a store that holds ten times as much: a slowdown with size shows as a ratio."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import SQLITE, Contender
from benchmarks.http import Streams
from benchmarks.load import AppendLoad, ReadLoad
from benchmarks.processes import Process
from benchmarks.scenarios.base import (
    MIB,
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
from benchmarks.verify import check_appends

__all__ = ["GrowthAppends", "GrowthCatchUp"]

_STREAM_BYTES = 64 * 1024
_STREAMS_PER_MIB = MIB // _STREAM_BYTES
_USED = 100

_LARGE = replace(SQLITE, name="with ten times as much in it")


class _Growth(Scenario):
    """A store with streams of 64 KiB, and one with ten times as many; either restarted when it was filled.

    The load is on 100 streams anywhere among them.
    """

    contenders = (SQLITE, _LARGE)

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        count = pace.fill_mib * _STREAMS_PER_MIB * (10 if contender is _LARGE else 1)
        numbers = random.Random(0).sample(range(count), _USED)
        with contender.start(directory) as server:
            create_streams(server, 0, count, _STREAM_BYTES)
        acknowledged: list[int] = []
        with contender.start(directory) as server:

            def measure() -> dict[str, Figures]:
                return {contender.name: self._measure(server, pace, numbers, acknowledged)}

            yield measure
            with Streams(server.port) as streams:
                paths = [path_of(number) for number in numbers]
                check_appends(streams, paths, GrowthAppends.size_bytes, acknowledged, _STREAM_BYTES)
            check_streams(server, set(range(count)).difference(numbers), _STREAM_BYTES)

    @abstractmethod
    def _measure(self, server: Process, pace: Pace, numbers: Sequence[int], acknowledged: list[int]) -> Figures:
        """Measure once.

        Args:
            server: what to measure.
            pace: how long.
            numbers: of the streams to use.
            acknowledged: appends of each connection so far; those of this run are added.
        """


class GrowthAppends(_Growth):
    """Small appends."""

    name = "growth-append"
    title = "Appends of 256 B, 64 connections, 100 streams of a store with some data, and of one with ten times as much"
    unit = "appends/s"
    size_bytes = 256
    _connections = 64

    def _measure(self, server: Process, pace: Pace, numbers: Sequence[int], acknowledged: list[int]) -> Figures:
        paths = [path_of(number) for number in numbers]
        load = AppendLoad(target_of(server, pace), paths, self._connections, self.size_bytes, len(acknowledged))
        observed = generate(load)
        acknowledged.extend(observed.acknowledged)
        return figures_of(observed, observed.operations)


class GrowthCatchUp(_Growth):
    """Catch-up reads."""

    name = "growth-catch-up"
    title = "Catch-up reads of 100 streams of 64 KiB, 4 connections, the same two stores"
    unit = "MiB/s"
    _readers = 4

    def _measure(self, server: Process, pace: Pace, numbers: Sequence[int], _acknowledged: list[int]) -> Figures:
        paths = [path_of(number) for number in numbers]
        observed = generate(ReadLoad(target_of(server, pace), paths, self._readers))
        return figures_of(observed, observed.payload_bytes / MIB)
