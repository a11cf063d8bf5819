"""Clients that write down all they do, for `unbroken.testing.history`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from tests.crash.serving import Lost, dialled
from unbroken.errors import OutcomeUnknown, StreamGone, StreamNotFound
from unbroken.protocol.content import SEPARATOR
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.sse import EventDecoder
from unbroken.testing import Address, RawConnection, RawResponse
from unbroken.testing.history import Append, Create, Delete, Operation, Outcome, Read

__all__ = ["Client", "Recorder", "stored"]

Recorded = TypeVar("Recorded", bound=Operation)

HEAD_CODES = {404: StreamNotFound.code, 410: StreamGone.code}


def stored(path: str, body: bytes) -> bytes:
    """The bytes that a store keeps of a body. JSON's messages here have no commas of their own."""
    if not path.startswith("/json"):
        return body
    messages = body.removeprefix(b"[").removesuffix(b"]").split(b",")
    return b"".join(message + SEPARATOR for message in messages if message)


def content_type(path: str) -> str:
    return "application/json" if path.startswith("/json") else "text/plain"


class Recorder:
    """All that was done, and the one counter."""

    def __init__(self) -> None:
        self.history: list[Operation] = []
        self.on_completion: Callable[[], None] = lambda: None
        self._unknown: list[Operation] = []
        self._now = 0

    def now(self) -> int:
        self._now += 1
        return self._now

    def add(self, operation: Operation) -> None:
        (self._unknown if operation.outcome is Outcome.UNKNOWN else self.history).append(operation)
        if operation.outcome is not Outcome.UNKNOWN:
            self.on_completion()

    def settle(self) -> None:
        """The server is dead: what nobody knows the outcome of has happened by now, or never will."""
        now = self.now()
        self.history += [replace(operation, completed=now) for operation in self._unknown]
        self._unknown.clear()


class Client:
    """One client. Each method is one operation (`follow`: one for each batch), recorded, and returned as recorded.

    Raises:
        Lost: from every method.
    """

    def __init__(self, recorder: Recorder, name: str, address: Address) -> None:
        self.name = name
        self._recorder = recorder
        self._address = address
        self._connection: RawConnection | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        async with dialled(self._address) as self._connection:
            yield self

    def _facts(self, path: str) -> dict[str, Any]:
        return {"client": self.name, "path": path, "invoked": self._recorder.now(), "completed": 1 << 62}

    async def create(
        self, path: str, body: bytes, *, closed: bool = False, fork: tuple[str, str | None, int] | None = None
    ) -> Create:
        """PUT.

        Args:
            path: where.
            body: first content.
            closed: for ever.
            fork: source, offset (None for the tail), and bytes past that.
        """
        fields = {"stream-closed": "true"} if closed else {}
        point = None
        if fork is None:
            fields["content-type"] = content_type(path)
        else:
            source, offset, past = fork
            fields["stream-forked-from"] = source
            if offset is not None:
                fields |= {"stream-fork-offset": offset, "stream-fork-sub-offset": str(past)}
                point = past + (0 if offset == "-1" else int(offset.partition("_")[2]))
        operation = Create(
            **self._facts(path),
            data=stored(path, body),
            closed=closed,
            source=None if fork is None else fork[0],
            point=point,
        )
        response = await self._exchange(operation, "PUT", path, fields, body)
        if response.status < 300:
            operation = replace(operation, existed=response.status == 200, tail=response["stream-next-offset"])
        return self._record(operation, response)

    async def append(
        self,
        path: str,
        body: bytes,
        *,
        close: bool = False,
        producer: ProducerStamp | None = None,
        stream_seq: str | None = None,
    ) -> Append:
        fields = {"content-type": content_type(path)}
        if close:
            fields["stream-closed"] = "true"
        if producer is not None:
            fields |= {"producer-id": producer.id, "producer-epoch": str(producer.epoch)}
            fields["producer-seq"] = str(producer.seq)
        if stream_seq is not None:
            fields["stream-seq"] = stream_seq
        data = stored(path, body)
        operation = Append(**self._facts(path), data=data, close=close, producer=producer, stream_seq=stream_seq)
        response = await self._exchange(operation, "POST", path, fields, body)
        if response.status < 300:
            duplicate = producer is not None and response.status == 204
            operation = replace(operation, duplicate=duplicate, tail=response["stream-next-offset"])
        return self._record(operation, response)

    async def delete(self, path: str) -> Delete:
        operation = Delete(**self._facts(path))
        return self._record(operation, await self._exchange(operation, "DELETE", path, {}, None))

    async def head(self, path: str) -> Read:
        operation = Read(**self._facts(path), start="now")
        return self._page(operation, await self._exchange(operation, "HEAD", path, {}, None))

    async def read(self, path: str, offset: str, *, long_poll: bool = False) -> Read:
        operation = Read(**self._facts(path), start=offset)
        target = f"{path}?offset={offset}{'&live=long-poll' if long_poll else ''}"
        return self._page(operation, await self._exchange(operation, "GET", target, {}, None))

    async def read_all(self, path: str, offset: str) -> None:
        """All of a stream from an offset on, page by page."""
        while (page := await self.read(path, offset)).outcome is Outcome.OK and not page.up_to_date:
            offset = page.next_offset

    async def follow(self, path: str, offset: str, batches: int) -> AsyncIterator[Read]:
        """Some batches of an event stream, on a connection that is done for afterwards."""
        assert self._connection is not None
        facts = self._facts(path)
        await self._connection.send(f"GET {path}?offset={offset}&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = await self._connection.read_head()
        if head.status != 200:
            refused = replace(head, body=await self._connection.read_rest())
            yield self._page(Read(**facts, start=offset), refused)
            return
        decoder = EventDecoder()
        data = b""
        while part := await self._connection.read_part():
            for event in decoder.feed(part):
                if event.type == "data":
                    data += stored(path, event.data.encode())
                    continue
                control = json.loads(event.data)
                batch = replace(
                    Read(**facts, start=offset),
                    completed=self._recorder.now(),
                    data=data,
                    next_offset=control["streamNextOffset"],
                    up_to_date="upToDate" in control or "streamClosed" in control,
                    closed="streamClosed" in control,
                )
                self._recorder.add(batch)
                yield batch
                offset, data, batches = batch.next_offset, b"", batches - 1
            if batches <= 0:
                return

    async def _exchange(
        self, operation: Operation, method: str, target: str, fields: Mapping[str, str], body: bytes | None
    ) -> RawResponse:
        assert self._connection is not None
        try:
            return await self._connection.request(method, target, fields, body)
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            self._recorder.add(replace(operation, outcome=Outcome.UNKNOWN))
            raise Lost from error

    def _page(self, operation: Read, response: RawResponse) -> Read:
        if response.status < 300:
            closed = response.get("stream-closed") == "true"
            operation = replace(
                operation,
                data=stored(operation.path, response.body),
                next_offset=response["stream-next-offset"],
                up_to_date=operation.start == "now" or response.get("stream-up-to-date") == "true",
                closed=closed,
            )
        return self._record(operation, response)

    def _record(self, operation: Recorded, response: RawResponse) -> Recorded:
        recorded = replace(operation, completed=self._recorder.now())
        if response.status >= 300:
            code = response.json()["code"] if response.body else HEAD_CODES.get(response.status, "")
            outcome = Outcome.UNKNOWN if code == OutcomeUnknown.code else Outcome.REFUSED
            assert code, f"{operation}: {response}"
            assert response.status != 500, f"{operation}: {response}"
            recorded = replace(recorded, outcome=outcome, code=code)
        self._recorder.add(recorded)
        return recorded
