"""A store's whole life as a list of steps: from its first start, through everything it can be asked for, with
housekeeping, large bodies in pieces, and restarts; and what must be there after each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from tests.store.looking import Contents, contents
from tests.store.sizes import LARGE_BYTES
from unbroken.errors import OutcomeUnknown, UnbrokenError
from unbroken.protocol.commands import Command, Delete, Reclaim, Release
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.producers import ProducerStamp
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.staged import Dating, Piece
from unbroken.testing.store_bench import NOW, append, create, execute, fork, settle

__all__ = ["Journey", "Step", "StepKind", "journey", "look_around", "take"]

_PATHS = ("/a", "/b", "/c", "/json", "/fork", "/fork/deep", "/large", "/pieces", "/ttl", "/until", "/last")
_PRODUCERS = ("p", "q")
_PIECE_BYTES = 70


class StepKind(Enum):
    """What a step does."""

    COMMANDS = auto()
    """One transaction of commands, then a little housekeeping."""
    PIECE = auto()
    """One transaction that writes a piece of a large body ahead of its record."""
    DATE = auto()
    """One transaction that says of some of what is written when it will have been added."""
    ABANDON = auto()
    """The record will not come; another transaction says so."""
    SETTLE = auto()
    """An idle while: all housekeeping there is to do."""
    RESTART = auto()
    """The store is closed and opened again."""


class Step(NamedTuple):
    """One step of a store's life."""

    kind: StepKind
    commands: tuple[Command, ...] = ()
    piece: Piece | None = None
    dating: Dating | None = None


class Journey(NamedTuple):
    """Steps, and the store's contents: ``expected[n]`` after ``n`` of them."""

    steps: tuple[Step, ...]
    expected: tuple[Contents, ...]


async def look_around(store: Store) -> Contents:
    """What a store holds of a journey."""
    return await contents(store, _PATHS, _PRODUCERS)


async def take(store: SqliteStore, step: Step, committed: Callable[[], None] = lambda: None) -> None:
    """Take a step.

    Args:
        store: open, and open again afterwards.
        step: which.
        committed: called when what the step is there for has been acknowledged; housekeeping may follow.

    Raises:
        UnbrokenError: it failed.
    """
    if step.kind is StepKind.SETTLE:
        await settle(store)
    elif step.kind is StepKind.RESTART:
        await store.close()
        await store.open()
    elif step.piece is not None:
        async with store.transaction([]) as transaction:
            if step.kind is StepKind.PIECE:
                transaction.stage(*step.piece)
            else:
                transaction.unstage(step.piece.number)
    elif step.dating is not None:
        async with store.transaction([]) as transaction:
            transaction.date(*step.dating)
    else:
        await execute(store, *step.commands)
        committed()
        await _let_others_run()
        await store.maintain()
        await _let_others_run()
        return
    if store.failure is not None:
        raise OutcomeUnknown("something failed on the way")
    committed()
    await _let_others_run()


