"""Files of the package that the server gives to pages, and the page that is its own: the Inspector, at ``/-/ui``."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from pathlib import Path
from typing import NamedTuple

from unbroken.errors import MethodNotAllowed
from unbroken.protocol.caching import matches
from unbroken.protocol.headers import field
from unbroken.server.http import Headers, Request, Response

__all__ = ["STATIC_PATHS", "serve_static"]

_FOLDER = Path(__file__).parent / "static"
_JAVASCRIPT = b"text/javascript; charset=utf-8"


class _File(NamedTuple):
    """A file below ``static/``, and how it is served."""

    name: str
    content_type: bytes
    # The Inspector's parts are of one version: none may be older than the page that asks for it.
    cache_control: bytes = b"no-cache"


_FILES = {
    "/-/unbroken.js": _File("unbroken.js", _JAVASCRIPT, b"public, max-age=3600"),
    "/-/ui/style.css": _File("ui/style.css", b"text/css; charset=utf-8"),
    **{
        f"/-/ui/{name}": _File(f"ui/{name}", _JAVASCRIPT)
        for name in ("api.js", "app.js", "dialogs.js", "format.js", "metrics.js", "stream.js")
    },
}
_INSPECTOR = "/-/ui"
_POLICY = (
    # Streams are on the same origin, and what is in them may be a script: so it is not the origin that is trusted.
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_PAGE_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

STATIC_PATHS = frozenset((_INSPECTOR, *_FILES))


def serve_static(request: Request, path: str) -> Response:
    """Answer a request for one of ``STATIC_PATHS``: 304 if the client has the file.

    Raises:
        MethodNotAllowed: for anything but GET and HEAD.
    """
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET, HEAD, OPTIONS")
    if path == _INSPECTOR:
        return _inspector()
    name, content_type, cache_control = _FILES[path]
    content, tag = _load(name)
    headers: Headers = [(b"content-type", content_type), (b"cache-control", cache_control), (b"etag", tag.encode())]
    wanted = field(request.fields, b"if-none-match")
    if wanted is not None and matches(wanted, tag):
        return Response(304, headers)
    return Response(200, headers, content)


def _inspector() -> Response:
    """The page. Only scripts that carry this response's own nonce run in it, and what those import."""
    nonce = secrets.token_urlsafe(16)
    content, _ = _load("ui/index.html")
    policy = (b"content-security-policy", _POLICY.format(nonce=nonce).encode())
    return Response(200, [*_PAGE_HEADERS, policy], content.replace(b"{nonce}", nonce.encode()))


@cache
def _load(name: str) -> tuple[bytes, str]:
    """A file's content, and the ETag that follows from it."""
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
