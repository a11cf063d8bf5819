"""Keys that sign tokens and check them.

A key is for one algorithm, which follows from what kind of key it is and never from what a token says: a token that
names another one is refused, so there is no ``none``, and no public key is ever taken for a shared secret
(RFC 8725 sections 2.1 and 3.1).

| key | algorithm |
|---|---|
| a text of at least 32 bytes, a JWK of type ``oct`` | HS256 |
| Ed25519 | EdDSA |
| elliptic curve P-256 | ES256 |
| RSA, at least 2,048 bits | RS256 |
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

__all__ = ["Key", "KeyFault", "load_keys", "parse_key_set", "parse_keys"]

SECRET_BYTES_MIN = 32
RSA_BITS_MIN = 2048
_FILE_BYTES_MAX = 256 * 1024
_KEYS_MAX = 64
_PRIVATE = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_JWK_ALGORITHMS = {
    ("oct", None): "HS256",
    ("OKP", "Ed25519"): "EdDSA",
    ("EC", "P-256"): "ES256",
    ("RSA", None): "RS256",
}


class KeyFault(ValueError):
    """A key cannot be read, is of no known kind, or is too weak. The message never holds any of it."""


@dataclass(frozen=True)
class Key:
    """One key. See `parse_keys` and `load_keys`.

    Args:
        algorithm: the one that it is for.
        checks: what checks a signature; never shown.
        signs: what makes one, or None for a public key; never shown.
        kid: its name, if it has one.
    """

    algorithm: str
    checks: Any = field(repr=False)
    signs: Any = field(default=None, repr=False)
    kid: str | None = None


def load_keys(source: str) -> tuple[Key, ...]:
    """Read keys from a file, or from the environment.

    Args:
        source: the path of a file, or ``env:NAME`` for a variable that holds the key itself.

    Raises:
        KeyFault: there is none, or not of a known kind.
    """
    if source.startswith("env:"):
        value = os.environ.get(source[4:])
        if not value:
            raise KeyFault(f"the environment has no {source[4:]}")
        content = value.encode("utf-8", "surrogateescape")
    else:
        try:
            with Path(source).open("rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise KeyFault(f"cannot read {source}: {error.strerror}") from None
    if len(content) > _FILE_BYTES_MAX:
        raise KeyFault(f"{source} is too large for a key")
    try:
        return parse_keys(content)
    except KeyFault as error:
        raise KeyFault(f"{source}: {error}") from None


@lru_cache(maxsize=64)
def parse_keys(content: str | bytes) -> tuple[Key, ...]:
    """Keys as they stand in a file: PEM (one or more), a JWK, a JWK set, or a shared secret.

    Raises:
        KeyFault: it is none of these.
    """
    raw = (content.encode() if isinstance(content, str) else content).strip()
    if b"-----BEGIN" in raw:
        keys = tuple(_from_pem(match[0], match[1]) for match in _PEM.finditer(raw))
        if not keys:
            raise KeyFault("the PEM text is cut off")
        return keys
    if raw.startswith(b"{"):
        return _from_json(raw)
    return (_from_secret(raw),)


def _from_pem(pem: bytes, label: bytes) -> Key:
    try:
        if label == b"CERTIFICATE":
            return _from_object(x509.load_pem_x509_certificate(pem).public_key())
        if label.endswith(b"PRIVATE KEY"):
            return _from_object(load_pem_private_key(pem, password=None))
        return _from_object(load_pem_public_key(pem))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if isinstance(error, KeyFault):
            raise
        raise KeyFault("the PEM text holds no key that can be read; it must not be encrypted") from None


def _from_object(key: Any, kid: str | None = None) -> Key:
    public = key.public_key() if isinstance(key, _PRIVATE) else key
    signs = key if isinstance(key, _PRIVATE) else None
    if isinstance(public, Ed25519PublicKey):
        return Key("EdDSA", public, signs, kid)
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return Key("ES256", public, signs, kid)
    if isinstance(public, RSAPublicKey):
        if public.key_size < RSA_BITS_MIN:
            raise KeyFault(f"an RSA key must have at least {RSA_BITS_MIN} bits")
        return Key("RS256", public, signs, kid)
    raise KeyFault("the key must be Ed25519, elliptic curve P-256, or RSA")


def _from_secret(raw: bytes) -> Key:
    if not raw.isascii() or not raw.decode("ascii").isprintable() or b" " in raw:
        raise KeyFault("it is neither PEM, nor a JWK, nor a secret of printable characters without spaces")
    if len(raw) < SECRET_BYTES_MIN:
        raise KeyFault(f"a shared secret must have at least {SECRET_BYTES_MIN} characters, from a random source")
    if raw.startswith((b"ssh-", b"ecdsa-")) or _is_public(raw):
        # What everybody knows, taken for a secret, would let everybody sign.
        raise KeyFault("this is a public key without its PEM frame, not a secret")
    return Key("HS256", raw, raw)


def _is_public(raw: bytes) -> bool:
    try:
        load_der_public_key(base64.b64decode(raw, validate=True))
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        return False
    return True


def _from_json(raw: bytes) -> tuple[Key, ...]:
    try:
        value = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeyFault("it begins like a JWK, but is not one") from None
    return parse_key_set(value) if "keys" in value else (_from_jwk(value),)


def parse_key_set(value: object, *, published: bool = False) -> tuple[Key, ...]:
    """The keys of a JWK set (RFC 7517 section 5); those for other purposes or algorithms are passed over.

    Args:
        value: the set, decoded.
        published: it comes from a URL, where nothing can be secret, and where it may be empty.

    Raises:
        KeyFault: it is not a JWK set, or none of its keys can check a token.
    """
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list) or len(listed) > _KEYS_MAX:
        raise KeyFault(f"it is not a JWK set of at most {_KEYS_MAX} keys")
    keys = []
    for jwk in listed:
        try:
            key = _from_jwk(jwk)
        except KeyFault:
            continue
        if not (published and key.algorithm == "HS256"):
            keys.append(key)
    if not keys and not published:
        raise KeyFault("the JWK set has no key for HS256, EdDSA, ES256 or RS256")
    return tuple(keys)


def _from_jwk(jwk: object) -> Key:
    if not isinstance(jwk, dict):
        raise KeyFault("it is not a JWK")
    kty, curve, kid = jwk.get("kty"), jwk.get("crv"), jwk.get("kid")
    algorithm = _JWK_ALGORITHMS.get((str(kty), None if curve is None else str(curve)))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        raise KeyFault("the JWK must be for HS256, EdDSA, ES256 or RS256")
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or not ("verify" in uses or "sign" in uses):
        raise KeyFault("the JWK is not for signatures")
    if kid is not None and not isinstance(kid, str):
        raise KeyFault("the JWK's kid is not a text")
    try:
        key = jwt.PyJWK(jwk, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise KeyFault("the JWK is malformed") from None
    if isinstance(key, bytes):
        if len(key) < SECRET_BYTES_MIN:
            raise KeyFault(f"a shared secret must have at least {SECRET_BYTES_MIN} bytes")
        return Key("HS256", key, key, kid)
    return _from_object(key, kid)
