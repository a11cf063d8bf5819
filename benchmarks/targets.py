"""What the durable store and the client are to reach, and whether they did."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.contenders import CLIENT, FLOOR, NGINX, SQLITE
from benchmarks.report import Rounds, compare, medians
from benchmarks.scenarios import BARE, BESIDE_BODIES, Fact

__all__ = ["verdicts"]

_MANY = 1_000_000
_OTHERS_MAX = 0.2


class _Value(NamedTuple):
    """What was found for a target.

    Args:
        value: of what is to be reached.
        by_cpu: of a ratio of rates, what it would be by processor time, which other programs disturb less.
    """

    value: float
    by_cpu: float | None = None


class _Found(NamedTuple):
    """What was measured: rounds by scenario, and facts about many streams."""

    rounds: Mapping[str, Rounds]
    facts: Mapping[str, Fact]

    def rate(self, scenario: str, other: str) -> _Value | None:
        """The durable store's rate to another's."""
        compared = compare(self.rounds.get(scenario, ()), SQLITE.name, other)
        if compared is None:
            return None
        return _Value(compared.rate, 1 / compared.cpu if compared.cpu else None)

    def fact(self, *names: str) -> _Value | None:
        """The greatest of some facts, if there were streams enough."""
        is_enough = "streams" in self.facts and self.facts["streams"].value >= _MANY
        return _Value(max(self.facts[name].value for name in names)) if is_enough else None


class _Target(NamedTuple):
    """What is to be reached: a bound, from below or from above."""

    title: str
    bound: float
    is_least: bool
    unit: str
    find: Callable[[_Found], _Value | None]


def _spread(found: _Found) -> _Value | None:
    """p99 as a multiple of p50."""
    figures = [each[SQLITE.name] for each in found.rounds.get("append-64x100", ()) if SQLITE.name in each]
    ratios = [each.p99_ms / each.p50_ms for each in figures if each.p99_ms and each.p50_ms]
    return _Value(statistics.median(ratios)) if ratios else None


def _many_to_few(found: _Found) -> _Value | None:
    """Both as shares of the handler that does nothing, since they did not run in the same minute."""
    many, few = found.rate("append-64x10000", FLOOR.name), found.rate("append-64x100", FLOOR.name)
    if many is None or few is None:
        return None
    return _Value(many.value / few.value, many.by_cpu / few.by_cpu if many.by_cpu and few.by_cpu else None)


def _of_client(scenario: str) -> Callable[[_Found], _Value | None]:
    """What our client does in a second of processor time: of one core, whatever else the machine does."""

    def find(found: _Found) -> _Value | None:
        row = medians(found.rounds.get(scenario, ())).get(CLIENT.name)
        return None if row is None or not row.client_cpu_us else _Value(1e6 / row.client_cpu_us)

    return find


def _longest_pause(found: _Found) -> _Value | None:
    row = medians(found.rounds.get("pauses", ())).get(BESIDE_BODIES)
    return None if row is None or row.longest_ms is None else _Value(row.longest_ms)


def _over_bare(found: _Found) -> _Value | None:
    compared = compare(found.rounds.get("append-1x1", ()), SQLITE.name, BARE)
    return None if compared is None or compared.p50_us is None else _Value(compared.p50_us)


_TARGETS: Sequence[_Target] = (
    _Target(
        "durable appends, 64 connections, 100 streams, to the handler that does nothing",
        0.5,
        True,
        "",
        lambda found: found.rate("append-64x100", FLOOR.name),
    ),
    _Target("their p99 to their p50", 5.0, False, "", _spread),
    _Target(
        "10,000 streams to 100, 64 connections, each to the handler that does nothing", 0.7, True, "", _many_to_few
    ),
    _Target("longest append beside bodies of 64 MiB", 10.0, False, " ms", _longest_pause),
    _Target("1 connection, p50 over a bare commit", 300.0, False, " µs", _over_bare),
    _Target(
        "1,000,000 streams, resident",
        500.0,
        False,
        " MB",
        lambda found: found.fact("loaded_resident", "idle_resident", "killed_resident", "used_resident"),
    ),
    _Target(
        "1,000,000 streams, restart until the first read",
        3.0,
        False,
        " s",
        lambda found: found.fact("killed_read", "terminated_read"),
    ),
    _Target(
        "catch-up reads in pages of 1 MiB to nginx",
        0.5,
        True,
        "",
        lambda found: found.rate("catch-up-bytes", NGINX.name),
    ),
    _Target("our producer, small JSON messages, per core", 100_000.0, True, "/s", _of_client("client-produce")),
    _Target("our client, small JSON messages followed, per core", 200_000.0, True, "/s", _of_client("client-follow")),
    _Target("the same while they are appended", 200_000.0, True, "/s", _of_client("client-live")),
)


def verdicts(rounds: Mapping[str, Rounds], facts: Mapping[str, Fact]) -> Sequence[str]:
    """A line for each target.

    Args:
        rounds: by name of the scenario; scenarios that were not measured are not there.
        facts: about many streams; empty if they were not measured.

    Returns:
        And a line that says so, if the machine was too busy with other things.
    """
    found = _Found(rounds, facts)
    lines = [_verdict(target, target.find(found)) for target in _TARGETS]
    others = _others(rounds)
    if others > _OTHERS_MAX:
        lines.append(f"DISTURBED: something else used {others:.0%} of the server's core; these verdicts say little")
    return lines


def _others(rounds: Mapping[str, Rounds]) -> float:
    """What something else used of the server's core in the worst of the scenarios with appends.

    Others are left out: there the kernel has much to do for the server itself.
    """
    appends = [medians(measured) for name, measured in rounds.items() if name.startswith("append-")]
    return max((row.others or 0.0 for rows in appends for row in rows.values()), default=0.0)


def _verdict(target: _Target, found: _Value | None) -> str:
    sign = ">=" if target.is_least else "<="
    wanted = f"{target.title}: {sign} {target.bound:,g}{target.unit}"
    if found is None:
        return f"not measured: {wanted}"
    is_reached = found.value >= target.bound if target.is_least else found.value <= target.bound
    value = f"{found.value:,.0f}" if found.value >= 1000 else f"{found.value:.2f}"
    by_cpu = "" if found.by_cpu is None else f", by processor time {found.by_cpu:.2f}"
    return f"{'reached' if is_reached else 'MISSED'}: {wanted}; it is {value}{target.unit}{by_cpu}"