async def _let_others_run() -> None:
    """Checkpoints are tasks of their own."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Planner:
    """Tries the steps out on the memory store, as they are written down."""

    def __init__(self) -> None:
        self.model = MemoryStore()
        self.steps: list[Step] = []
        self.expected: list[Contents] = []

    async def add(self, *steps: Step) -> None:
        for step in steps:
            outcomes = await execute(self.model, *step.commands)
            assert not [outcome for outcome in outcomes if isinstance(outcome, UnbrokenError)]
            self.steps.append(step)
            self.expected.append(await look_around(self.model))

    async def do(self, *commands: Command) -> None:
        await self.add(Step(StepKind.COMMANDS, commands))

    def number(self, path: str) -> int:
        state = self.model.state(path)
        assert state is not None
        return state.number

    def pieces(self, path: str, data: bytes) -> list[Step]:
        state = self.model.state(path)
        assert state is not None
        starts = range(0, len(data), _PIECE_BYTES)
        pieces = [(state.tail + start, data[start : start + _PIECE_BYTES]) for start in starts]
        now_ms = NOW.wall_ms - 1000
        return [Step(StepKind.PIECE, piece=Piece(state.number, position, part, now_ms)) for position, part in pieces]


async def journey() -> Journey:
    """The journey, tried out on the memory store."""
    plan = _Planner()
    plan.expected.append(await look_around(plan.model))
    await _childhood(plan)
    await _forks(plan)
    await _pieces(plan)
    await _lifetimes(plan)
    await _old_age(plan)
    return Journey(tuple(plan.steps), tuple(plan.expected))


async def _childhood(plan: _Planner) -> None:
    stamps = [ProducerStamp("p", 3, seq) for seq in range(3)]
    await plan.do(create("/a", b"first"), create("/b"), create("/json", b'[1,"two"]', json=True))
    await plan.do(append("/a", b"-", producer=stamps[0]), append("/a", b"-" * 30, producer=stamps[1]))
    await plan.do(append("/b", b"B" * 20), append("/json", b"[[]]", json=True, stream_seq="1"))
    await plan.add(Step(StepKind.RESTART))
    await plan.do(append("/a", b"after", producer=stamps[2]), append("/b", b"b"))
    await plan.do(create("/large", b"L" * LARGE_BYTES), append("/a", b"x" * (2 * LARGE_BYTES)), append("/b", b"b"))


async def _forks(plan: _Planner) -> None:
    await plan.do(fork("/fork", "/a", data=b"own"), append("/b", b"between"))
    await plan.do(append("/fork", b"F" * 10), fork("/fork/deep", "/fork", data=b"deep"), create("/c", b"C" * 60))
    deep, forked, source = plan.number("/fork/deep"), plan.number("/fork"), plan.number("/a")
    await plan.do(Delete("/fork"), Delete("/c"), create("/c", b"again", lifetime=Lifetime(ttl_s=60)))
    await plan.do(Delete("/fork/deep"), append("/large", b"small"), append("/json", b'{"k":0}', json=True, close=True))
    await plan.do(Release("/fork", forked, deep), append("/b", b"q", producer=ProducerStamp("q", 0, 0)))
    await plan.do(Delete("/a"))
    await plan.do(Release("/a", source, forked), create("/until", lifetime=Lifetime(expires_at_ms=10**12)))
    await plan.do(create("/a", b"new"), append("/large", b"y" * LARGE_BYTES), append("/b", b"!" * 10))
    await plan.add(Step(StepKind.SETTLE))


async def _pieces(plan: _Planner) -> None:
    """A body in pieces with small appends in between; one that is given up; one that a restart finds half written."""
    body = bytes(range(256))
    await plan.do(create("/pieces", b"so far"))
    steps = plan.pieces("/pieces", body)
    for step in steps:
        await plan.add(step)
        await plan.do(append("/b", b"meanwhile"))
    await plan.do(append("/pieces", body, producer=ProducerStamp("p", 0, 0)))
    steps = plan.pieces("/pieces", body)
    await plan.add(*steps[:2], Step(StepKind.ABANDON, piece=steps[0].piece))
    await plan.do(append("/pieces", b"instead"))
    await plan.add(*plan.pieces("/pieces", body)[:3], Step(StepKind.RESTART))
    await plan.do(append("/pieces", b"after the restart"))
    steps = plan.pieces("/pieces", body)
    first = steps[0].piece
    assert first is not None
    dating = Dating(first.number, first.position, first.position + 2 * _PIECE_BYTES, NOW.wall_ms)
    await plan.add(*steps, Step(StepKind.DATE, dating=dating))
    await plan.do(append("/pieces", body, close=True))


async def _lifetimes(plan: _Planner) -> None:
    await plan.do(create("/ttl", b"t" * 90, lifetime=Lifetime(ttl_s=0)), append("/c", b"more"))
    await plan.do(Reclaim("/ttl", plan.number("/ttl")))
    await plan.do(create("/ttl", b"T", lifetime=Lifetime(ttl_s=5)), append("/b", b"!", close=True))


async def _old_age(plan: _Planner) -> None:
    """Much that comes and goes, so that the log starts over, the trash is emptied and the file shrinks."""
    for turn, size_bytes in itertools.product(range(2), (40, 400, 2_000)):
        await plan.do(create("/last", b"%d" % turn * size_bytes), append("/a", b"z" * 50))
        await plan.do(append("/last", b"." * size_bytes, producer=ProducerStamp("q", 1, 0)))
        await plan.do(Delete("/last"))
    await plan.add(Step(StepKind.SETTLE))
    await plan.do(Delete("/large"), Delete("/c"), append("/a", b"z" * 50, producer=ProducerStamp("p", 0, 0)))
    await plan.do(create("/large", b"small now"), append("/a", b"end"))
    await plan.add(Step(StepKind.RESTART))
    await plan.do(append("/a", b"."))
