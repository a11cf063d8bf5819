"""Signed tokens: what is made is accepted, and nothing else is, whatever a forger tries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tokens.pairs import ED25519, PAIRS, SECRET, private_pem
from unbroken.errors import InvalidToken
from unbroken.protocol.scopes import Principal, ScopeError, grant
from unbroken.tokens import Key, KeyFault, Verifier, mint, parse_keys
from unbroken.tokens.signed import LEEWAY_S, TOKEN_CHARS_MAX, TTL_S_MAX, read_header

NOW_S = 1_767_225_600.0
ALGORITHMS = pytest.mark.parametrize("algorithm", PAIRS)


def check(token: str, *keys: Key, verifier: Verifier | None = None, now_s: float = NOW_S) -> Principal:
    header = read_header(token)
    return (verifier or Verifier()).check(token, [key for key in keys if header.fits(key)], now_s)


def checking(algorithm: str) -> Key:
    return parse_keys(PAIRS[algorithm][1])[0]


def encode(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forged(header: object, claims: object, secret: bytes = SECRET.encode()) -> str:
    """A token put together by hand, with an HMAC of the secret as its signature."""
    signing_input = f"{encode(header)}.{encode(claims)}"
    return f"{signing_input}.{encode(hmac.digest(secret, signing_input.encode(), 'sha256'))}"


CLAIMS: dict[str, Any] = {"exp": NOW_S + 60, "scope": "read:/a"}
HEADER = {"alg": "HS256", "typ": "JWT"}


# --- what is made is accepted ----------------------------------------------------------------------------------------


@ALGORITHMS
def test_what_is_minted_is_accepted(algorithm: str) -> None:
    token = mint(PAIRS[algorithm][0], read=["/a", "/b/*"], append="/c/**", subject="alice", ttl_s=60, now_s=NOW_S)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    principal = check(token, checking(algorithm))
    assert principal == Principal("alice", grant(read=["/a", "/b/*"], append="/c/**"), NOW_S + 60)
    assert check(token, parse_keys(PAIRS[algorithm][0])[0]) == principal, "the private key checks as well"


def test_those_without_a_subject_are_not_one_and_the_same() -> None:
    """Limits that count by principal must not take all of them for one client."""
    one, other = (mint(SECRET, read=path, now_s=NOW_S) for path in ("/a", "/b"))
    names = [
        check(token, *parse_keys(SECRET)).name for token in (one, other, one, forged(HEADER, {**CLAIMS, "sub": ""}))
    ]
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert all(name.startswith("nameless:") and name.isprintable() and len(name) < 32 for name in names)
    assert not any(part in name for name in names for part in one.split("."))


def test_by_the_system_clock() -> None:
    assert Verifier().check(mint(SECRET, read="/a", ttl_s=5), parse_keys(SECRET), 0).scopes == grant(read="/a")


def test_a_forger_by_hand_makes_the_same() -> None:
    """The tests below change one thing each about a token that is good."""
    assert check(forged(HEADER, CLAIMS), *parse_keys(SECRET)).scopes == grant(read="/a")


# --- other keys and other algorithms ---------------------------------------------------------------------------------


@ALGORITHMS
def test_another_key(algorithm: str) -> None:
    others = {
        "HS256": SECRET[::-1],
        "EdDSA": private_pem(ed25519.Ed25519PrivateKey.from_private_bytes(b"8" * 32)),
        "ES256": private_pem(ec.derive_private_key(0xFEDCBA, ec.SECP256R1())),
        "RS256": private_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    }
    token = mint(others[algorithm], admin="/**", now_s=NOW_S)
    with pytest.raises(InvalidToken, match="not signed by a key"):
        check(token, *(checking(name) for name in PAIRS))


@ALGORITHMS
def test_a_changed_token(algorithm: str) -> None:
    token = mint(PAIRS[algorithm][0], read="/a", now_s=NOW_S)
    head, body, signature = token.split(".")
    more = encode({**json.loads(base64.urlsafe_b64decode(body + "==")), "scope": "admin:/**"})
    flipped = ("A" if signature[9] != "A" else "B").join((signature[:9], signature[10:]))
    for changed in (f"{head}.{more}.{signature}", f"{head}.{body}.{flipped}", f"{head}.{body}.", f"{head}.{body}.AAAA"):
        with pytest.raises(InvalidToken):
            check(changed, checking(algorithm))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "HS384", "HS512", "Ed25519"])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_algorithms_that_nobody_asked_for(name: str, signature: str) -> None:
    token = f"{encode({'alg': name, 'typ': 'JWT'})}.{encode(CLAIMS)}.{signature}"
    with pytest.raises(InvalidToken):
        check(token, *(checking(algorithm) for algorithm in PAIRS))
    with pytest.raises(InvalidToken):
        Verifier().check(token, [checking(algorithm) for algorithm in PAIRS], NOW_S)


@pytest.mark.parametrize("algorithm", [None, 1, True, ["HS256"], {"a": 1}])
def test_an_algorithm_that_is_no_text(algorithm: object) -> None:
    with pytest.raises(InvalidToken):
        check(forged({**HEADER, "alg": algorithm}, CLAIMS), *parse_keys(SECRET))


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_key_confusion(algorithm: str) -> None:
    """What is public is used as the secret of an HMAC, as it stands and in other spellings."""
    public = PAIRS[algorithm][1].encode()
    key = parse_keys(public)[0].checks
    encodings = [public, public.strip(), public.replace(b"\n", b"\r\n")]
    encodings.append(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for secret in encodings:
        token = forged({**HEADER, "kid": "x"}, CLAIMS, secret)
        with pytest.raises(InvalidToken, match="not signed by a key"):
            check(token, checking(algorithm))
        with pytest.raises(InvalidToken):
            Verifier().check(token, [checking(algorithm)], NOW_S)


def test_each_key_for_its_own_algorithm() -> None:
    """A token that says another algorithm than its key's is not accepted, even though the key did sign it."""
    for name, (private, _) in PAIRS.items():
        head, body, signature = mint(private, read="/a", now_s=NOW_S).split(".")
        for other in PAIRS:
            if other != name:
                lying = f"{encode({'alg': other, 'typ': 'JWT'})}.{body}.{signature}"
                with pytest.raises(InvalidToken):
                    check(lying, *(checking(algorithm) for algorithm in PAIRS))
        assert check(f"{head}.{body}.{signature}", checking(name))


