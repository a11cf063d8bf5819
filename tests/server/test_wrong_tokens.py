"""Tokens that are no good: told so, until they are too many from one address. Those that are good are served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, Site, check_always, problem_code
from tests.server.tokens import bearer, key_file, mint
from unbroken.errors import TooManyWrongTokens
from unbroken.protocol.scopes import grant
from unbroken.server.shares import Places, WrongTokens
from unbroken.testing import RawResponse
from unbroken.tokens import TokenFile

numbers = itertools.count()


def wrong(site: Site) -> dict[str, str]:
    """Never the same: none of them is known."""
    return bearer(mint(site, key="another-secret-that-nobody-has-here", admin="/**", subject=str(next(numbers))))


def fresh(site: Site) -> dict[str, str]:
    """A good one that the server has not seen yet."""
    return bearer(mint(site, admin="/**", subject=str(next(numbers))))


async def ask(site: Site, fields: dict[str, str], local_host: str | None = None) -> RawResponse:
    async with site.connect(local_host=local_host) as connection:
        response = await connection.request("GET", "/a", fields)
    check_always(response, "GET")
    return response


async def test_too_many_are_told_so(serve_memory: Serve, tmp_path: Path) -> None:
    settings = {"address_wrong_tokens": 1, "trusted_proxies": (), "jwt_keys": (key_file(tmp_path),)}
    async with serve_memory(**settings) as site:
        known = fresh(site)
        assert (await site.put("/a", {**TEXT, **known})).status == 201
        assert problem_code(await ask(site, wrong(site))) == (401, "invalid-token")
        async with asyncio.timeout(10):
            while (refused := await ask(site, wrong(site))).status == 401:
                pass
        assert problem_code(refused) == (429, "too-many-wrong-tokens")
        assert 1 <= int(refused["retry-after"]) <= 6
        assert (await ask(site, fresh(site))).status == 200, "whose token is good is served"
        async with asyncio.timeout(10):
            while (await ask(site, good := fresh(site))).status == 200:
                await ask(site, wrong(site))
        assert problem_code(await ask(site, good)) == (429, "too-many-wrong-tokens"), "no more are checked"
        assert (await ask(site, known)).status == 200, "but who is known is served for ever"
        assert (await ask(site, good, local_host="127.0.0.2")).status == 200
        assert problem_code(await ask(site, wrong(site), local_host="127.0.0.2")) == (401, "invalid-token")


async def test_static_tokens_are_always_checked(serve_memory: Serve, tmp_path: Path) -> None:
    """They cost little."""
    path = tmp_path / "tokens.json"
    good, _ = TokenFile(path).create("ann", grant(admin="/**"), now_s=0)
    settings = {"address_wrong_tokens": 1, "trusted_proxies": (), "tokens_file": path}
    async with serve_memory(**settings) as site:
        for _ in range(20):
            last = await ask(site, bearer(good[:-6] + "wrong1"))
        assert problem_code(last) == (429, "too-many-wrong-tokens")
        assert (await ask(site, bearer(good))).status == 404


@pytest.mark.parametrize(
    "settings",
    [{"address_wrong_tokens": None, "trusted_proxies": ()}, {"address_wrong_tokens": 1}],
    ids=["none", "proxy"],
)
async def test_no_limit(serve_memory: Serve, tmp_path: Path, settings: dict[str, object]) -> None:
    """For nobody, or for proxies, by which everybody may come."""
    async with serve_memory(jwt_keys=(key_file(tmp_path),), **settings) as site:
        for _ in range(10):
            assert (await ask(site, wrong(site))).status == 401


async def test_no_token_is_no_wrong_token(serve_memory: Serve, tmp_path: Path) -> None:
    settings = {"address_wrong_tokens": 1, "trusted_proxies": (), "jwt_keys": (key_file(tmp_path),)}
    async with serve_memory(**settings) as site:
        for _ in range(10):
            assert problem_code(await ask(site, {})) == (401, "unauthorized")


def test_it_passes_and_costs_bounded_memory() -> None:
    now_s = 0.0
    counted = WrongTokens(2, Places(()), lambda: now_s)
    for _ in range(2):
        counted.note("192.0.2.1")
    for _ in range(11):
        with pytest.raises(TooManyWrongTokens):
            counted.note("192.0.2.1")
    with pytest.raises(TooManyWrongTokens) as refused:
        counted.check("192.0.2.1")
    assert refused.value.retry_after_s == 6
    counted.check("192.0.2.2")
    now_s = 1.0
    counted.check("192.0.2.1")
    now_s = 7.0
    counted.note("192.0.2.1")
    for number in range(20_000):
        counted.note(f"2001:db8:{number:x}::1")
    assert len(counted._buckets) == 10_000


def test_however_many_came_it_is_over_soon() -> None:
    """Others may come from the same address, and most that came were refused unchecked."""
    now_s = 0.0
    counted = WrongTokens(2, Places(()), lambda: now_s)
    for _ in range(100_000):
        with contextlib.suppress(TooManyWrongTokens):
            counted.note("192.0.2.1")
    with pytest.raises(TooManyWrongTokens) as refused:
        counted.check("192.0.2.1")
    assert refused.value.retry_after_s == 6
    now_s = 1.0
    counted.check("192.0.2.1")
    now_s = 6.0
    counted.note("192.0.2.1")
