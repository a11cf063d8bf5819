"""Python clients against our server in memory: appending, reading, following."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import msgspec

from benchmarks.clients import TEXT, Done, Task
from benchmarks.contenders import CLIENT, MEMORY, OFFICIAL_CLIENT, Contender
from benchmarks.http import Streams
from benchmarks.processes import LOAD_CPU, Process, run_pinned
from benchmarks.scenarios.base import JSON, Figures, Measure, Pace, Scenario, path_of
from benchmarks.verify import check_messages

__all__ = ["ClientAppends", "ClientLive", "ClientReads"]

_BATCH = 1000
_MESSAGES_PER_MIB = 8_000
_GRACE_S = 120.0


def _fill(port: int, path: str, messages: int) -> None:
    """Append so many messages as quickly as the server takes them."""
    with Streams(port) as streams:
        for start in range(0, messages, _BATCH):
            numbers = range(start, min(start + _BATCH, messages))
            body = b",".join(b'{"n":%d,"text":"%b"}' % (number, TEXT.encode()) for number in numbers)
            streams.append(path, JSON, b"[%b]" % body)


def _run(client: Contender, server: Process, path: str, task: Task) -> Done:
    """Have a client do something, on a core of its own."""
    task.url = f"http://127.0.0.1:{server.port}{path}"
    answer = run_pinned(client.command, LOAD_CPU, msgspec.json.encode(task), task.seconds + _GRACE_S)
    return msgspec.json.decode(answer, type=Done)


def _figures(done: Done) -> Figures:
    return Figures(
        rate=done.messages / done.seconds,
        client_cpu_us=1e6 * done.cpu_s / done.messages,
        load_cpu=done.cpu_s / done.seconds,
    )


class _Clients(Scenario):
    unit = "messages/s"
    contenders = (OFFICIAL_CLIENT, CLIENT)


class ClientAppends(_Clients):
    """Appends, each of one small JSON message."""

    def __init__(self, name: str, title: str) -> None:
        self.name = f"client-{name}"
        self.title = title
        self._task = name

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        path = path_of(0)
        with MEMORY.start(directory) as server, Streams(server.port) as streams:

            def measure() -> dict[str, Figures]:
                streams.create(path, JSON)
                done = _run(contender, server, path, Task(self._task, "", seconds=pace.duration_s))
                check_messages(streams, path, done.messages)
                streams.delete(path)
                return {contender.name: _figures(done)}

            yield measure


class ClientReads(_Clients):
    """Reading what is there."""

    def __init__(self, name: str, title: str, live: str = "auto") -> None:
        self.name = f"client-{name}"
        self.title = title
        self._task = name
        self._live = live

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        path, messages = path_of(0), pace.fill_mib * _MESSAGES_PER_MIB
        with MEMORY.start(directory) as server:
            with Streams(server.port) as streams:
                streams.create(path, JSON)
            _fill(server.port, path, messages)

            def measure() -> dict[str, Figures]:
                task = Task(self._task, "", messages=messages, live=self._live)
                return {contender.name: _figures(_run(contender, server, path, task))}

            yield measure


class ClientLive(_Clients):
    """Following by events what is being written. The writer may be the limit of the rate, so look at processor time."""

    name = "client-live"
    title = "Python clients: following what is appended, 1,000 messages of 60 B at a time, by server-sent events"

    @contextmanager
    def session(self, contender: Contender, pace: Pace, directory: Path) -> Iterator[Measure]:
        path, messages = path_of(0), pace.fill_mib * _MESSAGES_PER_MIB
        with MEMORY.start(directory) as server, Streams(server.port) as streams:

            def measure() -> dict[str, Figures]:
                streams.create(path, JSON)
                writer = Thread(target=_fill, args=(server.port, path, messages))
                writer.start()
                done = _run(contender, server, path, Task("follow", "", messages=messages, live="sse"))
                writer.join()
                streams.delete(path)
                return {contender.name: _figures(done)}

            yield measure
