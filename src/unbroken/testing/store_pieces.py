"""The part of the contract of a store that is about bodies which are written in pieces; see `StoreSuite`."""

from __future__ import annotations

import pytest

from unbroken.protocol.commands import Delete
from unbroken.protocol.lifetime import Instant
from unbroken.testing.store_bench import NOW, Bench, StoreHooks, append, create, execute, fork, settle, write

__all__ = ["PieceTests"]


class PieceTests(StoreHooks):
    """Tests of bodies in pieces; ``bench`` is a fixture of the suite."""

    async def test_a_body_in_pieces_is_there_only_when_its_record_is(self, bench: Bench) -> None:
        """Whatever else is written and whatever happens between them."""
        body = bytes(range(256)) * (self.large_bytes // 256 + 1)
        async with bench:
            await bench.done(create("/a", b"before"), create("/b"))
            state = bench.state("/a")
            third = len(body) // 3 + 1
            for start in range(0, len(body), third):
                async with bench.store.transaction(["/a", "/b"]) as transaction:
                    piece = body[start : start + third]
                    transaction.stage(state.number, state.tail + start, piece, 0)
                    write(transaction, append("/b", b"beside"))
                assert bench.state("/a") == state
                assert await bench.data("/a") == b"before"
                await settle(bench.store)
            await bench.done(append("/a", body))
            assert await bench.data("/a") == b"before" + body
            await bench.done(append("/a", b"after"))
            assert await bench.data("/a") == b"before" + body + b"after"
            assert await bench.data("/b") == b"beside" * 3

    async def test_a_stream_is_created_with_a_body_in_pieces(self, bench: Bench) -> None:
        """It has the number that was used up for it, though others were created meanwhile."""
        body = bytes(range(256)) * (self.large_bytes // 256 + 1)
        async with bench:
            await bench.done(create("/before"))
            async with bench.store.transaction(["/a"]) as transaction:
                number = transaction.next_number()
                transaction.use_number()
                transaction.stage(number, 0, body[:100], 0)
            await settle(bench.store)
            await execute(bench.store, create("/beside", b"beside"))
            assert bench.state("/beside").number > number
            for start, end in ((100, 200), (200, len(body))):
                async with bench.store.transaction(["/a"]) as transaction:
                    transaction.stage(number, start, body[start:end], NOW.wall_ms)
                assert bench.store.state("/a") is None
                await settle(bench.store)
                await execute(bench.store, append("/beside", b"."))
            async with bench.store.transaction(["/a"]) as transaction:
                transaction.date(number, 0, 100, NOW.wall_ms)
            async with bench.store.transaction(["/a"]) as transaction:
                write(transaction, create("/a", body, closed=True), number=number)
            await bench.pause()
            state = bench.state("/a")
            assert (state.number, state.tail, state.closed) == (number, len(body), True)
            assert await bench.data("/a") == body
            assert await bench.store.find_time(number, state.tail, NOW.wall_ms + 1) == state.tail
            assert await bench.store.find_time(number, state.tail, NOW.wall_ms) is None
            assert await bench.data("/beside") == b"beside.."
            await bench.done(fork("/fork", state), Delete("/a"), create("/later"))
            assert bench.state("/later").number > bench.state("/fork").number > number
            assert await bench.data("/fork") == body

    @pytest.mark.parametrize("end", ["nothing", "unstage"])
    async def test_nothing_is_left_of_pieces_of_a_stream_that_was_not_created(self, bench: Bench, end: str) -> None:
        """Not even its number, which is not used again."""
        async with bench:
            await bench.done(create("/before"))
            async with bench.store.transaction(["/a"]) as transaction:
                number = transaction.next_number()
                transaction.use_number()
                transaction.stage(number, 0, bytes(self.large_bytes), 0)
            if end == "nothing":
                await bench.crash()
            else:
                async with bench.store.transaction(["/a"]) as transaction:
                    transaction.unstage(number)
            await bench.done(create("/a", b"other"))
            assert bench.state("/a").number > number
            assert await bench.data("/a") == b"other"

    async def test_a_number_that_is_used_up_is_not_used_again(self, bench: Bench) -> None:
        """Though nothing was written in its transaction."""
        async with bench:
            async with bench.store.transaction(["/a"]) as transaction:
                number = transaction.next_number()
                transaction.use_number()
            await execute(bench.store, create("/b"))
            assert bench.state("/b").number == number + 1

    @pytest.mark.parametrize("dated", ["none of it", "some of it", "otherwise", "all of it"])
    async def test_a_body_in_pieces_has_the_time_of_its_record(self, bench: Bench, dated: str) -> None:
        """Whatever was said ahead."""
        body = bytes(self.large_bytes * 3)
        async with bench:
            await bench.done(create("/a", b"before"))
            state = bench.state("/a")
            for start in range(0, len(body), self.large_bytes):
                async with bench.store.transaction(["/a"]) as transaction:
                    piece = body[start : start + self.large_bytes]
                    transaction.stage(state.number, state.tail + start, piece, NOW.wall_ms + start)
            async with bench.store.transaction(["/a"]) as transaction:
                end = state.tail + (self.large_bytes if dated == "some of it" else len(body))
                if dated != "none of it":
                    time_ms = NOW.wall_ms + (5 if dated == "otherwise" else 7)
                    transaction.date(state.number, state.tail, end, time_ms)
            moment = Instant(NOW.wall_ms + 7, NOW.monotonic_ms)
            await execute(bench.store, append("/a", body), now=moment)
            await settle(bench.store)
            end = state.tail + len(body)
            assert await bench.store.find_time(state.number, end, NOW.wall_ms + 7) == state.tail
            assert await bench.store.find_time(state.number, end, NOW.wall_ms + 8) == end

    @pytest.mark.parametrize("end", ["nothing", "unstage", "delete", "delete softly", "replace"])
    async def test_pieces_without_a_record_leave_nothing(self, bench: Bench, end: str) -> None:
        """Whether the process died before it came, or it was given up because the stream had gone."""
        async with bench:
            await bench.done(create("/a", b"before"), create("/b"))
            state = bench.state("/a")
            if end == "delete softly":
                await bench.done(fork("/fork", state))
            async with bench.store.transaction(["/a"]) as transaction:
                transaction.stage(state.number, state.tail, bytes(self.large_bytes), 0)
            if end == "nothing":
                await bench.crash()
            elif end != "unstage":
                await bench.done(Delete("/a"))
            if end == "replace":
                await bench.done(create("/a", b"before"))
            async with bench.store.transaction(["/a"]) as transaction:
                transaction.unstage(state.number)
            await bench.done(append("/b", b"x"))
            if end in ("nothing", "unstage", "replace"):
                await bench.done(append("/a", b"after"))
                assert await bench.data("/a") == b"beforeafter"
            await bench.done(append("/b", b"x"))
