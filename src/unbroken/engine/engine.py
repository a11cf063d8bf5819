"""The engine: streams without HTTP.

    async with Engine(MemoryStore()) as engine:
        await engine.create("/greetings", content_type="text/plain")
        await engine.append("/greetings", b"hello")
        async for page in engine.follow("/greetings"):
            print(page.body)

One engine owns one store, in one event loop. Reads see only durable bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from unbroken.engine.clock import Clock, SystemClock
from unbroken.engine.commit import CommitMeasures, Committer, NotDecided
from unbroken.engine.expiry import Expiry
from unbroken.engine.follow import Waiters
from unbroken.engine.follower import Follower
from unbroken.engine.pages import Page, PagesAtHand, fork_point, read_page, read_page_before
from unbroken.engine.upload import Tell, tell_nobody
from unbroken.engine.usage import UNLIMITED, Quota, Usage, usage_metrics
from unbroken.errors import InvalidOffset, StoreError, Unavailable, UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.commands import (
    Append,
    Appended,
    Command,
    Create,
    Created,
    Delete,
    Deleted,
    ForkRequest,
    Outcome,
    Release,
)
from unbroken.protocol.content import Content, frames_quickly, is_json, make_content
from unbroken.protocol.lifetime import IMMORTAL, lifetime_of
from unbroken.protocol.offsets import Anchor, Offset, parse_offset
from unbroken.protocol.paths import parse_path
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.stream import (
    Addition,
    Creation,
    Deletion,
    Presence,
    StreamState,
    View,
    offset_at,
    resolve_offset,
)
from unbroken.store.base import Change, Store

__all__ = ["PAGE_BYTES_DEFAULT", "Engine", "Follower"]

PAGE_BYTES_DEFAULT = 1024 * 1024

_log = logging.getLogger("unbroken.engine")
_SWEEP_INTERVAL_S = 0.5
_RELEASES_MAX = 256
_DELETES_MAX = 256
# What one of them reads others have to wait for, and what it has read takes memory.
_LONG_READS_MAX = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Engine:
    """Create, append, read, follow, close, fork and delete streams.

    Use it as an async context manager, or call `start` and `stop`.

    Args:
        store: where the streams are; owned by the engine from `start` to `stop`.
        clock: tells the time.
        page_bytes: greatest size of a page, in bytes, at least 16.
        quota: what the store may hold at most.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        page_bytes: int = PAGE_BYTES_DEFAULT,
        quota: Quota = UNLIMITED,
    ) -> None:
        if page_bytes < 16:
            raise ValueError("page_bytes must be at least 16")
        self.store = store
        self.clock = clock or SystemClock()
        self.page_bytes = page_bytes
        self.waiters = Waiters()
        self.draining = False
        self._quota = quota
        self._background: list[asyncio.Future[Any]] = []
        self._framing = asyncio.Semaphore(1)
        self._long_reads = asyncio.Semaphore(_LONG_READS_MAX)
        self._measures = CommitMeasures()
        self.at_hand = PagesAtHand(store, page_bytes)
        self._begin()

    def _begin(self) -> None:
        self.draining = False
        self._expiry = Expiry(self.store, self.clock)
        self.usage = Usage(self._quota)
        self._committer = Committer(self.store, self.clock, self._expiry, self._publish, self.usage, self._measures)

    async def start(self) -> None:
        """Open the store and begin to serve. A stopped engine can be started again.

        Raises:
            StoreError: the store cannot be opened.
        """
        await self.store.open()
        self._begin()
        try:
            measuring = self.store.totals(self.usage.prefixes)
        except BaseException:
            await self.store.close()
            raise
        self.usage.begin_with(measuring)
        self._committer.start()
        sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="unbroken-sweeper")
        self._background = [measuring, sweeping]

    def drain(self) -> None:
        """End live reads; go on with everything else until `stop`."""
        self.draining = True
        self.waiters.wake_all()

    async def stop(self) -> None:
        """End live reads, finish the writes that were accepted, and close the store."""
        self.drain()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._committer.stop()
        await self.store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- writing -------------------------------------------------------------------------------------------------

    async def give_way(self) -> None:
        """Wait for the commit that is under way, if others write. For adapters, when they have received some of a large
        body: that takes the processor from those whose writes are in it.
        """
        await self._committer.give_way()

    async def execute(self, command: Command) -> Outcome:
        """Carry out a command as the protocol describes it; for adapters.

        Returns:
            What the client is told. A refusal by the rules is a result here, not an exception.

        Raises:
            Unavailable: the server could not decide it; with `OutcomeUnknown` it may or may not have happened.
        """
        outcome = await self._submitted(command)
        if isinstance(outcome, NotDecided):
            raise outcome
        return outcome

    def submit(self, command: Command, tell: Tell) -> None:
        """Like `execute`, without a future and a task that waits for it: they cost as much as to decide an append.

        ``tell`` is called later, once, with what `execute` would return or raise, unless this raises `Unavailable`.
        """
        self._committer.submit(command, tell)

    def _submitted(self, command: Command) -> asyncio.Future[Outcome]:
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def tell(outcome: Outcome) -> None:
            if not done.done():
                done.set_result(outcome)

        self._committer.submit(command, tell)
        return done

    async def create(
        self,
        path: str,
        *,
        content_type: str | None = None,
        ttl_s: int | None = None,
        expires_at: datetime | None = None,
        data: bytes = b"",
        closed: bool = False,
    ) -> Created:
        """Create a stream, or confirm that an identical one is there.

        Args:
            path: such as ``/events`` or ``/a/b``.
            content_type: ``application/octet-stream`` by default. ``application/json`` makes it a stream of messages.
            ttl_s: sliding time to live, in seconds.
            expires_at: when it ends, a datetime with a time zone. Not together with ``ttl_s``.
            data: first content.
            closed: close it at once: ``data`` is all there will be.

        Raises:
            StreamExists: the path is taken by a stream with another configuration.
            InvalidPath, InvalidBody, TooManyMessages, Unavailable.
        """
        content = await self.prepare(data, content_type)
        lifetime = lifetime_of(ttl_s, expires_at)
        return await self._created(Create(parse_path(path), content_type, lifetime, closed, content))

    async def fork(
        self,
        path: str,
        source: str,
        *,
        offset: Offset | str | None = None,
        sub_offset: int = 0,
        ttl_s: int | None = None,
        expires_at: datetime | None = None,
        data: bytes = b"",
    ) -> Created:
        """Create a stream that begins with another one's data, without copying it.

        Args:
            path: of the new stream.
            source: path of the stream to fork.
            offset: where to branch off; the source's tail by default.
            sub_offset: so many messages (JSON) or bytes past the offset.
            ttl_s: see `create`; the source's lifetime by default.
            expires_at: see `create`.
            data: first content of its own.

        Raises:
            StreamNotFound, SourceGone: the source is not there (any more).
            InvalidOffset: the offset is not one of the source's.
            StreamExists, ForkTooDeep, InvalidPath, InvalidBody, Unavailable.
        """
        request = await self.resolve_fork(parse_path(source), None if offset is None else str(offset), sub_offset)
        content = await self.prepare(data, self.inherited_type(request))
        lifetime = lifetime_of(ttl_s, expires_at)
        return await self._created(Create(parse_path(path), None, lifetime, False, content, request))

    async def append(
        self,
        path: str,
        data: bytes,
        *,
        close: bool = False,
        stream_seq: str | None = None,
        producer: ProducerStamp | None = None,
    ) -> Appended:
        """Append to a stream; returns when it is durable.

        Args:
            path: of the stream.
            data: for a JSON stream one JSON text: a message, or an array of messages.
            close: close the stream with it, in one step.
            stream_seq: must be greater than the last one given for this stream.
            producer: makes the append idempotent; see `unbroken.protocol.producers`.

        Raises:
            StreamNotFound, StreamGone, StreamClosed, StaleEpoch, ProducerGap, SequenceRegression, InvalidBody.
            OutcomeUnknown, Unavailable: the server could not do it (now).
        """
        key = parse_path(path)
        content_type = self.lookup(key).live().content_type
        content = await self.prepare(data, content_type)
        outcome = await self.execute(Append(key, content_type, content, close, stream_seq, producer))
        if isinstance(outcome, UnbrokenError):
            raise outcome
        assert isinstance(outcome, Appended)
        return outcome

    async def close(self, path: str) -> Appended:
        """Close a stream for ever; closing it again changes nothing.

        Raises:
            StreamNotFound, StreamGone, Unavailable.
        """
        outcome = await self.execute(Append(parse_path(path), close=True))
        if isinstance(outcome, UnbrokenError):
            raise outcome
        assert isinstance(outcome, Appended)
        return outcome

    async def delete(self, path: str) -> None:
        """Delete a stream. Its data stays as long as forks live on it.

        Raises:
            StreamNotFound, StreamGone, Unavailable.
        """
        outcome = await self.execute(Delete(parse_path(path)))
        if isinstance(outcome, UnbrokenError):
            raise outcome
        assert isinstance(outcome, Deleted)

    async def delete_all(self, prefix: str, *, limit: int | None = None) -> int:
        """Delete streams whose path begins with a prefix, a bounded number at a time.

        Args:
            prefix: compared character by character, so ``/a`` finds ``/ab`` as well as ``/a/b``.
            limit: how many at most; None for all.

        Returns:
            How many were deleted. Fewer than ``limit`` means that all were that were there at the beginning.

        Raises:
            Unavailable: some may have been deleted.
        """
        deleted, after = 0, ""
        while limit is None or deleted < limit:
            count = _DELETES_MAX if limit is None else min(_DELETES_MAX, limit - deleted)
            found = self.streams(prefix, after=after, limit=count)
            if not found:
                break
            outcomes = await asyncio.gather(*(self.execute(Delete(state.path)) for state in found))
            deleted += sum(isinstance(outcome, Deleted) for outcome in outcomes)
            after = found[-1].path
        return deleted

    async def prepare(self, body: bytes, content_type: str | None) -> Content:
        """Make a body ready to be stored in a stream of this content type; a fault in it is kept in the result."""
        if content_type is None or not is_json(content_type) or frames_quickly(body):
            return make_content(body, content_type)
        # One at a time: a worker thread takes interpreter time from everybody.
        async with self._framing:
            return await asyncio.to_thread(make_content, body, content_type)

    async def resolve_fork(self, source_path: str, offset: str | None, sub_offset: int) -> ForkRequest:
        """Find the byte position that a fork request names; a fault in it is kept in the result."""
        request = ForkRequest(source_path, sub_offset=sub_offset)
        try:
            token = Anchor.NOW if offset is None else parse_offset(offset)
            if token is Anchor.NOW:
                if sub_offset:
                    raise InvalidOffset("Stream-Fork-Sub-Offset needs a Stream-Fork-Offset to count from")
                return request
            # Known even where there is no source (any more): a repeated request must compare equal.
            request = replace(request, anchor=token.position if isinstance(token, Offset) else 0)
            source = self.lookup(source_path)
            if source.presence is not Presence.LIVE or source.state is None:
                return request
            position = _position(source.state, token)
            point = await fork_point(self.store, source.state, position, sub_offset, self._long_reads)
            return replace(request, source_number=source.state.number, point=point)
        except UnbrokenError as fault:
            return replace(request, fault=fault)

    def inherited_type(self, fork: ForkRequest) -> str | None:
        """The content type of a fork's source; None where there is no source."""
        state = self.store.state(fork.source_path)
        return None if state is None else state.content_type

    async def _created(self, command: Create) -> Created:
        outcome = await self.execute(command)
        if isinstance(outcome, UnbrokenError):
            raise outcome
        assert isinstance(outcome, Created)
        return outcome

    # --- reading -------------------------------------------------------------------------------------------------

    def lookup(self, path: str) -> View:
        """How the stream at a path looks now. Does not renew its lifetime."""
        return self._expiry.view(self.store.state(path))

    def head(self, path: str) -> StreamState:
        """A live stream's state. Does not renew its lifetime.

        Raises:
            StreamNotFound, StreamGone, InvalidPath.
        """
        return self.lookup(parse_path(path)).live()

    def touch(self, path: str) -> StreamState:
        """A live stream's state, its sliding lifetime renewed, as every read does.

        Raises:
            StreamNotFound, StreamGone.
        """
        state = self.lookup(path).live()
        self._expiry.renew(state)
        return state

    async def read(
        self, path: str, offset: Offset | Anchor | str = Anchor.BEGINNING, *, limit_bytes: int | None = None
    ) -> Page:
        """Read the page that begins at an offset.

        Args:
            path: of the stream.
            offset: where the page begins.
            limit_bytes: its greatest size, if that is to be less than the engine's.

        Raises:
            InvalidOffset, OffsetGone, StreamNotFound, StreamGone, InvalidPath, StoreError.
        """
        state = self.touch(parse_path(path))
        return await self.page(state, _position(state, offset), limit_bytes)

    async def read_before(
        self, path: str, offset: Offset | Anchor | str = Anchor.NOW, *, limit_bytes: int | None = None
    ) -> Page:
        """Read the page that ends at an offset: by default the stream's last one. ``page.offset`` is where it begins.

        Args:
            path: of the stream.
            offset: where the page ends.
            limit_bytes: its greatest size, if that is to be less than the engine's.

        Raises:
            InvalidOffset, OffsetGone, StreamNotFound, StreamGone, InvalidPath, StoreError.
        """
        state = self.touch(parse_path(path))
        end, size_bytes = _position(state, offset), self._page_bytes(limit_bytes)
        return await self._unless_deleted(state, read_page_before(self.store, state, end, size_bytes, self._long_reads))

    async def offset_since(self, path: str, since: datetime) -> Offset:
        """Where what was committed at a time or later begins: after the last byte that was committed before it.

        Args:
            path: of the stream.
            since: a datetime with a time zone; compared with this server's clock as it was at each commit, which has a
                precision of 1 ms and may have been set back in between.

        Raises:
            StreamNotFound, StreamGone, InvalidPath, StoreError.
        """
        if since.tzinfo is None:
            raise ValueError("since needs a time zone")
        state = self.touch(parse_path(path))
        time_ms = -((_EPOCH - since) // timedelta(milliseconds=1))
        for number, end in reversed((*state.lineage, (state.number, state.tail))):
            if (position := await self.store.find_time(number, end, time_ms)) is not None:
                return offset_at(state, position)
        return offset_at(state, 0)

    async def page(self, state: StreamState, start: int, limit_bytes: int | None = None) -> Page:
        """Read the page of a stream that begins at a byte position.

        Raises:
            InvalidOffset: the position is inside a message.
            StreamNotFound, StreamGone: the stream was deleted meanwhile.
            StoreError: the store is damaged.
        """
        size_bytes = self._page_bytes(limit_bytes)
        return await self._unless_deleted(state, read_page(self.store, state, start, size_bytes, self._long_reads))

    def _page_bytes(self, limit_bytes: int | None) -> int:
        return self.page_bytes if limit_bytes is None else min(limit_bytes, self.page_bytes)

    async def _unless_deleted(self, state: StreamState, reading: Awaitable[Page]) -> Page:
        """A page, or the reason why bytes of it are missing."""
        try:
            return await reading
        except StoreError:
            now = self.lookup(state.path)
            if now.live().number != state.number:
                raise now.absence() from None
            raise

    async def follow(self, path: str, offset: Offset | Anchor | str = Anchor.BEGINNING) -> AsyncIterator[Page]:
        """Read from an offset and go on as the stream grows, until it is closed.

        Yields:
            Pages with data, each beginning where the one before ended; ``page.next_offset`` is where to resume.

        Raises:
            StreamNotFound, StreamGone, OffsetGone: the stream was deleted meanwhile, or another one took its path.
            InvalidOffset, InvalidPath, StoreError.
        """
        with self.follower(parse_path(path), offset) as follower:
            while not self.draining:
                page = await follower.next(_FOREVER_S)
                if page is not None and page.data:
                    yield page
                if page is not None and page.closed:
                    return

    def follower(self, path: str, offset: Offset | Anchor | str) -> Follower:
        """Begin a live read.

        Raises:
            InvalidOffset, OffsetGone, StreamNotFound, StreamGone.
        """
        state = self.touch(path)
        return Follower(self, state, _position(state, offset), self._expiry)

    def streams(self, prefix: str = "/", *, after: str = "", limit: int = 1000) -> Sequence[StreamState]:
        """Live streams whose path begins with a prefix, in the order of their paths. Renews no lifetime.

        Args:
            prefix: compared character by character, so ``/a`` finds ``/ab`` as well as ``/a/b``.
            after: the path to continue from, exclusive.
            limit: how many at most.
        """
        live: list[StreamState] = []
        while len(live) < limit and (found := self.store.states(prefix, after, limit - len(live))):
            live += (state for state in found if self._expiry.view(state).presence is Presence.LIVE)
            after = found[-1].path
        return live

    def metrics(self) -> Iterator[Metric]:
        """What the engine and its store tell of themselves; see `unbroken.measures`."""
        yield from usage_metrics(self.usage)
        yield Metric("waiting_readers", "gauge", "Followers that wait for news.", len(self.waiters))
        text = "Lifetimes that are watched; those of deleted streams go little by little."
        yield Metric("watched_lifetimes", "gauge", text, self._expiry.watched)
        yield from self._committer.metrics()
        yield Metric("writable", "gauge", "0 once an I/O error made the store read-only.", self.store.failure is None)
        yield from self.store.metrics()

    # --- in the background -----------------------------------------------------------------------------------------

    def _publish(self, changes: list[Change]) -> None:
        for change in changes:
            record, after = change.record, change.after
            self.waiters.wake(record.number)
            if isinstance(record, Deletion):
                self._after_deletion(record, change.before)
            elif after is None or after.lifetime is IMMORTAL:
                continue
            elif isinstance(record, Addition):
                self._expiry.renew(after)
            elif isinstance(record, Creation):
                self._expiry.watch(after)

    def _after_deletion(self, record: Deletion, before: StreamState | None) -> None:
        self._expiry.forget(record.number)
        if record.keep or before is None or before.origin is None:
            return
        # At once, so that the release ranks before whatever the client does next. Should it not be possible now, the
        # sweep finds the hold again.
        with contextlib.suppress(Unavailable):
            origin = before.origin
            self._committer.submit(Release(origin.source_path, origin.source_number, record.number), tell_nobody)

    async def _sweep(self) -> None:
        """Reclaim what has expired and release what deleted forks still hold, a bounded number at a time."""
        submitted: list[asyncio.Future[Outcome]] = []

        def submit(command: Command) -> None:
            submitted.append(self._submitted(command))

        while True:
            more = False
            try:
                for hold in self.store.holds(_RELEASES_MAX):
                    submit(Release(hold.source_path, hold.source_number, hold.fork))
                more = self._expiry.sweep(submit)
            except Unavailable as error:
                _log.warning("expired streams cannot be reclaimed now: %s", error)
            except Exception:
                _log.exception("expired streams could not be reclaimed")
            await asyncio.gather(*submitted)
            submitted.clear()
            await asyncio.sleep(0 if more else _SWEEP_INTERVAL_S)


_FOREVER_S = 3600.0


def _position(state: StreamState, offset: Offset | Anchor | str) -> int:
    token = parse_offset(offset) if isinstance(offset, str) else offset
    position = resolve_offset(state, token)
    if isinstance(position, UnbrokenError):
        raise position
    return position
