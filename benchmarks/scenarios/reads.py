"""Catch-up reads and live reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import FLOOR, MEMORY, NGINX, NODE_FILES, NODE_MEMORY, SQLITE, Contender
from benchmarks.http import Streams
from benchmarks.load import ChatsLoad, FanOutLoad, ReadLoad
from benchmarks.nginx import write_pages
from benchmarks.scenarios.base import (
    JSON,
    MIB,
    TEXT,
    Figures,
    Measure,
    Pace,
    Scenario,
    figures_of,
    generate,
    path_of,
    target_of,
)
from benchmarks.verify import check_bytes, check_messages

__all__ = ["CatchUpBytes", "CatchUpLargeMessages", "CatchUpMessages", "Chats", "FanOut"]

_PATH = path_of(0)


class _CatchUp(Scenario):
    """Catch-up reads of one stream. What is durable is read after a restart, from disk, not from a hot tail."""

    unit = "MiB/s"
    contenders: Sequence[Contender] = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _readers = 4

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        if contender is NGINX:
            write_pages(directory / "data", b"." * MIB, pace.fill_mib)
        elif contender.durable:
            with contender.start(directory) as server, Streams(server.port) as streams:
                self._fill(streams, pace.fill_mib)
        with contender.start(directory) as server:
            if contender.stores:
                with Streams(server.port) as streams:
                    if not contender.durable:
                        self._fill(streams, pace.fill_mib)
                    self._check(streams, pace.fill_mib)

            def measure() -> dict[str, Figures]:
                observed = generate(ReadLoad(target_of(server, pace), [_PATH], self._readers))
                return {contender.name: figures_of(observed, observed.payload_bytes / MIB)}

            yield measure

    @abstractmethod
    def _fill(self, streams: Streams, mib: int) -> None:
        """Create the stream and write to it."""

    @abstractmethod
    def _check(self, streams: Streams, mib: int) -> None:
        """Check that all of it is there."""


class CatchUpBytes(_CatchUp):
    """Of bytes, appended 1 MiB at a time."""

    name = "catch-up-bytes"
    title = "Catch-up reads of bytes, pages of 1 MiB, 4 connections"
    contenders = (*_CatchUp.contenders, NGINX)

    def _fill(self, streams: Streams, mib: int) -> None:
        streams.create(_PATH, "application/octet-stream")
        for _ in range(mib):
            streams.append(_PATH, "application/octet-stream", b"." * MIB)

    def _check(self, streams: Streams, mib: int) -> None:
        check_bytes(streams, _PATH, mib * MIB)


class CatchUpMessages(_CatchUp):
    """Of small JSON messages, appended 1,000 at a time."""

    name = "catch-up-json"
    title = "Catch-up reads of JSON messages of about 100 B, 4 connections"
    _message_bytes = 100
    _batch = 1000
    _batches_per_mib = 10
    _share = 4  # of the size that bytes have, since one server needs 10 s for 16 MiB

    def _fill(self, streams: Streams, mib: int) -> None:
        streams.create(_PATH, JSON)
        # So that a message has the size that it is to have, with its separator.
        text = b"." * (self._message_bytes - len(b'{"n":12345,"text":""},'))
        for start in range(0, self._messages(mib), self._batch):
            messages = (b'{"n":%d,"text":"%b"}' % (start + index, text) for index in range(self._batch))
            streams.append(_PATH, JSON, b"[" + b",".join(messages) + b"]")

    def _check(self, streams: Streams, mib: int) -> None:
        check_messages(streams, _PATH, self._messages(mib))

    def _messages(self, mib: int) -> int:
        return mib // self._share * self._batches_per_mib * self._batch


class CatchUpLargeMessages(CatchUpMessages):
    """Of large JSON messages, appended one at a time."""

    name = "catch-up-large-json"
    title = "Catch-up reads of JSON messages of 1 MiB, 4 connections"
    when_named = (NODE_MEMORY, NODE_FILES)
    _message_bytes = MIB
    _batch = 1
    _batches_per_mib = 1
    _share = 1


class FanOut(Scenario):
    """One writer and many SSE readers."""

    unit = "deliveries/s"
    contenders = (FLOOR, MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _size_bytes = 256

    def __init__(self, readers: int, *, wait: bool) -> None:
        self.name = f"fan-out-{readers}" if wait else f"fan-out-{readers}-flood"
        when = "every reader has received the last" if wait else "the last was acknowledged"
        self.title = f"SSE: 1 writer, {readers} readers; the next append of {self._size_bytes} B comes when {when}"
        self._readers = readers
        self._wait = wait
        if not wait:
            self.when_named = (NODE_MEMORY, NODE_FILES)

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        appended_bytes = 0
        with contender.start(directory) as server:
            with Streams(server.port) as streams:
                streams.create(_PATH, TEXT)

            def measure() -> dict[str, Figures]:
                nonlocal appended_bytes
                load = FanOutLoad(target_of(server, pace), _PATH, self._readers, self._size_bytes, self._wait)
                observed = generate(load)
                appended_bytes += sum(observed.acknowledged) * self._size_bytes
                figures = figures_of(observed, observed.operations)
                if not self._wait:
                    figures.p50_ms = figures.p99_ms = None
                return {contender.name: figures}

            yield measure
            if contender.stores:
                with Streams(server.port) as streams:
                    check_bytes(streams, _PATH, appended_bytes)


class Chats(Scenario):
    """Many conversations at once: answers of language models, each followed by whoever asked."""

    unit = "messages/s"
    # The handler that does nothing has one stream only.
    contenders = (MEMORY, SQLITE, NODE_MEMORY, NODE_FILES)
    _size_bytes = 64

    def __init__(self, count: int) -> None:
        self.name = f"chats-{count}"
        self.title = (
            f"SSE: {count} streams, each with 1 writer and 1 reader; the next append of {self._size_bytes} B comes "
            "when the reader has received the last"
        )
        self._paths = [path_of(number) for number in range(count)]

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        appended = [0] * len(self._paths)
        with contender.start(directory) as server:
            with Streams(server.port) as streams:
                for path in self._paths:
                    streams.create(path, TEXT)

            def measure() -> dict[str, Figures]:
                nonlocal appended
                observed = generate(ChatsLoad(target_of(server, pace), self._paths, self._size_bytes))
                appended = [sum(pair) for pair in zip(appended, observed.acknowledged, strict=True)]
                return {contender.name: figures_of(observed, observed.operations)}

            yield measure
            with Streams(server.port) as streams:
                for path, count in zip(self._paths, appended, strict=True):
                    check_bytes(streams, path, count * self._size_bytes)
