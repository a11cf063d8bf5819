"""The checker of histories: each rule with histories that break it, and others that look odd but can be explained."""

from __future__ import annotations

from typing import Any

import pytest

from unbroken.protocol.producers import ProducerStamp
from unbroken.testing.history import Append, Create, Delete, Operation, Outcome, Read, Rule, check_history

UNKNOWN = Outcome.UNKNOWN
REFUSED = Outcome.REFUSED


def at(number: int, position: int) -> str:
    return f"{number:016d}_{position:016d}"


def stamp(epoch: int, seq: int) -> ProducerStamp:
    return ProducerStamp("p", epoch, seq)


class Tape:
    """Records what is done one after the other, by default to the stream of number 1 at ``/a``; ``when`` makes things
    overlap.
    """

    def __init__(self) -> None:
        self.history: list[Operation] = []
        self._now = 0

    def add(self, kind: type[Operation], facts: dict[str, Any]) -> Tape:
        invoked, completed = facts.pop("when", (self._now + 1, self._now + 2))
        self._now = max(self._now, completed)
        self.history.append(kind(**{"client": "c", "path": "/a", "invoked": invoked, "completed": completed, **facts}))
        return self

    def create(self, data: bytes = b"", number: int = 1, **facts: Any) -> Tape:
        return self.add(Create, {"data": data, "tail": at(number, len(data)), **facts})

    def append(self, data: bytes, end: int, number: int = 1, **facts: Any) -> Tape:
        return self.add(Append, {"data": data, "tail": at(number, end), **facts})

    def lose(self, data: bytes, **facts: Any) -> Tape:
        return self.add(Append, {"data": data, "outcome": UNKNOWN, **facts})

    def refuse(self, data: bytes, code: str, **facts: Any) -> Tape:
        return self.add(Append, {"data": data, "outcome": REFUSED, "code": code, **facts})

    def delete(self, **facts: Any) -> Tape:
        return self.add(Delete, facts)

    def read(self, data: bytes, number: int = 1, start: str = "-1", **facts: Any) -> Tape:
        begin = 0 if start == "-1" else int(start.partition("_")[2])
        values = {"start": start, "next_offset": at(number, begin + len(data)), "up_to_date": True, "data": data}
        return self.add(Read, {**values, **facts})

    def head(self, end: int, number: int = 1, **facts: Any) -> Tape:
        return self.add(Read, {"start": "now", "next_offset": at(number, end), "up_to_date": True, **facts})

    def miss(self, code: str, start: str = "-1", **facts: Any) -> Tape:
        return self.add(Read, {"start": start, "outcome": REFUSED, "code": code, **facts})


