"""The checker of histories against a correct server: it never complains, unless the recording is tampered with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.crash.model import Model
from unbroken.testing.history import Append, Create, Delete, Operation, Outcome, Read, check_history

steps = st.lists(st.integers(0, 2**32 - 1), max_size=120)
long_steps = st.lists(st.integers(0, 2**32 - 1), min_size=30, max_size=120)


@given(steps=steps, order=st.randoms(use_true_random=False))
def test_a_correct_server_is_not_complained_of(steps: list[int], order: Random) -> None:
    history = Model(steps).history
    order.shuffle(history)
    assert check_history(history) == []


History = list[Operation]
Kind = TypeVar("Kind", bound=Operation)


def final_reads(model: Model) -> list[Read]:
    return [one for one in model.history[-3:] if isinstance(one, Read) and one.outcome is Outcome.OK]


def seen_appends(model: Model) -> list[Append]:
    """Appends acknowledged as new that are there in the end, and were sent but once."""
    numbers = {read.next_offset[:16] for read in final_reads(model)}
    acknowledged = [one for one in model.history if isinstance(one, Append) and one.data]
    return [
        one
        for one in acknowledged
        if one.outcome is Outcome.OK
        and not one.duplicate
        and one.tail[:16] in numbers
        and sum(other.data == one.data for other in acknowledged) == 1
    ]


def exchange(history: History, old: Operation, new: Operation | None) -> History:
    return [one for one in history if one is not old] + ([] if new is None else [new])


def pick(chance: Random, candidates: Sequence[Kind]) -> Kind:
    assume(candidates)
    return chance.choice(candidates)


def flip_a_byte(model: Model, chance: Random) -> History:
    # What a fork inherits may come from a stream that nobody else saw, so nobody can contradict it.
    whole = [one for one in final_reads(model) if one.data and model.streams[one.path].source is None]
    read = pick(chance, whole)
    index = chance.randrange(len(read.data))
    data = bytes([*read.data[:index], read.data[index] ^ 0x80, *read.data[index + 1 :]])
    return exchange(model.history, read, replace(read, data=data))


def cut_a_read(model: Model, chance: Random) -> History:
    """The last bytes are lost although somebody was told that they are there."""
    append = pick(chance, seen_appends(model))
    read = next(one for one in final_reads(model) if one.next_offset[:16] == append.tail[:16])
    kept = int(append.tail[17:]) - 1
    offset = f"{read.next_offset[:16]}_{kept:016d}"
    return exchange(model.history, read, replace(read, data=read.data[:kept], next_offset=offset))


def call_it_refused(model: Model, chance: Random) -> History:
    append = pick(chance, seen_appends(model))
    return exchange(model.history, append, replace(append, outcome=Outcome.REFUSED, code="conflict"))


def forget_who_sent_it(model: Model, chance: Random) -> History:
    return exchange(model.history, pick(chance, seen_appends(model)), None)


def send_it_too_late(model: Model, chance: Random) -> History:
    append = pick(chance, seen_appends(model))
    end = max(one.completed for one in model.history)
    return exchange(model.history, append, replace(append, invoked=end + 1, completed=end + 2))


def append_it_twice(model: Model, chance: Random) -> History:
    append = pick(chance, seen_appends(model))
    read = next(one for one in final_reads(model) if one.next_offset[:16] == getattr(append, "tail", "")[:16])
    data = read.data + append.data
    return exchange(
        model.history, read, replace(read, data=data, next_offset=f"{read.next_offset[:16]}_{len(data):016d}")
    )


def change_places(model: Model, chance: Random) -> History:
    """Two appends of one size are told each other's place."""
    appends = seen_appends(model)
    pairs = [
        (one, other)
        for one in appends
        for other in appends
        if one.tail[:16] == other.tail[:16] and len(one.data) == len(other.data) and one.tail < other.tail
    ]
    assume(pairs)
    one, other = chance.choice(pairs)
    history = exchange(model.history, one, replace(one, tail=other.tail))
    return exchange(history, other, replace(other, tail=one.tail))


def undo_a_deletion(model: Model, chance: Random) -> History:
    """What is there in the end was deleted before."""
    read = pick(chance, final_reads(model))
    begun = [
        one.completed for one in model.history if getattr(one, "tail", "")[:16] == getattr(read, "next_offset", "")[:16]
    ]
    assume(begun)
    now = read.invoked - 2
    assume(min(begun) < now)
    return [*model.history, Delete(client="d", path=read.path, invoked=now, completed=now + 1)]


def lose_a_stream(model: Model, chance: Random) -> History:
    read = pick(chance, final_reads(model))
    later = read.completed + 1
    missing = Read(
        client="d",
        path=read.path,
        invoked=later,
        completed=later + 1,
        start="-1",
        outcome=Outcome.REFUSED,
        code="stream-not-found",
    )
    return [*model.history, missing]


def use_a_number_again(model: Model, chance: Random) -> History:
    """A stream that follows another at its path gets that one's number."""
    created = [
        one for one in model.history if isinstance(one, Create) and one.outcome is Outcome.OK and not one.existed
    ]
    pairs = [
        (one, other)
        for one in created
        for other in created
        if one.path == other.path and one.tail[:16] < other.tail[:16] and other.source is None
    ]
    assume(pairs)
    one, other = chance.choice(pairs)
    return exchange(model.history, other, replace(other, tail=one.tail[:16] + other.tail[16:]))


def open_it_again(model: Model, chance: Random) -> History:
    read = pick(chance, [one for one in final_reads(model) if not one.closed])
    now = max(one.completed for one in model.history) + 1
    close = Append(client="d", path=read.path, invoked=now, completed=now + 1, close=True, tail=read.next_offset)
    return [*model.history, close, replace(read, invoked=now + 2, completed=now + 3, start="now", data=b"")]


def forget_a_producer(model: Model, chance: Random) -> History:
    deleted = {one.path for one in model.history if isinstance(one, Delete) and one.outcome is not Outcome.REFUSED}
    append = pick(chance, [one for one in seen_appends(model) if one.producer is not None and one.path not in deleted])
    assert append.producer is not None
    later = append.completed + 1
    stamp = append.producer._replace(seq=append.producer.seq + 1)
    return [
        *model.history,
        Append(
            client="d",
            path=append.path,
            invoked=later,
            completed=later + 1,
            data=b"another",
            producer=stamp,
            outcome=Outcome.REFUSED,
            code="producer-sequence-gap",
        ),
    ]


TAMPERING: list[Callable[[Model, Random], History]] = [
    flip_a_byte,
    cut_a_read,
    call_it_refused,
    forget_who_sent_it,
    send_it_too_late,
    append_it_twice,
    change_places,
    undo_a_deletion,
    lose_a_stream,
    use_a_number_again,
    open_it_again,
    forget_a_producer,
]


@pytest.mark.parametrize("tamper", TAMPERING)
@settings(max_examples=50, suppress_health_check=[HealthCheck.filter_too_much])
@given(steps=long_steps, chance=st.randoms(use_true_random=False))
def test_tampering_is_found(tamper: Callable[[Model, Random], History], steps: list[int], chance: Random) -> None:
    history = tamper(Model(steps), chance)
    assert check_history(history)