def test_a_key_in_the_token_is_not_used() -> None:
    """``jwk``, ``jku``, ``x5u`` and ``x5c`` are the forger's own words."""
    jwk = jwt.algorithms.OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True)
    for extra in ({"jwk": jwk}, {"jku": "https://evil.example/jwks"}, {"x5u": "file:///etc/passwd"}, {"x5c": ["AAAA"]}):
        token = jwt.encode(CLAIMS, ED25519, "EdDSA", headers={**extra, "kid": "mine"})
        with pytest.raises(InvalidToken, match="not signed by a key"):
            check(token, *parse_keys(SECRET))


KIDS = [
    *("../../../../dev/null", "/dev/null", "' UNION SELECT 'secret", "| sleep 9", "\u0000", "a" * 256, "", "%s", "{0}"),
]


@pytest.mark.parametrize("kid", KIDS)
def test_a_kid_only_chooses_among_the_keys(kid: str) -> None:
    """A key that has no name may be called anything; one that has, only by it."""
    for secret in (b"", b"\0", SECRET[::-1].encode()):
        with pytest.raises(InvalidToken, match="not signed by a key"):
            check(forged({**HEADER, "kid": kid}, CLAIMS, secret), *parse_keys(SECRET))
    token = forged({**HEADER, "kid": kid}, CLAIMS)
    (key,) = parse_keys(SECRET)
    assert check(token, key)
    with pytest.raises(InvalidToken, match="not signed by a key"):
        check(token, Key(key.algorithm, key.checks, kid="another"))


@pytest.mark.parametrize("kid", [1, True, ["a"], {"a": 1}, "a" * 257])
def test_a_kid_that_is_none(kid: object) -> None:
    with pytest.raises(InvalidToken):
        check(forged({**HEADER, "kid": kid}, CLAIMS), *parse_keys(SECRET))


