"""A request without a server: as an adapter makes it, with nobody behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unbroken.server.http import Request

__all__ = ["Asked"]


class Asked(Request):
    """A GET of ``/a``.

    Args:
        fields: its headers.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        super().__init__("GET", b"/a", ("",), b"", "http", fields)

    async def next_part(self) -> None:
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        pass
