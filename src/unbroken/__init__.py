"""Durable, append-only byte streams over plain HTTP.

The client is here; it is loaded when it is asked for, since a server runs without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unbroken.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from unbroken import client  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise ImportError("the client needs httpx2: install unbroken[client]") from error
    return getattr(client, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
