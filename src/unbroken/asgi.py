"""The server as an ASGI app.

    uvicorn unbroken.asgi:app                 # settings from UNBROKEN_... and UNBROKEN_CONFIG

or mounted below a prefix of another application; see `create_app`.
"""

from __future__ import annotations

from unbroken.protocol.scopes import Principal, grant
from unbroken.server.access import AccessRequest
from unbroken.server.asgi import AsgiApp
from unbroken.server.factory import create_app, create_engine
from unbroken.server.settings import Settings, SettingsError

__all__ = [
    "AccessRequest",
    "AsgiApp",
    "Principal",
    "Settings",
    "SettingsError",
    "create_app",
    "create_engine",
    "grant",
]


def __getattr__(name: str) -> AsgiApp:
    """``unbroken.asgi:app``, made when a server asks for it."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
