"""Whether the writer of a stream in another process is still there."""

from __future__ import annotations

import asyncio

from unbroken.errors import UnbrokenError
from unbroken.web.backend import Backend, Batch

__all__ = ["Vigil"]


class Vigil:
    """Tells by silence that a stream's writer is gone: by as much of it as the lease, while the server could be heard.

    Args:
        backend: where the stream is.
        path: of the stream.
        position: where the reader stands.
        lease_s: in seconds.
    """

    def __init__(self, backend: Backend, path: str, position: str, lease_s: float) -> None:
        self._backend = backend
        self._path = path
        self._position = position
        self._lease_s = lease_s
        self._clock = asyncio.get_running_loop().time
        self._heard_s = self._clock()

    def heard(self, batch: Batch) -> None:
        """Something came."""
        self._position = batch.position
        if batch.messages:
            self._heard_s = self._clock()

    async def is_over(self) -> bool:
        """Whether the lease is. To be asked several times while there is silence."""
        silent_s = self._clock() - self._heard_s
        if silent_s < self._lease_s / 2:
            return False
        try:
            state = await self._backend.state(self._path)
        except UnbrokenError:
            state = None
        if state is None or state.end != self._position:
            self._heard_s = self._clock()  # what is silent is the network
            return False
        return silent_s >= self._lease_s
