"""The contract of a store, as tests: subclass `StoreSuite` for each implementation of `unbroken.store.base.Store`.

    class TestMyStore(StoreSuite):
        durable = True

        def make(self, directory):
            return MyStore(directory)

Each test runs several times, with something happening to the store between its steps: nothing, housekeeping, an orderly
restart, a crash. Tests are coroutines: run them with pytest-asyncio, anyio, or a hook of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbroken.errors import SourceGone, StreamExists, StreamNotFound, UnbrokenError
from unbroken.protocol.commands import Command, Create, Delete, ForkRequest, Release
from unbroken.protocol.content import DEFAULT_CONTENT_TYPE, Content
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Due, Hold
from unbroken.testing.store_bench import (
    Bench,
    append,
    create,
    execute,
    fork,
    read_own,
    settle,
    write,
)
from unbroken.testing.store_pieces import PieceTests

__all__ = ["StoreSuite"]


class _Tests(PieceTests):
    @pytest.fixture(params=["nothing", "housekeeping", "restart", "crash"])
    def bench(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
        """A bench, and a check of its stores after the test."""
        bench = Bench(self, tmp_path, request.param)
        yield bench
        bench.check()

    # --- transactions ------------------------------------------------------------------------------------------------

    async def test_nothing_is_visible_before_the_block_is_left(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/old", b"one"))
            old = bench.state("/old")
            async with bench.store.transaction(["/old", "/new"]) as transaction:
                for command in (create("/new", b"new"), append("/old", b"two", close=True)):
                    write(transaction, command)
                await asyncio.sleep(0)
                assert bench.store.state("/new") is None
                assert bench.state("/old") == old
                assert await bench.data("/old") == b"one"
                assert not await bench.store.read(old.number, old.tail, old.tail + 3)
            assert bench.state("/old").closed
            assert await bench.data("/old") == b"onetwo"
            assert await bench.data("/new") == b"new"

    async def test_a_transaction_sees_its_own_changes(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a"))
            stamp = ProducerStamp("p", 0, 0)
            async with bench.store.transaction(["/a", "/b"]) as transaction:
                number = transaction.next_number()
                write(transaction, append("/a", b"1", producer=stamp))
                assert transaction.producer(bench.state("/a").number, "p") == Producer(0, 0)
                write(transaction, create("/b"))
                assert transaction.next_number() == number + 1
                write(transaction, Delete("/a"))
                assert transaction.state("/a") is None
                assert transaction.state("/b") is not None

    async def test_nothing_remains_of_a_block_that_raises(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"one"))
            before = await bench.look("/a", "/b")
            with contextlib.suppress(ZeroDivisionError):
                async with bench.store.transaction(["/a", "/b"]) as transaction:
                    write(transaction, append("/a", b"two", producer=ProducerStamp("p", 0, 0)))
                    write(transaction, create("/b", b"x" * self.large_bytes))
                    raise ZeroDivisionError
            await bench.pause()
            assert await bench.look("/a", "/b") == before
            assert await bench.producer("/a", "p") is None
            async with bench.store.transaction(["/a"]):
                pass  # nor of an empty one
            await bench.done(append("/a", b"2"), create("/b", b"b"))
            assert await bench.data("/a") == b"one2"
            assert await bench.data("/b") == b"b"

    # --- states ------------------------------------------------------------------------------------------------------

    async def test_every_part_of_a_state_is_kept(self, bench: Bench) -> None:
        """One stream for each part, with its extremes."""
        async with bench:
            stamp = ProducerStamp('p "\u00e9\\', 2**53 - 1, 0)
            await bench.done(
                create("/ttl", lifetime=Lifetime(ttl_s=2**63 - 1)),
                create("/expiry", lifetime=Lifetime(expires_at_ms=253_402_300_799_999)),
                create("/born-closed", b"x", closed=True),
                create("/closed", json=True),
                create("/\U0001f600 'quoted' \u00fc", b"\x00\xff"),
                Create("/type", "Text/Plain; charset=utf-8"),
            )
            await bench.done(
                append("/closed", b'[1, {"a": [2]}]', json=True, close=True, producer=stamp, stream_seq="\u00ff1"),
                append("/expiry", b"x", stream_seq="2026"),
            )
            assert bench.state("/ttl").lifetime == Lifetime(ttl_s=2**63 - 1)
            assert bench.state("/expiry").lifetime == Lifetime(expires_at_ms=253_402_300_799_999)
            assert bench.state("/expiry").stream_seq == "2026"
            assert (bench.state("/born-closed").closed, bench.state("/born-closed").closed_by) == (True, None)
            closed = bench.state("/closed")
            assert (closed.closed, closed.closed_by, closed.stream_seq, closed.json) == (True, stamp, "\u00ff1", True)
            assert await bench.data("/closed") == b'1\x1e{"a": [2]}\x1e'
            assert await bench.data("/\U0001f600 'quoted' \u00fc") == b"\x00\xff"
            assert bench.state("/type").content_type == "Text/Plain; charset=utf-8"

    async def test_an_acknowledged_delete_does_not_come_back(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"data"), create("/large", b"x" * self.large_bytes), create("/b"))
            await bench.done(append("/a", b"more", producer=ProducerStamp("p", 0, 0)))
            numbers = [bench.state(path).number for path in ("/a", "/large")]
            await bench.done(Delete("/a"), Delete("/large"))
            for _ in range(3):
                await bench.done(append("/b", b"x"))
                assert bench.store.state("/a") is None
                assert bench.store.state("/large") is None
            for number in numbers:
                assert bench.store.read_cached(number, 0, 8) in (None, b"")
            assert isinstance((await bench.execute(append("/a", b"x")))[0], StreamNotFound)

    async def test_a_stream_at_a_deleted_ones_path_is_new(self, bench: Bench) -> None:
        """It inherits neither bytes nor producers nor lifetime nor closedness."""
        async with bench:
            await bench.done(create("/a", b"old", lifetime=Lifetime(ttl_s=9)))
            await bench.done(append("/a", b"!", close=True, producer=ProducerStamp("p", 7, 0)))
            old = bench.state("/a")
            await bench.done(Delete("/a"))
            await bench.done(create("/a", b"new", json=False))
            new = bench.state("/a")
            assert new.number > old.number
            expected = (new.number, "/a", DEFAULT_CONTENT_TYPE, False, Lifetime(), 3)
            assert new == StreamState(*expected, created_ms=new.created_ms)
            assert await bench.producer("/a", "p") is None
            assert await bench.data("/a") == b"new"

    @pytest.mark.parametrize("large", [False, True])
    async def test_deleted_and_created_anew_in_one_transaction(self, bench: Bench, large: bool) -> None:
        async with bench:
            body = b"ab" * (self.large_bytes if large else 3)
            await bench.done(create("/a", b"one"), append("/a", body))
            for turn in range(3):
                await bench.done(append("/a", body), Delete("/a"), create("/a", b"%d" % turn), append("/a", body))
                assert await bench.data("/a") == b"%d" % turn + body
            await bench.done(append("/a", body), Delete("/a"))
            await bench.done(create("/a", body), Delete("/a"), create("/a", body), append("/a", b"end"))
            assert await bench.data("/a") == body + b"end"

    # --- numbers -----------------------------------------------------------------------------------------------------

    async def test_numbers_are_never_used_again(self, bench: Bench) -> None:
        async with bench:
            used: list[int] = []
            for turn in range(6):
                await bench.done(create("/a"), create("/b", b"x" * self.large_bytes))
                used += [bench.state("/a").number, bench.state("/b").number]
                await bench.done(*([Delete("/a"), Delete("/b")] if turn % 2 else [Delete("/b"), Delete("/a")]))
            assert used == sorted(set(used))
            async with bench.store.transaction([]) as transaction:
                assert transaction.next_number() > used[-1]

    # --- producers ---------------------------------------------------------------------------------------------------

    async def test_producer_state_is_never_without_its_data(self, bench: Bench) -> None:
        """What was acknowledged is a duplicate when sent again, and the next is expected: no false gap."""
        async with bench:
            await bench.done(create("/a"))
            for seq in range(6):
                stamp = ProducerStamp("p", 1, seq)
                body = b"%d;" % seq if seq % 3 else b"%d;" % seq * self.large_bytes
                for _ in range(2):
                    await bench.done(append("/a", body, producer=stamp))
                assert await bench.producer("/a", "p") == Producer(1, seq)
            sizes = [2 * (self.large_bytes if seq % 3 == 0 else 1) for seq in range(6)]
            assert bench.state("/a").tail == sum(sizes)

    async def test_producers_are_counted_once_each(self, bench: Bench) -> None:
        """Those in a transaction under way too; each stream's alone, whatever is at its path later."""
        async with bench:
            await bench.done(create("/a"), create("/b"))
            first = bench.state("/a").number
            for names in ("pq", "pr"):
                stamps = [ProducerStamp(name, 0, 0 if name != "p" or names == "pq" else 1) for name in names]
                await bench.done(*(append("/a", b"x", producer=stamp) for stamp in stamps))
            await bench.done(append("/a", b"x", producer=ProducerStamp("p", 7, 0)), append("/b", b"x"))
            assert await bench.producers(first) == 3
            async with bench.store.transaction(["/a", "/b"]) as transaction:
                number = bench.state("/b").number
                assert (transaction.producers(first), transaction.producers(number)) == (3, 0)
                for path, name, seq in (("/a", "s", 0), ("/a", "s", 1), ("/a", "q", 1), ("/b", "p", 0)):
                    write(transaction, append(path, b"y", producer=ProducerStamp(name, 0, seq)))
                assert (transaction.producers(first), transaction.producers(number)) == (4, 1)
            assert await bench.producers(first) == 4
            await bench.pause()
            assert await bench.producers(first) == 4
            await bench.done(append("/a", b"x", producer=ProducerStamp("t", 0, 0)))
            assert await bench.producers(first) == 5
            await bench.done(fork("/fork", "/a"))
            assert await bench.producers(bench.state("/fork").number) == 0
            await bench.done(Delete("/fork"), Delete("/b"), create("/b", b"new"))
            assert await bench.producers(bench.state("/b").number) == 0

    async def test_producers_of_a_block_that_raises_do_not_count(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a"), append("/a", b"x", producer=ProducerStamp("p", 0, 0)))
            number = bench.state("/a").number
            assert await bench.producers(number) == 1
            with contextlib.suppress(ZeroDivisionError):
                async with bench.store.transaction(["/a"]) as transaction:
                    write(transaction, append("/a", b"y", producer=ProducerStamp("q", 0, 0)))
                    assert transaction.producers(number) == 2
                    raise ZeroDivisionError
            assert await bench.producers(number) == 1

    async def test_a_closing_append_is_one_step(self, bench: Bench) -> None:
        async with bench:
            stamp = ProducerStamp("p", 0, 0)
            await bench.done(create("/a"))
            await bench.done(append("/a", b"last", close=True, producer=stamp, stream_seq="9"))
            state = bench.state("/a")
            assert (state.closed, state.closed_by, state.stream_seq, state.tail) == (True, stamp, "9", 4)
            assert await bench.producer("/a", "p") == Producer(0, 0)
            await bench.done(append("/a", b"last", close=True, producer=stamp))
            assert bench.state("/a") == state

    # --- reading -----------------------------------------------------------------------------------------------------

    async def test_every_range_reads_the_same(self, bench: Bench) -> None:
        """Across folded, unfolded and merged data."""
        async with bench:
            await bench.done(create("/a", b"0123"), create("/b"))
            number = bench.state("/a").number
            expected = b"0123"
            for size_bytes in (1, 1, 2, 5, 1, 13, 3, 1, 1, 8):
                part = bytes(range(97, 97 + size_bytes))
                await bench.done(append("/a", part), append("/b", part))
                expected += part
                for start in range(0, len(expected), 2):
                    for end in (start + 1, (start + len(expected) + 1) // 2, len(expected)):
                        assert await read_own(bench.store, number, start, end) == expected[start:end]
            for start in range(len(expected)):
                for end in range(start, len(expected) + 1):
                    assert await read_own(bench.store, number, start, end) == expected[start:end]
            await settle(bench.store)
            assert await bench.data("/a") == expected
            assert await bench.store.read(number, 2, 999) == expected[2:]

    # --- forks and holds ---------------------------------------------------------------------------------------------

    async def test_a_fork_reads_its_sources_bytes_then_its_own(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/s", b"0123456789"))
            await bench.done(append("/s", b"s" * self.large_bytes))
            await bench.done(fork("/f", bench.state("/s"), 4, b"F"), append("/s", b"later"))
            await bench.done(append("/f", b"f" * self.large_bytes), fork("/end", "/s"))
            await bench.done(fork("/g", bench.state("/f"), 6, b"G"), fork("/h", bench.state("/f"), 2))
            await bench.done(append("/g", b"g"), append("/h", b"h"), append("/end", b"e", close=True))
            assert await bench.data("/f") == b"0123F" + b"f" * self.large_bytes
            assert await bench.data("/g") == b"0123FfGg"
            assert await bench.data("/h") == b"01h"
            assert await bench.data("/end") == b"0123456789" + b"s" * self.large_bytes + b"latere"
            assert await bench.data("/s") == b"0123456789" + b"s" * self.large_bytes + b"later"
            assert [bench.state(path).forks for path in ("/s", "/f", "/g", "/h")] == [2, 2, 0, 0]

    async def test_a_refused_fork_leaves_no_reference(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/s", b"source"), create("/taken"))
            source = bench.state("/s")
            refused = await bench.execute(
                fork("/taken", source, 3),
                Create("/f", "text/plain", fork=ForkRequest("/s")),
                Create("/f", fork=ForkRequest("/nothing")),
                Create("/f", fork=ForkRequest("/s", 1, 0, source.number, 1, StreamNotFound())),
                Create("/f", content=Content(b"1\x1e", json=True), fork=ForkRequest("/s")),
            )
            assert all(isinstance(outcome, UnbrokenError) for outcome in refused)
            assert bench.store.state("/f") is None
            assert bench.state("/s") == source
            await bench.done(Delete("/s"))
            assert bench.store.state("/s") is None

    async def test_a_source_stays_until_its_last_fork_is_released(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/s", b"source"))
            source = bench.state("/s").number
            await bench.done(fork("/f", "/s", data=b"f"), fork("/g", "/s", data=b"g"))
            numbers = {path: bench.state(path).number for path in ("/f", "/g")}
            await bench.done(Delete("/s"))
            assert bench.state("/s").gone
            assert isinstance((await bench.execute(create("/s")))[0], StreamExists)
            assert isinstance((await bench.execute(fork("/x", "/s")))[0], SourceGone)
            await bench.done(Delete("/f"))
            assert list(bench.store.holds(9)) == [Hold(numbers["/f"], source, "/s")]
            await bench.done(Release("/s", source, numbers["/f"]))
            assert list(bench.store.holds(9)) == []
            assert await bench.data("/g") == b"sourceg"
            await bench.done(Delete("/g"))
            await bench.done(Release("/s", source, numbers["/g"]))
            assert bench.store.state("/s") is None
            await settle(bench.store)
            assert await bench.store.read(source, 0, 6) == b""

    @pytest.mark.parametrize("beside", ["nothing", "a small append", "a large append", "a fork", "a large fork"])
    async def test_a_release_counts_once(self, bench: Bench, beside: str) -> None:
        """However often it is asked for, and whatever happens to the source with it. A second time would take the
        reference of another fork, which is alive.
        """
        async with bench:
            await bench.done(create("/s", b"source"), fork("/f", "/s"), fork("/g", "/s"))
            source, deleted = bench.state("/s").number, bench.state("/f").number
            await bench.done(Delete("/f"))
            release = Release("/s", source, deleted)
            company: dict[str, list[Command]] = {
                "a small append": [append("/s", b"x")],
                "a large append": [append("/s", b"x" * self.large_bytes)],
                "a fork": [fork("/h", "/s")],
                "a large fork": [fork("/h", "/s", data=b"x" * self.large_bytes)],
            }
            await bench.done(release, *company.get(beside, []), release)
            assert list(bench.store.holds(9)) == []
            await bench.done(release)
            assert bench.state("/s").forks == (2 if "fork" in beside else 1)
            await bench.done(Delete("/s"))
            assert bench.state("/s").gone
            assert await bench.data("/g") == b"source"

    # --- in the background -------------------------------------------------------------------------------------------

    async def test_housekeeping_comes_to_an_end_and_changes_nothing(self, bench: Bench) -> None:
        async with bench:
            paths = [f"/{index}" for index in range(8)]
            await bench.done(*(create(path, b"x" * index) for index, path in enumerate(paths)))
            await bench.done(*(append(path, b"y" * 50, producer=ProducerStamp("p", 0, 0)) for path in paths))
            await bench.done(fork("/f", "/7"), Delete("/7"), Delete("/1"), append("/2", b"z" * self.large_bytes))
            await bench.done(Delete("/f"), *(append("/3", b"%d" % turn) for turn in range(30)))
            before = await bench.look(*paths, "/f")
            await settle(bench.store)
            assert await bench.look(*paths, "/f") == before
            assert await bench.producer("/3", "p") == Producer(0, 0)
            assert not await bench.store.maintain()

    async def test_due_streams_come_in_pages(self, bench: Bench) -> None:
        """All that were there at the start, each once, in order; whatever else is listed must be there as well."""
        async with bench:
            ttls = [5, 3, 5, 0, 2**63 - 1, 5, 7]
            await bench.done(*(create(f"/{n}", lifetime=Lifetime(ttl_s=ttl)) for n, ttl in enumerate(ttls)))
            await bench.done(create("/at", lifetime=Lifetime(expires_at_ms=-5)), create("/plain"))
            await bench.reopen()
            expected = sorted((ttl, bench.state(f"/{n}").number, f"/{n}") for n, ttl in enumerate(ttls))
            found: list[Due] = []
            after = (-(2**63), 0)
            while page := bench.store.due("ttl_s", after, 7, 2):
                assert len(page) <= 2
                found += page
                after = (page[-1].key, page[-1].number)
            if self.durable:
                assert found == [Due(*each) for each in expected if each[0] <= 7]
                at = bench.state("/at")
                assert list(bench.store.due("expires_at_ms", (-(2**63), 0), -5, 9)) == [Due(-5, at.number, "/at")]
            else:
                assert not found
            assert not bench.store.due("expires_at_ms", (-(2**63), 0), -6, 9)

    async def test_streams_come_by_prefix_in_the_order_of_their_paths(self, bench: Bench) -> None:
        paths = ["/a", "/a/b", "/a/c", "/a/c/d", "/a\U0001f600", "/aé", "/ab", "/b", "/b/a", "/gone", "/z"]
        async with bench:
            for path in paths[::-2] + paths[1::2]:
                await bench.done(create(path))
            await bench.done(Delete("/gone"), append("/b", b"more"))
            await bench.done(Delete("/z"), create("/z", b"new"))
            for prefix in ("/", "/a", "/a/", "/b", "/none"):
                found: list[StreamState] = []
                after = ""
                while page := bench.store.states(prefix, after, 3):
                    assert len(page) <= 3
                    found += page
                    after = page[-1].path
                expected = sorted(path for path in paths if path.startswith(prefix) and path != "/gone")
                assert [state.path for state in found] == expected
                assert all(state == bench.store.state(state.path) for state in found)

    # --- when --------------------------------------------------------------------------------------------------------

    async def test_the_bytes_committed_before_a_time_are_found(self, bench: Bench) -> None:
        """Also if the clock was set back in between: the last byte that was committed before the time counts."""
        times_ms = [1000, 1000, 2000, 2001, 5000, 4000, 4500, 6000]
        async with bench:
            await bench.done(create("/a"))
            for time_ms in times_ms:
                await execute(bench.store, append("/a", b"xyz"), now=Instant(time_ms, time_ms))
                await bench.pause()
            number = bench.state("/a").number
            for time_ms in (0, 1000, 1001, 2000, 2001, 2002, 4000, 4001, 5000, 5001, 6000, 6001):
                for end in (0, 1, 3, 10, 24):
                    before = [index for index, at_ms in enumerate(times_ms) if at_ms < time_ms and 3 * index < end]
                    expected = min(3 * before[-1] + 3, end) if before else None
                    assert await bench.store.find_time(number, end, time_ms) == expected

    # --- large bodies, in pieces --------------------------------------------------------------------------------------

    # --- how much there is --------------------------------------------------------------------------------------------

    async def test_totals_count_each_byte_once(self, bench: Bench) -> None:
        """What forks share is counted for its owner alone, and stays as long as they need it."""
        async with bench:
            assert (await bench.store.totals())[:2] == (0, 0)
            await bench.done(create("/a", b"12345"), create("/b", b"1"))
            await bench.done(append("/a", b"67890"))
            assert (await bench.store.totals())[:2] == (2, 11)
            await bench.done(fork("/fork", bench.state("/a"), 5, data=b"abc"))
            await bench.done(append("/fork", b"d"))
            await bench.done(create("/large", bytes(self.large_bytes)))
            assert (await bench.store.totals())[:2] == (4, 15 + self.large_bytes)
            await bench.done(Delete("/large"), Delete("/b"))
            assert (await bench.store.totals())[:2] == (2, 14)
            await bench.done(Delete("/a"))
            assert (await bench.store.totals())[:2] == (2, 14), "the fork needs it"
            number = bench.state("/fork").number
            await bench.done(Delete("/fork"))
            await bench.done(Release("/a", bench.state("/a").number, number))
            assert (await bench.store.totals())[:2] == (0, 0)

    async def test_totals_are_counted_below_prefixes_too(self, bench: Bench) -> None:
        """At the prefix, and below it at any depth; where a fork is, only what is its own; as long as forks need it."""
        below = [Prefixes(pattern) for pattern in ("/u/*", "/*/ä/*", "/u", "/*" * 32, "/%2A")]

        async def held() -> list[tuple[dict[str, int], dict[str, int]]]:
            return list((await bench.store.totals(below)).held)

        async with bench:
            assert await held() == [({}, {})] * 5
            deep = "/u/" + "/".join("x" * 30)  # 31 segments
            paths = (
                "/u",
                "/u/ann",
                "/u/ann/ä/1",
                "/u/ben/x",
                "/users",
                "/v/ä/日本/x",
                "/v/ä",
                "/*/x",
                f"{deep}/x",
                deep,
            )
            await bench.done(*(create(path, b"12345") for path in paths))
            await bench.done(create("/u/cid"), append("/u/ann", b"678"))
            expected = [
                ({"/u/ann": 2, "/u/ben": 1, "/u/x": 2, "/u/cid": 1}, {"/u/ann": 13, "/u/ben": 5, "/u/x": 10}),
                ({"/v/ä/日本": 1}, {"/v/ä/日本": 5}),
                ({"/u": 7}, {"/u": 33}),
                ({f"{deep}/x": 1}, {f"{deep}/x": 5}),
                ({"/*": 1}, {"/*": 5}),
            ]
            assert await held() == expected
            await bench.done(Delete("/u/ben/x"), Delete("/u/cid"), Delete("/*/x"), Delete(deep), Delete(f"{deep}/x"))
            await bench.done(fork("/f/ä/1", bench.state("/u/ann"), 4, data=b"12"))
            await bench.done(Delete("/u/ann"), create("/u/large", bytes(self.large_bytes)))
            users = ({"/u/ann": 2, "/u/large": 1}, {"/u/ann": 13, "/u/large": self.large_bytes})
            all_users = ({"/u": 4}, {"/u": 18 + self.large_bytes})
            forks = ({"/v/ä/日本": 1, "/f/ä/1": 1}, {"/v/ä/日本": 5, "/f/ä/1": 2})
            assert await held() == [users, forks, all_users, ({}, {}), ({}, {})]

    async def test_totals_are_of_the_moment_of_the_call(self, bench: Bench) -> None:
        async with bench:
            await bench.done(create("/a", b"12345"))
            totals = bench.store.totals()
            await execute(bench.store, append("/a", b"67890"), create("/b", b"1"))
            assert (await totals)[:2] == (1, 5)

    # --- from one life to the next -----------------------------------------------------------------------------------

    async def test_a_store_keeps_its_identity(self, bench: Bench) -> None:
        async with bench:
            before = bench.store.identity
            assert before
            await bench.reopen()
            await bench.crash()
            assert bench.store.identity == before
            other = self.make(bench.directory.parent / "other")
            await other.open()
            await other.close()
            assert other.identity != before


class StoreSuite(_Tests):
    """The tests; a subclass says how to make a store.

    Attributes:
        durable: whether a new store in the same directory finds what an earlier one was given.
        large_bytes: a body that the store treats as large.
        make: returns a store on a directory that may or may not exist; not opened.
        copy: makes of a directory in use another one, as a process killed now would leave it. Copies files by default.
        check: looks into the directory of a store that was closed, after each test. Does nothing by default.
    """