# --- what the header must not say ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"]},
        {"crit": ["http://example.com/x"], "http://example.com/x": True},
        {"crit": []},
        {"crit": None},
        {"crit": "b64"},
        {"crit": ["b64"], "b64": True},
        {"b64": False},
        {"crit": ["b64"], "b64": False},
    ],
)
def test_critical_extensions(extra: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        check(forged({**HEADER, **extra}, CLAIMS), *parse_keys(SECRET))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"])
def test_types_of_tokens_that_are_taken(kind: str) -> None:
    assert check(forged({**HEADER, "typ": kind}, CLAIMS), *parse_keys(SECRET))


@pytest.mark.parametrize("kind", ["dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE", "", None, 7])
def test_types_of_tokens_that_are_not(kind: object) -> None:
    """A token made for something else, by the same issuer with the same key (RFC 8725 section 3.11)."""
    with pytest.raises(InvalidToken, match="another kind"):
        check(forged({**HEADER, "typ": kind}, CLAIMS), *parse_keys(SECRET))


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "...", "a.b.c", "a.b", "a.b.c.d.e", "e30.e30.e30", "\u0000.\u0000.\u0000", "é.é.é"),
        f"{encode([])}.{encode(CLAIMS)}.AAAA",
        f"{encode(b'{')}.{encode(CLAIMS)}.AAAA",
        f"{encode(b'[' * 3000)}.{encode(CLAIMS)}.AAAA",
        encode(b'{"a":' * 1500) + f".{encode(CLAIMS)}.AAAA",
        f" {forged(HEADER, CLAIMS)}",
        f"{forged(HEADER, CLAIMS)}\n",
        forged(HEADER, CLAIMS) + "A" * TOKEN_CHARS_MAX,
        "unb_0123456789_" + "A" * 43,
    ],
)
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(InvalidToken):
        check(token, *parse_keys(SECRET))


@pytest.mark.parametrize("claims", [[], "a", 1, None, b"", b"{", b"\xff", b"[" * 3000, b'{"exp":' + b"9" * 5000 + b"}"])
def test_claims_that_are_none(claims: object) -> None:
    """Signed, even: a foolish issuer is not a reason to fall over."""
    with pytest.raises(InvalidToken):
        check(forged(HEADER, claims), *parse_keys(SECRET))


# --- times -----------------------------------------------------------------------------------------------------------


def test_exp_is_exact() -> None:
    token = mint(SECRET, read="/a", ttl_s=60, now_s=NOW_S)
    assert check(token, *parse_keys(SECRET), now_s=NOW_S + 59.999)
    for now_s in (NOW_S + 60, NOW_S + 61, NOW_S + 1e9):
        with pytest.raises(InvalidToken, match="expired"):
            check(token, *parse_keys(SECRET), now_s=now_s)


def test_nbf_with_some_grace_for_clocks_that_differ() -> None:
    for ahead_s, good in ((0, True), (LEEWAY_S, True), (LEEWAY_S + 1, False), (1e9, False)):
        token = forged(HEADER, {**CLAIMS, "nbf": NOW_S + ahead_s})
        if good:
            assert check(token, *parse_keys(SECRET))
        else:
            with pytest.raises(InvalidToken, match="not valid yet"):
                check(token, *parse_keys(SECRET))


def test_exp_is_required() -> None:
    with pytest.raises(InvalidToken, match="lacks the claim exp"):
        check(forged(HEADER, {"scope": "read:/a"}), *parse_keys(SECRET))


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", ["9999999999", None, True, [], {}, math.nan, math.inf, -math.inf, 10**400])
def test_times_that_are_none(name: str, value: object) -> None:
    with pytest.raises(InvalidToken):
        check(forged(HEADER, {**CLAIMS, name: value}), *parse_keys(SECRET))


# --- for whom and by whom --------------------------------------------------------------------------------------------

HERE = Verifier(["streams", "https://streams.example.com"], ["https://issuer.example.com"])