BROKEN: dict[str, tuple[Rule, Tape]] = {
    "an acknowledged append is not read": (Rule.LOST, Tape().create().append(b"one;", 4).read(b"")),
    "nor is it in a head": (Rule.LOST, Tape().create().append(b"one;", 4).head(0)),
    "another lies in its place": (Rule.LOST, Tape().create().append(b"one;", 4).lose(b"two;").read(b"two;")),
    "two are acknowledged for one place": (
        Rule.LOST,
        Tape().create().append(b"one;", 4, when=(10, 20)).append(b"two;", 4, when=(11, 21)),
    ),
    "a repetition that is none": (
        Rule.LOST,
        Tape().create().append(b"one;", 0, duplicate=True, producer=stamp(0, 0)).read(b""),
    ),
    "bytes change": (Rule.CHANGED, Tape().create().lose(b"one;").lose(b"two;").read(b"one;").read(b"two;")),
    "bytes move": (
        Rule.CHANGED,
        Tape().create().lose(b"one;").lose(b"two;").read(b"one;").read(b"two;one;"),
    ),
    "an append is there twice": (Rule.DOUBLED, Tape().create().lose(b"one;").read(b"one;one;")),
    "an acknowledged one is there twice": (Rule.DOUBLED, Tape().create().append(b"one;", 4).read(b"one;one;")),
    "a retry is taken for new": (
        Rule.DOUBLED,
        Tape().create().lose(b"one;", producer=stamp(0, 0)).append(b"one;", 8, producer=stamp(0, 0)).read(b"one;one;"),
    ),
    "a retry is acknowledged as new twice": (
        Rule.DOUBLED,
        Tape().create().append(b"one;", 4, producer=stamp(0, 0)).append(b"one;", 8, producer=stamp(0, 0)),
    ),
    "a refused append is there": (Rule.REFUSED, Tape().create().refuse(b"one;", "conflict").read(b"one;")),
    "the body of a confirmation is there": (
        Rule.REFUSED,
        Tape().create().create(b"one;", existed=True, tail=at(1, 4)).read(b"one;"),
    ),
    "nobody sent it": (Rule.PHANTOM, Tape().create().read(b"one;")),
    "only half of it is there": (Rule.PHANTOM, Tape().create().lose(b"one;").read(b"on")),
    "it was sent to another stream": (
        Rule.PHANTOM,
        Tape().create().create(number=2, path="/b").lose(b"one;", path="/b").read(b"one;"),
    ),
    "it is read before it is sent": (
        Rule.PHANTOM,
        Tape().create().read(b"one;", when=(3, 4)).append(b"one;", 4, when=(5, 6)),
    ),
    "it is read before it is sent, its answer lost": (
        Rule.PHANTOM,
        Tape().create().read(b"one;", when=(3, 4)).lose(b"one;", when=(5, 6)),
    ),
    "the stream ends inside of it": (Rule.PHANTOM, Tape().create().lose(b"one;").read(b"o", up_to_date=False).head(3)),
    "nobody created it": (Rule.PHANTOM, Tape().head(0)),
    "real-time order": (
        Rule.ORDER,
        Tape().create().append(b"one;", 8, when=(3, 4)).append(b"two;", 4, when=(5, 6)).read(b"two;one;"),
    ),
    "the order of lost ones": (
        Rule.ORDER,
        Tape().create().lose(b"one;", when=(3, 4)).lose(b"two;", when=(5, 6)).read(b"two;one;"),
    ),
    "the tail goes back": (Rule.BACKWARDS, Tape().create().lose(b"one;").head(4).head(0)),
    "the tail goes back for another reader": (Rule.BACKWARDS, Tape().create().lose(b"one;").read(b"one;").read(b"")),
    "a page is larger than its offsets say": (
        Rule.OFFSETS,
        Tape().create().append(b"one;", 4).read(b"one;", next_offset=at(1, 3)),
    ),
    "an offset sorts before its predecessor": (
        Rule.OFFSETS,
        Tape().create(number=2).append(b"one;", 4, 2).read(b"ne;", 2, start=at(3, 1)),
    ),
    "an offset of an earlier stream is taken": (
        Rule.OFFSETS,
        Tape().create(b"one;").delete().create(b"two;", 2).read(b"o;", 2, start=at(1, 2)),
    ),
    "an answer without an offset": (Rule.OFFSETS, Tape().create(tail="-1")),
    "an answer with something else": (Rule.OFFSETS, Tape().create().append(b"one;", 4, tail="4")),
    "a closed stream is open again": (Rule.CLOSED, Tape().create().append(b"", 0, close=True).head(0)),
    "a closed stream grows": (Rule.CLOSED, Tape().create().append(b"", 0, close=True).append(b"one;", 4)),
    "a closed stream grew by a lost append": (
        Rule.CLOSED,
        Tape().create().lose(b"one;").append(b"", 0, close=True).read(b"one;", closed=True),
    ),
    "nobody closed it": (Rule.CLOSED, Tape().create().head(0, closed=True)),
    "a deleted stream is back": (Rule.DELETED, Tape().create(b"one;").delete().read(b"one;")),
    "a deleted stream is appended to": (Rule.DELETED, Tape().create().delete().append(b"one;", 4)),
    "a deleted stream is deleted": (Rule.DELETED, Tape().create().delete().delete()),
    "nothing was there to delete": (Rule.DELETED, Tape().delete()),
    "the old stream is seen after the new one": (
        Rule.DELETED,
        Tape().create().delete(when=(3, 30)).create(number=2, when=(5, 6)).head(0, when=(7, 8)),
    ),
    "a stream is replaced": (Rule.DELETED, Tape().create().create(number=2)),
    "a deleted stream is forked": (
        Rule.DELETED,
        Tape()
        .create(b"one;")
        .delete()
        .create(b"own;", 2, path="/b", source="/a", tail=at(2, 8))
        .read(b"one;own;", 2, path="/b"),
    ),
    "a stream is absent": (Rule.VANISHED, Tape().create().miss("stream-not-found")),
    "a stream is absent for an append": (Rule.VANISHED, Tape().create().refuse(b"one;", "stream-not-found")),
    "a stream is absent for a fork": (
        Rule.VANISHED,
        Tape()
        .create()
        .add(Create, {"path": "/b", "source": "/a", "outcome": REFUSED, "code": "stream-not-found", "data": b"own;"}),
    ),
    "a stream is absent before it is deleted": (
        Rule.VANISHED,
        Tape().create().miss("stream-gone", when=(3, 4)).delete(when=(5, 6)),
    ),
    "a number is used again": (Rule.NUMBERS, Tape().create().delete().create()),
    "a number is used at another path": (Rule.NUMBERS, Tape().create().create(path="/b")),
    "numbers go back": (Rule.NUMBERS, Tape().create(number=2).create(number=1, path="/b")),
    "a fork has other bytes": (
        Rule.FORK,
        Tape()
        .create(b"one;")
        .create(b"own;", 2, path="/b", source="/a", tail=at(2, 8))
        .read(b"two;own;", 2, path="/b"),
    ),
    "a producer's second lies before its first": (
        Rule.PRODUCER,
        Tape()
        .create()
        .lose(b"one;", producer=stamp(0, 0), when=(3, 20))
        .lose(b"two;", producer=stamp(0, 1), when=(4, 20))
        .read(b"two;one;"),
    ),
    "a producer's gap is accepted": (
        Rule.PRODUCER,
        Tape()
        .create()
        .append(b"one;", 4, producer=stamp(0, 0))
        .append(b"two;", 8, producer=stamp(0, 2))
        .read(b"one;two;"),
    ),
    "Stream-Seq goes back": (
        Rule.STREAM_SEQ,
        Tape().create().append(b"one;", 4, stream_seq="2").append(b"two;", 8, stream_seq="1"),
    ),
    "closed, it says": (Rule.REFUSAL, Tape().create().refuse(b"one;", "stream-closed")),
    "it exists, it says": (Rule.REFUSAL, Tape().create(outcome=REFUSED, code="stream-exists")),
    "a producer is forgotten": (
        Rule.REFUSAL,
        Tape()
        .create()
        .append(b"one;", 4, producer=stamp(0, 0))
        .refuse(b"two;", "producer-sequence-gap", producer=stamp(0, 1)),
    ),
    "a gap before the first": (
        Rule.REFUSAL,
        Tape().create().refuse(b"two;", "producer-sequence-gap", producer=stamp(0, 0)),
    ),
    "a stale epoch, it says": (
        Rule.REFUSAL,
        Tape().create().refuse(b"two;", "stale-producer-epoch", producer=stamp(0, 0)),
    ),
    "a Stream-Seq too small, it says": (
        Rule.REFUSAL,
        Tape().create().append(b"one;", 4, stream_seq="1").refuse(b"two;", "sequence-regression", stream_seq="2"),
    ),
    "an offset of its own, refused": (
        Rule.REFUSAL,
        Tape().create().append(b"one;", 4).miss("invalid-offset", at(1, 4)),
    ),
}

