"""A producer: does what `unbroken.client.pipeline.Pipeline` says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self

from unbroken.client import answers
from unbroken.client._sync import io
from unbroken.client._sync.reader import read_pages
from unbroken.client._sync.requests import Requests
from unbroken.client.codec import as_found, encode_message, joined_messages
from unbroken.client.options import Ask, Repeat
from unbroken.client.pipeline import Append, Look, Pipeline, Sizes
from unbroken.client.positions import Position
from unbroken.client.shapes import joined
from unbroken.client.values import Appended, StreamInfo
from unbroken.errors import UnbrokenError
from unbroken.protocol.content import is_json, split_json

__all__ = ["Producer"]

_GRACE_S = 5.0
"""How long a block that is left by an error waits for what was sent in it."""


class Producer:
    """Writes to a stream, each message exactly once and in order, whatever breaks. Made by `Stream.producer`, to
    be used within ``with``: when the block is left, all that was sent is in the stream.

    What goes wrong for good is raised by the next `send`, `flush` or `close_stream`, and when the block is left. A
    block that is left by an error of its own still sends what it can, for 5 seconds; a cancelled one does not.

    Attributes:
        id: its name.
    """

    def __init__(
        self,
        requests: Requests,
        url: str,
        producer_id: str,
        *,
        epoch: int,
        sizes: Sizes,
        auto_claim: bool,
        deadline_s: float | None,
    ) -> None:
        self.id = producer_id
        self._requests = requests
        self._url = url
        self._sizes = sizes
        self._pipeline = Pipeline(epoch, sizes, requests.retry, auto_claim=auto_claim, deadline_s=deadline_s)
        self._content_type = ""
        self._json = False
        self._lock = io.Lock()
        self._work = io.Waiters()
        self._changes = io.Waiters()
        self._workers: list[io.Worker] = []
        self._stopped = True

    @property
    def epoch(self) -> int:
        """Its present incarnation."""
        return self._pipeline.epoch

    @property
    def next_offset(self) -> str:
        """The stream's end after the last append that is known to be done."""
        return self._pipeline.next_offset

    @property
    def pending(self) -> int:
        """How many messages are not known to be in the stream yet."""
        return self._pipeline.put_count - self._pipeline.taken

    def start(self) -> None:
        """Get ready, as the beginning of the block does.

        Raises:
            StreamNotFound: there is no stream.
        """
        info = self._head()
        self._content_type = info.content_type
        self._json = is_json(info.content_type)
        self._pipeline.next_offset = info.next_offset
        self._stopped = False
        self._workers = [io.Worker(self._run) for _ in range(self._sizes.in_flight)]

    def send(self, value: object) -> None:
        """Send a message. Returns as soon as it is in the buffer; waits while that is full.

        Args:
            value: for a JSON stream any value that JSON can hold, see `Stream.append_json`; else bytes or text.

        Raises:
            TypeError: a value that the stream cannot hold.
            UnbrokenError: an earlier message cannot be written, and none after it.
        """
        self._check()
        message = encode_message(value, json=self._json)
        if not message:
            return
        pipeline = self._pipeline
        while True:
            with self._lock:
                self._check()
                if pipeline.has_room(len(message)):
                    if pipeline.put(message, time.monotonic()):
                        self._work.notify()
                    return
                pipeline.flush()
                self._work.notify()
                change = self._changes.ticket()
            change.wait()

    def flush(self) -> str:
        """Wait until all that was sent is in the stream.

        Returns:
            The stream's end after it, as far as it is known.

        Raises:
            UnbrokenError: something of it cannot be written.
        """
        self._check()
        self._taken(self._flush())
        return self._pipeline.next_offset

    def close_stream(self, final: object = None) -> Appended:
        """Close the stream, in one step with the last message, and wait until that is done.

        Args:
            final: a last message.

        Raises:
            UnbrokenError: something cannot be written.
        """
        if final is not None:
            self.send(final)
        with self._lock:
            self._check()
            self._pipeline.close()
            self._work.notify()
        self._taken(None)
        return Appended(self._pipeline.next_offset, closed=True)

    def _check(self) -> None:
        if self._stopped:
            raise RuntimeError("the producer is to be used within its block")
        self._pipeline.check()

    def _taken(self, goal: int | None, limit_s: float = math.inf) -> None:
        """Wait until so many messages are taken; without a number, until the stream is closed.

        Raises:
            TimeoutError: it took longer than the limit.
        """
        pipeline = self._pipeline
        end_s = time.monotonic() + limit_s
        while True:
            with self._lock:
                if pipeline.failure is not None:
                    raise pipeline.failure
                if pipeline.closed if goal is None else pipeline.taken >= goal:
                    return
                if self._stopped:
                    raise RuntimeError("the producer was stopped")
                change = self._changes.ticket()
            if (left_s := end_s - time.monotonic()) <= 0:
                raise TimeoutError
            change.wait(None if math.isinf(left_s) else left_s)

    def _run(self) -> None:
        """What each worker does: whatever is next."""
        while True:
            with self._lock:
                if self._stopped:
                    return
                step = self._pipeline.next(time.monotonic())
                if self._pipeline.failure is not None:
                    self._changes.notify_all()
                idle = step is None or isinstance(step, float)
                ticket = self._work.ticket() if idle else None
                if not idle:
                    self._work.notify()  # there may be more
            if isinstance(step, Append):
                self._send(step)
            elif isinstance(step, Look):
                self._look(step)
            elif ticket is not None:
                ticket.wait(step)

    @contextmanager
    def _settled(self) -> Iterator[Pipeline]:
        """In this block something has happened."""
        with self._lock:
            yield self._pipeline
            self._changes.notify_all()

    def _send(self, append: Append) -> None:
        headers = {"producer-id": self.id, "producer-epoch": str(append.epoch), "producer-seq": str(append.seq)}
        if append.messages:
            headers["content-type"] = self._content_type
        if append.closes:
            headers["stream-closed"] = "true"
        body = joined_messages(append.messages, json=self._json)
        try:
            answer = self._requests.once(Ask("POST", self._url, headers=headers, body=body))
            offset = answers.appended(answer).next_offset
        except UnbrokenError as error:
            with self._settled() as pipeline:
                pipeline.failed(append, error, time.monotonic())
        except Exception as error:
            with self._settled() as pipeline:
                pipeline.failure = error
        else:
            with self._settled() as pipeline:
                pipeline.succeeded(append, offset, duplicate=answer.status == 204 and bool(append.messages))

    def _look(self, look: Look) -> None:
        try:
            content, end = b"", (self._head()).next_offset
            if look.offset is not None:
                content, end = self._read(look.offset)
        except UnbrokenError as error:
            with self._settled() as pipeline:
                pipeline.look_failed(error, time.monotonic())
        else:
            with self._settled() as pipeline:
                pipeline.looked(content, end, partial(as_found, json_messages=self._json), time.monotonic())

    def _read(self, offset: str) -> tuple[bytes, str]:
        """What is in the stream from an offset on, as it can be looked for, and where it ends."""
        pages = [page for page in read_pages(self._requests, self._url, Position(offset))]
        data = joined([page.data for page in pages], self._content_type)
        messages = split_json(data) if self._json else [data]
        return as_found(messages, json_messages=self._json), pages[-1].next_offset

    def _head(self) -> StreamInfo:
        return answers.stream_info(self._requests.call(Ask("HEAD", self._url), Repeat.FREELY))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._taken(self._flush())
            elif isinstance(error, Exception):
                with suppress(Exception):
                    self._taken(self._flush(), _GRACE_S)
        finally:
            self.stop()

    def _flush(self) -> int:
        with self._lock:
            self._work.notify()
            return self._pipeline.flush()

    def stop(self) -> None:
        """Stop at once. What is not known to be in the stream by now may be there or not."""
        with self._lock:
            self._stopped = True
            self._work.notify_all()
            self._changes.notify_all()
        workers, self._workers = self._workers, []
        io.end(workers)
