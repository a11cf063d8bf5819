"""Keys at a URL: fetched seldom, fetched again when they are rotated, kept while they cannot be fetched."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.helpers import settle, until
from tests.server.conftest import Serve
from tests.server.site import TEXT, problem_code
from tests.server.tokens import bearer, key_file
from tests.server.tokens import mint as mint_for
from tests.tokens.pairs import ED25519, P256, RSA, SECRET, jwk, key_set, private_pem
from unbroken.errors import KeysUnavailable
from unbroken.server.jwks import COOLDOWN_S, FRESH_S, STALE_S, RemoteKeys
from unbroken.server.settings import SettingsError, load_settings
from unbroken.tokens import Key, mint, parse_keys
from unbroken.tokens.signed import Header

ONE, TWO = jwk(ED25519, kid="one"), jwk(P256, kid="two")
FOR_ONE, FOR_TWO = Header("EdDSA", "one"), Header("ES256", "two")


class Provider:
    """An identity provider, without its network: what is there, how often it was asked, and the time."""

    def __init__(self) -> None:
        self.content: bytes | Exception = key_set(ONE)
        self.asked = 0
        self.now_s = 1000.0
        self.changes = 0
        self.gate: threading.Event | None = None
        self.keys = RemoteKeys(
            "https://issuer.example/jwks", self._changed, fetch=self._fetch, clock=lambda: self.now_s
        )

    def _changed(self) -> None:
        self.changes += 1

    def _fetch(self, url: str) -> bytes:
        assert url == "https://issuer.example/jwks"
        self.asked += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    async def names(self, header: Header) -> list[str | None]:
        return [key.kid for key in await self.keys.fitting(header)]


@pytest.fixture
def provider() -> Provider:
    return Provider()


async def test_fetched_once(provider: Provider) -> None:
    found = await asyncio.gather(*(provider.names(FOR_ONE) for _ in range(20)))
    assert found == [["one"]] * 20
    provider.now_s += FRESH_S - 1
    assert await provider.names(FOR_ONE) == ["one"]
    assert await provider.names(Header("EdDSA", None)) == ["one"], "a token without a kid may be signed by any"
    assert (provider.asked, provider.changes) == (1, 1)


async def test_fetched_anew_behind_the_back_of_who_asks(provider: Provider) -> None:
    await provider.names(FOR_ONE)
    provider.content, provider.gate = key_set(ONE, TWO), threading.Event()
    provider.now_s += FRESH_S
    assert await provider.names(FOR_ONE) == ["one"], "nobody waits for it"
    assert await provider.names(FOR_ONE) == ["one"]
    provider.gate.set()
    await until(lambda: provider.changes == 2)
    assert await provider.names(FOR_TWO) == ["two"]
    assert provider.asked == 2


async def test_a_withdrawn_key_is_noticed_though_nobody_asks(provider: Provider) -> None:
    """Tokens that were found good are remembered, so it may be that nothing is checked for long."""
    await provider.names(FOR_ONE)
    provider.content = key_set(TWO)
    provider.now_s += FRESH_S - 1
    provider.keys.keep_fresh()
    provider.now_s += 1
    provider.keys.keep_fresh()
    await until(lambda: provider.changes == 2)
    assert provider.asked == 2
    provider.content = OSError("it is down")
    provider.now_s += STALE_S
    provider.keys.keep_fresh()
    assert provider.changes == 3, "keys that are too old are dropped, and with them what was remembered"
    with pytest.raises(KeysUnavailable):
        await provider.names(FOR_TWO)


async def test_an_answer_that_never_ends(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it is told before long, and it is tried again."""
    monkeypatch.setattr("unbroken.server.jwks._TIMEOUT_S", 0.05)
    provider.gate = threading.Event()
    with pytest.raises(KeysUnavailable):
        await provider.names(FOR_ONE)
    provider.gate.set()
    provider.now_s += COOLDOWN_S
    assert await provider.names(FOR_ONE) == ["one"]


