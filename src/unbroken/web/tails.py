"""Reading along: from a page of what there is to the end of the answer, and what to do if nobody writes it any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from unbroken.engine.follow import resolve
from unbroken.errors import StreamGone, StreamNotFound, UnbrokenError
from unbroken.web.backend import Backend, Batch, Reading
from unbroken.web.formats import Rendering
from unbroken.web.parts import INTERRUPTED, End, decode, encode
from unbroken.web.reply import Unfinished
from unbroken.web.run import NO_ROOM
from unbroken.web.runs import Runs
from unbroken.web.vigil import Vigil

__all__ = ["Tails"]

_log = logging.getLogger("unbroken.web")
_HEARTBEAT_S = 15.0
_END_S = 5.0


class Tails:
    """The readers of answers in this process.

    Args:
        backend: where the streams are.
        runs: what runs in this process.
        beat_s: interval of the signs of life of runs elsewhere, in seconds.
        lease_s: after how much silence these count as interrupted, in seconds.
    """

    def __init__(self, backend: Backend, runs: Runs, *, beat_s: float, lease_s: float) -> None:
        self._backend = backend
        self._runs = runs
        self._beat_s = beat_s
        self._lease_s = lease_s
        self._readings: set[Reading] = set()
        self._gone: asyncio.Future[None] | None = None

    async def page(self, path: str, offset: str | None) -> Batch:
        """What there is from a position on. What has lost its writer for certain is closed before.

        Raises:
            StreamNotFound, StreamGone, InvalidOffset, OffsetGone.
            UnbrokenError: it cannot be read.
        """
        batch = await self._backend.page(path, offset)
        if not batch.closed and self.is_orphan(path):
            await self.interrupt(path)
            batch = await self._backend.page(path, offset)
        return batch

    async def body(self, path: str, how: Rendering, batch: Batch) -> AsyncGenerator[bytes, None]:
        """A response's body: a page, and what follows.

        Raises:
            Unfinished: it has to end before the answer does.
        """
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
        wait_s = _HEARTBEAT_S if self._backend.embedded else min(_HEARTBEAT_S, self._beat_s)
        vigil = Vigil(self._backend, path, position, self._lease_s)
        async with self._backend.reading(path, position) as reading:
            self._readings.add(reading)
            try:
                while True:
                    batch = await reading.next(wait_s)
                    if batch is not None:
                        position = batch.position
                        vigil.heard(batch)
                        if data := _render(how, batch):
                            yield data
                        if batch.closed:
                            return
                    elif reading.ended:
                        # What a run of this process writes until its end comes at once then.
                        await self._runs.wait(path)
                        last = await self._backend.page(path, position)
                        yield _render(how, last)
                        if last.closed:
                            return
                        raise Unfinished
                    else:
                        if how.heartbeat:
                            yield how.heartbeat
                        if path not in self._runs and (self._backend.embedded or await vigil.is_over()):
                            await self.interrupt(path)
            finally:
                self._readings.discard(reading)
                if self._gone is not None and not self._readings:
                    resolve(self._gone)

    async def end(self) -> None:
        """End all live reads: the process ends. Readers that take nothing are not waited for."""
        for reading in self._readings:
            reading.stop()
        if self._readings:
            self._gone = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._gone], timeout=_END_S)
            self._gone = None

    def is_orphan(self, path: str) -> bool:
        """Whether an open stream has no writer for certain."""
        return self._backend.embedded and path not in self._runs

    async def interrupt(self, path: str) -> None:
        """Close a stream that its writer has left open.

        Raises:
            UnbrokenError: it could not be done.
        """
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

    async def recover(self, prefix: str) -> None:
        """Close what an earlier process left open, as far as that is certain."""
        try:
            async for path in self._backend.open_streams(prefix):
                if path not in self._runs:
                    await self.interrupt(path)
        except UnbrokenError as error:
            _log.error("answers that were interrupted cannot be closed now: %s", error)


def _render(how: Rendering, batch: Batch) -> bytes:
    parts = [how.message(data, position) for position, data in batch.messages]
    if batch.closed and not (batch.messages and isinstance(decode(batch.messages[-1][1]), End)):
        parts.append(how.message(encode(INTERRUPTED), None))  # there was no room for it, or it was closed by hand
    return b"".join(parts)
