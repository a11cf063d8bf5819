"""Many streams together: listed, and deleted."""

from __future__ import annotations

import pytest

from unbroken import errors
from unbroken.client import AsyncClient
from unbroken.testing import live_server, serve_asgi


async def test_list_and_delete_below_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbroken.server.reserved._LISTED_MAX", 2)
    monkeypatch.setattr("unbroken.server.reserved._DELETED_MAX", 2)
    async with live_server() as server, AsyncClient(server.url) as client:
        for path in ("/a", "/b/1", "/b/2", "/b/ü & co", "/c"):
            await server.engine.create(path, content_type="text/plain", ttl_s=60)
        assert [stream.path async for stream in client.streams()] == ["/a", "/b/1", "/b/2", "/b/ü & co", "/c"]
        found = [stream async for stream in client.streams("/b/ü")]
        assert [(stream.content_type, stream.ttl_seconds, stream.closed) for stream in found] == [
            ("text/plain", 60, False)
        ]
        assert await client.delete_streams("/b/") == 3
        assert [stream.path async for stream in client.streams()] == ["/a", "/c"]


async def test_other_servers_do_not_list() -> None:
    async def app(scope: dict, receive: object, send: object) -> None:
        if scope["type"] == "lifespan":
            return
        status, body = (404, b"") if scope["method"] == "GET" else (200, b"<html>")
        await send({"type": "http.response.start", "status": status, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": body})  # type: ignore[operator]

    async with serve_asgi(app) as address, AsyncClient(address.url) as client:
        with pytest.raises(errors.StreamNotFound):
            await anext(client.streams())
        with pytest.raises(errors.ProtocolViolation, match="not what Unbroken sends"):
            await client.delete_streams("/")
