"""A store's journey recorded: everything that was done to its files, and what was known outside at every moment.

From a recording, what a crash at any moment would have left can be made any number of times, without the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.store.inline import finish
from tests.store.journey import Journey, StepKind, look_around, take
from tests.store.sizes import OVERLAY_BYTES_MAX
from unbroken.store.sqlite import SqliteStore
from unbroken.testing.faults import FaultyDisk, Operation
from unbroken.testing.medium import Event, Medium

__all__ = ["Known", "Recording", "make", "moments", "record"]


class Known(NamedTuple):
    """What somebody outside could know at one moment.

    Args:
        least: how many of the steps were acknowledged, or seen by a reader: they must be there after a crash.
        most: how many were begun: more cannot be there.
        started: whether the store ever was open.
    """

    least: int
    most: int
    started: bool


class Recording(NamedTuple):
    """What happened: ``known[n]`` held while ``n`` events had happened."""

    plan: Journey
    directory: Path
    events: list[Event]
    known: list[Known]


def make(directory: Path, disk: FaultyDisk | None = None) -> SqliteStore:
    """A store in miniature; not opened."""
    return SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX, vfs=None if disk is None else disk.name)


def moments(recording: Recording) -> Iterator[tuple[Known, Medium]]:
    """Every moment of a recording: what was known, and what was certain."""
    medium = Medium()
    for known, event in zip(recording.known, [None, *recording.events], strict=True):
        if event is not None:
            medium.note(event)
        yield known, medium


class _Witness:
    """Looks at the store before every operation on its files, as a reader could."""

    def __init__(self, store: SqliteStore, disk: FaultyDisk, plan: Journey) -> None:
        self._store = store
        self._disk = disk
        self._plan = plan
        self._busy = False
        self.events: list[Event] = []
        self.known: list[Known] = []
        self.now = Known(0, 0, False)
        self.looking = False
        self.faults: list[str] = []
        disk.events = self.events
        disk.watch = self._watch

    def note(self, **changes: object) -> None:
        self.now = self.now._replace(**changes)  # type: ignore[arg-type]
        self._remember()

    def _watch(self, operation: Operation) -> None:
        if self._busy or operation.kind in ("read", "open"):
            return
        if self.looking:
            self._busy = True
            try:
                self._look()
            except Exception as error:  # SQLite would take it for an error of the disk
                self.faults.append(f"at event {len(self.events)}, before {operation}: {error!r}")
            finally:
                self._busy = False
        self._remember()

    def _look(self) -> None:
        seen = finish(look_around(self._store))
        expected = self._plan.expected
        if seen == expected[self.now.least]:
            return
        # It may be acknowledged in a moment; who has seen it knows of it already.
        assert seen == expected[self.now.most], "a reader saw what never was"
        self.now = self.now._replace(least=self.now.most)

    def _remember(self) -> None:
        count = len(self.events)
        while len(self.known) < count:
            self.known.append(self.known[-1])  # in the midst of an operation
        if len(self.known) == count:
            self.known.append(self.now)
        self.known[count] = self.now


async def record(directory: Path, plan: Journey) -> Recording:
    """Make the journey, without a fault."""
    with FaultyDisk() as disk:
        store = make(directory, disk)
        witness = _Witness(store, disk, plan)
        witness.note()
        await store.open()
        witness.note(started=True)
        for index, step in enumerate(plan.steps):
            witness.note(most=index + 1)
            witness.looking = step.kind is not StepKind.RESTART
            done = index + 1
            await take(store, step, lambda done=done: witness.note(least=done))  # type: ignore[misc]
            assert await look_around(store) == plan.expected[done], step
        witness.looking = False
        await store.close()
        witness.note()
    assert not witness.faults, "\n".join(witness.faults)
    return Recording(plan, directory, witness.events, witness.known)
