"""kill -9, again and again, under load and at every bad moment: what clients saw must have an explanation.

Run again what failed, or more of it:

    UNBROKEN_KILL_SEED=7 UNBROKEN_KILL_RUNS=1 pytest -s tests/crash/test_kill.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import cast

import apsw
import pytest

from tests.crash.clients import Party, Scene, invite, look
from tests.crash.nursery import Order
from tests.crash.plans import EXPECTED, Plan, classify, count_up, draw_plans
from tests.crash.raising import Nursery, Raised, nursery
from tests.crash.recording import Client, Recorder
from tests.crash.serving import Lost
from tests.server.process import server_process
from unbroken.store.sqlite.check import check
from unbroken.testing import Address
from unbroken.testing.history import Outcome, check_history

CYCLE_S = 60.0
FLAGS = ("--page-size", "16KiB", "--long-poll-timeout", "0.2")

FIRST_SEED = int(os.environ.get("UNBROKEN_KILL_SEED", "1"))
RUNS = int(os.environ.get("UNBROKEN_KILL_RUNS", "10"))
RUNS_IN_FULL = int(os.environ.get("UNBROKEN_KILL_RUNS", "100"))


class Run:
    """Some clients, and the lives of a server on one directory."""

    def __init__(self, directory: Path, seed: int, nursing: Nursery) -> None:
        self.hits: Counter[str] = Counter()
        self.recorder = Recorder()
        self._nursery = nursing
        self._chance = Random(seed)
        self._scene = Scene(seed)
        self._parties = invite(self._scene)
        self._directory = directory
        self._data = directory / "data"
        self._log = directory / "log"
        self._journal_rows = 0

    async def go(self) -> None:
        for number, plan in enumerate(draw_plans(self._chance)):
            sys.stdout.write(f"cycle {number}, from {self.recorder.now()}: {plan}\n")  # shown if it fails
            async with asyncio.timeout(CYCLE_S):
                listening = await (self._real_cycle(plan) if plan.real else self._cycle(plan))
            self._look_at_the_remains(plan, listening=listening)
        last = await self._start(Plan())
        assert last.address is not None
        async with Client(self.recorder, "last", last.address).connected() as client:
            await look(client, self._scene, self._chance)
        last.send_signal(signal.SIGTERM)
        assert await last.ended == 0
        self.recorder.settle()
        assert check(self._data) == []

    async def _start(self, plan: Plan) -> Raised:
        arguments = ("serve", "--port", "0", "--data-dir", str(self._data), *FLAGS)
        return await self._nursery.start(Order(arguments, str(self._log), plan.small, plan.death))

    async def _cycle(self, plan: Plan) -> bool:
        server = await self._start(plan)
        if server.address is not None:
            try:
                await self._load(plan, server.address, server.ended, server.send_signal)
            finally:
                server.send_signal(signal.SIGKILL)
        code = await server.ended
        assert code == -signal.SIGKILL or (plan.asked and code == 0), self._log.read_text()
        return server.address is not None

    async def _real_cycle(self, plan: Plan) -> bool:
        async with server_process(self._directory, *FLAGS) as server:
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            await self._load(plan, server.address, ended, server.send_signal)
            code, log = await server.wait()
            assert code == -signal.SIGKILL, log
            self._log.write_text(log)
        return True

    async def _load(
        self, plan: Plan, address: Address, ended: asyncio.Future[int], send_signal: Callable[[signal.Signals], None]
    ) -> None:
        """Let clients loose on a server until it has ended, or is killed because it is time."""
        enough = asyncio.Event()
        left = plan.completions

        def count() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                enough.set()

        async with asyncio.TaskGroup() as acting:
            if plan.look_first:
                await self._act(address, None)
            self.recorder.on_completion = count
            for party in [None, *self._parties]:
                acting.create_task(self._act(address, party))
            timely: asyncio.Future[object] = asyncio.ensure_future(enough.wait())
            await asyncio.wait([timely, cast(asyncio.Future[object], ended)], return_when=asyncio.FIRST_COMPLETED)
            timely.cancel()
            if plan.asked:
                send_signal(signal.SIGTERM)
            if plan.asked and plan.death is not None:
                await ended
            send_signal(signal.SIGKILL)

    async def _act(self, address: Address, party: Party | None) -> None:
        """Go on until the server is gone; without a party, look around once."""
        with contextlib.suppress(Lost):
            if party is None:
                async with Client(self.recorder, "look", address).connected() as client:
                    await look(client, self._scene, self._chance)
                return
            while True:
                async with Client(self.recorder, party.name, address).connected() as client:
                    for _ in range(1 if party.name.startswith("sse") else 50):
                        await party.step(client)

    def _look_at_the_remains(self, plan: Plan, *, listening: bool) -> None:
        unknown = len(self.recorder.history)
        self.recorder.settle()
        self.hits["answers lost"] += len(self.recorder.history) - unknown
        log = self._log.read_text()
        assert "Traceback" not in log, log
        self.hits += classify(self._log, plan, listening=listening, journal_rows=self._journal_rows)
        rows = journal_rows(self._data)
        if rows is None:
            assert not any(operation.outcome is Outcome.OK for operation in self.recorder.history)
            return
        assert check(self._data) == []
        self._journal_rows = rows
        self.hits["started on an unfolded journal"] += rows > 1
        self.hits["journal rows found unfolded"] += max(0, rows - 1)


def journal_rows(directory: Path) -> int | None:
    """How many rows are in the journal, of which the newest always stays; None if the store was not made yet."""
    database = directory / "unbroken.db"
    if not database.exists() or database.with_name("unbroken.db-journal").exists():
        return None
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'journal'").fetchall():
            return None
        return sum(1 for _ in db.execute("SELECT id FROM journal"))


async def run_all(directory: Path, seeds: range) -> Counter[str]:
    hits: Counter[str] = Counter()
    async with nursery() as nursing:
        for seed in seeds:
            sys.stdout.write(f"seed {seed}; again: UNBROKEN_KILL_SEED={seed} UNBROKEN_KILL_RUNS=1 pytest {__file__}\n")
            room = directory / str(seed)
            room.mkdir()
            run = Run(room, seed, nursing)
            try:
                await run.go()
            except BaseException as error:
                run.recorder.settle()
                error.add_note(found(run))
                raise
            assert not found(run), found(run)
            hits += run.hits + count_up(run.recorder.history)
    return hits


def found(run: Run) -> str:
    """What the checker has to say."""
    return "\n".join(map(str, check_history(run.recorder.history)[:10]))


def judge(hits: Counter[str], report_fact: Callable[[str], None]) -> None:
    report_fact("kills: " + ", ".join(f"{what}: {count}" for what, count in hits.most_common()))
    if RUNS >= 10:
        missed = {what: count for what, count in EXPECTED.items() if hits[what] < count}
        assert not missed, f"hit too seldom: {missed}; {hits}"


@pytest.mark.timeout(600)
async def test_killed_again_and_again(tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    judge(await run_all(tmp_path, range(FIRST_SEED, FIRST_SEED + RUNS)), report_fact)


@pytest.mark.full
@pytest.mark.timeout(7200)
async def test_killed_again_and_again_in_full(tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    judge(await run_all(tmp_path, range(FIRST_SEED + 1000, FIRST_SEED + 1000 + RUNS_IN_FULL)), report_fact)
