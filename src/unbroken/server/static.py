"""Files of the package that the server gives to pages."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from unbroken.errors import MethodNotAllowed
from unbroken.protocol.caching import matches
from unbroken.protocol.headers import field
from unbroken.server.http import Headers, Request, Response

__all__ = ["STATIC_PATHS", "serve_static"]

_FOLDER = Path(__file__).parent / "static"
_FILES = {"/-/unbroken.js": ("unbroken.js", b"text/javascript; charset=utf-8")}
_CACHE_CONTROL = b"public, max-age=3600"

STATIC_PATHS = frozenset(_FILES)


def serve_static(request: Request, path: str) -> Response:
    """Answer a request for one of ``STATIC_PATHS``: 304 if the client has the file.

    Raises:
        MethodNotAllowed: for anything but GET and HEAD.
    """
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET, HEAD, OPTIONS")
    name, content_type = _FILES[path]
    content, tag = _load(name)
    headers: Headers = [(b"content-type", content_type), (b"cache-control", _CACHE_CONTROL), (b"etag", tag.encode())]
    wanted = field(request.fields, b"if-none-match")
    if wanted is not None and matches(wanted, tag):
        return Response(304, headers)
    return Response(200, headers, content)


@cache
def _load(name: str) -> tuple[bytes, str]:
    """A file's content, and the ETag that follows from it."""
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