SOUND: dict[str, Tape] = {
    "nothing happened": Tape(),
    "a lost append is not there": Tape().create().lose(b"one;").read(b""),
    "a lost append is there": Tape().create().lose(b"one;").read(b"one;"),
    "a lost append comes late": Tape().create().lose(b"one;", when=(3, 9)).read(b"", when=(4, 5)).read(b"one;"),
    "overlapping appends in either order": (
        Tape().create().append(b"one;", 8, when=(3, 9)).append(b"two;", 4, when=(4, 8)).read(b"two;one;")
    ),
    "a read that began before the append": Tape().create().append(b"one;", 4, when=(4, 5)).read(b"", when=(3, 6)),
    "a retry is recognised": (
        Tape()
        .create()
        .lose(b"one;", producer=stamp(0, 0))
        .append(b"one;", 4, producer=stamp(0, 0), duplicate=True)
        .read(b"one;")
    ),
    "a retry is new": (
        Tape().create().lose(b"one;", producer=stamp(0, 0)).append(b"one;", 4, producer=stamp(0, 0)).read(b"one;")
    ),
    "a producer begins again on a new stream": (
        Tape()
        .create()
        .append(b"one;", 4, producer=stamp(0, 0))
        .delete()
        .create(number=2)
        .refuse(b"two;", "producer-sequence-gap", producer=stamp(0, 1))
        .append(b"one;", 4, 2, producer=stamp(0, 0))
        .read(b"one;", 2)
    ),
    "a lost creation": (Tape().create(b"one;", outcome=UNKNOWN, tail="").append(b"two;", 8).read(b"one;two;")),
    "a lost creation that did nothing": Tape().create(b"one;", outcome=UNKNOWN, tail="").miss("stream-not-found"),
    "a lost deletion": Tape().create().delete(outcome=UNKNOWN).miss("stream-not-found").create(number=5),
    "a lost deletion that did nothing": Tape().create().delete(outcome=UNKNOWN).head(0),
    "a lost close": Tape().create().append(b"", 0, close=True, outcome=UNKNOWN, tail="").head(0, closed=True),
    "a fork, its source deleted and gone": (
        Tape()
        .create(b"one;")
        .create(b"own;", 2, path="/b", source="/a", tail=at(2, 8))
        .delete()
        .miss("stream-gone")
        .create(outcome=REFUSED, code="stream-exists")
        .read(b"on", path="/b", number=1, up_to_date=False)
        .read(b"e;own;", 2, start=at(1, 2), path="/b")
    ),
    "a lost fork": (
        Tape()
        .create(b"one;")
        .create(b"own;", 2, path="/b", source="/a", outcome=UNKNOWN, tail="")
        .read(b"one;own;", 2, path="/b")
    ),
    "nobody read on": Tape().create().lose(b"one;").read(b"on", up_to_date=False),
    "nobody read on, and it may be one of two": (
        Tape().create().append(b"12;", 3, when=(3, 4)).lose(b"1;").head(5).read(b"12;1", up_to_date=False)
    ),
    "an old offset": Tape().create(b"one;").delete().create(number=2).miss("offset-gone", at(1, 4)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name: str) -> None:
    rule, tape = BROKEN[name]
    violations = check_history(tape.history)
    assert rule in {violation.rule for violation in violations}, violations
    assert all(violation.text and str(violation) for violation in violations)


@pytest.mark.parametrize("name", SOUND)
def test_what_can_be_explained_is_not_complained_of(name: str) -> None:
    assert check_history(SOUND[name].history) == []


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(Rule)


@pytest.mark.parametrize(
    "tape",
    [
        Tape().create().append(b"one", 3).append(b"one;", 7),
        Tape().create().append(b"one;", 4).append(b"one;", 8),
        Tape().create().append(b"one;", 4, producer=stamp(0, 0)).append(b"one;", 8, producer=stamp(0, 1)),
        Tape().create(when=(3, 3)),
    ],
)
def test_a_recording_that_cannot_be_checked(tape: Tape) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        check_history(tape.history)


def test_complaints_are_limited() -> None:
    tape = Tape()
    for number in range(1, 300):
        tape.create(number=number, path=f"/{number}").read(b"?", number, path=f"/{number}")
    assert len(check_history(tape.history)) == 100
