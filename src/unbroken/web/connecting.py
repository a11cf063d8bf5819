"""What answers can be put on, and how to talk to it."""

from __future__ import annotations

from typing import TypeAlias

from unbroken.engine.engine import Engine
from unbroken.server.asgi import AsgiApp
from unbroken.web.backend import Backend
from unbroken.web.embedded import EmbeddedBackend

__all__ = ["Streams", "connect"]

Streams: TypeAlias = AsgiApp | Engine
"""An app or an engine in this process."""


def connect(streams: Streams) -> Backend:
    """The backend for streams.

    Raises:
        TypeError: these are not streams.
    """
    if isinstance(streams, AsgiApp | Engine):
        return EmbeddedBackend(streams)
    raise TypeError(f"answers need an Unbroken app or engine, not {type(streams).__name__}")