@pytest.mark.parametrize("audience", ["streams", ["other", "https://streams.example.com"]])
def test_its_own_audience(audience: object) -> None:
    claims = {**CLAIMS, "aud": audience, "iss": "https://issuer.example.com"}
    assert check(forged(HEADER, claims), *parse_keys(SECRET), verifier=HERE)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "streams"},
        {"iss": "https://issuer.example.com"},
        {"aud": "other", "iss": "https://issuer.example.com"},
        {"aud": [], "iss": "https://issuer.example.com"},
        {"aud": ["other"], "iss": "https://issuer.example.com"},
        {"aud": "", "iss": "https://issuer.example.com"},
        {"aud": None, "iss": "https://issuer.example.com"},
        {"aud": {"streams": 1}, "iss": "https://issuer.example.com"},
        {"aud": 1, "iss": "https://issuer.example.com"},
        {"aud": "STREAMS", "iss": "https://issuer.example.com"},
        {"aud": "streams", "iss": "https://issuer.example.com/"},
        {"aud": "streams", "iss": "https://evil.example.com"},
        {"aud": "streams", "iss": ["https://issuer.example.com"]},
        {"aud": "streams", "iss": None},
    ],
)
def test_another_audience_or_issuer(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        check(forged(HEADER, {**CLAIMS, **claims}), *parse_keys(SECRET), verifier=HERE)


def test_a_token_for_somebody_is_not_for_nobody() -> None:
    """A server that was not told its name takes no token that is meant for a certain one (RFC 7519 section 4.1.3)."""
    with pytest.raises(InvalidToken, match="another audience"):
        check(forged(HEADER, {**CLAIMS, "aud": "other"}), *parse_keys(SECRET))


def test_minted_for_an_audience() -> None:
    token = mint(SECRET, read="/a", audience="streams", issuer="https://issuer.example.com", now_s=NOW_S)
    assert check(token, *parse_keys(SECRET), verifier=HERE)


# --- scopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        ("append:/b/* read:/a", grant(read="/a", append="/b/*")),
        (["append:/b/*", "read:/a"], grant(read="/a", append="/b/*")),
        ("openid profile read:org", grant()),
        ("", grant()),
        ([], grant()),
    ],
)
def test_what_scopes_grant(scope: object, granted: object) -> None:
    assert check(forged(HEADER, {**CLAIMS, "scope": scope}), *parse_keys(SECRET)).scopes == granted


def test_without_scopes_nothing() -> None:
    assert check(forged(HEADER, {"exp": NOW_S + 9, "scp": ["admin:/**"]}), *parse_keys(SECRET)).scopes == grant()


@pytest.mark.parametrize(
    "scope",
    [None, 1, True, {"read": "/a"}, ["read:/a", 1], "read:/a*", ["read:/a/**/b"], "admin:/../**", "read:/a " * 65],
)
def test_scopes_that_are_none(scope: object) -> None:
    with pytest.raises(InvalidToken):
        check(forged(HEADER, {**CLAIMS, "scope": scope}), *parse_keys(SECRET))


@pytest.mark.parametrize("subject", [1, True, ["a"], {"a": 1}, "a" * 257, "a\nb", "\x1b[2J", "a\u2028b"])
def test_subjects_that_are_none(subject: object) -> None:
    with pytest.raises(InvalidToken):
        check(forged(HEADER, {**CLAIMS, "sub": subject}), *parse_keys(SECRET))


# --- what cannot be minted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl_s", [0, -1, TTL_S_MAX + 1, math.inf, math.nan])
def test_lifetimes_out_of_range(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        mint(SECRET, read="/a", ttl_s=ttl_s)


def test_a_token_for_nothing() -> None:
    with pytest.raises(ScopeError, match="nothing"):
        mint(SECRET)
    with pytest.raises(ScopeError, match="no glob"):
        mint(SECRET, read="/a*")


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_public_key_signs_nothing(algorithm: str) -> None:
    with pytest.raises(KeyFault, match="private"):
        mint(PAIRS[algorithm][1], read="/a")


def test_no_message_holds_the_token_or_the_key() -> None:
    token = forged({**HEADER, "kid": "k" * 300}, {**CLAIMS, "scope": "read:/a*", "sub": 7})
    for bad in (token, token[:-4], f"{token}.x", "x" + token):
        with pytest.raises(InvalidToken) as caught:
            check(bad, *parse_keys(SECRET))
        assert not any(part in str(caught.value) for part in token.split("."))
    assert SECRET not in repr(parse_keys(SECRET))
    assert hashlib.sha256(SECRET.encode()).hexdigest() not in repr(parse_keys(SECRET))
