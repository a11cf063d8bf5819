"""``python -m benchmarks``: measure, and print tables with ratios."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.contenders import (
    CLIENT,
    MEMORY,
    NGINX,
    NODE_FILES,
    NODE_MEMORY,
    OFFICIAL_CLIENT,
    SQLITE,
    left_out,
)
from benchmarks.machine import describe, durable_directory
from benchmarks.report import Comparison, Rounds, comparisons, fact_table, medians, table
from benchmarks.scenarios import BARE, MANY_STREAMS, RAW, SCENARIOS, Fact, Figures, Measure, Pace, Scenario
from benchmarks.targets import verdicts
from benchmarks.verify import LostData

FULL = Pace(rounds=4, warmup_s=0.2, duration_s=0.8, fill_mib=64, disturbed_s=3.0, streams=100_000, idle_s=15.0)
QUICK = Pace(rounds=1, warmup_s=0.2, duration_s=0.4, fill_mib=8, disturbed_s=1.0, streams=20_000, idle_s=3.0)

PAIRS = (
    (SQLITE.name, NODE_FILES.name),
    (MEMORY.name, NODE_MEMORY.name),
    (SQLITE.name, MEMORY.name),
    (SQLITE.name, NGINX.name),
    (SQLITE.name, RAW),
    (SQLITE.name, BARE),
    (CLIENT.name, OFFICIAL_CLIENT.name),
)

_NAMES = (*(scenario.name for scenario in SCENARIOS), MANY_STREAMS.name)

_COLUMNS = """\
ratio: to the first row. CPU: for one append, MiB, delivery or message. commits, fsyncs: for one append; those of
the Node.js server without what its database syncs by other means. written: bytes to the disk for each byte appended.
beside: large bodies, or deletes, a second. generator: share of its core that the load generator used; near 100% it was
the limit. others: share of the server's core that something else used, kernel threads included; where it is high, CPU
says more than rates do."""


class Measured(msgspec.Struct):
    """One scenario: medians by name, ratios of pairs, and each round."""

    title: str
    unit: str
    medians: dict[str, Figures]
    ratios: dict[str, Comparison]
    rounds: Rounds


class Report(msgspec.Struct):
    """Everything, for ``--json``."""

    machine: dict[str, str]
    pace: Pace
    left_out: dict[str, str]
    scenarios: dict[str, Measured]
    many_streams: dict[str, Fact]
    targets: Sequence[str]


def main() -> int:
    """Measure what the command line asks for.

    Returns:
        The exit code: 1 if a server lost data.
    """
    arguments = _parse()
    pace = QUICK if arguments.quick else FULL
    pace = replace(pace, rounds=arguments.rounds or pace.rounds, streams=arguments.streams or pace.streams)
    directory: Path = arguments.directory or durable_directory()
    names = {name for name in _NAMES if _is_wanted(name, arguments.only)}
    if not names:
        print(f"no scenario of this name; there are {', '.join(_NAMES)}")
        return 2
    report = Report(describe(directory), pace, left_out(), {}, {}, ())
    print("\n".join(f"{fact}: {value}" for fact, value in report.machine.items()))
    for name, reason in report.left_out.items():
        print(f"LEFT OUT: {name}: {reason}.")
    print(_COLUMNS)
    print(f"{pace.rounds} rounds of {pace.duration_s:g} s each; medians, and medians of the ratios in each round.")
    try:
        for scenario in SCENARIOS:
            if scenario.name in names:
                _run(scenario, report, directory, is_named=scenario.name in (arguments.only or ()))
        if MANY_STREAMS.name in names:
            _run_many(report, directory)
    except LostData as error:
        print(f"LOST DATA: {error}", file=sys.stderr)
        return 1
    rounds = {name: measured.rounds for name, measured in report.scenarios.items()}
    report.targets = verdicts(rounds, report.many_streams)
    print("\n".join(["\nTargets\n", *(f"- {line}" for line in report.targets)]))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that everything runs")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="one of these, then with contenders that are left out otherwise for the time they take, "
        f"or what some begin with: {', '.join(_NAMES)}",
    )
    parser.add_argument("--rounds", type=int, help=f"how often each contender is measured [{FULL.rounds}]")
    parser.add_argument(
        "--streams", type=int, metavar="N", help=f"how many streams {MANY_STREAMS.name} creates [{FULL.streams}]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--directory", type=Path, help="where durable data is written: the disk to measure")
    return parser.parse_args()


def _is_wanted(name: str, only: Sequence[str] | None) -> bool:
    return not only or any(name == wanted or name.startswith(f"{wanted}-") for wanted in only)


def _run(scenario: Scenario, report: Report, directory: Path, *, is_named: bool) -> None:
    """Measure a scenario, print it, and add it to the report."""
    print(f"\n{scenario.title} [{scenario.name}]\n", flush=True)
    left_out_here = () if is_named else [contender.name for contender in scenario.when_named]
    rounds = _measure(scenario, report.pace, directory, {*report.left_out, *left_out_here})
    ratios = comparisons(rounds, PAIRS)
    report.scenarios[scenario.name] = Measured(scenario.title, scenario.unit, medians(rounds), ratios, rounds)
    print(f"{table(scenario, rounds)}\n")
    for pair, compared in ratios.items():
        cpu = "" if compared.cpu is None else f", CPU {compared.cpu:.2f}"
        p50 = "" if compared.p50_us is None else f", p50 {compared.p50_us:+,.0f} µs"
        print(f"- {pair} = rate {compared.rate:.2f}{cpu}{p50}", flush=True)


def _measure(scenario: Scenario, pace: Pace, directory: Path, left_out_here: Collection[str]) -> Rounds:
    """All contenders in turn, again and again, so that what disturbs the machine disturbs all of them."""
    rounds: list[Mapping[str, Figures]] = []
    with ExitStack() as stack:
        measures: list[Measure] = []
        for contender in scenario.contenders:
            if contender.name not in left_out_here:
                own = _temporary(stack, directory)
                measures.append(stack.enter_context(scenario.session(contender, pace, own)))
        for _ in range(min(pace.rounds, scenario.rounds_max or pace.rounds)):
            figures: dict[str, Figures] = {}
            for measure in measures:
                figures |= measure()
            rounds.append(figures)
    return rounds


def _run_many(report: Report, directory: Path) -> None:
    """Find out what many streams take, print it, and add it to the report."""
    print(f"\n{MANY_STREAMS.title} [{MANY_STREAMS.name}]\n", flush=True)
    with ExitStack() as stack:
        report.many_streams = MANY_STREAMS.run(report.pace, _temporary(stack, directory))
    print(fact_table(report.many_streams))


def _temporary(stack: ExitStack, directory: Path) -> Path:
    return Path(stack.enter_context(TemporaryDirectory(prefix="unbroken-bench-", dir=directory)))


if __name__ == "__main__":
    sys.exit(main())
