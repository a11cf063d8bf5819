"""Seeded runs of our clients, see `tests.network.runs`.

Run again what failed, or more of it:

    UNBROKEN_NETWORK_SEED=7 UNBROKEN_NETWORK_RUNS=1 pytest -m full tests/network/test_runs.py -k "follow and sqlite"
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.network.consuming import consume_at_least, consume_exactly
from tests.network.drivers import Live
from tests.network.feeds import Kind
from tests.network.runs import Act, Run, append, follow, produce, read
from tests.network.servers import SERVERS, ServerKind
from unbroken.testing.proxy import KINDS

FIRST_SEED = int(os.environ.get("UNBROKEN_NETWORK_SEED", "1"))
RUNS_IN_FULL = int(os.environ.get("UNBROKEN_NETWORK_RUNS", "1"))

SLOW = ("buffer", "buffer-all", "answer-429-retry-after")
"""Faults that cost a client seconds each: left to the long runs, but for a few."""
QUICK = tuple(kind for kind in KINDS if kind not in SLOW)
STREAMS: tuple[Kind, ...] = ("json", "text", "bytes")

OF_REQUESTS = tuple(kind for kind in QUICK if kind != "truncate")

EVENTS = (*QUICK, *("cut-response-body-rst", "cut-response-body-fin", "truncate") * 4)
"""More of what ends a response in the middle of an event."""

Report = Callable[[str], None]


async def go(act: Act, run: Run, folder: Path, report_fact: Report) -> None:
    counts = await run.go(folder, act)
    assert counts.keys() >= set(run.kinds)
    faults = counts.total() - counts["pass"]
    report_fact(f"{act.__name__} {run}: {counts.total()} requests, {faults} with a fault")
    assert not run.kills or counts["unreachable"] + counts["lost"] > 0


@pytest.mark.parametrize(
    "run",
    [
        Run("memory", "json", "sse", kinds=EVENTS),
        Run("sqlite", "json", "auto", sync=True, kills=2, kinds=QUICK),
        Run("memory", "text", "long-poll", kinds=OF_REQUESTS),
        Run("sqlite", "bytes", "auto", kills=1, kinds=OF_REQUESTS),
        Run("memory", "bytes", "sse", sync=True, kinds=EVENTS),
        Run("reference-memory", "json", "sse", kinds=EVENTS),
        Run("reference-files", "text", "auto", sync=True, kills=1, kinds=OF_REQUESTS),
    ],
    ids=str,
)
async def test_following(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(follow, run, tmp_path, report_fact)


@pytest.mark.parametrize(
    "run",
    [
        Run("memory", "json", kinds=OF_REQUESTS),
        Run("sqlite", "bytes", sync=True, kills=2, kinds=OF_REQUESTS),
        Run("reference-memory", "json", sync=True, kinds=OF_REQUESTS),
        Run("reference-files", "text", kinds=OF_REQUESTS),
    ],
    ids=str,
)
async def test_producing(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(produce, run, tmp_path, report_fact)


@pytest.mark.parametrize(
    "run",
    [
        Run("memory", "json", kinds=OF_REQUESTS),
        Run("sqlite", "text", sync=True, kinds=OF_REQUESTS),
        Run("reference-memory", "json", kinds=OF_REQUESTS),
    ],
    ids=str,
)
async def test_reading(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(read, run, tmp_path, report_fact)


@pytest.mark.parametrize(
    "run",
    [
        Run("sqlite", "json", "auto", kills=1, count=800, leaves=2, kinds=OF_REQUESTS),
        Run("memory", "bytes", "long-poll", sync=True, count=800, leaves=2, kinds=OF_REQUESTS),
    ],
    ids=str,
)
async def test_consuming_exactly_once(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(consume_exactly, run, tmp_path, report_fact)


@pytest.mark.parametrize(
    "run",
    [
        Run("memory", "json", "long-poll", count=800, leaves=2, kinds=OF_REQUESTS),
        Run("reference-memory", "json", "auto", sync=True, count=400, leaves=2, kinds=OF_REQUESTS),
    ],
    ids=str,
)
async def test_consuming_at_least_once(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(consume_at_least, run, tmp_path, report_fact)


UNKNOWING = tuple(kind for kind in OF_REQUESTS if kind != "twice")
"""To do a plain append twice doubles it, whoever does it."""


@pytest.mark.parametrize(
    "run",
    [
        Run("memory", "json", count=200, kinds=UNKNOWING),
        Run("reference-memory", "json", count=200, sync=True, kinds=UNKNOWING),
    ],
    ids=str,
)
async def test_appending(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(append, run, tmp_path, report_fact)


def every(live: tuple[Live, ...], killed: tuple[ServerKind, ...] = ()) -> list[Run]:
    """Every server, kind of stream and client, with every fault."""
    seeds = range(FIRST_SEED, FIRST_SEED + RUNS_IN_FULL)
    return [
        Run(
            *(server, kind, mode, seed, sync),
            count=2500,
            leaves=4,
            kills=3 if server in killed else 0,
            kinds=(*EVENTS, *SLOW) if mode == "sse" else (*OF_REQUESTS, "answer-429-retry-after"),
        )
        for seed, server, kind, mode, sync in itertools.product(seeds, SERVERS, STREAMS, live, (False, True))
    ]


@pytest.mark.full
@pytest.mark.parametrize("run", every(("auto", "sse", "long-poll"), killed=("sqlite", "reference-files")), ids=str)
async def test_every_way_of_following(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(follow, run, tmp_path, report_fact)


@pytest.mark.full
@pytest.mark.parametrize("run", every(("auto",), killed=("sqlite",)), ids=str)
async def test_every_way_of_producing(run: Run, tmp_path: Path, report_fact: Report) -> None:
    """The reference server is not killed here: it may forget that it has an append which it has."""
    await go(produce, run, tmp_path, report_fact)


@pytest.mark.full
@pytest.mark.parametrize("run", every(("auto",)), ids=str)
async def test_every_way_of_reading(run: Run, tmp_path: Path, report_fact: Report) -> None:
    await go(read, run, tmp_path, report_fact)
