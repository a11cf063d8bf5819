"""``python -m benchmarks``: measure, and print tables with ratios."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.contenders import MEMORY, NODE_FILES, NODE_MEMORY, SQLITE, Contender, install_node
from benchmarks.machine import describe, durable_directory
from benchmarks.report import Comparison, Rounds, comparisons, medians, table
from benchmarks.scenarios import RAW, SCENARIOS, Figures, Measure, Pace, Scenario
from benchmarks.verify import LostData

FULL = Pace(rounds=9, warmup_s=0.2, duration_s=0.8, fill_mib=64)
QUICK = Pace(rounds=1, warmup_s=0.2, duration_s=0.4, fill_mib=8)


PAIRS = (
    (SQLITE.name, NODE_FILES.name),
    (MEMORY.name, NODE_MEMORY.name),
    (SQLITE.name, MEMORY.name),
    (SQLITE.name, RAW),
)

_COLUMNS = """\
ratio: to the first row. server CPU: for one append, MiB or delivery. commits, fsyncs: for one append; those of
the Node.js server without what its database syncs by other means. written: bytes to the disk for each byte appended.
generator: share of its core that the load generator used; near 100% it was the limit. others: share of the server's
core that something else used, kernel threads included; where it is high, CPU says more than rates do."""


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
    left_out: str
    scenarios: dict[str, Measured]


def main() -> int:
    """Measure what the command line asks for.

    Returns:
        The exit code: 1 if a server lost data.
    """
    arguments = _parse()
    pace = QUICK if arguments.quick else FULL
    if arguments.rounds:
        pace = replace(pace, rounds=arguments.rounds)
    directory: Path = arguments.directory or durable_directory()
    scenarios = [scenario for scenario in SCENARIOS if _is_wanted(scenario.name, arguments.only)]
    if not scenarios:
        print(f"no scenario of this name; there are {', '.join(scenario.name for scenario in SCENARIOS)}")
        return 2
    report = Report(describe(directory), pace, install_node(), {})
    print("\n".join(f"{fact}: {value}" for fact, value in report.machine.items()))
    if report.left_out:
        print(f"The Node.js reference server is left out: {report.left_out}.")
    print(_COLUMNS)
    print(f"{pace.rounds} rounds of {pace.duration_s:g} s each; medians, and medians of the ratios in each round.")
    try:
        for scenario in scenarios:
            print(f"\n{scenario.title} [{scenario.name}]\n", flush=True)
            rounds = _measure(scenario, report, directory)
            ratios = comparisons(rounds, PAIRS)
            report.scenarios[scenario.name] = Measured(scenario.title, scenario.unit, medians(rounds), ratios, rounds)
            print(f"{table(scenario, rounds)}\n")
            for pair, compared in ratios.items():
                cpu = "" if compared.cpu is None else f", server CPU {compared.cpu:.2f}"
                print(f"- {pair} = rate {compared.rate:.2f}{cpu}", flush=True)
    except LostData as error:
        print(f"LOST DATA: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that everything runs")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"one of these, or what some begin with: {names}"
    )
    parser.add_argument("--rounds", type=int, help=f"how often each contender is measured [{FULL.rounds}]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--directory", type=Path, help="where durable data is written: the disk to measure")
    return parser.parse_args()


def _is_wanted(name: str, only: Sequence[str] | None) -> bool:
    return not only or any(name == wanted or name.startswith(f"{wanted}-") for wanted in only)


def _measure(scenario: Scenario, report: Report, directory: Path) -> Rounds:
    """All contenders in turn, again and again, so that what disturbs the machine disturbs all of them."""
    left_out: Sequence[Contender] = (NODE_MEMORY, NODE_FILES) if report.left_out else ()
    rounds: list[dict[str, Figures]] = []
    with ExitStack() as stack:
        measures: list[Measure] = []
        for contender in scenario.contenders:
            if contender not in left_out:
                own = stack.enter_context(TemporaryDirectory(prefix="unbroken-bench-", dir=directory))
                measures.append(stack.enter_context(scenario.session(contender, report.pace, Path(own))))
        for _ in range(report.pace.rounds):
            figures: dict[str, Figures] = {}
            for measure in measures:
                figures |= measure()
            rounds.append(figures)
    return rounds


if __name__ == "__main__":
    sys.exit(main())
