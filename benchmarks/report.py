"""Tables of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from benchmarks.scenarios import Fact, Figures, Scenario

__all__ = ["Comparison", "Rounds", "compare", "comparisons", "fact_table", "medians", "table"]

Rounds = Sequence[Mapping[str, Figures]]
"""Of one scenario: figures by name, for each round."""

_COLUMNS: Sequence[tuple[str, str, str]] = (
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("longest ms", "longest_ms", ".2f"),
    ("server CPU µs", "cpu_us", ".1f"),
    ("client CPU µs", "client_cpu_us", ".2f"),
    ("commits", "commits", ".3f"),
    ("fsyncs", "fsyncs", ".3f"),
    ("written B/B", "written", ".2f"),
    ("beside/s", "beside", ",.1f"),
    ("generator", "load_cpu", ".0%"),
    ("others", "others", ".0%"),
)


def medians(rounds: Rounds) -> dict[str, Figures]:
    """For each name the median of each figure."""
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {name: _median([figures[name] for figures in rounds if name in figures]) for name in names}


def _median(runs: Sequence[Figures]) -> Figures:
    found: dict[str, float] = {}
    for name in Figures.__struct_fields__:
        values = [value for run in runs if (value := getattr(run, name)) is not None]
        if values:
            found[name] = statistics.median(values)
    return Figures(**found)


class Comparison(msgspec.Struct):
    """One contender beside another: medians over the rounds of ratios within a round.

    Args:
        rate: of their rates.
        cpu: of what they used of the processor for the same thing; less disturbed by other programs than the rate.
        p50_us: not a ratio: by how many microseconds the median latency is longer.
    """

    rate: float
    cpu: float | None
    p50_us: float | None


def compare(rounds: Rounds, name: str, other: str) -> Comparison | None:
    """Compare two contenders; None if they were not both measured."""
    both = [(figures[name], figures[other]) for figures in rounds if name in figures and other in figures]
    rates = [mine.rate / theirs.rate for mine, theirs in both if theirs.rate]
    if not rates:
        return None
    cpu = [mine.used_us / theirs.used_us for mine, theirs in both if mine.used_us and theirs.used_us]
    p50_us = [
        1000 * (mine.p50_ms - theirs.p50_ms)
        for mine, theirs in both
        if mine.p50_ms is not None and theirs.p50_ms is not None
    ]
    return Comparison(statistics.median(rates), _median_of(cpu), _median_of(p50_us))


def _median_of(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def comparisons(rounds: Rounds, pairs: Sequence[tuple[str, str]]) -> dict[str, Comparison]:
    """Compare those of the pairs that were both measured."""
    found = {f"{name} : {other}": compare(rounds, name, other) for name, other in pairs}
    return {pair: comparison for pair, comparison in found.items() if comparison is not None}


def table(scenario: Scenario, rounds: Rounds) -> str:
    """A table in Markdown: medians, and ratios to the scenario's first contender."""
    rows = medians(rounds)
    base = scenario.contenders[0].name
    columns = [column for column in _COLUMNS if any(getattr(row, column[1]) is not None for row in rows.values())]
    lines = [["", scenario.unit, "ratio", *(title for title, _, _ in columns)]]
    for name, row in rows.items():
        cells = [_cell(getattr(row, key), shape) for _, key, shape in columns]
        compared = compare(rounds, name, base)
        lines.append([name, f"{row.rate:,.0f}", _cell(compared.rate if compared else None, ".2f"), *cells])
    return _markdown(lines)


def fact_table(facts: Mapping[str, Fact]) -> str:
    """A table in Markdown: a row for each fact."""
    lines = [["", "", ""]]
    lines += [[fact.title, f"{fact.value:,.{0 if fact.value >= 1000 else 2}f}", fact.unit] for fact in facts.values()]
    return _markdown(lines)


def _cell(value: float | None, shape: str) -> str:
    return "" if value is None else format(value, shape)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align: Sequence[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    shown = [lines[0], rule, *lines[1:]]
    return "\n".join(
        "| " + " | ".join(fit(cell, width) for fit, cell, width in zip(align, line, widths, strict=True)) + " |"
        for line in shown
    )
