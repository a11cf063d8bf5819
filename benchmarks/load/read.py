"""Catch-up reads."""

from __future__ import annotations

import re

import msgspec

from benchmarks.load.base import Connection, Meter, Observed, Selector, Target, clock

__all__ = ["ReadLoad", "read"]


class ReadLoad(msgspec.Struct, tag="read"):
    """Catch-up reads: each connection reads streams from their beginning to their tail, again and again.

    Args:
        target: see there.
        paths: streams, read in turn; each connection begins with another one.
        connections: how many.
    """

    target: Target
    paths: list[str]
    connections: int


_NEXT = re.compile(rb"\r\nstream-next-offset: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CAUGHT_UP = re.compile(rb"\r\nstream-up-to-date: *true", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_BUFFER_BYTES = 1024 * 1024


class _Reader(Connection):
    """Reads streams over and over, page by page.

    The bytes of an answer without a length are counted with their chunk headers; these are some bytes in a page.
    """

    def __init__(self, meter: Meter, load: ReadLoad, index: int) -> None:
        super().__init__(load.target.port)
        self.idle_ = True
        self._meter = meter
        self._paths = [path.encode() for path in load.paths]
        self._stream = index
        self._offset = b"-1"
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._left_bytes = 0
        self._in_body = False
        self._sent_s = 0.0

    @property
    def idle(self) -> bool:
        return self.idle_

    def start(self) -> None:
        self.idle_, self._in_body = False, False
        self._sent_s = clock()
        self.socket.sendall(
            b"GET %b?offset=%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
            % (self._paths[self._stream % len(self._paths)], self._offset)
        )

    def on_ready(self) -> None:
        size_bytes = self.socket.recv_into(self._view)
        if not size_bytes:
            raise RuntimeError("the server closed a connection")
        if not self._in_body:
            size_bytes = self._take_head(size_bytes)
        self._meter.payload_bytes += size_bytes
        self._left_bytes -= size_bytes
        if self._left_bytes == 0 or (self._left_bytes < 0 and self._ends(size_bytes)):
            self._finish()

    def _take_head(self, size_bytes: int) -> int:
        """Look at the head of an answer, which comes in one piece, and move what follows it to the buffer's start."""
        end = self._buffer.find(b"\r\n\r\n", 0, size_bytes) + 4
        head = bytes(self._view[:end])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a read was answered with {bytes(self._view[:size_bytes])!r}")
        next_offset, length = _NEXT.search(head), _LENGTH.search(head)
        assert next_offset is not None
        self._offset = next_offset[1]
        if _CAUGHT_UP.search(head):
            self._offset = b"-1"
            self._stream += 1
        self._left_bytes = int(length[1]) if length else -1
        self._in_body = True
        body_bytes = size_bytes - end
        self._view[:body_bytes] = bytes(self._view[end:size_bytes])
        return body_bytes

    def _ends(self, size_bytes: int) -> bool:
        """Whether the last chunk is there. Our streams do not contain what ends it."""
        return self._buffer.endswith(_LAST_CHUNK, max(0, size_bytes - len(_LAST_CHUNK)), size_bytes)

    def _finish(self) -> None:
        self._meter.operations += 1
        self._meter.latencies.append(clock() - self._sent_s)
        self.idle_ = True
        if not self._meter.stopping:
            self.start()


def read(load: ReadLoad) -> Observed:
    """See `ReadLoad`."""
    meter = Meter(load.target)
    readers = [_Reader(meter, load, index) for index in range(load.connections)]
    selector = Selector(readers)
    for reader in readers:
        reader.start()
    return meter.observe_whole(selector)
