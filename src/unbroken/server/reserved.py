"""What the server answers below ``/-/``: its health, files for pages, and requests that concern many streams."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from urllib.parse import parse_qs

import msgspec

from unbroken.engine.engine import Engine
from unbroken.engine.quotas import PrefixUsage
from unbroken.errors import Draining, InvalidHeader, MethodNotAllowed
from unbroken.measures import Metric
from unbroken.protocol.headers import parse_integer
from unbroken.protocol.lifetime import format_time
from unbroken.protocol.listing import Deletion, ListedQuota, ListedStream, Listing
from unbroken.protocol.stream import StreamState
from unbroken.server.access import Access
from unbroken.server.http import Headers, Request, Response
from unbroken.server.metrics import CONTENT_TYPE, expose
from unbroken.server.static import STATIC_PATHS, serve_static

__all__ = ["RESERVED_PATHS", "Reserved"]

RESERVED_PATHS = frozenset(("/-/health", "/-/ready", "/-/streams", "/-/metrics")) | STATIC_PATHS

_NO_STORE = (b"cache-control", b"no-store")
_LISTED_MAX = 1000
_DELETED_MAX = 10_000


class Reserved:
    """Answers requests for the reserved paths.

    Args:
        engine: whose streams there are.
        access: decides who may list and delete many; None if everybody may.
        metrics: what the server tells of itself.
    """

    def __init__(
        self, engine: Engine, access: Access | None = None, metrics: Callable[[], Iterable[Metric]] = tuple
    ) -> None:
        self._engine = engine
        self._access = access
        self._metrics = metrics
        self._streams: dict[str, Callable[[dict[str, str]], Coroutine[None, None, Response]]] = {
            "GET": self._list,
            "DELETE": self._delete,
        }

    async def handle(self, request: Request, path: str) -> Response:
        """Answer a request for one of ``RESERVED_PATHS``."""
        if path in STATIC_PATHS:
            return serve_static(request, path)
        if path != "/-/streams" and request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET, HEAD, OPTIONS")
        if path == "/-/health":
            return _json(b'{"status":"ok"}')
        if path == "/-/ready":
            if self._engine.store.failure is not None:
                raise self._engine.store.failure
            if self._engine.draining:
                raise Draining
            return _json(b'{"status":"ready"}')
        if path == "/-/metrics":
            return Response(200, [(b"content-type", CONTENT_TYPE), _NO_STORE], expose(self._metrics()))
        if request.method not in self._streams:
            raise MethodNotAllowed("GET, DELETE, OPTIONS")
        query = _parse_query(request.query)
        query.setdefault("prefix", "/" if request.method == "GET" else "")
        if self._access is not None:
            self._access.require_administration(request, query["prefix"])
        return await self._streams[request.method](query)

    async def _list(self, query: dict[str, str]) -> Response:
        limit = _parse_limit(query, _LISTED_MAX)
        found = self._engine.streams(query["prefix"], after=query.get("after", ""), limit=limit)
        more = found[-1].path if len(found) == limit else None
        quotas = [_quota(usage) for usage in self._engine.usage.below(query["prefix"].removesuffix("/"))]
        return _json(msgspec.json.encode(Listing([_listed(state) for state in found], more, quotas)))

    async def _delete(self, query: dict[str, str]) -> Response:
        limit = _parse_limit(query, _DELETED_MAX)
        if not query["prefix"]:
            raise InvalidHeader("name the streams to delete: prefix=/ stands for all of them")
        deleted = await self._engine.delete_all(query["prefix"], limit=limit)
        return _json(msgspec.json.encode(Deletion(deleted, deleted == limit)))


def _parse_query(query: bytes) -> dict[str, str]:
    try:
        values = parse_qs(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise InvalidHeader("the query is malformed") from None
    for name, found in values.items():
        if len(found) > 1:
            raise InvalidHeader(f"{name} is given more than once")
    return {name: found[0] for name, found in values.items()}


def _parse_limit(query: dict[str, str], maximum: int) -> int:
    limit = parse_integer(query.get("limit", str(maximum)), "limit", maximum=maximum)
    if not limit:
        raise InvalidHeader("limit must be at least 1")
    return limit


def _listed(state: StreamState) -> ListedStream:
    expires_at_ms = state.lifetime.expires_at_ms
    return ListedStream(
        path=state.path,
        content_type=state.content_type,
        next_offset=str(state.tail_offset),
        created_at=format_time(state.created_ms),
        closed=state.closed,
        ttl_seconds=state.lifetime.ttl_s,
        expires_at=None if expires_at_ms is None else format_time(expires_at_ms),
    )


def _quota(usage: PrefixUsage) -> ListedQuota:
    quota = usage.quota
    return ListedQuota(usage.prefix, quota.pattern, usage.streams, usage.total_bytes, quota.streams, quota.total_bytes)


def _json(body: bytes) -> Response:
    headers: Headers = [(b"content-type", b"application/json"), _NO_STORE]
    return Response(200, headers, body)
