"""One run: what a source yields goes into a stream, in a task that belongs to nobody's connection.

Two tasks: one *reads* the source and fills a buffer; the other *writes* the buffer to the stream, and while an append
is under way, or the last one is not `linger_s` ago, what comes is joined. So the first token is not delayed, and a
hundred small ones cost a few appends. A full buffer makes the reader wait.

    create -> (read | write)* -> append the rest and the `End`, and close, in one step

Whoever closes the stream ends the run: a writer that is refused stops reading. So a stop needs to reach the stream
only, and a writer that was taken for dead can do no harm when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from unbroken.errors import Gone, StaleEpoch, StreamClosed, StreamNotFound, UnbrokenError
from unbroken.web.backend import Writer
from unbroken.web.parts import Assembler, Beat, End, Outcome, PartBuffer, encode
from unbroken.web.sources import AnswerFailed, Source, feed, opened

__all__ = ["NO_ROOM", "Limits", "Run"]

NO_ROOM = (413, 507)
"""Statuses of errors that say that a stream, or the server, may not grow. Closing is allowed then."""

_log = logging.getLogger("unbroken.web")
_BUFFER_BYTES = 256 * 1024
_UNWILLING_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may take, and how it writes.

    Args:
        linger_s: how long small parts are collected after an append before the next one, in seconds.
        beat_s: seconds of silence after which a sign of life is written; None for none.
        max_bytes: greatest size of an answer, in bytes.
        max_runtime_s: longest time that an answer may take, in seconds.
        error_text: what readers are told of an exception.
    """

    linger_s: float
    beat_s: float | None
    max_bytes: int
    max_runtime_s: float
    error_text: Callable[[Exception], str]


class Run:
    """Writes one answer.

    Args:
        key: the answer's key.
        source: where it comes from.
        limits: what it may take.
    """

    def __init__(self, key: str, source: Source, limits: Limits) -> None:
        self.key = key
        self.finished = asyncio.Event()
        self._source = source
        self._limits = limits
        self._assembler = Assembler()
        self._buffer = PartBuffer()
        self._size_bytes = 0
        self._news = asyncio.Event()
        self._complete = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._end: End | None = None
        self._reader: asyncio.Task[None] | None = None

    def stop(self, outcome: Outcome, error: str | None = None) -> bool:
        """End it with what it has said so far. `finished` tells when its stream is closed.

        Returns:
            Whether it has not ended anyway.
        """
        if self._end is not None:
            return False
        self._finish(End(outcome, error))
        if self._reader is not None:
            self._reader.cancel()
        return True

    async def write(self, writer: Writer) -> None:
        """Write the answer; returns when it has ended, and nothing of it is under way any more."""
        self._reader = asyncio.create_task(self._read(), name=f"unbroken-answer {self.key}")
        if self._end is not None:
            self._reader.cancel()
        try:
            await self._write(writer)
        except (StreamClosed, StaleEpoch, StreamNotFound, Gone) as error:
            _log.info("the answer %s was ended by somebody else: %s", self.key, error)
        except UnbrokenError as error:
            _log.error("the answer %s cannot be written and is given up: %s", self.key, error)
            self.stop("interrupted")
            if error.status in NO_ROOM:
                await self._close_without_room(writer)
        finally:
            self.stop("interrupted")
            self.finished.set()
            await self._leave(self._reader)

    async def _close_without_room(self, writer: Writer) -> None:
        """Tell readers as well as it can be done that nothing will follow."""
        for last in ([encode(End("error", "There was no room for the answer."))], []):
            try:
                await writer.append(last, close=True)
            except UnbrokenError:
                continue
            return

    # --- reading the source --------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            end = await self._read_all()
        except AnswerFailed as failure:
            _log.warning("the answer %s failed: %s", self.key, failure)
            end = End("error", failure.message)
        except Exception as error:
            _log.exception("the answer %s failed", self.key)
            end = End("error", self._error_text(error))
        except asyncio.CancelledError:
            if self._end is None:
                _log.error("the answer %s was cancelled from within its source", self.key)
                self._finish(End("error", self._error_text(RuntimeError("cancelled"))))
            raise
        self._finish(end)

    async def _read_all(self) -> End:
        limit = asyncio.timeout(self._limits.max_runtime_s)
        try:
            async with limit, opened(self._source) as items:
                async for item in items:
                    feed(item, self._assembler)
                    await self._put()
        except TimeoutError:
            if limit.expired():
                raise AnswerFailed("The answer took too long.") from None
            raise
        self._assembler.tools_called()
        return End("done", finish_reason=self._assembler.finish_reason, usage=self._assembler.usage)

    def _error_text(self, error: Exception) -> str:
        try:
            return self._limits.error_text(error)
        except Exception:
            _log.exception("error_text failed")
            return "The answer failed."

    def _finish(self, end: End) -> None:
        if self._end is None:
            self._assembler.close_block()
            self._collect()
            self._end = end
        self._complete.set()
        self._news.set()

    async def _put(self) -> None:
        self._collect()
        if self._size_bytes > self._limits.max_bytes:
            raise AnswerFailed("The answer is too long.")
        while self._buffer.size_bytes >= _BUFFER_BYTES:
            self._room.clear()
            await self._room.wait()

    def _collect(self) -> None:
        if self._end is None:  # what comes after a stop is not wanted
            for part in self._assembler.take():
                self._size_bytes += self._buffer.add(part)
                self._news.set()

    # --- writing the stream --------------------------------------------------------------------------------------

    async def _write(self, writer: Writer) -> None:
        while not self._complete.is_set():
            if not await _wait(self._news, self._limits.beat_s):
                await writer.append([encode(Beat())])
            elif not self._complete.is_set() and (batch := self._take()):
                await writer.append(batch)
                await _wait(self._complete, self._limits.linger_s)
        assert self._end is not None
        await writer.append([*self._take(), encode(self._end)], close=True)

    def _take(self) -> list[bytes]:
        self._news.clear()
        batch = [encode(part) for part in self._buffer.take()]
        self._room.set()
        return batch

    async def _leave(self, reader: asyncio.Task[None]) -> None:
        """Wait for the source to clean up."""
        _, late = await asyncio.wait([reader], timeout=_UNWILLING_S)
        if late:
            _log.error("the source of the answer %s does not end although it was cancelled", self.key)
            await asyncio.wait([reader])
        if not reader.cancelled():
            reader.exception()


async def _wait(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for an event; whether it came in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
