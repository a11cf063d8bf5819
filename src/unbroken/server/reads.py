"""GET: catch-up reads, long-poll and Server-Sent Events."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from unbroken.engine.engine import Engine, Follower
from unbroken.engine.follow import FrameCache
from unbroken.engine.pages import Page
from unbroken.errors import InvalidOffset, InvalidToken, UnbrokenError
from unbroken.protocol.caching import COLLAPSE_S, entity_tag, matches, page_cache_control
from unbroken.protocol.content import is_text
from unbroken.protocol.cursors import next_cursor
from unbroken.protocol.headers import ReadQuery, field
from unbroken.protocol.offsets import Anchor, parse_offset
from unbroken.protocol.sse import HEARTBEAT
from unbroken.server.access import Access, Lease
from unbroken.server.http import Headers, Request, Response
from unbroken.server.settings import Settings
from unbroken.server.shares import LiveReads
from unbroken.server.sse import Batches
from unbroken.server.untaken import Untaken

__all__ = ["Reads"]

_log = logging.getLogger("unbroken.server")
_ACTIVE = re.compile("html|xml|multipart", re.IGNORECASE)
_MOMENT_S = 0.5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UP_TO_DATE = (b"stream-up-to-date", b"true")
_CLOSED = (b"stream-closed", b"true")
_SANDBOX = (b"content-security-policy", b"sandbox")
_NO_STORE = (b"cache-control", b"no-store")
_COLLAPSED: Headers = [(b"x-accel-expires", b"%d" % COLLAPSE_S)]


class Reads:
    """Answers GET on streams.

    Args:
        engine: where the streams are.
        settings: how long live reads last, and how many there may be.
        untaken: knows whether there is room for another large answer.
        access: says for how long their reader may go on; None if for ever.
    """

    def __init__(self, engine: Engine, settings: Settings, untaken: Untaken, access: Access | None = None) -> None:
        self._engine = engine
        self._untaken = untaken
        self._access = access
        self._long_poll_timeout_s = settings.long_poll_timeout
        self._sse_lifetime_s = settings.sse_lifetime
        self._sse_heartbeat_s = settings.sse_heartbeat
        self.frames = FrameCache()
        self._endings = _Endings()
        self.live = LiveReads(settings.max_live_reads, settings.principal_live_reads)
        # What one reader may see is not another's: nothing that a shared cache would keep, even for a moment.
        self._collapsed = _COLLAPSED if access is None else []
        self._no_cache = b"no-cache" if access is None else b"private, no-cache"

    async def get(self, request: Request, path: str, query: ReadQuery) -> Response:
        """Answer a GET, by what its query asks for."""
        if query.since_ms is not None:
            since = _EPOCH + timedelta(milliseconds=query.since_ms)
            query = query._replace(offset=str(await self._engine.offset_since(path, since)))
        if query.live is not None:
            self.live.check(request.principal)
        if query.live == "sse":
            return await self._sse(request, path, query)
        if query.live == "long-poll":
            with self.live.one(request.principal):
                return await self._long_poll(request, path, query)
        return await self._catch_up(request, path, query)

    # --- catch-up --------------------------------------------------------------------------------------------------

    async def _catch_up(self, request: Request, path: str, query: ReadQuery) -> Response:
        if query.before is not None:
            page = await self._engine.read_before(path, query.before, limit_bytes=query.limit_bytes)
        else:
            anchor = Anchor.BEGINNING if query.offset is None else query.offset
            page = await self._engine.read(path, anchor, limit_bytes=query.limit_bytes)
        self._untaken.check(len(page.data))
        begins: Headers = []
        if page.start and (query.before is not None or query.since_ms is not None):
            # Whoever did not name the place where it begins is told.
            begins.append((b"stream-previous-offset", str(page.offset).encode()))
        if _is_momentary(query):
            return Response(200, [*self._page_headers(page), *begins, _NO_STORE], page.body)
        return self._page_response(request, page, *begins)

    def _page_response(self, request: Request, page: Page, *extra: tuple[bytes, bytes]) -> Response:
        """A page, or 304 if the client has it."""
        state = page.state
        identity = f"{self._engine.store.identity}-{state.number}"
        tag = entity_tag(identity, page.start, page.end, closed=page.closed)
        cache_control = page_cache_control(
            empty=not page.data,
            closed=page.closed,
            left_s=state.lifetime.left_s(self._engine.clock.now()),
            private=self._access is not None,
        )
        headers = self._page_headers(page)
        headers += ((b"etag", tag.encode()), (b"cache-control", cache_control.encode()), *extra)
        wanted = field(request.fields, b"if-none-match")
        if wanted is not None and matches(wanted, tag):
            return Response(304, headers)
        return Response(200, headers, page.body)

    def _page_headers(self, page: Page) -> Headers:
        content_type = page.state.content_type
        headers: Headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"stream-next-offset", str(page.next_offset).encode()),
        ]
        if page.up_to_date:
            headers.append(_UP_TO_DATE)
        if page.closed:
            headers.append(_CLOSED)
        if self._access is not None and _is_active(content_type):
            # A page that somebody may write must not run as one of the server's own, beside the inspector's token.
            headers.append(_SANDBOX)
        return headers

    # --- long-poll -------------------------------------------------------------------------------------------------

    async def _long_poll(self, request: Request, path: str, query: ReadQuery) -> Response:
        if query.offset is None:
            raise InvalidOffset("a live read needs an offset")
        timeout_s = self._long_poll_timeout_s
        if query.timeout_s is not None:
            timeout_s = min(timeout_s, query.timeout_s)
        with self._engine.follower(path, query.offset) as follower, self._lease(request, follower) as lease:
            page = await follower.next(0)
            if page is not None and not page.data and not page.closed:
                request.on_disconnect(follower.stop)
                page = await follower.next(timeout_s) or page
            # The page is at hand before the follower goes, so the lifetime is renewed after it.
            if lease.over:
                raise InvalidToken("the token has expired or was revoked")
        assert page is not None
        self._untaken.check(len(page.data))
        cursor = (b"stream-cursor", b"%d" % self._cursor(query.cursor))
        if page.data and _is_momentary(query):
            return Response(200, [*self._page_headers(page), cursor, _NO_STORE], page.body)
        if page.data:
            return self._page_response(request, page, cursor)
        offset = (b"stream-next-offset", str(page.next_offset).encode())
        headers: Headers = [offset, _UP_TO_DATE, cursor, *(() if _is_momentary(query) else self._collapsed), _NO_STORE]
        if page.closed:
            headers.append(_CLOSED)
        return Response(204, headers)

    def _cursor(self, client_cursor: str | None) -> int:
        # Jitter, not a secret.
        return next_cursor(self._engine.clock.now().wall_ms, client_cursor, random.random())  # noqa: S311

    # --- Server-Sent Events ------------------------------------------------------------------------------------------

    async def _sse(self, request: Request, path: str, query: ReadQuery) -> Response:
        """A browser's own EventSource says where it was in ``Last-Event-ID``, which overrides the offset in the URL."""
        last_event_id = field(request.fields, b"last-event-id")
        offset = last_event_id or query.offset
        if offset is None:
            raise InvalidOffset("a live read needs an offset")
        follower = self._engine.follower(path, parse_offset(offset))
        state = follower.state
        start = follower.position
        headers: Headers = [
            (b"vary", b"Last-Event-ID"),
            (b"cache-control", b"no-store" if last_event_id else self._no_cache),
        ]
        if last_event_id and state.closed and start == state.tail:
            # 204 is what stops an EventSource from connecting again (HTML section 9.2.3).
            return Response(204, [*headers, (b"stream-next-offset", str(state.tail_offset).encode()), _CLOSED])
        headers += ((b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no"))
        if not (state.json or is_text(state.content_type)):
            headers.append((b"stream-sse-data-encoding", b"base64"))
        # The first page comes before the head: only then can an offset inside a message still be refused.
        first = await follower.next(0)
        self._untaken.check(0 if first is None else len(first.data))
        batches = Batches(state, start, self.frames, self._cursor(query.cursor))
        return Response(200, headers, self._events(request, follower, batches, first))

    async def _events(
        self, request: Request, follower: Follower, batches: Batches, page: Page | None
    ) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        end_s = clock() + self._sse_lifetime_s
        request.on_disconnect(follower.stop)
        with follower, self._lease(request, follower) as lease, self.live.one(request.principal):
            while True:
                if lease.over:
                    yield batches.farewell()
                    return
                if page is not None:
                    closed, events = page.closed, batches.encode(page, self._cursor(None))
                    # A reader that waits holds no page, nor what became of it.
                    page = None
                    yield events
                    del events
                    if closed:
                        return
                elif follower.ended:
                    yield batches.farewell()
                    return
                elif clock() < end_s:
                    yield HEARTBEAT
                if clock() >= end_s:
                    return
                try:
                    page = await follower.next(min(self._sse_heartbeat_s, max(0.0, end_s - clock())))
                    self._untaken.check(0 if page is None else len(page.data))
                except UnbrokenError as error:
                    # Deleted, most likely. The status is long sent; whoever connects again is told.
                    self._endings.note(follower.state.path, error, request.id)
                    return

    def _lease(self, request: Request, follower: Follower) -> Lease | _Forever:
        return _FOREVER if self._access is None else self._access.lease(request, follower.stop)


class _Endings:
    """Logs that live reads ended: all of a stream that end at the same time, and for the same reason, in one line."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, path: str, error: UnbrokenError, request_id: str) -> None:
        """One ended."""
        self._counts[path, error.code] += 1
        if self._counts[path, error.code] == 1:
            asyncio.get_running_loop().call_later(_MOMENT_S, self._tell, path, error, request_id)

    def _tell(self, path: str, error: UnbrokenError, request_id: str) -> None:
        count = self._counts.pop((path, error.code))
        facts = {"request_id": request_id, "path": path, "code": error.code, "readers": count}
        text = "live reads of %s that ended: %d: %s, id of the first %s"
        _log.info(text, path, count, error, request_id, extra={"facts": facts})


class _Forever:
    """The lease of readers whom nobody asks who they are."""

    over = False

    def __enter__(self) -> _Forever:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_FOREVER = _Forever()


def _is_momentary(query: ReadQuery) -> bool:
    """Whether the same URL may mean another page later."""
    return "now" in (query.offset, query.before) or query.since_ms is not None


@lru_cache(maxsize=256)
def _is_active(content_type: str) -> bool:
    """Whether a browser would run what is in such a stream."""
    return _ACTIVE.search(content_type) is not None
