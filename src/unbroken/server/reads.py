"""GET: catch-up reads, long-poll and Server-Sent Events."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial

from unbroken.engine.engine import Engine
from unbroken.engine.pages import Page
from unbroken.errors import InvalidOffset, InvalidToken
from unbroken.protocol.caching import COLLAPSE_S, entity_tag, matches, page_cache_control
from unbroken.protocol.content import is_text
from unbroken.protocol.cursors import next_cursor
from unbroken.protocol.headers import ReadQuery, field
from unbroken.protocol.offsets import Anchor, parse_offset
from unbroken.server.access import Access, Lease
from unbroken.server.events import Common, Endings, Events
from unbroken.server.http import Headers, Request, Response
from unbroken.server.settings import Settings
from unbroken.server.shares import LiveReads
from unbroken.server.sse import Batches, Frames
from unbroken.server.untaken import Untaken

__all__ = ["Reads"]

_ACTIVE = re.compile("html|xml|multipart", re.IGNORECASE)
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
        self._common = Common(settings.sse_lifetime, settings.sse_heartbeat, untaken, Endings())
        self.frames = Frames(partial(self._cursor, None))
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
        with self._engine.follower(path, query.offset) as follower, self._lease(request, follower.stop) as lease:
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
        # Others may have come while it was read.
        self.live.check(request.principal)
        self._untaken.check(0 if first is None else len(first.data))
        batches = Batches(state, start, self.frames, self._cursor(query.cursor))
        lease, counted = partial(self._lease, request), self.live.one(request.principal)
        events = Events(request, follower, batches, first, self._common, lease, counted)
        return Response(200, headers, events)

    def _lease(self, request: Request, stop: Callable[[], None]) -> Lease | _Forever:
        return _FOREVER if self._access is None else self._access.lease(request, stop)


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
