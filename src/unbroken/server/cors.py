"""Cross-origin rules, and the headers that every response carries.

While there is no authentication, only pages of this machine may use the server: a page on the internet must not read
or change what runs on a developer's machine. Writes are refused by Origin as well, because a "simple" request is sent
without asking first (Fetch section 3.3), and so are scripts and images, which are loaded without asking.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from unbroken.errors import OriginNotAllowed
from unbroken.protocol.headers import ALLOWED_METHODS, REQUEST_HEADERS, RESPONSE_HEADERS, Fields
from unbroken.server.hosts import is_loopback_host
from unbroken.server.http import Headers, Response

__all__ = ["ALWAYS", "CorsPolicy", "is_from_elsewhere", "is_loopback"]

_ORIGIN_CHARS_MAX = 300
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
]
_EXPOSE = (b"access-control-expose-headers", RESPONSE_HEADERS.encode())
_ANY: Headers = [*ALWAYS, (b"access-control-allow-origin", b"*"), _EXPOSE]
_NOT_ALLOWED: Headers = [*ALWAYS, (b"vary", b"Origin")]
_PREFLIGHT: Headers = [
    (b"allow", ALLOWED_METHODS.encode()),
    (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
    (b"access-control-allow-headers", REQUEST_HEADERS.encode()),
    (b"access-control-max-age", b"86400"),
]


class CorsPolicy:
    """Which pages may use the server.

    Args:
        origins: allowed origins, ``*`` for all; None for loopback origins on any port.
        same_host: also those of the host that the request is for, on a loopback host all of this machine; then None
            stands for no others.
        public_url: pages served from there are allowed too.
    """

    def __init__(self, origins: tuple[str, ...] | None, same_host: bool = False, public_url: str | None = None) -> None:
        self._loopback = origins is None and not same_host
        self._same_host = same_host
        self._any = origins is not None and "*" in origins
        self._origins = frozenset(origins or ())
        if public_url is not None:
            self._origins |= {_origin_of(public_url)}

    def allows(self, origin: str, fields: Fields) -> bool:
        """Whether pages of this origin may use the server, by a request with these headers."""
        if self._any or origin.lower() in self._origins or (self._loopback and is_loopback(origin)):
            return True
        return self._same_host and _is_own(origin, fields)

    def check(self, method: str, fields: Fields) -> None:
        """Refuse what a page that is not allowed writes, or has the browser read for it.

        Raises:
            OriginNotAllowed: the request has an ``Origin`` that is not allowed; or it has none and is for a script, an
                image or the like of another site's page, while only pages of this machine are allowed.
        """
        origin = fields.get(b"origin")
        if origin is None:
            if self._loopback and _is_embedded_elsewhere(fields):
                raise OriginNotAllowed(
                    "pages of other sites may not read; the server's --cors-origin names those that may"
                )
            return
        if method in _SAFE_METHODS or self.allows(origin.decode("latin-1"), fields):
            return
        raise OriginNotAllowed("pages of this origin may not write; the server's --cors-origin names those that may")

    def headers(self, fields: Fields) -> Headers:
        """Headers for any response to this request; to be copied, not changed."""
        if self._any:
            return _ANY
        origin = fields.get(b"origin")
        if origin is None or not self.allows(origin.decode("latin-1"), fields):
            return _NOT_ALLOWED
        return [*ALWAYS, (b"vary", b"Origin"), (b"access-control-allow-origin", origin), _EXPOSE]

    def preflight(self) -> Response:
        """The answer to OPTIONS; whether the page may go on is in `headers`."""
        return Response(204, list(_PREFLIGHT))


def is_from_elsewhere(fields: Fields, public_url: str | None) -> bool:
    """Whether a request comes from a page of another host than it is for, and may bear cookies that are not its own.

    Args:
        fields: the request's headers.
        public_url: pages served from there are no others.
    """
    origin = fields.get(b"origin")
    if origin is None:
        return _is_embedded_elsewhere(fields)
    text = origin.decode("latin-1")
    return not (_is_own(text, fields) or (public_url is not None and text.lower() == _origin_of(public_url)))


def _is_embedded_elsewhere(fields: Fields) -> bool:
    """Whether another site's page has the browser load this, as a script or an image (Fetch Metadata section 2)."""
    return fields.get(b"sec-fetch-site") == b"cross-site" and fields.get(b"sec-fetch-mode") != b"navigate"


def _is_own(origin: str, fields: Fields) -> bool:
    host = fields.get(b"host", b"").decode("latin-1")
    scheme, _, site = origin.lower().partition("://")
    if scheme not in ("http", "https") or not host:
        return False
    return site == host.lower() or (is_loopback(origin) and is_loopback(f"http://{host}"))


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def is_loopback(origin: str) -> bool:
    """Whether an origin is a page of this machine."""
    return len(origin) <= _ORIGIN_CHARS_MAX and _is_loopback(origin)


@lru_cache(maxsize=1024)
def _is_loopback(origin: str) -> bool:
    try:
        return is_loopback_host(urlsplit(origin).hostname or "")
    except ValueError:
        return False
