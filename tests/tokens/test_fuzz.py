"""Whatever comes: a refusal of the right kind, or something understood."""

from __future__ import annotations

import base64
import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from tests.tokens.pairs import PAIRS, SECRET, jwk
from unbroken.errors import HostNotAllowed, InvalidHeader, InvalidToken
from unbroken.protocol.scopes import ScopeError, parse_scopes
from unbroken.server.access import hide_token, query_token
from unbroken.tokens import KeyFault, Verifier, mint, parse_keys
from unbroken.tokens.signed import read_header
from unbroken.tokens.static import find_token

KEYS = [key for _, checks in PAIRS.values() for key in parse_keys(checks)]
GOOD = mint(SECRET, read="/a", now_s=0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


TOKENS = (
    st.text(max_size=60)
    | st.builds(".".join, st.lists(st.text("abcXYZ019-_=", max_size=20), min_size=3, max_size=3))
    | st.builds(
        lambda algorithm, more, claims, signature: (
            f"{encoded({'alg': algorithm, **more})}.{encoded(claims)}.{signature}"
        ),
        st.sampled_from([*PAIRS, "none", "HS512"]),
        st.dictionaries(st.sampled_from(["kid", "typ", "crit", "b64", "jwk", "alg"]), JSON, max_size=3),
        JSON | st.fixed_dictionaries({"exp": JSON, "scope": JSON, "sub": JSON}),
        st.text("abcXYZ019-_", max_size=90),
    )
)


@deterministic
@given(TOKENS)
def test_tokens(token: str) -> None:
    assert find_token(token, {}) is None
    with contextlib.suppress(InvalidToken):
        header = read_header(token)
        Verifier().check(token, [key for key in KEYS if header.fits(key)], 0)
        raise AssertionError("nobody signed this")


@deterministic
@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_good_tokens_with_one_character_changed(at: int, character: str) -> None:
    changed = GOOD[:at] + character + GOOD[at + 1 :]
    with contextlib.suppress(InvalidToken):
        header = read_header(changed)
        Verifier().check(changed, [key for key in KEYS if header.fits(key)], 0)
        assert changed == GOOD


@deterministic
@given(
    st.binary(max_size=100)
    | st.text(max_size=100).map(str.encode)
    | st.builds(
        lambda label, content: b"-----BEGIN %b-----\n%b\n-----END %b-----" % (label, base64.b64encode(content), label),
        st.sampled_from([b"PUBLIC KEY", b"PRIVATE KEY", b"CERTIFICATE", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"X"]),
        st.binary(max_size=80),
    )
    | st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "kid", "use", "alg", "keys"]), JSON
    ).map(lambda value: json.dumps(value).encode())
)
def test_keys(content: bytes) -> None:
    with contextlib.suppress(KeyFault):
        for key in parse_keys(content):
            assert key.algorithm in PAIRS


@deterministic
@given(st.sampled_from(["n", "e", "kid", "use", "alg", "key_ops", "kty", "crv", "x"]), JSON)
def test_keys_with_one_member_changed(name: str, value: object) -> None:
    from tests.tokens.pairs import RSA

    with contextlib.suppress(KeyFault):
        parse_keys(json.dumps({**jwk(RSA), name: value}))


@deterministic
@given(st.text(max_size=60) | st.text("read:/*%2Aadmin .", max_size=30))
def test_scopes(text: str) -> None:
    with contextlib.suppress(ScopeError):
        scopes = parse_scopes(text)
        assert parse_scopes(str(scopes)) == scopes


@deterministic
@given(
    st.binary(max_size=40) | st.lists(st.sampled_from([b"token=", b"a", b"&", b"=", b"%74", b";", b"."])).map(b"".join)
)
def test_queries(query: bytes) -> None:
    """What is taken for a token is what the log does not show."""
    with contextlib.suppress(InvalidHeader, InvalidToken):
        token = query_token(query)
        hidden = hide_token(query)
        assert hide_token(hidden) == hidden
        if token is None:
            assert b"&token=" not in b"&" + query
        else:
            assert f"token={token}".encode() in query
            assert hidden != query or token == "..."


@deterministic
@given(st.binary(max_size=30) | st.text("localhost.127:[]@/ ", max_size=20).map(str.encode))
def test_hosts(host: bytes) -> None:
    from tests.server.asked import Asked
    from unbroken.server.hosts import HostPolicy

    with contextlib.suppress(HostNotAllowed):
        HostPolicy().check(Asked({b"host": host}))
        name = host.decode("ascii").lower().partition(":")[0].removesuffix(".")
        assert name.startswith("127.") or name.endswith("localhost") or host.startswith(b"[")
