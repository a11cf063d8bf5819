"""A workbench for stores: commands in brief, and a store with something happening to it between the steps of a test.

bench = Bench(hooks, directory, "crash")
async with bench:
    await bench.done(create("/a", b"one"), append("/a", b"two"))
    assert await bench.data("/a") == b"onetwo"
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, Self

from msgspec.structs import replace

from unbroken.errors import UnbrokenError
from unbroken.protocol.commands import Append, Command, Create, ForkRequest, Outcome, Release
from unbroken.protocol.content import DEFAULT_CONTENT_TYPE, Content, frame_json
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import Reference, Situation, StreamState, decide, view
from unbroken.store.base import Store, Transaction

__all__ = [
    "NOW",
    "Bench",
    "StoreHooks",
    "append",
    "create",
    "execute",
    "fork",
    "read_own",
    "read_stream",
    "settle",
    "write",
]

# Long ago, so that housekeeping finds everything due.
NOW = Instant(wall_ms=1_000_000, monotonic_ms=1_000_000)

_JSON = "application/json"


# --- commands, briefly -----------------------------------------------------------------------------------------------


def create(
    path: str, data: bytes = b"", *, json: bool = False, lifetime: Lifetime | None = None, closed: bool = False
) -> Create:
    """A creation; ``data`` is raw JSON for a stream of messages."""
    content_type = _JSON if json else DEFAULT_CONTENT_TYPE
    return Create(path, content_type, lifetime, closed, _content(data, json=json))


def fork(path: str, source: StreamState | str, point: int | None = None, data: bytes = b"") -> Create:
    """A fork: of whatever is at a path, at its tail, or of a known state at a byte position."""
    if isinstance(source, str):
        return Create(path, content=Content(data), fork=ForkRequest(source))
    content = _content(data, json=source.json)
    anchor = source.tail if point is None else point
    return Create(path, content=content, fork=ForkRequest(source.path, anchor, 0, source.number, anchor))


def append(
    path: str,
    data: bytes = b"",
    *,
    json: bool = False,
    close: bool = False,
    producer: ProducerStamp | None = None,
    stream_seq: str | None = None,
) -> Append:
    """An append; ``data`` is raw JSON for a stream of messages."""
    content_type = _JSON if json else DEFAULT_CONTENT_TYPE
    return Append(path, content_type, _content(data, json=json), close, stream_seq, producer)


def _content(data: bytes, *, json: bool) -> Content:
    return Content(frame_json(data), json=True) if json and data else Content(data)


# --- driving a store -------------------------------------------------------------------------------------------------


async def execute(store: Store, *commands: Command, now: Instant = NOW, renewed_ms: int | None = None) -> list[Outcome]:
    """Carry out commands by the rules, in one transaction. Sliding lifetimes were renewed just now by default."""
    renewed_ms = now.monotonic_ms if renewed_ms is None else renewed_ms
    paths = {command.path for command in commands}
    paths |= {request.source_path for command in commands if (request := _fork_of(command)) is not None}
    async with store.transaction(sorted(paths)) as transaction:
        return [write(transaction, command, now, renewed_ms) for command in commands]


def write(
    transaction: Transaction,
    command: Command,
    now: Instant = NOW,
    renewed_ms: int = NOW.monotonic_ms,
    number: int | None = None,
) -> Outcome:
    """Decide one command inside a transaction and write what follows; ``number`` was used up for what it creates."""
    target = view(transaction.state(command.path), now, renewed_ms)
    situation = Situation(now, target, next_number=number or transaction.next_number())
    request = _fork_of(command)
    if request is not None:
        situation = replace(situation, source=view(transaction.state(request.source_path), now, renewed_ms))
    if isinstance(command, Append) and command.producer is not None and target.state is not None:
        situation = replace(situation, producer=transaction.producer(target.state.number, command.producer.id))
    if isinstance(command, Release):
        situation = replace(situation, held=transaction.is_held(command.fork))
    decision = decide(command, situation)
    outcome, records = decision.outcome, decision.records
    for record in records:
        to_source = request is not None and isinstance(record, Reference)
        transaction.write(request.source_path if request is not None and to_source else command.path, record)
    return outcome


def _fork_of(command: Command) -> ForkRequest | None:
    return command.fork if isinstance(command, Create) else None


async def read_stream(store: Store, state: StreamState) -> bytes:
    """All bytes of a stream, those it inherited included."""
    parts: list[bytes] = []
    start = 0
    for number, end in (*state.lineage, (state.number, state.tail)):
        parts.append(await read_own(store, number, start, end))
        start = end
    return b"".join(parts)


async def read_own(store: Store, number: int, start: int, end: int) -> bytes:
    """A stream's own bytes, as the engine reads them; both ways where both give an answer."""
    if start == end:
        return b""
    cached = store.read_cached(number, start, end)
    data = await store.read(number, start, end)
    assert cached is None or cached == data
    return data


