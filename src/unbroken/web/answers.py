"""Durable answers: what runs, who reads it, how it is stopped, and what becomes of it when the process ends.

An answer is a stream, named by a key. Whoever creates the stream runs the answer; everybody else who asks for the same
key reads along. Since its end is in the stream, in one step with its closing, nobody can close it twice, and a reader
who has seen the end has seen everything.

An open stream that nobody writes is *interrupted*. In this process that is plain: its run is not in the table. Of a
run in another process, which signs its life in the stream, it is told by silence that is longer than the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import msgspec

from unbroken.errors import (
    Draining,
    Gone,
    InvalidOffset,
    InvalidPath,
    Overloaded,
    StreamGone,
    StreamNotFound,
    Unavailable,
    UnbrokenError,
)
from unbroken.protocol.paths import parse_path
from unbroken.server.asgi import Receive, Scope, Send
from unbroken.server.signals import on_stop_signal
from unbroken.web.backend import Backend, Batch
from unbroken.web.connecting import Streams, connect
from unbroken.web.formats import Format, Rendering, rendering
from unbroken.web.parts import INTERRUPTED, Answer, Begin, End, decode, encode, summarize
from unbroken.web.reply import Reader, Reply, RequestLike, failure
from unbroken.web.run import NO_ROOM, Limits, Run
from unbroken.web.sources import Source
from unbroken.web.vigil import Vigil

__all__ = ["Answers", "BaseAnswers"]

R = TypeVar("R")

_log = logging.getLogger("unbroken.web")
_KEY = re.compile(r"[A-Za-z0-9._~@:+=,;!$*()'/-]{1,512}")
_HEARTBEAT_S = 15.0
_CLEANUP_S = 10.0


def _failed(error: Exception) -> str:
    return "The answer failed."


class _Active:
    """A run under way in this process.

    Args:
        run: what writes the answer.
        started: whether it is the one that does, once that is known.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class BaseAnswers(ABC, Generic[R]):
    """Answers as the handlers of a framework use them; see `Answers`."""

    def __init__(
        self,
        streams: Streams,
        *,
        format: Format = "json",  # noqa: A002 (what it is)
        prefix: str = "/answers",
        keep_s: int | None = None,
        grace_s: float = 10.0,
        linger_s: float = 0.02,
        beat_s: float = 5.0,
        lease_s: float = 20.0,
        max_bytes: int = 16 * 1024 * 1024,
        max_runtime_s: float = 3600.0,
        max_running: int = 1000,
        error_text: Callable[[Exception], str] = _failed,
        watch_signals: bool = True,
    ) -> None:
        if lease_s < 2 * beat_s:
            raise ValueError("lease_s must be at least twice beat_s")
        rendering(format, "")
        self._backend: Backend = connect(streams)
        self._format: Format = format
        self._prefix = parse_path(prefix)
        self._keep_s = keep_s
        self._grace_s = grace_s
        self._lease_s = lease_s
        self._wait_s = _HEARTBEAT_S if self._backend.embedded else min(_HEARTBEAT_S, beat_s)
        self._max_running = max_running
        self._watch_signals = watch_signals
        self._limits = Limits(
            linger_s=linger_s,
            beat_s=None if self._backend.embedded else beat_s,
            max_bytes=max_bytes,
            max_runtime_s=max_runtime_s,
            error_text=error_text,
        )
        self._active: dict[str, _Active] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._drained: asyncio.Task[None] | None = None

    @abstractmethod
    def _response(self, reply: Reply) -> R:
        """The framework's response for a reply."""

    # --- for handlers --------------------------------------------------------------------------------------------

    async def respond(
        self,
        key: str,
        source: Source,
        *,
        thread: str | None = None,
        request: RequestLike | None = None,
        format: Format | None = None,  # noqa: A002 (what it is)
    ) -> R:
        """Start an answer, unless one with this key is there, and return the response that streams it.

        Args:
            key: names the answer: the same for each repetition of one request, another one for each other request.
                Letters, digits and ``._~@:+=,;!$*()'-``, in segments divided by ``/``. Users may only get to name keys
                of their own, so put who they are in front.
            source: called to generate the answer; see `unbroken.web.sources`.
            thread: the conversation that the answer belongs to. `resume` and `stop` find its latest answer.
            request: of the reader, so that it can resume where it was.
            format: see `unbroken.web.formats`; that of these answers by default.

        Returns:
            The response. What is wrong comes as a response too, with a problem document as body.
        """
        return await self._answered(self._respond(key, source, thread, Reader(request), format))

    async def _respond(
        self, key: str, source: Source, thread: str | None, reader: Reader, format_: Format | None
    ) -> Reply:
        await self.start(key, source, thread=thread)
        return await self._tail(key, reader, format_)

    async def start(self, key: str, source: Source, *, thread: str | None = None) -> bool:
        """Start an answer, unless one with this key is there.

        Args:
            key: see `respond`.
            source: see `respond`.
            thread: see `respond`.

        Returns:
            Whether it was started by this call.

        Raises:
            InvalidPath: the key or the thread has characters that it cannot have.
            Draining: this process is about to end.
            Overloaded: too many answers run.
            UnbrokenError: the stream could not be created.
        """
        self._check_running()
        path = self._path(key)
        thread_path = None if thread is None else self._thread_path(thread)
        if (active := self._active.get(path)) is not None:
            await asyncio.shield(active.started)
            return False
        if self._drained is not None:
            raise Draining
        if len(self._active) >= self._max_running:
            raise Overloaded(f"{self._max_running} answers run already")
        active = _Active(Run(key, source, self._limits))
        self._active[path] = active
        self._spawn(self._run(path, thread_path, active), f"unbroken-run {key}")
        # In a task of its own already, so that it is not half begun if the request is cancelled.
        return await asyncio.shield(active.started)

    async def tail(
        self,
        key: str,
        *,
        request: RequestLike | None = None,
        format: Format | None = None,  # noqa: A002 (what it is)
    ) -> R:
        """The response that streams an answer, running or not.

        Args:
            key: see `respond`.
            request: see `respond`.
            format: see `respond`.

        Returns:
            The response: 404 if there is no such answer, 204 if the reader has it all.
        """
        return await self._answered(self._tail(key, Reader(request), format))

    async def resume(
        self,
        key: str | None = None,
        *,
        thread: str | None = None,
        request: RequestLike | None = None,
        format: Format | None = None,  # noqa: A002 (what it is)
    ) -> R:
        """The response that streams a running answer, as the AI SDK's ``resume`` asks for.

        Args:
            key: which one; or
            thread: the latest of this conversation.
            request: see `respond`.
            format: see `respond`.

        Returns:
            The response: 204 if none runs. A reader that says where it was gets the rest also of one that has ended.
        """
        return await self._answered(self._resume(key, thread, Reader(request), format))

    async def _resume(self, key: str | None, thread: str | None, reader: Reader, format_: Format | None) -> Reply:
        found = await self._find(key, thread)
        if found is None:
            return Reply(204)
        path = self._path(found)
        state = await self._backend.state(path)
        runs = state is not None and state.open
        if runs and self._is_orphan(path):
            await self._interrupt(path)
            runs = False
        if runs or (state is not None and reader.offset is not None):
            return await self._tail(found, reader, format_)
        return Reply(204)

    async def stop(self, key: str | None = None, *, thread: str | None = None) -> bool:
        """Stop an answer, wherever it runs. What it has said so far is kept.

        Args:
            key: which one; or
            thread: the latest of this conversation.

        Returns:
            Whether it was running.

        Raises:
            UnbrokenError: it could not be stopped.
        """
        found = await self._find(key, thread)
        if found is None:
            return False
        path = self._path(found)
        if (active := self._active.get(path)) is not None and await asyncio.shield(active.started):
            stopped = active.run.stop("cancelled")
            await active.run.finished.wait()
            return stopped
        state = await self._backend.state(path)
        if state is None or not state.open:
            return False
        if self._is_orphan(path):
            await self._interrupt(path)
            return False
        return await self._backend.close(path, encode(End("cancelled")))

    async def read(self, key: str) -> Answer | None:
        """An answer as far as it is there; None if there is none.

        Raises:
            InvalidPath: the key has characters that it cannot have.
            UnbrokenError: it cannot be read.
        """
        self._check_running()
        path = self._path(key)
        try:
            messages, batch = [], await self._first_page(path, None)
            while True:
                messages += [data for _, data in batch.messages]
                if batch.closed or not batch.messages:
                    return summarize(key, messages, closed=batch.closed)
                batch = await self._backend.page(path, batch.position)
        except (StreamNotFound, StreamGone):
            return None

    async def latest(self, thread: str) -> str | None:
        """The key of the latest answer of a conversation; None if it has none.

        Raises:
            InvalidPath: the thread has characters that it cannot have.
            UnbrokenError: it cannot be read.
        """
        self._check_running()
        path, latest, position = self._thread_path(thread), None, None
        with contextlib.suppress(StreamNotFound, StreamGone):
            while (batch := await self._backend.page(path, position)).messages:
                latest = msgspec.json.decode(batch.messages[-1][1], type=dict[str, str])["key"]
                position = batch.position
        return latest

    async def delete(self, key: str) -> bool:
        """Stop an answer if it runs, and delete it.

        Returns:
            Whether there was one.

        Raises:
            InvalidPath: the key has characters that it cannot have.
            UnbrokenError: it could not be deleted.
        """
        await self.stop(key)
        return await self._backend.delete(self._path(key))

    async def _answered(self, coming: Any) -> R:
        try:
            return self._response(await coming)
        except (InvalidPath, InvalidOffset, StreamNotFound, Gone, Draining, Overloaded) as error:
            return self._response(failure(error))
        except UnbrokenError as error:
            # Between this process and its streams, which is not for browsers: neither status nor address.
            _log.error("an answer cannot be given: %s (%s)", error, error.code)
            return self._response(failure(Unavailable("the answer cannot be reached now")))

    async def _find(self, key: str | None, thread: str | None) -> str | None:
        if (key is None) == (thread is None):
            raise TypeError("give either a key or a thread")
        self._check_running()
        return key if thread is None else await self.latest(thread)

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise InvalidPath("a key has 1 to 512 letters, digits and ._~@:+=,;!$*()'/-")
        return parse_path(f"{self._prefix}/{key}")

    def _thread_path(self, thread: str) -> str:
        if not _KEY.fullmatch(thread):
            raise InvalidPath("a thread has 1 to 512 letters, digits and ._~@:+=,;!$*()'/-")
        return parse_path(f"{self._prefix}.threads/{thread}")

    # --- running -------------------------------------------------------------------------------------------------

    async def _run(self, path: str, thread_path: str | None, active: _Active) -> None:
        run, backend = active.run, self._backend
        token = uuid.uuid4().hex
        try:
            try:
                started = await backend.create(path, encode(Begin(run.key, token)), ttl_s=self._keep_s)
            except BaseException as error:
                _fail(active.started, error)
                raise
            if started:
                await self._enter(thread_path, active)
                await run.write(backend.writer(path))
            else:
                active.started.set_result(False)
        except UnbrokenError as error:
            _log.warning("the answer %s cannot be started: %s", run.key, error)
        finally:
            del self._active[path]

    async def _enter(self, thread_path: str | None, active: _Active) -> None:
        """Make the answer its thread's latest. If that fails, it is not begun."""
        try:
            if thread_path is not None:
                await self._backend.append(thread_path, encode({"key": active.run.key}), ttl_s=self._keep_s)
        except UnbrokenError as error:
            _log.warning("the answer %s cannot be started: %s", active.run.key, error)
            _fail(active.started, error)
            active.run.stop("error", "The answer could not be started.")
        else:
            active.started.set_result(True)

    def _spawn(self, coroutine: Any, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    # --- reading -------------------------------------------------------------------------------------------------

    async def _tail(self, key: str, reader: Reader, format_: Format | None) -> Reply:
        self._check_running()
        path = self._path(key)
        how = rendering(format_ or self._format, reader.accept)
        batch = await self._first_page(path, reader.offset)
        if batch.closed and not batch.messages:
            return Reply(204)  # which is what stops an EventSource from connecting again
        return Reply(200, how.headers, self._body(path, how, batch))

    async def _first_page(self, path: str, offset: str | None) -> Batch:
        batch = await self._backend.page(path, offset)
        if not batch.closed and self._is_orphan(path):
            await self._interrupt(path)
            batch = await self._backend.page(path, offset)
        return batch

    async def _body(self, path: str, how: Rendering, batch: Batch) -> AsyncGenerator[bytes, None]:
        if data := _render(how, batch):
            yield data
        if batch.closed:
            return
        try:
            async with contextlib.aclosing(self._live(path, how, batch.position)) as parts:
                async for part in parts:
                    yield part
        except UnbrokenError as error:
            # The status is long sent. What was deleted, or can neither be written nor closed now, will not go on.
            _log.warning("a live read of %s ended: %s", path, error)
            yield how.message(encode(INTERRUPTED), None)

    async def _live(self, path: str, how: Rendering, position: str) -> AsyncGenerator[bytes, None]:
        vigil = Vigil(self._backend, path, position, self._lease_s)
        async with self._backend.reading(path, position) as reading:
            while True:
                batch = await reading.next(self._wait_s)
                if batch is not None:
                    vigil.heard(batch)
                    if data := _render(how, batch):
                        yield data
                    if batch.closed:
                        return
                elif reading.ended:
                    # The streams of this process shut down; what is said until its run ends comes at once then.
                    if (active := self._active.get(path)) is None or active.run.finished.is_set():
                        return
                    await active.run.finished.wait()
                else:
                    if how.heartbeat:
                        yield how.heartbeat
                    if path not in self._active and (self._backend.embedded or await vigil.is_over()):
                        await self._interrupt(path)

    def _is_orphan(self, path: str) -> bool:
        """Whether an open stream has no writer for certain."""
        return self._backend.embedded and path not in self._active

    async def _interrupt(self, path: str) -> None:
        """Close a stream that its writer has left open."""
        with contextlib.suppress(StreamNotFound, StreamGone):
            try:
                closed = await self._backend.close(path, encode(INTERRUPTED))
            except UnbrokenError as error:
                if error.status not in NO_ROOM:
                    raise
                await self._backend.seal(path)
                closed = True
            if closed:
                _log.warning("%s was left open by its writer, and is closed as interrupted", path)

    # --- beginning and end ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Serve answers; usable as the lifespan of FastAPI and Starlette. An app of streams is started with it.

        In the end, and as soon as the process is asked to stop, no answer is started any more, and those that run get
        the grace time. What still runs then is closed as interrupted.

        Raises:
            StoreError: the streams cannot be opened.
        """
        async with self._backend.lifespan():
            self._running, self._drained = True, None
            restore = on_stop_signal(self._begin_drain) if self._watch_signals else lambda: None
            recovery = asyncio.create_task(self._recover(), name="unbroken-recovery")
            try:
                yield
            finally:
                recovery.cancel()
                await asyncio.wait([recovery])
                restore()
                self._begin_drain()
                assert self._drained is not None
                await self._drained
                self._running = False

    def around(self, app: Any) -> Any:
        """An ASGI application that calls another one and has the lifespan of these answers, for frameworks without one.

        application = answers.around(get_asgi_application())
        """

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self._lifespan_protocol(receive, send)
            else:
                await app(scope, receive, send)

        return application

    async def _lifespan_protocol(self, receive: Receive, send: Send) -> None:
        await receive()
        lifespan = self.lifespan()
        try:
            await lifespan.__aenter__()
        except UnbrokenError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await lifespan.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    def _check_running(self) -> None:
        if not self._running:
            raise RuntimeError("the answers were not started: give their lifespan to the application")

    async def _recover(self) -> None:
        """Close what an earlier process left open."""
        try:
            async for path in self._backend.open_streams(f"{self._prefix}/"):
                if path not in self._active:
                    await self._interrupt(path)
        except UnbrokenError as error:
            _log.error("answers that were interrupted cannot be closed now: %s", error)

    def _begin_drain(self) -> None:
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(), name="unbroken-drain")

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace_s)
        for active in self._active.values():
            active.run.stop("interrupted", INTERRUPTED.error)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLEANUP_S)
            for task in late:
                _log.error("%s does not end", task.get_name())


def _fail(future: asyncio.Future[bool], error: BaseException) -> None:
    future.set_exception(error if isinstance(error, UnbrokenError) else RuntimeError("the answer could not be started"))
    future.exception()  # known, also if nobody waits for it any more


def _render(how: Rendering, batch: Batch) -> bytes:
    parts = [how.message(data, position) for position, data in batch.messages]
    if batch.closed and not (batch.messages and isinstance(decode(batch.messages[-1][1]), End)):
        parts.append(how.message(encode(INTERRUPTED), None))  # there was no room for it, or it was closed by hand
    return b"".join(parts)


class Answers(BaseAnswers[Reply]):
    """Durable answers, for any ASGI framework; `unbroken.web.fastapi` and `unbroken.web.django` are for those.

        answers = Answers(create_app(data_dir="streams"))
        ...
        return await answers.respond(key, lambda: generate(prompt))

    Args:
        streams: where the answers are: an app or an engine in this process, or a client of a server.
        format: what readers get by default; see `unbroken.web.formats`.
        prefix: path below which the streams of the answers are; those of threads are beside it.
        keep_s: how long an answer is kept after it was last written or read, in seconds; for ever by default.
        grace_s: how long answers may go on when the process ends, in seconds.
        linger_s: how long small parts are collected before they are written, in seconds. The first is never held up.
        beat_s: interval of the signs of life of a silent run on a server, in seconds. How soon it hears of a stop, too.
        lease_s: after how many seconds without them it counts as interrupted, at least twice ``beat_s``.
        max_bytes: greatest size of an answer, in bytes.
        max_runtime_s: longest time that an answer may take, in seconds.
        max_running: how many answers may run in this process.
        error_text: what readers are told of an exception; it is in the log in any case.
        watch_signals: begin to end as soon as the process is asked to, before the server has waited for its responses.
    """

    def _response(self, reply: Reply) -> Reply:
        return reply
