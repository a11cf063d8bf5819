"""More of what a store has to stand, for the stores in this repository."""

from __future__ import annotations

import asyncio

from unbroken.protocol.commands import Command, Delete, Reclaim, Release
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.testing.store_bench import Bench, append, create, fork, read_own, settle
from unbroken.testing.store_suite import StoreSuite

__all__ = ["StressSuite"]


class StressSuite(StoreSuite):
    """The contract, and mixtures and moments that have gone wrong elsewhere."""

    async def test_large_bodies_among_small_ones(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"a"), create("/b"))
            expected = {"/a": b"a", "/b": b"", "/c": b""}
            for turn in range(4):
                large, small = bytes([65 + turn]) * self.large_bytes, b"%d," % turn
                commands: list[Command] = [append("/a", small), append("/a", large), append("/b", small)]
                commands += [append("/a", small), append("/b", large) if turn % 2 else append("/b", small)]
                if turn == 2:
                    commands.append(create("/c", large))
                await bench.done(*commands)
                expected["/a"] += small + large + small
                expected["/b"] += small + (large if turn % 2 else small)
                expected["/c"] += large if turn == 2 else b""
                await bench.done(append("/b", b"."), append("/a", b"."))
                expected["/a"] += b"."
                expected["/b"] += b"."
                for path in ("/a", "/b"):
                    assert await bench.data(path) == expected[path]
            assert await bench.data("/c") == expected["/c"]
            middle = self.large_bytes // 2
            number = bench.state("/a").number
            for start in (0, 1, 2, middle, self.large_bytes, self.large_bytes + 3):
                for end in (start + 1, start + 7, start + self.large_bytes):
                    assert await read_own(bench.store, number, start, end) == expected["/a"][start:end]

    async def test_reads_under_way_while_data_is_moved(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"0123456789"))
            number, expected = bench.state("/a").number, b"0123456789"
            for turn in range(8):
                await bench.done(append("/a", b"%d......" % turn))
                expected += b"%d......" % turn
                ranges = [(start, end) for start in range(0, 9, 3) for end in (len(expected) - 1, len(expected))]
                reads = [asyncio.ensure_future(bench.store.read(number, start, end)) for start, end in ranges]
                await asyncio.sleep(0)
                await settle(bench.store)
                assert await asyncio.gather(*reads) == [expected[start:end] for start, end in ranges]

    async def test_a_deleted_streams_bytes_read_short_or_true(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"0123456789"), create("/b"))
            number = bench.state("/a").number
            await bench.done(append("/a", b"abc"), Delete("/a"))
            for _ in range(2):
                assert b"0123456789abc".startswith(await bench.store.read(number, 0, 13))
                await settle(bench.store)
            assert await bench.store.read(number, 0, 13) == b""

    async def test_holds_come_limited(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/s"), *(fork(f"/f{index}", "/s") for index in range(5)))
            await bench.done(*(Delete(f"/f{index}") for index in range(5)))
            assert len(bench.store.holds(3)) == 3
            assert len(set(bench.store.holds(9))) == 5
            assert len(bench.store.holds(0)) == 0

    async def test_producers_of_many_streams_are_kept_apart(self, bench: Bench) -> None:
        async with bench:
            await bench.done(*(create(path) for path in ("/a", "/b")))
            await bench.done(
                *(append("/a", b"a", producer=ProducerStamp(f"p{index}", index, 0)) for index in range(40)),
                append("/b", b"b", producer=ProducerStamp("p1", 99, 0)),
            )
            await bench.done(append("/a", b"a", producer=ProducerStamp("p3", 3, 1)))
            await bench.done(append("/a", b"a", producer=ProducerStamp("p4", 5, 0)))
            found = [await bench.producer("/a", f"p{index}") for index in range(6)]
            assert found == [(0, 0), (1, 0), (2, 0), (3, 1), (5, 0), (5, 0)]
            assert await bench.producer("/b", "p1") == Producer(99, 0)
            assert await bench.producer("/b", "p2") is None

    async def test_many_commands_for_many_streams_in_one_transaction(self, bench: Bench) -> None:
        async with bench:
            paths = [f"/{index}" for index in range(20)]
            await bench.done(*(create(path) for path in paths))
            for turn in range(5):
                await bench.done(*(append(path, b"%d%s;" % (turn, path.encode())) for path in paths for _ in range(3)))
            for path in paths:
                expected = b"".join(b"%d%s;" % (turn, path.encode()) * 3 for turn in range(5))
                assert await bench.data(path) == expected

    async def test_an_expired_stream_gives_way_in_one_step(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"old", lifetime=Lifetime(ttl_s=0)))
            number = bench.state("/a").number
            await bench.done(create("/a", b"new"))
            assert bench.state("/a").number > number
            assert await bench.data("/a") == b"new"
            await bench.done(create("/b", b"old", lifetime=Lifetime(ttl_s=0)))
            await bench.done(Reclaim("/b", bench.state("/b").number))
            assert bench.store.state("/b") is None

    async def test_a_chain_of_forks_goes_link_by_link(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/0", b"0"))
            for depth in range(1, 6):
                await bench.done(fork(f"/{depth}", f"/{depth - 1}", data=b"%d" % depth))
            assert await bench.data("/5") == b"012345"
            for depth in range(6):
                await bench.done(Delete(f"/{depth}"))
            for _ in range(6):
                for hold in bench.store.holds(2):
                    await bench.done(Release(hold.source_path, hold.source_number, hold.fork))
            assert not bench.store.holds(9)
            assert [bench.store.state(f"/{depth}") for depth in range(6)] == [None] * 6
