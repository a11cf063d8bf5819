"""What answers can be put on, and how to talk to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from unbroken.engine.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.web.backend import Backend
from unbroken.web.embedded import EmbeddedBackend

if TYPE_CHECKING:
    from unbroken.client import AsyncClient

__all__ = ["Streams", "connect"]

Streams: TypeAlias = "AsgiApp | Engine | AsyncClient"
"""An app or an engine in this process, or a client of a server."""


def connect(streams: Streams) -> Backend:
    """The backend for streams.

    Raises:
        TypeError: these are not streams.
    """
    if isinstance(streams, AsgiApp | Engine):
        return EmbeddedBackend(streams)
    if type(streams).__module__.startswith("unbroken.client."):
        from unbroken.client import AsyncClient  # noqa: PLC0415 (whoever has a client has what it needs)
        from unbroken.web.remote import RemoteBackend  # noqa: PLC0415

        if isinstance(streams, AsyncClient):
            return RemoteBackend(streams)
    raise TypeError(f"answers need an Unbroken app, an engine or an AsyncClient, not {type(streams).__name__}")
