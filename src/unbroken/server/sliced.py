"""What is written to a TLS connection, in slices, so that it is known how much of it the client has not taken.

A transport of TLS counts what it has not yet encrypted and handed on to the one below it, which takes whatever is
handed to it at once. So of an answer that is written whole nothing would be counted: no limit on answers that lie here
would be met, and nobody who takes nothing would be found.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Sliced"]

_SLICE_BYTES = 128 * 1024
"""More than the transport below holds before it asks to pause, which then counts for the next slice."""
_BUFFERED_BYTES = 64 * 1024
"""As without TLS."""


class Sliced:
    """An `asyncio.Transport`, but for how it writes.

    Args:
        transport: of TLS.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_BUFFERED_BYTES)

    def write(self, data: bytes) -> None:
        """Write some bytes."""
        if len(data) <= _SLICE_BYTES:
            self._transport.write(data)
            return
        transport, view = self._transport, memoryview(data)
        nothing_waits = not transport.get_write_buffer_size()
        if nothing_waits:  # so writing is not paused, and is to be once all of this can be counted
            transport.set_write_buffer_limits(high=2 * len(data))
        for at in range(0, len(data), _SLICE_BYTES):
            transport.write(view[at : at + _SLICE_BYTES])
        if nothing_waits:
            transport.set_write_buffer_limits(high=_BUFFERED_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