async def settle(store: Store) -> None:
    """Housekeeping until there is nothing left to do."""
    for _ in range(100_000):
        if not await store.maintain():
            return
    raise AssertionError("housekeeping does not come to an end")


class Bench:
    """Where a test has its store: an async context manager that keeps one open.

    Args:
        suite: makes and checks the store.
        directory: the store's own is made below it.
        disturbance: what `pause` does.
    """

    store: Store

    def __init__(self, suite: StoreHooks, directory: Path, disturbance: str) -> None:
        self.suite = suite
        self.disturbance = disturbance
        self.directory = directory / "0"
        self._root = directory
        self._lives = 0
        self._left: list[Store] = []
        self._paths: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._outlive()
        finally:
            for store in (*self._left, self.store):
                await store.close()

    async def _outlive(self) -> None:
        """However a test ends, a crash then changes nothing."""
        before = await self.look(*self._paths), set(self.store.holds(1000))
        await self.crash()
        assert (await self.look(*self._paths), set(self.store.holds(1000))) == before

    async def _open(self) -> None:
        self.store = self.suite.make(self.directory)
        await self.store.open()

    async def pause(self) -> None:
        """Something happens between two steps of a test."""
        if self.disturbance == "housekeeping":
            await settle(self.store)
        elif self.disturbance == "restart":
            await self.reopen()
        elif self.disturbance == "crash":
            await self.crash()

    async def reopen(self) -> None:
        """An orderly restart, if the store is durable."""
        if self.suite.durable:
            await self.store.close()
            await self._open()

    async def crash(self) -> None:
        """Go on with what the files would hold if the process were killed now, if it is durable."""
        if self.suite.durable:
            self._left.append(self.store)
            self._lives += 1
            before, self.directory = self.directory, self._root / str(self._lives)
            self.suite.copy(before, self.directory)
            await self._open()

    async def execute(self, *commands: Command) -> list[Outcome]:
        """Carry out commands in one transaction, then `pause`."""
        self._paths.update(command.path for command in commands)
        outcomes = await execute(self.store, *commands)
        await self.pause()
        return outcomes

    async def done(self, *commands: Command) -> None:
        """Carry out commands that must not be refused, then `pause`."""
        refused = [outcome for outcome in await self.execute(*commands) if isinstance(outcome, UnbrokenError)]
        assert not refused

    def state(self, path: str) -> StreamState:
        """The stream at a path, which must be there."""
        state = self.store.state(path)
        assert state is not None, path
        return state

    async def data(self, path: str) -> bytes:
        """All bytes of the stream at a path."""
        return await read_stream(self.store, self.state(path))

    async def look(self, *paths: str) -> dict[str, tuple[StreamState, bytes] | None]:
        """Everything at these paths."""
        return {path: (self.state(path), await self.data(path)) if self.store.state(path) else None for path in paths}

    async def producer(self, path: str, producer_id: str) -> Producer | None:
        """What is known of a producer."""
        async with self.store.transaction([path]) as transaction:
            return transaction.producer(self.state(path).number, producer_id)

    async def producers(self, number: int) -> int:
        """How many producers of a stream are known."""
        async with self.store.transaction([]) as transaction:
            return transaction.producers(number)

    def check(self) -> None:
        """Check what the stores left behind."""
        for life in range(self._lives + 1):
            self.suite.check(self._root / str(life))


class StoreHooks:
    """What a subclass says about its store."""

    durable: ClassVar[bool]
    large_bytes: ClassVar[int] = 300 * 1024

    def make(self, directory: Path) -> Store:
        """A store on a directory that may or may not exist; not opened."""
        raise NotImplementedError

    def copy(self, directory: Path, target: Path) -> None:
        """Make of a directory in use another one, as a process killed now would leave it."""
        shutil.copytree(directory, target)

    def check(self, directory: Path) -> None:
        """Look into the directory of a store that was closed."""
