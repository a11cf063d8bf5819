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
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

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
from unbroken.server.asgi import Receive, Scope, Send, run_lifespan
from unbroken.server.signals import on_stop_signal
from unbroken.web.connecting import Streams, connect
from unbroken.web.formats import Format, rendering
from unbroken.web.parts import Answer, End, decode, encode, summarize
from unbroken.web.reply import Reader, Reply, RequestLike, failure
from unbroken.web.run import Limits
from unbroken.web.runs import Runs
from unbroken.web.sources import Source
from unbroken.web.tails import Tails

__all__ = ["Answers", "BaseAnswers"]

R = TypeVar("R")

_log = logging.getLogger("unbroken.web")
_KEY = re.compile(r"[A-Za-z0-9._~@:+=,;!$*()'/-]{1,512}")


def _failed(error: Exception) -> str:
    return "The answer failed."


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
        self._backend = connect(streams)
        self._format: Format = format
        self._prefix = parse_path(prefix)
        self._watch_signals = watch_signals
        limits = Limits(
            linger_s=linger_s,
            beat_s=None if self._backend.embedded else beat_s,
            max_bytes=max_bytes,
            max_runtime_s=max_runtime_s,
            error_text=error_text,
        )
        self._runs = Runs(self._backend, limits, keep_s=keep_s, max_running=max_running, grace_s=grace_s)
        self._tails = Tails(self._backend, self._runs, beat_s=beat_s, lease_s=lease_s)
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
        return await self._runs.start(key, source, path, thread_path)

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
        if runs and self._tails.is_orphan(path):
            await self._tails.interrupt(path)
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
        if (stopped := await self._runs.stop(path)) is not None:
            return stopped
        state = await self._backend.state(path)
        if state is None or not state.open:
            return False
        if self._tails.is_orphan(path):
            await self._tails.interrupt(path)
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
            messages, batch = [], await self._tails.page(path, None)
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
                latest = next(filter(None, map(_key_of, reversed(batch.messages))), latest)
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

    async def _answered(self, coming: Awaitable[Reply]) -> R:
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

    async def _tail(self, key: str, reader: Reader, format_: Format | None) -> Reply:
        self._check_running()
        path = self._path(key)
        how = rendering(format_ or self._format, reader.accept)
        batch = await self._tails.page(path, reader.offset)
        if batch.closed and not batch.messages:
            return Reply(204)  # which is what stops an EventSource from connecting again
        return Reply(200, how.headers, self._tails.body(path, how, batch))

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
            self._running, self._drained, self._runs.draining = True, None, False
            restore = on_stop_signal(self._begin_drain) if self._watch_signals else lambda: None
            recovery = asyncio.create_task(self._tails.recover(f"{self._prefix}/"), name="unbroken-recovery")
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
                await run_lifespan(self.lifespan(), receive, send)
            else:
                await app(scope, receive, send)

        return application

    def _check_running(self) -> None:
        if not self._running:
            raise RuntimeError("the answers were not started: give their lifespan to the application")

    def _begin_drain(self) -> None:
        if self._drained is None:
            self._runs.draining = True
            self._drained = asyncio.create_task(self._drain(), name="unbroken-drain")

    async def _drain(self) -> None:
        await self._runs.drain()
        await self._tails.end()


def _key_of(message: tuple[str, bytes]) -> str | None:
    """Which answer an entry of a thread names; None if it is not one of ours."""
    entry = decode(message[1])
    key = entry.get("key") if isinstance(entry, Mapping) and entry.get("type") == "answer" else None
    return key if isinstance(key, str) else None


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
