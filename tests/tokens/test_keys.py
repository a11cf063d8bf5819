"""Keys: what each is taken for, and what is taken for none."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from tests.tokens.pairs import ED25519, P256, PAIRS, RSA, SECRET, certificate, jwk, key_set, private_pem, public_pem
from unbroken.tokens import KeyFault, load_keys, mint, parse_keys
from unbroken.tokens.keys import parse_key_set

KINDS: dict[str, Any] = {"EdDSA": ED25519, "ES256": P256, "RS256": RSA}


@pytest.mark.parametrize("algorithm", KINDS)
def test_kinds_of_files(algorithm: str) -> None:
    private = KINDS[algorithm]
    traditional = Encoding.PEM, PrivateFormat.TraditionalOpenSSL
    for content in (private_pem(private), public_pem(private), certificate(private)):
        (key,) = parse_keys(content)
        assert (key.algorithm, key.kid) == (algorithm, None)
        assert (key.signs is not None) == ("PRIVATE" in content)
    if algorithm != "EdDSA":
        from cryptography.hazmat.primitives.serialization import NoEncryption

        (key,) = parse_keys(private.private_bytes(*traditional, NoEncryption()))
        assert key.algorithm == algorithm
    named = jwk(private, kid="k1", use="sig", alg=algorithm)
    for text in (json.dumps(named), key_set(named)):
        (key,) = parse_keys(text)
        assert (key.algorithm, key.kid, key.signs) == (algorithm, "k1", None)


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_private_jwk_signs(algorithm: str) -> None:
    import jwt

    kinds: dict[str, Any] = {
        "EdDSA": jwt.algorithms.OKPAlgorithm,
        "ES256": jwt.algorithms.ECAlgorithm,
        "RS256": jwt.algorithms.RSAAlgorithm,
    }
    text = json.dumps({**kinds[algorithm].to_jwk(KINDS[algorithm], as_dict=True), "kid": "mine"})
    token = mint(text, read="/a")
    assert jwt.get_unverified_header(token)["kid"] == "mine"
    assert jwt.decode(token, KINDS[algorithm].public_key(), [algorithm])["scope"] == "read:/a"


def test_a_secret() -> None:
    for content in (SECRET, SECRET.encode(), f"\n {SECRET}\n", json.dumps(jwk(SECRET)), key_set(jwk(SECRET, kid="s"))):
        (key,) = parse_keys(content)
        assert (key.algorithm, key.checks) == ("HS256", SECRET.encode())


def test_several_keys_in_one_file() -> None:
    keys = parse_keys(public_pem(ED25519) + "\nold:\n" + public_pem(RSA))
    assert [key.algorithm for key in keys] == ["EdDSA", "RS256"]


RAW = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
SSH = ED25519.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "at least 32"),
        ("x" * 31, "at least 32"),
        ("correct horse battery staple and more", "without spaces"),
        (bytes(range(32, 256)), "neither PEM"),
        (b"\x00" * 32, "neither PEM"),
        (RAW, "neither PEM"),
        (base64.b64encode(RAW), "public key without its PEM frame"),
        (
            base64.b64encode(ED25519.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
            "public",
        ),
        (SSH, "without spaces"),
        (SSH.replace(b" ", b"_"), "public"),
        (public_pem(ED25519).replace("-----END", "-----"), "cut off"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no key that can be read"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no key that can be read"),
        ("{", "not one"),
        ("{}", "must be for"),
        ('{"keys":1}', "not a JWK set"),
        ('{"keys":[]}', "no key for"),
        ('{"keys":[1,"a",{}]}', "no key for"),
        ('{"keys":[' + "{}," * 64 + "{}]}", "at most 64"),
    ],
)
def test_what_is_no_key(content: str | bytes, why: str) -> None:
    with pytest.raises(KeyFault, match=why):
        parse_keys(content)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), "2048 bits"),
        (ec.generate_private_key(ec.SECP384R1()), "must be Ed25519"),
        (ec.generate_private_key(ec.SECP256K1()), "must be Ed25519"),
        (ed448.Ed448PrivateKey.generate(), "must be Ed25519"),
        (x25519.X25519PrivateKey.generate(), "must be Ed25519"),
        (dsa.generate_private_key(1024), "must be Ed25519"),
    ],
    ids=["rsa-1024", "p-384", "secp256k1", "ed448", "x25519", "dsa"],
)
def test_kinds_of_keys_that_are_not_taken(key: Any, why: str) -> None:
    with pytest.raises(KeyFault, match=why):
        parse_keys(public_pem(key))


def test_an_encrypted_key() -> None:
    pem = ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(KeyFault, match="must not be encrypted"):
        parse_keys(pem)


@pytest.mark.parametrize(
    "more",
    [
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": None},
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"key_ops": []},
        {"kid": 7},
        {"crv": "P-256"},
        {"kty": "oct"},
        {"n": "AQAB"},
        {"n": "!"},
        {"n": None},
    ],
)
def test_a_jwk_for_something_else(more: dict[str, Any]) -> None:
    with pytest.raises(KeyFault):
        parse_keys(json.dumps(jwk(RSA, **more)))
    assert [key.kid for key in parse_keys(key_set(jwk(RSA, **more), jwk(RSA, kid="good")))] == ["good"]


def test_a_published_secret_is_none() -> None:
    """Whatever can be fetched is known to everybody."""
    listed = json.loads(key_set(jwk(SECRET, kid="s"), jwk(ED25519, kid="e")))
    assert [key.kid for key in parse_key_set(listed, published=True)] == ["e"]
    assert parse_key_set({"keys": [jwk(SECRET)]}, published=True) == ()


def test_keys_from_files_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key.pem"
    file.write_text(PAIRS["EdDSA"][1])
    assert load_keys(str(file)) == parse_keys(PAIRS["EdDSA"][1])
    monkeypatch.setenv("THE_KEY", SECRET)
    assert load_keys("env:THE_KEY") == parse_keys(SECRET)


def test_faults_say_where_and_not_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tmp_path / "short"
    short.write_text("too-short-but-secret")
    large = tmp_path / "large"
    large.write_bytes(b"x" * (256 * 1024 + 1))
    monkeypatch.setenv("EMPTY", "")
    for source, why in (
        (str(short), "at least 32"),
        (str(large), "too large"),
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path), "directory"),
        ("env:EMPTY", "no EMPTY"),
        ("env:NOWHERE", "no NOWHERE"),
    ):
        with pytest.raises(KeyFault, match=why) as caught:
            load_keys(source)
        assert source.removeprefix("env:") in str(caught.value)
        assert "too-short-but-secret" not in str(caught.value)
