"""The application: a neutral request in, a response out.

Routes by method and nothing else: outside the reserved ``/-/`` every path is a stream. Whatever is wrong comes out as
a problem document, with the same headers as any other response.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import quote

from msgspec.structs import replace

from unbroken.engine.engine import Engine
from unbroken.errors import InvalidHeader, MethodNotAllowed, StreamNotFound, Unavailable, UnbrokenError
from unbroken.measures import Metric
from unbroken.protocol.commands import Append, Appended, Command, Create, Created, Delete, ForkRequest, Outcome
from unbroken.protocol.content import make_content
from unbroken.protocol.headers import (
    ALLOWED_METHODS,
    Fields,
    field,
    is_true,
    parse_content_type,
    parse_integer,
    parse_lifetime,
    parse_producer,
    parse_read_query,
    parse_stream_seq,
)
from unbroken.protocol.lifetime import format_time
from unbroken.protocol.paths import decode_target, parse_path
from unbroken.server.access import OPEN_PATHS, Access
from unbroken.server.bodies import BodyReader
from unbroken.server.cors import CorsPolicy
from unbroken.server.crowd import Crowd
from unbroken.server.hosts import HostPolicy
from unbroken.server.http import ClientGone, ConnectionLimits, Headers, Request, Response
from unbroken.server.logs import Seldom
from unbroken.server.metrics import Metrics, process_metrics
from unbroken.server.problems import problem
from unbroken.server.reads import Reads
from unbroken.server.request_log import RequestLog
from unbroken.server.reserved import RESERVED_PATHS, Reserved
from unbroken.server.settings import Settings
from unbroken.server.shares import WriteRates, limits_writes
from unbroken.server.untaken import Untaken

__all__ = ["App"]

_log = logging.getLogger("unbroken.server")
_SUB_OFFSET_MAX = 10**15
_SMALL_BYTES = 16 * 1024
_FORK_FIELDS = frozenset((b"stream-forked-from", b"stream-fork-offset", b"stream-fork-sub-offset"))


class App:
    """Serves one engine over HTTP.

    Args:
        engine: started by somebody else, who then sets ``started``.
        settings: limits and times.
        access: decides who may do what; None if everybody may do everything.
        hosts: the host names to answer to; None for all.
    """

    def __init__(
        self, engine: Engine, settings: Settings, access: Access | None = None, hosts: HostPolicy | None = None
    ) -> None:
        self.engine = engine
        self.access = access
        self.started = False
        self.connection_limits = ConnectionLimits(settings.head_timeout, settings.idle_timeout)
        self.crowd = Crowd(settings)
        self._hosts = hosts
        self._public_url = settings.public_url
        self._cors = CorsPolicy(*_origins(settings, access), settings.public_url)
        self._bodies = BodyReader(settings, engine.give_way)
        self._rates: WriteRates | None = None
        if limits_writes(settings, knows_clients=access is not None):
            self._rates = WriteRates(settings, time.monotonic)
        self._small_bytes = min(_SMALL_BYTES, settings.max_body)
        self.untaken = Untaken(settings.max_answers_size)
        self._reads = Reads(engine, settings, self.untaken, access)
        self.metrics = Metrics()
        self._request_log = RequestLog() if settings.access_log or settings.log_level == "debug" else None
        self._seldom = Seldom()
        self._reserved = Reserved(engine, access, self._collect)

    @property
    def live_reads(self) -> int:
        """How many long-polls and SSE responses are open."""
        return self._reads.live.count

    @property
    def bodies_bytes(self) -> int:
        """The bytes of all request bodies that are being received or stored."""
        return self._bodies.in_flight_bytes

    def _collect(self) -> Iterator[Metric]:
        """What the server tells of itself."""
        frames = {"hit": self._reads.frames.data.hits, "miss": self._reads.frames.data.misses}
        yield from self.metrics.collect()
        yield Metric("live_reads", "gauge", "Open long-polls and SSE responses.", self.live_reads)
        text = "SSE frames sent: encoded once (miss), then shared (hit)."
        yield Metric("frames_total", "counter", text, frames, ("result",))
        text = "Request bodies that are being received or stored."
        yield Metric("bodies_bytes", "gauge", text, self.bodies_bytes)
        yield from self.untaken.metrics()
        yield from self.engine.metrics()
        yield from process_metrics()

    @property
    def decides_by_scope(self) -> bool:
        """Whether requests must come with their ASGI scope, since the application's own hook may look at it."""
        return self.access is not None and self.access.has_hook

    async def handle(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            ClientGone: there is nobody left to answer.
        """
        try:
            response = await self._route(request)
        except ClientGone:
            raise
        except Exception as error:
            response = self._refusal(request, error)
        return self._finished(request, response)

    def handle_write(self, request: Request, answer: Callable[[Response], None]) -> bool:
        """Answer an append, or a creation, whose body has arrived and is small, without a task: see `Engine.submit`.

        It passes through the same steps as in `handle`. Where one of them may have to wait, so must `handle`.

        Args:
            request: a POST or a PUT.
            answer: called once with the response, now or later.

        Returns:
            False if it is not such a request: `handle` it.
        """
        body = request.arrived
        if body is None or len(body) > self._small_bytes or not _FORK_FIELDS.isdisjoint(request.fields):
            return False
        is_append = request.method == "POST"

        def told(outcome: Outcome) -> None:
            try:
                response = _appended(outcome, body) if is_append else self._created(request, path, outcome)
            except Exception as error:
                response = self._refusal(request, error)
            answer(self._finished(request, response))

        try:
            self._check_started()
            path = self._admit(request)
            if path.startswith("/-/") or not (self.access is None or self.access.check_now(request, path)):
                return False
            command: Command
            if is_append:
                self._pay(request, len(body))
                command = _append_command(request.fields, path, body)
            else:
                command = _create_command(request.fields, path)
                self._pay(request, len(body))
                command = replace(command, content=make_content(body, command.content_type))
            self.engine.submit(command, told)
        except Exception as error:
            answer(self._finished(request, self._refusal(request, error)))
        return True

    def _refusal(self, request: Request, error: Exception) -> Response:
        told = error if isinstance(error, UnbrokenError) else UnbrokenError()
        request.refusal = told.code
        self.metrics.refused(told.code)
        where = request.target.decode("latin-1")
        if told is not error:
            # A fault of ours. It is told in the form of every other error, and the log says where to look.
            facts = {"request_id": request.id, "method": request.method, "path": where}
            _log.error("%s %s failed, id %s", request.method, where, request.id, exc_info=error, extra={"facts": facts})
        elif told.status >= 500 and (left_out := self._seldom.left_out(told.code)) is not None:
            more = f", and {left_out} times before" if left_out else ""
            facts = {"request_id": request.id, "method": request.method, "path": where, "code": told.code}
            text = "%s %s: %s (%s%s), id %s"
            _log.warning(text, request.method, where, told, told.code, more, request.id, extra={"facts": facts})
        return problem(told)

    def _check_started(self) -> None:
        if not self.started:
            raise Unavailable("the Unbroken app was not started: pass its lifespan to the outer application")

    def _admit(self, request: Request) -> str:
        """What every request other than a preflight has to pass, whoever sends it.

        Returns:
            The path that it names.
        """
        path = _locate(request.target, request.roots)
        if self._hosts is not None and path not in OPEN_PATHS:
            self._hosts.check(request)
        self._cors.check(request.method, request.fields)
        return path

    def _finished(self, request: Request, response: Response) -> Response:
        """What every response gets."""
        self.metrics.answered(request.method, response.status, request.begun_s)
        response.headers.extend(self._cors.headers(request.fields))
        if self._request_log is not None or response.status >= 400 or b"x-request-id" in request.fields:
            response.headers.append((b"x-request-id", request.id.encode()))
        if self.access is not None:
            response.headers.extend(self.access.headers)
        if b"upgrade" in request.fields:
            # Parsers differ in what they take for the body; nothing after this response may be read as a request.
            response.headers.append((b"connection", b"close"))
        if self._request_log is not None:
            self._request_log.note(request, response)
        return response

    async def _route(self, request: Request) -> Response:
        self._check_started()
        if request.method == "OPTIONS":
            return self._cors.preflight()
        path = self._admit(request)
        method = request.method
        if self.access is not None:
            await self.access.check(request, path)
        if path.startswith("/-/"):
            return await self._reserved.handle(request, path)
        if method == "POST":
            return await self._append(request, path)
        if method == "GET":
            return await self._reads.get(request, path, parse_read_query(request.query))
        if method == "PUT":
            return await self._create(request, path)
        if method == "HEAD":
            return self._head(path)
        if method == "DELETE":
            return await self._delete(path)
        raise MethodNotAllowed(ALLOWED_METHODS)

    async def _create(self, request: Request, path: str) -> Response:
        command = _create_command(request.fields, path)
        fork = await self._fork_request(request)
        self._pay(request)
        with await self._bodies.read(request) as body:
            self._pay_bytes(request, len(body))
            body_type = command.content_type
            if fork is not None and body_type is None:
                body_type = self.engine.inherited_type(fork)
            content = await self.engine.prepare(body, body_type)
            outcome = await self.engine.execute(replace(command, content=content, fork=fork))
        return self._created(request, path, outcome)

    def _created(self, request: Request, path: str, outcome: Outcome) -> Response:
        if isinstance(outcome, UnbrokenError):
            raise outcome
        assert isinstance(outcome, Created)
        headers: Headers = [
            (b"content-type", outcome.content_type.encode("latin-1")),
            (b"stream-next-offset", str(outcome.next_offset).encode()),
        ]
        if outcome.closed:
            headers.append((b"stream-closed", b"true"))
        if not outcome.existed:
            headers.append((b"location", self._location(request, path)))
        return Response(200 if outcome.existed else 201, headers)

    async def _fork_request(self, request: Request) -> ForkRequest | None:
        fields = request.fields
        source = field(fields, b"stream-forked-from")
        offset = field(fields, b"stream-fork-offset")
        sub_offset = field(fields, b"stream-fork-sub-offset")
        if source is None:
            if offset is not None or sub_offset is not None:
                raise InvalidHeader("Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From")
            return None
        past = 0 if sub_offset is None else parse_integer(sub_offset, "Stream-Fork-Sub-Offset", maximum=_SUB_OFFSET_MAX)
        source_path = parse_path(_below(decode_target(source.encode("latin-1")), request.roots))
        if self.access is not None:
            self.access.require(request, "read", source_path)
        return await self.engine.resolve_fork(source_path, offset, past)

    def _location(self, request: Request, path: str) -> bytes:
        base = self._public_url
        if base is None:
            host = field(request.fields, b"host") or "localhost"
            base = f"{request.scheme}://{host}{quote(request.roots[0])}"
        return (base + quote(path, safe="/~!$&'()*+,;=:@")).encode("latin-1")

    def _pay(self, request: Request, size_bytes: int = 0) -> None:
        """Count a write, and its bytes if they are known, where rates are limited.

        Raises:
            RateLimited: too much was written lately.
        """
        if self._rates is not None:
            self._rates.admit(request.principal)
            self._pay_bytes(request, size_bytes)

    def _pay_bytes(self, request: Request, size_bytes: int) -> None:
        if self._rates is not None:
            self._rates.charge(request.principal, size_bytes)

    async def _append(self, request: Request, path: str) -> Response:
        self._pay(request)
        with await self._bodies.read(request) as body:
            self._pay_bytes(request, len(body))
            command = _append_command(request.fields, path, b"")
            if command.fault is None:
                command = replace(command, content=await self.engine.prepare(body, command.content_type))
            return _appended(await self.engine.execute(command), body)

    async def _delete(self, path: str) -> Response:
        outcome = await self.engine.execute(Delete(path))
        if isinstance(outcome, UnbrokenError):
            raise outcome
        return Response(204, [])

    def _head(self, path: str) -> Response:
        state = self.engine.head(path)
        headers: Headers = [
            (b"content-type", state.content_type.encode("latin-1")),
            (b"stream-next-offset", str(state.tail_offset).encode()),
            (b"cache-control", b"no-store"),
        ]
        if state.closed:
            headers.append((b"stream-closed", b"true"))
        if state.lifetime.ttl_s is not None:
            headers.append((b"stream-ttl", b"%d" % state.lifetime.ttl_s))
        if state.lifetime.expires_at_ms is not None:
            headers.append((b"stream-expires-at", format_time(state.lifetime.expires_at_ms).encode()))
        return Response(200, headers)


def _create_command(fields: Fields, path: str) -> Create:
    """What the headers ask for; content and fork are not among it.

    Raises:
        InvalidHeader: one is malformed.
    """
    content_type, lifetime = parse_content_type(fields), parse_lifetime(fields)
    return Create(path, content_type, lifetime, is_true(fields, b"stream-closed"))


def _append_command(fields: Fields, path: str, body: bytes) -> Append:
    """A malformed header goes along: whether the stream exists is told first."""
    try:
        content_type = parse_content_type(fields)
        stream_seq = parse_stream_seq(fields)
        producer = parse_producer(fields)
    except InvalidHeader as fault:
        return Append(path, fault=fault)
    content = make_content(body, content_type)
    return Append(path, content_type, content, is_true(fields, b"stream-closed"), stream_seq, producer)


def _appended(outcome: Outcome, body: bytes) -> Response:
    if isinstance(outcome, UnbrokenError):
        raise outcome
    assert isinstance(outcome, Appended)
    headers: Headers = [(b"stream-next-offset", str(outcome.next_offset).encode())]
    if outcome.closed:
        headers.append((b"stream-closed", b"true"))
    status = 204
    if outcome.producer is not None:
        headers.append((b"producer-epoch", b"%d" % outcome.producer.epoch))
        headers.append((b"producer-seq", b"%d" % outcome.producer.seq))
        if body and not outcome.duplicate:
            status = 200
    return Response(status, headers)


def _origins(settings: Settings, access: Access | None) -> tuple[tuple[str, ...] | None, bool]:
    """Which pages may use the server, and whether those of its own host may.

    A page has to be given a token to use it, so any page may try. An application's own hook may go by cookies, which a
    browser adds to what any page sends: then only its own pages may, and those that it names.
    """
    has_hook = access is not None and access.has_hook
    if settings.cors_origin is not None or access is None or has_hook:
        return settings.cors_origin, has_hook
    return ("*",), False


@lru_cache(maxsize=8192)
def _locate(target: bytes, roots: tuple[str, ...]) -> str:
    """Which path a request target names: a stream's, or a reserved one that there is.

    Errors are not remembered, so all that is kept has the bounded length of a path.
    """
    path = _below(decode_target(target), roots)
    if not path.startswith("/-/"):
        return parse_path(path)
    if path not in RESERVED_PATHS:
        raise StreamNotFound("there is nothing at this reserved path")
    return path


def _below(path: str, roots: tuple[str, ...]) -> str:
    """The path below the mount prefix. Both are decoded, so no spelling of the prefix can be told from another."""
    for root in roots:
        if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
            return path[len(root) :]
    return path
