"""Clients of every kind. What each tries is decided by chance with a seed; that it was right is for the checker to say.

They share streams, get in each other's way, meet streams that others have closed, deleted and created again, and go
straight on with all that after a crash.
"""

from __future__ import annotations

from collections import defaultdict, deque
from random import Random
from typing import Protocol

from tests.crash.payloads import make_payload
from tests.crash.recording import Client
from unbroken.errors import StreamClosed, StreamNotFound
from unbroken.protocol.producers import ProducerStamp
from unbroken.testing.history import Append, Operation, Outcome

__all__ = ["PATHS", "Party", "Scene", "invite", "look"]

LOGS = ("/log/0", "/log/1", "/log/2")
MESSAGES = ("/json/0", "/json/1")
PRODUCED = ("/produced/0", "/produced/1", LOGS[0])
SEQUENCED = "/sequenced"
ROAMED = tuple(f"/roamed/{index}" for index in range(6))
PATHS = tuple(dict.fromkeys((*LOGS, *MESSAGES, *PRODUCED, SEQUENCED, *ROAMED)))
OFFSETS_KEPT = 8


class Scene:
    """What clients know together.

    Args:
        seed: decides what they try.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._serials: dict[str, int] = defaultdict(int)
        self._offsets: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=OFFSETS_KEPT))

    def serial(self, name: str) -> int:
        """1, 2, 3, ... for each name."""
        self._serials[name] += 1
        return self._serials[name]

    def body(self, chance: Random, path: str, name: str) -> bytes:
        """One that nobody sent before, fit for a stream."""
        body = make_payload(chance, name, self.serial(name))
        return b'"%b"' % body if path in MESSAGES else body

    def learn(self, operation: Operation) -> None:
        offset = getattr(operation, "tail", "") or getattr(operation, "next_offset", "")
        known = self._offsets[operation.path]
        if offset and offset not in known:
            known.append(offset)

    def offset(self, chance: Random, path: str) -> str:
        """The beginning, or an offset that somebody was given once, maybe of a stream that is gone."""
        return chance.choice(["-1", *self._offsets[path]])


class Party(Protocol):
    """A client of some kind."""

    name: str

    async def step(self, client: Client) -> None:
        """Do something."""
        ...


class Writer:
    """Appends; creates what is not there, and clears away what somebody has closed."""

    def __init__(self, scene: Scene, name: str, paths: tuple[str, ...]) -> None:
        self.scene = scene
        self.name = name
        self.paths = paths
        self.chance = Random(f"{scene.seed} {name}")

    def body(self, path: str) -> bytes:
        return self.scene.body(self.chance, path, self.name)

    async def step(self, client: Client) -> None:
        path = self.chance.choice(self.paths)
        dice = self.chance.random()
        if dice < 0.01:
            operation: Operation = await client.append(path, self.choose_body(path), close=True)
        elif dice < 0.015:
            operation = await client.delete(path)
        elif dice < 0.06:
            operation = await client.create(path, self.choose_body(path), closed=dice < 0.025)
        else:
            operation = await self.append(client, path)
        self.scene.learn(operation)
        await self.answer(client, operation)

    def choose_body(self, path: str) -> bytes:
        return self.body(path) if self.chance.random() < 0.7 else b""

    async def append(self, client: Client, path: str) -> Append:
        return await client.append(path, self.body(path))

    async def answer(self, client: Client, operation: Operation) -> None:
        """Go on in a way that makes sense after a refusal."""
        if operation.code == StreamNotFound.code:
            self.scene.learn(await client.create(operation.path, self.choose_body(operation.path)))
        elif operation.code == StreamClosed.code and self.chance.random() < 0.3:
            await client.delete(operation.path)


class MessageWriter(Writer):
    """Sends one JSON message, or several at once."""

    async def append(self, client: Client, path: str) -> Append:
        if self.chance.random() < 0.7:
            return await super().append(client, path)
        return await client.append(path, b"[%b]" % b",".join(self.body(path) for _ in range(3)))


class SequencedWriter(Writer):
    """One of those who share a Stream-Seq, mostly with one that is great enough."""

    async def append(self, client: Client, path: str) -> Append:
        stream_seq = max(0, self.scene.serial(path) - self.chance.choice([0, 0, 0, 1, 3]))
        return await client.append(path, self.body(path), stream_seq=f"{stream_seq:08d}")


class Producer(Writer):
    """An idempotent producer: sends each body until it is told what became of it, over as many crashes as it takes.

    Now and then it repeats what was accepted, starts a new epoch, skips a number, or speaks from an old epoch.
    """

    def __init__(self, scene: Scene, name: str, paths: tuple[str, ...]) -> None:
        super().__init__(scene, name, paths)
        self._at = {path: ProducerStamp(name, 0, 0) for path in paths}
        self._pending: dict[str, Append] = {}
        self._accepted: dict[str, Append] = {}

    async def append(self, client: Client, path: str) -> Append:
        dice = self.chance.random()
        stamp = self._at[path]
        if path in self._pending:
            pending = self._pending[path]
        elif dice < 0.1 and path in self._accepted:
            return await self._send(client, self._accepted[path])
        elif dice < 0.13:
            odd = (
                stamp._replace(seq=stamp.seq + 2) if dice < 0.12 or not stamp.epoch else stamp._replace(epoch=0, seq=0)
            )
            return await client.append(path, self.body(path), producer=odd)
        else:
            pending = self._pending[path] = self._next(path, stamp)
        result = await self._send(client, pending)
        del self._pending[path]
        if result.outcome is Outcome.OK:
            self._accepted[path] = pending
            self._at[path] = stamp._replace(seq=stamp.seq + 1)
        if result.outcome is not Outcome.OK or self.chance.random() < 0.03:
            self._at[path] = ProducerStamp(self.name, stamp.epoch + 1, 0)
        return result

    def _next(self, path: str, stamp: ProducerStamp) -> Append:
        close = self.chance.random() < 0.02
        return Append(client="", path=path, invoked=0, completed=1, data=self.body(path), close=close, producer=stamp)

    async def _send(self, client: Client, append: Append) -> Append:
        return await client.append(append.path, append.data, close=append.close, producer=append.producer)


class Roamer(Writer):
    """Creates, forks, appends, closes and deletes in quick succession."""

    async def step(self, client: Client) -> None:
        path = self.chance.choice(self.paths)
        dice = self.chance.random()
        if dice < 0.2:
            operation: Operation = await client.create(path, self.choose_body(path), closed=dice < 0.02)
        elif dice < 0.4:
            operation = await self._fork(client, path)
        elif dice < 0.58:
            operation = await client.delete(path)
        elif dice < 0.61:
            operation = await client.append(path, self.choose_body(path), close=True)
        else:
            operation = await client.append(path, self.body(path))
        self.scene.learn(operation)

    async def _fork(self, client: Client, path: str) -> Operation:
        source = self.chance.choice([other for other in (*self.paths, LOGS[1]) if other != path])
        offset = None if self.chance.random() < 0.4 else self.scene.offset(self.chance, source)
        past = self.chance.choice([0, 0, 1, 40]) if offset is not None else 0
        return await client.create(path, self.body(path), fork=(source, offset, past))


class Reader:
    """Goes on reading where it stood, or from any offset that was ever given out."""

    def __init__(self, scene: Scene, name: str, manner: str) -> None:
        self.name = name
        self._scene = scene
        self._manner = manner
        self._chance = Random(f"{scene.seed} {name}")
        self._stands: dict[str, str] = {}

    async def step(self, client: Client) -> None:
        path = self._chance.choice(PATHS)
        offset = self._stands.get(path)
        if offset is None or self._chance.random() < 0.3:
            offset = self._scene.offset(self._chance, path)
        if self._manner == "sse":
            async for batch in client.follow(path, offset, self._chance.randrange(1, 20)):
                self._note(path, batch.next_offset)
        elif self._manner == "pages" and self._chance.random() < 0.3:
            self._scene.learn(await client.head(path))
        elif self._manner == "pages" and self._chance.random() < 0.1:
            await client.read(path, "now")
        else:
            page = await client.read(path, offset, long_poll=self._manner == "long-poll")
            self._note(path, page.next_offset)

    def _note(self, path: str, offset: str) -> None:
        if offset:
            self._stands[path] = offset
        else:
            self._stands.pop(path, None)  # refused: it belongs to nothing any more


def invite(scene: Scene) -> list[Party]:
    """Twelve writers and six readers."""
    writers: list[Writer] = [
        *(Writer(scene, f"plain-{index}", LOGS) for index in range(3)),
        MessageWriter(scene, "messages", MESSAGES),
        *(Producer(scene, f"producer-{index}", PRODUCED) for index in range(3)),
        *(SequencedWriter(scene, f"sequenced-{index}", (SEQUENCED,)) for index in range(2)),
        *(Roamer(scene, f"roamer-{index}", ROAMED) for index in range(3)),
    ]
    readers = [
        Reader(scene, f"{manner}-{index}", manner) for manner in ("sse", "long-poll", "pages") for index in (0, 1)
    ]
    return [*writers, *readers]


async def look(client: Client, scene: Scene, chance: Random) -> None:
    """See all that is there, from the beginning and from some offset."""
    for path in PATHS:
        head = await client.head(path)
        if head.outcome is Outcome.OK:
            await client.read_all(path, "-1")
            await client.read_all(path, scene.offset(chance, path))
