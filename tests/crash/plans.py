"""How each life of a server is to end, and how it did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.crash.nursery import DIED_AT, Death
from unbroken.testing.history import Append, Create, Delete, Operation, Outcome, Read

__all__ = ["EXPECTED", "Plan", "classify", "count_up", "draw_plans"]

COMMIT = r"^COMMIT"
JOURNAL = r"INSERT INTO journal"
REPLAY = r"FROM journal"
FOLD = r"INSERT INTO (streams|chunks|producers)|DELETE FROM chunks WHERE stream = \? AND"
TRIM = r"DELETE FROM journal"
TRASH = r"(INTO|UPDATE|FROM) trash|DELETE FROM chunks WHERE id"

EXPECTED = {
    "killed under load": 20,
    "killed by SIGTERM and SIGKILL": 1,
    "died before listening": 10,
    "died replaying a journal": 1,
    "died folding": 2,
    "died committing": 4,
    "died committed, before anybody was told": 2,
    "died trimming the journal": 3,
    "died emptying the trash": 2,
    "died in a checkpoint": 2,
    "died closing": 3,
    "journal rows found unfolded": 300,
    "started on an unfolded journal": 20,
    "answers lost": 200,
    "streams": 200,
    "forks": 20,
    "appends": 2000,
    "repetitions recognised": 20,
    "closes": 20,
    "deletions": 100,
    "batches of event streams": 300,
    "long-polls": 300,
    "pages": 1000,
    "stream-not-found": 100,
    "stream-gone": 5,
    "stream-closed": 50,
    "stream-exists": 50,
    "offset-gone": 50,
    "sequence-regression": 20,
    "producer-sequence-gap": 20,
    "stale-producer-epoch": 5,
}
"""What 200 ends bring about at least: a fraction of what they do on any machine, but a run without is worth nothing."""


@dataclass(frozen=True)
class Plan:
    """One life of a server.

    Args:
        real: ``python -m unbroken`` itself, in place of the nursery's.
        small: with all sizes of the store small.
        death: where it dies by itself; if it gets that far, it is killed from outside.
        completions: so many operations later it is told to end.
        asked: it is told so by SIGTERM; SIGKILL follows at once if it is not to die by itself.
        look_first: all is looked at before anybody does anything.
    """

    real: bool = False
    small: bool = True
    death: Death | None = None
    completions: int = 1
    asked: bool = False
    look_first: bool = False


def draw_plans(chance: Random) -> list[Plan]:
    """Twenty plans, each kind as often as it is worth."""
    kinds = list(_KINDS)
    chance.shuffle(kinds)
    return [_draw(chance, kind) for kind in kinds]


def _draw(chance: Random, kind: str) -> Plan:
    completions = chance.choice([30, 150, 300, 600])
    base = Plan(completions=chance.randrange(1, completions), look_first=chance.random() < 0.5)
    return _PLANS[kind](chance, base)


def _load(chance: Random, base: Plan) -> Plan:
    return Plan(completions=base.completions, look_first=base.look_first)


def _default(chance: Random, base: Plan) -> Plan:
    return Plan(small=False, completions=base.completions * 2, look_first=base.look_first)


def _real(chance: Random, base: Plan) -> Plan:
    return Plan(real=True, completions=base.completions * 2, look_first=base.look_first)


def _commit(chance: Random, base: Plan) -> Plan:
    return _statement(chance, base, chance.choice([COMMIT, COMMIT, JOURNAL]), 60)


def _fold(chance: Random, base: Plan) -> Plan:
    return _statement(chance, base, FOLD, 60)


def _trim(chance: Random, base: Plan) -> Plan:
    return _statement(chance, base, TRIM, 20)


def _trash(chance: Random, base: Plan) -> Plan:
    return _statement(chance, base, TRASH, 30)


def _statement(chance: Random, base: Plan, what: str, most: int) -> Plan:
    death = Death("statement", what, chance.randrange(1, most), after=chance.random() < 0.5)
    return Plan(death=death, completions=800, look_first=base.look_first)


def _start(chance: Random, base: Plan) -> Plan:
    return Plan(death=Death("statement", "", chance.randrange(1, 80), after=chance.random() < 0.3), completions=60)


def _replay(chance: Random, base: Plan) -> Plan:
    what, count = chance.choice([(REPLAY, 1), (FOLD, chance.randrange(1, 40)), (TRIM, 1), (COMMIT, 1)])
    return Plan(death=Death("statement", what, count, after=chance.random() < 0.5), completions=60)


def _disk(chance: Random, base: Plan) -> Plan:
    what, most = chance.choice([("write database", 60), ("sync database", 6), ("sync log", 30), ("write log", 200)])
    return Plan(death=Death("disk", what, chance.randrange(1, most)), completions=600)


def _close(chance: Random, base: Plan) -> Plan:
    death = Death("close", "", chance.randrange(1, 20), after=chance.random() < 0.5)
    return Plan(small=chance.random() < 0.5, death=death, completions=base.completions, asked=True)


def _terminate(chance: Random, base: Plan) -> Plan:
    return Plan(small=chance.random() < 0.5, completions=base.completions, asked=True)


_PLANS = {
    "load": _load,
    "default": _default,
    "real": _real,
    "commit": _commit,
    "fold": _fold,
    "trim": _trim,
    "trash": _trash,
    "start": _start,
    "replay": _replay,
    "disk": _disk,
    "close": _close,
    "terminate": _terminate,
}
_KINDS = (*_PLANS, "load", "load", "commit", "start", "replay", "disk", "close", "default")


_MANNERS = {"sse": "batches of event streams", "long-poll": "long-polls"}


def count_up(history: Iterable[Operation]) -> Counter[str]:
    """What the clients did."""
    hits: Counter[str] = Counter()
    for one in history:
        hits["operations"] += 1
        if one.outcome is Outcome.REFUSED:
            hits[one.code] += 1
        if one.outcome is not Outcome.OK:
            continue
        if isinstance(one, Create):
            hits["streams"] += not one.existed
            hits["forks"] += one.source is not None and not one.existed
        if isinstance(one, Append):
            hits["appends"] += not one.duplicate
            hits["repetitions recognised"] += one.duplicate
            hits["closes"] += one.close
        if isinstance(one, Delete):
            hits["deletions"] += 1
        if isinstance(one, Read) and one.data:
            hits[_MANNERS.get(one.client.rpartition("-")[0], "pages")] += 1
    return hits


def classify(log: Path, plan: Plan, *, listening: bool, journal_rows: int) -> Counter[str]:
    """What the end of a server was good for.

    Args:
        log: what it wrote.
        plan: how it was to end.
        listening: it got as far as that.
        journal_rows: how many it had found.
    """
    hits: Counter[str] = Counter()
    match = re.search(rf"^{DIED_AT} (\w+): (.*)$", log.read_text(), re.MULTILINE)
    if match is None:
        hits["killed by SIGTERM and SIGKILL" if plan.asked else "killed under load"] += 1
        return hits
    place, what = match.groups()
    after = plan.death is not None and plan.death.after
    hits["died before listening"] += not listening
    if place == "disk":
        hits["died in a checkpoint"] += what.endswith("database")
    elif place == "close":
        hits["died closing"] += 1
    elif re.search(JOURNAL, what):
        hits["died committing"] += 1
    elif re.search(COMMIT, what):
        hits["died committed, before anybody was told" if after else "died committing"] += 1
    elif re.search(FOLD, what):
        hits["died folding"] += 1
    elif re.search(TRIM, what):
        hits["died trimming the journal"] += 1
    elif re.search(TRASH, what):
        hits["died emptying the trash"] += 1
    elif re.search(REPLAY, what):
        hits["died replaying a journal"] += journal_rows > 1
    return hits
