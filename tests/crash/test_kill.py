"""kill -9, again and again, under load: what was acknowledged is there, and nothing else but what may be."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from tests.crash.parties import Party, PlainWriters, ProducerWriter, Reader, Soloist
from tests.crash.serving import dialled, kill, served
from unbroken.store.sqlite.check import check

CYCLE_S = 30.0


class Countdown:
    """Tells when so many promises were made."""

    def __init__(self, promises: int) -> None:
        self.over = asyncio.Event()
        self._left = promises

    def promised(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.over.set()


def invite(chance: Random) -> list[Party]:
    writers = PlainWriters(chance, 3)
    return [
        writers,
        Reader(writers, "sse"),
        Reader(writers, "long-poll"),
        ProducerWriter(chance, "producer-a"),
        ProducerWriter(chance, "producer-b"),
        Soloist(chance, "solo-a"),
        Soloist(chance, "solo-b"),
    ]


async def cycle(directory: Path, parties: list[Party], chance: Random, *, small: bool) -> None:
    """One life of a server: looked at, put under load, killed."""
    async with served(directory, small=small) as server:
        async with dialled(server.address) as connection:
            for party in parties:
                await party.look(connection)
        countdown = Countdown(chance.randrange(20, 400))
        async with asyncio.timeout(CYCLE_S), asyncio.TaskGroup() as acting:
            for party in parties:
                acting.create_task(party.act(server.address, countdown.promised))
            await countdown.over.wait()
            await asyncio.sleep(chance.uniform(0, 0.01))
            await kill(server)
    assert check(directory / "data") == []


async def run(directory: Path, seed: int, cycles: int) -> None:
    chance = Random(seed)
    parties = invite(chance)
    for number in range(cycles):
        sys.stdout.write(f"seed {seed}, cycle {number}\n")  # shown if it fails
        await cycle(directory, parties, chance, small=number % 3 > 0)
    async with served(directory) as server, dialled(server.address) as connection:
        for party in parties:
            await party.look(connection)
        server.send_signal(signal.SIGTERM)
        assert (await server.wait())[0] == 0
    assert check(directory / "data") == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    await run(tmp_path, seed, cycles=5)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 120))
async def test_killed_again_and_again_in_full(tmp_path: Path, seed: int) -> None:
    await run(tmp_path, seed, cycles=15)