async def test_a_rotated_key_is_there_at_once(provider: Provider) -> None:
    await provider.names(FOR_ONE)
    provider.content = key_set(TWO)
    provider.now_s += COOLDOWN_S
    assert await provider.names(FOR_TWO) == ["two"]
    assert await provider.names(FOR_ONE) == [], "and the old one is gone"
    assert (provider.asked, provider.changes) == (2, 2)


async def test_made_up_names_do_not_make_it_fetch_without_end(provider: Provider) -> None:
    await provider.names(FOR_ONE)
    for number in range(1000):
        provider.now_s += 0.1
        assert await provider.names(Header("EdDSA", f"made up {number}")) == []
    assert 2 < provider.asked <= 1 + 100 / COOLDOWN_S
    assert provider.changes == 1


async def test_while_it_cannot_be_fetched_the_keys_stay(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    await provider.names(FOR_ONE)
    faults: list[bytes | Exception] = [
        OSError("it is down"),
        b"",
        b"<html>",
        b"[]",
        b'{"keys":7}',
    ]
    for fault in faults:
        provider.content = fault
        provider.now_s += FRESH_S
        assert await provider.names(FOR_ONE) == ["one"]
        await until(lambda: provider.keys._refreshing is None)
        assert await provider.names(FOR_TWO) == [], "a name that is not there is no reason to fail"
    assert "cannot be fetched: it is down" in caplog.text
    provider.now_s = 1000.0 + STALE_S - 1
    assert await provider.names(FOR_ONE) == ["one"]
    await until(lambda: provider.keys._refreshing is None)
    provider.now_s = 1000.0 + STALE_S + COOLDOWN_S
    with pytest.raises(KeysUnavailable):
        await provider.names(FOR_ONE)
    asked = provider.asked
    with pytest.raises(KeysUnavailable):
        await provider.names(FOR_ONE)
    assert provider.asked == asked, "and it is not asked for every request"
    provider.content = key_set(ONE)
    provider.now_s += COOLDOWN_S
    assert await provider.names(FOR_ONE) == ["one"]


async def test_an_empty_set_takes_all_keys_away(provider: Provider) -> None:
    await provider.names(FOR_ONE)
    provider.content = key_set()
    provider.now_s += COOLDOWN_S
    assert await provider.names(FOR_TWO) == []
    assert await provider.names(FOR_ONE) == []


async def test_whoever_goes_away_does_not_stop_it_for_others(provider: Provider) -> None:
    provider.gate = threading.Event()
    one, other = (asyncio.create_task(provider.names(FOR_ONE)) for _ in range(2))
    await until(lambda: provider.asked == 1)
    one.cancel()
    await settle()
    provider.gate.set()
    assert await other == ["one"]


async def test_stopped_while_it_fetches(provider: Provider) -> None:
    provider.gate = threading.Event()
    provider.keys.refresh()
    await until(lambda: provider.asked == 1)
    await provider.keys.stop()
    provider.gate.set()
    assert provider.changes == 0


# --- over a real network ---------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    answer: Callable[[Any], None]

    def do_GET(self) -> None:
        type(self).answer(self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[tuple[str, type[Handler]]]:
    """An HTTP server, and the class whose ``answer`` says what it does."""
    handler = type("OneHandler", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks", handler
        finally:
            server.shutdown()
            thread.join()


def answering(status: int, content: bytes, **fields: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        for name, value in fields.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


async def fetched(url: str) -> tuple[Key, ...]:
    keys = RemoteKeys(url, lambda: None)
    try:
        return await keys.fitting(Header("EdDSA", None))
    except KeysUnavailable:
        return ()


async def test_fetched_over_http(issuer: tuple[str, type[Handler]]) -> None:
    url, handler = issuer
    handler.answer = answering(200, key_set(ONE, TWO, jwk(RSA, kid="three"), jwk(SECRET, kid="four")))
    assert [key.kid for key in await fetched(url)] == ["one"]


@pytest.mark.parametrize(
    ("status", "content", "fields"),
    [
        (404, b"", {}),
        (500, key_set(ONE), {}),
        (200, b" " * (256 * 1024) + key_set(ONE), {}),
        (302, b"", {"Location": "/other"}),
        (301, b"", {"Location": "file:///etc/passwd"}),
    ],
    ids=["404", "500", "too-large", "redirect", "redirect-to-a-file"],
)
async def test_what_is_not_taken_from_http(
    issuer: tuple[str, type[Handler]], status: int, content: bytes, fields: dict[str, str]
) -> None:
    url, handler = issuer

    def answer(one: Any) -> None:
        answering(200, key_set(ONE))(one) if one.path == "/other" else answering(status, content, **fields)(one)

    handler.answer = answer
    assert await fetched(url) == ()


async def test_nobody_listens(issuer: tuple[str, type[Handler]]) -> None:
    assert await fetched("http://127.0.0.1:1/jwks") == ()


async def test_it_comes_too_slowly(issuer: tuple[str, type[Handler]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, handler = issuer
    over = threading.Event()

    def drip(one: Any) -> None:
        one.send_response(200)
        one.send_header("Content-Length", "100000")
        one.end_headers()
        while not over.wait(0.02):
            try:
                one.wfile.write(b" ")
            except OSError:
                return

    handler.answer = drip
    monkeypatch.setattr("unbroken.server.jwks._TIMEOUT_S", 0.2)
    try:
        assert await fetched(url) == ()
    finally:
        over.set()


async def test_a_server_with_published_keys(
    serve_memory: Serve, issuer: tuple[str, type[Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key appears, is used by a new token at once, and disappears: then what it signed is forgotten too."""
    monkeypatch.setattr("unbroken.server.jwks.COOLDOWN_S", 0.0)
    url, handler = issuer
    handler.answer = answering(200, key_set(ONE))
    async with serve_memory(jwt_keys=(url,)) as site:
        now_s = site.clock.now().wall_ms / 1000

        def token(key: Any, kid: str) -> str:
            (signer,) = parse_keys(private_pem(key))
            return mint(Key(signer.algorithm, signer.checks, signer.signs, kid), admin="/**", now_s=now_s)

        one, two = token(ED25519, "one"), token(P256, "two")
        await site.create("/a", {**bearer(one), **TEXT}, b"x")
        assert (await site.get("/a", bearer(one))).status == 200
        assert problem_code(await site.get("/a", bearer(two))) == (401, "invalid-token")
        handler.answer = answering(200, key_set(TWO))
        assert (await site.get("/a", bearer(two))).status == 200
        assert problem_code(await site.get("/a", bearer(one))) == (401, "invalid-token")


async def test_a_server_that_has_no_keys_yet(serve_memory: Serve) -> None:
    async with serve_memory(jwt_keys=("http://127.0.0.1:1/jwks",)) as site:
        token = mint(SECRET, read="/a", now_s=site.clock.now().wall_ms / 1000)
        response = await site.get("/a", bearer(token))
        assert problem_code(response) == (503, "keys-unavailable")
        assert (await site.get("/-/health")).status == 200


@pytest.mark.parametrize(
    "url", ["http://issuer.example/jwks", "ftp://issuer.example/x", "file:///etc/passwd", "https://"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="https://"):
        load_settings({"jwt_keys": url}, environ={})


async def test_other_keys_count_while_it_cannot_be_fetched(serve_memory: Serve, tmp_path: Path) -> None:
    async with serve_memory(jwt_keys=("http://127.0.0.1:1/jwks", key_file(tmp_path))) as site:
        assert (await site.get("/a", bearer(mint_for(site, read="/a")))).status == 404
        expired = mint_for(site, read="/a")
        site.clock.advance(601)
        assert problem_code(await site.get("/a", bearer(expired))) == (401, "invalid-token")
        stranger = mint(SECRET[::-1], read="/a", now_s=site.clock.now().wall_ms / 1000)
        assert problem_code(await site.get("/a", bearer(stranger))) == (503, "keys-unavailable")
