"""Signed tokens: JWTs (RFC 7519) that carry scopes, made by an application or an identity provider.

What is asked of one: a signature by a key that is known, with that key's own algorithm; an ``exp`` that is to come; an
``nbf``, if there is one, that has passed; an ``aud`` and an ``iss`` as the server was told; no critical extension. What
it may do stands in ``scope`` (RFC 9068 section 2.2.3), who it is in ``sub``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jwt

from unbroken.errors import InvalidToken
from unbroken.protocol.scopes import Principal, ScopeError, grant, parse_scopes
from unbroken.tokens.keys import Key, KeyFault, parse_keys

__all__ = ["TOKEN_CHARS_MAX", "TTL_S_MAX", "Header", "UnknownKey", "Verifier", "mint", "read_header"]

TOKEN_CHARS_MAX = 8192
TTL_S_MAX = 366 * 86_400
LEEWAY_S = 10
"""By how much the clock of whoever made a token may be ahead, in seconds."""

_KID_CHARS_MAX = 256
_SUBJECT_CHARS_MAX = 256
_TYPES = ("jwt", "at+jwt", "application/at+jwt")


def mint(
    key: Key | str | bytes,
    *,
    create: str | Iterable[str] = (),
    append: str | Iterable[str] = (),
    read: str | Iterable[str] = (),
    delete: str | Iterable[str] = (),
    admin: str | Iterable[str] = (),
    ttl_s: float = 600,
    subject: str | None = None,
    audience: str | None = None,
    issuer: str | None = None,
    now_s: float | None = None,
) -> str:
    """Make a token: ``mint(key, read="/chats/7", ttl_s=600)``.

    A path made of what a user sent must be quoted as in a URL, or a ``*`` in it would be a wildcard:
    ``read=f"/chats/{urllib.parse.quote(name, safe='')}"``.

    Args:
        key: what signs: a shared secret of at least 32 characters, or a private key as PEM or JWK.
        create: globs over the streams that may be created, one or several; see `unbroken.protocol.scopes`.
        append: over those that may be appended to, and closed.
        read: over those that may be read.
        delete: over those that may be deleted.
        admin: over those to which all of that may be done, and that may be listed and deleted by prefix.
        ttl_s: seconds until it expires, more than 0 and at most 366 days.
        subject: who it is for; limits that count by principal, and logs, go by it.
        audience: the server that it is for, if that was told who it is (``--jwt-audience``).
        issuer: who made it, if the server asks for that (``--jwt-issuer``).
        now_s: Unix time in seconds; now by default.

    Returns:
        The token, to be sent as ``Authorization: Bearer <token>``, or as ``?token=<token>`` with a read.

    Raises:
        ScopeError: a malformed glob, or none at all.
        KeyFault: the key is none, or only the public half of one.
        ValueError: ``ttl_s`` is out of range.
    """
    scopes = grant(create=create, append=append, read=read, delete=delete, admin=admin)
    if not scopes.entries:
        raise ScopeError("a token without scopes would allow nothing")
    if not 0 < ttl_s <= TTL_S_MAX:
        raise ValueError(f"ttl_s must be more than 0 and at most {TTL_S_MAX}, not {ttl_s!r}")
    signer = key if isinstance(key, Key) else parse_keys(key)[0]
    if signer.signs is None:
        raise KeyFault("a public key cannot sign: it takes the private one")
    now_s = time.time() if now_s is None else now_s
    claims: dict[str, Any] = {"scope": str(scopes), "iat": int(now_s), "exp": math.ceil(now_s + ttl_s)}
    claims |= {name: text for name, text in (("sub", subject), ("aud", audience), ("iss", issuer)) if text is not None}
    return jwt.encode(claims, signer.signs, signer.algorithm, {"kid": signer.kid} if signer.kid else None)


class Header(NamedTuple):
    """What a token says of itself, not to be believed yet: it only chooses among known keys."""

    algorithm: str
    kid: str | None

    def fits(self, key: Key) -> bool:
        """Whether this key may have signed it."""
        return key.algorithm == self.algorithm and (None in (self.kid, key.kid) or self.kid == key.kid)


def read_header(token: str) -> Header:
    """What a token says of itself.

    Raises:
        InvalidToken: it is no JWT, over 8,192 characters, of a foreign type, or has a critical extension.
    """
    if len(token) > TOKEN_CHARS_MAX:
        raise InvalidToken(f"the token has more than {TOKEN_CHARS_MAX} characters")
    if token.count(".") != 2:
        raise InvalidToken("the token is not one that this server could have been given")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise InvalidToken("the token is malformed") from None
    if "crit" in header:
        raise InvalidToken("the token has critical extensions, and this server knows none")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise InvalidToken("the token is of another kind")
    if kid is not None and len(kid) > _KID_CHARS_MAX:
        raise InvalidToken("the token's kid is too long")
    return Header(algorithm, kid)


class UnknownKey(InvalidToken):
    """The token is not signed by a key that is known, or not any more."""


class Verifier:
    """Checks tokens.

    Args:
        audiences: names of this server. A token that has an ``aud`` must have one of them; where there are any, every
            token must have an ``aud``.
        issuers: of those who may make tokens; where there are any, every token must have one of them as ``iss``.
    """

    def __init__(self, audiences: Sequence[str] = (), issuers: Sequence[str] = ()) -> None:
        self._audiences = list(audiences) or None
        self._issuers = list(issuers) or None
        self._required = ["exp", *(["aud"] if audiences else []), *(["iss"] if issuers else [])]

    def check(self, token: str, keys: Iterable[Key], now_s: float) -> Principal:
        """Who the token is for, and what they may do.

        Args:
            token: as sent.
            keys: those that fit its header.
            now_s: Unix time in seconds.

        Raises:
            UnknownKey: none of the keys signed it.
            InvalidToken: it is not to be accepted; why, without any of it.
        """
        return _principal(self._claims(token, keys), now_s, token)

    def _claims(self, token: str, keys: Iterable[Key]) -> dict[str, Any]:
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key.checks,
                    [key.algorithm],
                    # Times are checked here, by the clock that is given.
                    {"require": self._required, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
                    audience=self._audiences,
                    issuer=self._issuers,
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidAudienceError:
                raise InvalidToken("the token is for another audience") from None
            except jwt.InvalidIssuerError:
                raise InvalidToken("the token is from another issuer") from None
            except jwt.MissingRequiredClaimError as error:
                raise InvalidToken(f"the token lacks the claim {error.claim}") from None
            except (jwt.PyJWTError, ValueError, RecursionError):
                raise InvalidToken("the token is malformed") from None
        raise UnknownKey("the token is not signed by a key that this server knows")


def _principal(claims: dict[str, Any], now_s: float, token: str) -> Principal:
    expires_at, not_before = _time(claims["exp"]), _time(claims.get("nbf", 0))
    if expires_at <= now_s:
        raise InvalidToken("the token has expired")
    if not_before > now_s + LEEWAY_S:
        raise InvalidToken("the token is not valid yet")
    scope = claims.get("scope", "")
    if isinstance(scope, list) and all(isinstance(word, str) for word in scope):
        scope = " ".join(scope)
    if not isinstance(scope, str):
        raise InvalidToken("the token's scope is not a text")
    try:
        scopes = parse_scopes(scope)
    except ScopeError as error:
        raise InvalidToken(f"the token has a malformed scope: {error}") from None
    subject = str(claims.get("sub", "")) or _nameless(token)
    if len(subject) > _SUBJECT_CHARS_MAX or not subject.isprintable():
        # It goes into logs.
        raise InvalidToken("the token's sub is too long, or has characters that cannot be printed")
    return Principal(subject, scopes, expires_at)


def _nameless(token: str) -> str:
    """What somebody without a ``sub`` is called: limits by client must not take all of them for one."""
    return f"nameless:{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def _time(value: object) -> float:
    """A NumericDate. Every comparison with NaN is false, so that would never expire."""
    try:
        seconds = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidToken("a time of the token is not a number")
    return seconds
