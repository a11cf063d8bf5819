"""Keys of every kind, for the tests of tokens and of access."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

__all__ = ["ED25519", "P256", "PAIRS", "RSA", "SECRET", "certificate", "jwk", "key_set", "private_pem", "public_pem"]

SECRET = "0123456789abcdef0123456789abcdef"
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(b"7" * 32)
P256 = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


PAIRS = {
    "HS256": (SECRET, SECRET),
    "EdDSA": (private_pem(ED25519), public_pem(ED25519)),
    "ES256": (private_pem(P256), public_pem(P256)),
    "RS256": (private_pem(RSA), public_pem(RSA)),
}
"""What signs, and what checks, by algorithm."""


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    """A public key as a JWK, or a secret."""
    if isinstance(key, str):
        return {**jwt.algorithms.HMACAlgorithm.to_jwk(key, as_dict=True), **more}
    kinds: tuple[tuple[type, Any], ...] = (
        (ed25519.Ed25519PrivateKey, jwt.algorithms.OKPAlgorithm),
        (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
        (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
    )
    algorithm = next(algorithm for kind, algorithm in kinds if isinstance(key, kind))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def certificate(key: Any, name: str = "localhost") -> str:
    """One that the key signed itself, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()
