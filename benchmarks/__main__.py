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

from benchmarks.contenders import NODE_FILES, NODE_MEMORY, Contender, install_node
from benchmarks.machine import describe, durable_directory
from benchmarks.report import Rounds, medians, table
from benchmarks.scenarios import SCENARIOS, Figures, Measure, Pace, Scenario
from benchmarks.verify import LostData

FULL = Pace(rounds=9, warmup_s=0.2, duration_s=0.8, fill_mib=64)
QUICK = Pace(rounds=1, warmup_s=0.2, duration_s=0.4, fill_mib=8)


class Report(msgspec.Struct):
    """Everything, for ``--json``."""

    machine: dict[str, str]
    pace: Pace
    left_out: str
    scenarios: dict[str, dict[str, Figures]]
    rounds: dict[str, Rounds]


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
    scenarios = [scenario for scenario in SCENARIOS if any(name in scenario.name for name in arguments.only or [""])]
    if not scenarios:
        print(f"no scenario of this name; there are {', '.join(scenario.name for scenario in SCENARIOS)}")
        return 2
    report = Report(describe(directory), pace, install_node(), {}, {})
    print("\n".join(f"{fact}: {value}" for fact, value in report.machine.items()))
    if report.left_out:
        print(f"The Node.js reference server is left out: {report.left_out}.")
    print(f"{pace.rounds} rounds of {pace.duration_s:g} s each; medians, and medians of the ratios in each round.")
    try:
        for scenario in scenarios:
            print(f"\n{scenario.title} [{scenario.name}]\n", flush=True)
            rounds = report.rounds[scenario.name] = _measure(scenario, report, directory)
            report.scenarios[scenario.name] = medians(rounds)
            print(table(scenario, rounds), flush=True)
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
    parser.add_argument("--only", action="append", metavar="NAME", help=f"scenarios with this in their name: {names}")
    parser.add_argument("--rounds", type=int, help=f"how often each contender is measured [{FULL.rounds}]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--directory", type=Path, help="where durable data is written: the disk to measure")
    return parser.parse_args()


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
