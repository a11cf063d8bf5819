"""What answers can be put on, and how to talk to it."""

from __future__ import annotations

from typing import TypeAlias

from unbroken.client import AsyncClient
from unbroken.engine.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.web.backend import Backend
from unbroken.web.embedded import EmbeddedBackend
from unbroken.web.remote import RemoteBackend

__all__ = ["Streams", "connect"]

Streams: TypeAlias = AsgiApp | Engine | AsyncClient
"""An app or an engine in this process, or a client of a server."""


def connect(streams: Streams) -> Backend:
    """The backend for streams.

    Raises:
        TypeError: these are not streams.
    """
    if isinstance(streams, AsgiApp | Engine):
        return EmbeddedBackend(streams)
    if isinstance(streams, AsyncClient):
        return RemoteBackend(streams)
    raise TypeError(f"answers need an Unbroken app, an engine or a client, not {type(streams).__name__}")
