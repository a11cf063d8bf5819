"""What the streams of a tenant may hold together: each tenant for itself, and neither a byte earlier nor later."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.engine.gated_store import GatedStore
from tests.engine.helpers import until
from unbroken import errors
from unbroken.engine import Engine
from unbroken.engine.quotas import PathQuota
from unbroken.engine.usage import Quota
from unbroken.protocol.scopes import ScopeError
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Store, Transaction
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.backup import backup
from unbroken.store.sqlite.restore import restore
from unbroken.testing import ManualClock

MEBIBYTE = 1024 * 1024


def users(streams: int | None = None, total_bytes: int | None = None) -> Quota:
    return Quota(by_path=(PathQuota("/users/*", streams, total_bytes),))


def held(engine: Engine, prefix: str) -> tuple[int, int]:
    (usage,) = engine.usage.below(prefix)
    return usage.streams, usage.total_bytes


async def test_each_tenant_has_a_quota_of_its_own(start: Start) -> None:
    async with start(quota=users(2, 10)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/ann", data=b"12345")
        await engine.create("/users/ann/a/b/c")
        with pytest.raises(errors.PathQuotaExceeded) as refused:
            await engine.create("/users/ann/x")
        assert (refused.value.prefix, refused.value.limit, refused.value.limit_bytes) == ("/users/ann", 2, None)
        assert (refused.value.status, refused.value.detail) == (
            507,
            "there may be at most 2 streams at and below /users/ann",
        )
        with pytest.raises(errors.PathQuotaExceeded) as refused:
            await engine.append("/users/ann/a/b/c", b"123456")
        assert (refused.value.prefix, refused.value.limit, refused.value.limit_bytes) == ("/users/ann", None, 10)
        await engine.append("/users/ann/a/b/c", b"12345")
        assert (await engine.create("/users/ann")).existed, "confirming creates none"
        await engine.close("/users/ann")
        await engine.create("/users/ben", data=b"1234567890")
        await engine.create("/elsewhere", data=bytes(100))
        await engine.delete("/users/ann")
        await engine.create("/users/ann/x", data=b"54321")
        assert (held(engine, "/users/ann"), held(engine, "/users/ben")) == ((2, 10), (1, 10))


async def test_all_quotas_hold_that_match(start: Start) -> None:
    quota = Quota(by_path=(PathQuota("/*", streams=3), PathQuota("/*/users/*", streams=2, total_bytes=5)))
    async with start(quota=quota) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/org/users/ann/1")
        await engine.create("/org/users/ann/2")
        with pytest.raises(errors.PathQuotaExceeded, match="2 streams at and below /org/users/ann"):
            await engine.create("/org/users/ann/3")
        await engine.create("/org/users/ben/1", data=b"12345")
        with pytest.raises(errors.PathQuotaExceeded, match=r"3 streams at and below /org$"):
            await engine.create("/org/users/cid/1")
        await engine.create("/other/users/cid/1")
        with pytest.raises(errors.PathQuotaExceeded, match="5 bytes in all at and below /org/users/ben"):
            await engine.append("/org/users/ben/1", b"6")
        assert engine.usage.below("/org")[0].streams == 3
        assert engine.usage.below("/org/users") == []


async def test_a_batch_is_let_in_up_to_the_limit(start: Start) -> None:
    """They are decided in one batch, all before any of them is durable, deletes among them."""
    async with start(quota=users(10, 7)) as engine:
        await until(lambda: engine.usage.measured)
        for name in "ab":
            await engine.create(f"/users/{name}/first", data=b"12")
        tries: list[Coroutine[Any, Any, object]] = []
        for number in range(30):
            tries += [engine.create(f"/users/{name}/{number}", data=b"x" if number % 2 else b"") for name in "ab"]
            tries += [engine.delete("/users/b/first")] if number == 20 else []
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, errors.PathQuotaExceeded) for outcome in outcomes) == 60 - 19
        assert held(engine, "/users/a") == (10, 6)
        assert held(engine, "/users/b") == (10, 5)


async def test_what_a_fork_inherits_counts_where_it_is(start: Start) -> None:
    async with start(quota=users(3, 10)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/ann/a", data=b"12345678")
        await engine.fork("/users/ben/fork", "/users/ann/a", data=b"1")
        assert (held(engine, "/users/ann"), held(engine, "/users/ben")) == ((1, 8), (1, 1))
        await engine.delete("/users/ann/a")
        assert held(engine, "/users/ann") == (1, 8), "the fork needs it"
        await engine.delete("/users/ben/fork")
        await until(lambda: held(engine, "/users/ann") == (0, 0))
        assert held(engine, "/users/ben") == (0, 0)


async def test_a_chain_of_forks_gives_back_all(start: Start) -> None:
    """Each release is a step of its own, and each counts for its owner."""
    async with start(quota=users(1)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/0/a", data=b"0")
        for number in range(1, 10):
            await engine.fork(f"/users/{number}/a", f"/users/{number - 1}/a", data=b"x" * number)
        for number in range(9):
            await engine.delete(f"/users/{number}/a")
            assert held(engine, f"/users/{number}")[0] == 1
        await engine.delete("/users/9/a")
        await until(lambda: engine.usage.streams == 0)
        assert all(held(engine, f"/users/{number}") == (0, 0) for number in range(10))


async def test_expired_streams_give_back_what_they_had(start: Start, clock: ManualClock, quick_sweep: None) -> None:
    async with start(quota=users(2, 10)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/ann/a", ttl_s=10, data=b"12345")
        ends = datetime.fromtimestamp(clock.now().wall_ms / 1000 + 10, UTC)
        await engine.create("/users/ann/b", expires_at=ends, data=b"12345")
        clock.advance(10)
        await until(lambda: held(engine, "/users/ann") == (0, 0))
        await engine.create("/users/ann/c", data=b"1234567890")


async def test_an_expired_stream_makes_room_for_its_successor(start: Start, clock: ManualClock) -> None:
    """Its deletion and the creation are one step: one may go as far as the other leaves room."""
    quota = Quota(streams=1, total_bytes=10, by_path=(PathQuota("/users/*", 1, 10),))
    async with start(quota=quota) as engine:
        await until(lambda: engine.usage.measured)
        ends = datetime.fromtimestamp(clock.now().wall_ms / 1000 + 10, UTC)
        await engine.create("/users/ann/a", expires_at=ends, data=b"12345678")
        clock.advance(10)
        with pytest.raises(errors.QuotaExceeded):
            await engine.create("/users/ann/a", data=b"12345678901")
        await engine.create("/users/ann/a", data=b"1234567890")
        assert held(engine, "/users/ann") == (1, 10) == (engine.usage.streams, engine.usage.total_bytes)


async def test_deleting_below_a_prefix_makes_room(start: Start) -> None:
    async with start(quota=users(300)) as engine:
        await until(lambda: engine.usage.measured)
        await asyncio.gather(*(engine.create(f"/users/ann/{number}", data=b"x") for number in range(300)))
        await engine.delete_all("/users/ann/", limit=299)
        assert held(engine, "/users/ann") == (1, 1)


async def test_a_failed_commit_counts_nothing() -> None:
    store = GatedStore()
    async with Engine(store, quota=users(5, 100)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/ann/a", data=b"12345")
        store.error = errors.OutcomeUnknown("fsync failed")
        tries = [engine.append("/users/ann/a", b"6"), engine.create("/users/ben/a"), engine.delete("/users/ann/a")]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert all(isinstance(outcome, errors.OutcomeUnknown) for outcome in outcomes)
        assert (held(engine, "/users/ann"), held(engine, "/users/ben")) == ((1, 5), (0, 0))


async def test_a_large_append_counts_when_it_is_there(start: Start) -> None:
    """It is written in pieces, and refused before the first; what others append meanwhile has the right of way."""
    async with start(quota=users(total_bytes=3 * MEBIBYTE)) as engine:
        await until(lambda: engine.usage.measured)
        await engine.create("/users/ann/a")
        await engine.create("/users/ann/b", data=b"x")
        with pytest.raises(errors.PathQuotaExceeded):
            await engine.append("/users/ann/a", bytes(3 * MEBIBYTE))
        large = asyncio.ensure_future(engine.append("/users/ann/a", bytes(3 * MEBIBYTE - 1)))
        await asyncio.sleep(0)
        assert held(engine, "/users/ann") == (2, 1)
        await engine.append("/users/ann/b", b"y")
        with pytest.raises(errors.PathQuotaExceeded):
            await large
        assert held(engine, "/users/ann") == (2, 2)
        await engine.append("/users/ann/a", bytes(3 * MEBIBYTE - 2))
        assert held(engine, "/users/ann") == (2, 3 * MEBIBYTE)


async def test_what_was_there_at_the_start_counts(store: Store) -> None:
    async with Engine(store) as engine:
        await engine.create("/users/ann/a", data=b"12345")
        await engine.fork("/users/ben/b", "/users/ann/a", data=b"123")
        await engine.create("/users/cid/c", data=b"1")
        await engine.create("/elsewhere", data=b"1234")
    async with Engine(store, quota=users(1, 6)) as engine:
        assert engine.usage.below("/users/ann") == [], "not known yet"
        await engine.append("/users/ann/a", b"6")
        await engine.delete("/users/cid/c")
        await until(lambda: engine.usage.measured)
        assert [held(engine, f"/users/{name}") for name in ("ann", "ben", "cid")] == [(1, 6), (1, 3), (0, 0)]
        with pytest.raises(errors.PathQuotaExceeded):
            await engine.append("/users/ann/a", b"7")
        with pytest.raises(errors.PathQuotaExceeded):
            await engine.create("/users/ben/c")
    async with Engine(store, quota=users(1, 6)) as engine:
        await until(lambda: engine.usage.measured)
        assert held(engine, "/users/ann") == (1, 6)


async def test_a_restored_store_counts_what_it_was_restored_with(tmp_path: Path) -> None:
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/users/ann/a", data=b"12345")
        await engine.fork("/users/ben/fork", "/users/ann/a", data=b"678")
        backup(tmp_path / "data", tmp_path / "saved.db")
    await restore(tmp_path / "saved.db", tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new"), quota=users(2, 10)) as engine:
        await until(lambda: engine.usage.measured)
        assert (held(engine, "/users/ann"), held(engine, "/users/ben")) == ((1, 5), (1, 3))
        await engine.append("/users/ann/a", b"67890")
        with pytest.raises(errors.PathQuotaExceeded):
            await engine.append("/users/ann/a", b"1")


async def test_tenants_without_streams_cost_nothing() -> None:
    """They come and go, more than there will ever be at a time."""
    async with Engine(MemoryStore(), quota=users(1, 10)) as engine:
        await until(lambda: engine.usage.measured)
        for first in range(0, 2000, 200):
            paths = [f"/users/{number}/a" for number in range(first, first + 200)]
            await asyncio.gather(*(engine.create(path, data=b"x") for path in paths))
            assert engine.usage.prefixes_held == 200
            await asyncio.gather(*(engine.delete(path) for path in paths))
            assert engine.usage.prefixes_held == 0


async def test_whatever_happens_the_counts_are_right(store: Store) -> None:
    """What was counted with every record is what a count of the store itself finds."""
    quota = Quota(by_path=(PathQuota("/*", 12, 400), PathQuota("/*/*", 5, 150)))
    chance = Random(5)
    paths = [f"/{a}/{b}/{c}" for a in "ab" for b in "xy" for c in "12345"]

    async def act(engine: Engine) -> None:
        path, data = chance.choice(paths), b"x" * chance.choice([0, 1, 10, 60])
        match chance.randrange(5):
            case 0 | 1:
                await engine.create(path, data=data)
            case 2:
                await engine.append(path, data)
            case 3:
                await engine.fork(path, chance.choice(paths), data=data)
            case _:
                await engine.delete(path)

    async def live() -> int:
        async with Engine(store, quota=quota) as engine:
            await until(lambda: engine.usage.measured)
            outcomes: list[BaseException | None] = []
            for _ in range(20):
                outcomes += await asyncio.gather(*(act(engine) for _ in range(30)), return_exceptions=True)
            await until(lambda: not store.holds(1))
            totals = await store.totals(engine.usage.prefixes)
            for part, streams, size_bytes in zip(totals.held, (12, 5), (400, 150), strict=True):
                assert max(part.streams.values()) <= streams
                assert max(part.total_bytes.values()) <= size_bytes
            for prefix in ("/a", "/b", "/a/x", "/a/y", "/b/x", "/b/y"):
                part = totals.held[prefix.count("/") - 1]
                assert held(engine, prefix) == (part.streams.get(prefix, 0), part.total_bytes.get(prefix, 0))
        return sum(isinstance(outcome, errors.PathQuotaExceeded) for outcome in outcomes)

    assert sum([await live() for _ in range(5)]) > 100


async def test_expiry_large_bodies_and_failed_commits_keep_the_counts_right(
    store: Store, clock: ManualClock, quick_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbroken.engine.upload._PIECE_BYTES", 256 * 1024)
    quota = Quota(by_path=(PathQuota("/*", 4, 3 * MEBIBYTE), PathQuota("/*/*", 3, 2 * MEBIBYTE)))
    chance = Random(6)
    paths = [f"/{a}/{b}/{c}" for a in "ab" for b in "xy" for c in "123"]
    large = bytes(MEBIBYTE + 1)

    async def act(engine: Engine) -> None:
        path, data, ttl_s = chance.choice(paths), chance.choice([b"", b"x", b"x", large]), chance.choice([None, 1, 3])
        match chance.randrange(6):
            case 0 | 1:
                await engine.create(path, data=data, ttl_s=ttl_s)
            case 2:
                await engine.append(path, data)
            case 3:
                await engine.fork(path, chance.choice(paths), ttl_s=ttl_s)
            case 4:
                await engine.delete(path)
            case _:
                clock.advance(0.3)

    def counted(engine: Engine) -> bool:
        states = store.states("/", "", 1000)
        return all(
            held(engine, prefix)
            == (len(below := [state for state in states if state.path.startswith(prefix + "/")]), own_bytes(below))
            for prefix in ("/a", "/b", "/a/x", "/a/y", "/b/x", "/b/y")
        )

    async with Engine(store, clock=clock, quota=quota) as engine:
        await until(lambda: engine.usage.measured)
        outcomes: list[BaseException | None] = []
        for turn in range(45):
            with failing_commits(store) if turn % 3 == 2 else contextlib.nullcontext():
                outcomes += await asyncio.gather(*(act(engine) for _ in range(12)), return_exceptions=True)
            await until(lambda: counted(engine))
    refused = Counter(type(outcome) for outcome in outcomes)
    assert refused[errors.PathQuotaExceeded] > 10
    assert refused[errors.StorageFull] > 10


def own_bytes(states: Iterable[StreamState]) -> int:
    return sum(state.own_bytes for state in states)


@contextlib.contextmanager
def failing_commits(store: Store) -> Iterator[None]:
    """Every second one finds no room."""
    begin, numbers = store.transaction, itertools.count()

    @contextlib.asynccontextmanager
    async def transaction(paths: Sequence[str]) -> AsyncIterator[Transaction]:
        async with begin(paths) as begun:
            yield begun
            if next(numbers) % 2:
                raise errors.StorageFull("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "transaction", transaction)
        yield


@pytest.mark.parametrize("pattern", ["users", "/users/**", "/a*"])
def test_a_malformed_pattern_is_told_at_once(pattern: str) -> None:
    with pytest.raises(ScopeError):
        Engine(MemoryStore(), quota=Quota(by_path=(PathQuota(pattern, 1),)))
