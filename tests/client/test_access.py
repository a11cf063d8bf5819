"""Clients of a server that wants tokens: refused with what is missing, and back with a fresh token where they were."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.server.tokens import SECRET, key_file
from unbroken import AsyncClient, Client, errors, tokens
from unbroken.server.settings import Settings
from unbroken.testing import LiveServer, ManualClock, live_server, threaded_server

JSON = "application/json"


class Issuer:
    """An application that gives tokens, by the time of the server's clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.given = 0

    def token(self, **globs: str) -> str:
        self.given += 1
        return tokens.mint(SECRET, ttl_s=60, now_s=self.clock.now().wall_ms / 1000, **globs)


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[LiveServer, Issuer]]:
    clock = ManualClock()
    async with live_server(settings=Settings(jwt_keys=(key_file(tmp_path),)), clock=clock) as server:
        yield server, Issuer(clock)


async def test_refusals(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, issuer):
        async with AsyncClient(server.url) as client:
            with pytest.raises(errors.Unauthorized) as unknown:
                await client.stream("/a").create()
        assert not isinstance(unknown.value, errors.InvalidToken)
        async with AsyncClient(server.url, token=issuer.token(read="/a b/*")) as client:
            with pytest.raises(errors.InsufficientScope) as refused:
                await client.stream("/a b/1").create()
            assert (refused.value.scope, refused.value.status) == ("create:/a%20b/1", 403)
            with pytest.raises(errors.StreamNotFound):
                await client.stream("/a b/1").read()
            issuer.clock.advance(60)
            with pytest.raises(errors.InvalidToken, match="expired"):
                await client.stream("/a b/1").read()


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_following_goes_on_with_a_fresh_token(tmp_path: Path, live: Literal["sse", "long-poll"]) -> None:
    """Its token expires again and again while it follows: nothing is lost and nothing comes twice."""
    async with guarded(tmp_path) as (server, issuer):
        readers = Issuer(issuer.clock)
        async with (
            AsyncClient(server.url, token=lambda: issuer.token(admin="/**")) as writer,
            AsyncClient(server.url, token=lambda: readers.token(read="/a")) as reader,
        ):
            stream = writer.stream("/a")
            await stream.create(content_type=JSON, data=b"[0]")
            seen = []
            async with reader.stream("/a").follow(offset="-1", live=live) as messages:
                async for message in messages:
                    seen.append(message.value)
                    if message.value == 5:
                        break
                    issuer.clock.advance(61)
                    await stream.append_json(message.value + 1)
            assert seen == [0, 1, 2, 3, 4, 5]
            assert readers.given >= 5


def test_the_synchronous_client(tmp_path: Path) -> None:
    token = tokens.mint(SECRET, create="/a", append="/a", read="/a")
    settings = Settings(jwt_keys=(key_file(tmp_path),))
    with threaded_server(settings=settings) as server, Client(server.url, token=token) as client:
        client.stream("/a").create(content_type=JSON)
        client.stream("/a").append_json({"n": 1})
        assert client.stream("/a").read_json() == [{"n": 1}]
        with pytest.raises(errors.InsufficientScope):
            client.stream("/a").delete()


async def test_a_token_goes_to_the_server_it_is_for() -> None:
    async with AsyncClient("http://here.example:80/streams", token="secret") as client:
        client.stream("/a")
        client.stream("http://here.example/elsewhere/a")
        for other in ("https://here.example/a", "http://there.example/a", "http://here.example:8080/a"):
            with pytest.raises(ValueError, match="is not for"):
                client.stream(other)
    async with AsyncClient("http://here.example") as client:
        client.stream("http://there.example/a")
    async with AsyncClient(token="secret") as client:
        client.stream("http://there.example/a")
