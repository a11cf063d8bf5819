"""Errors over HTTP: RFC 9457 problem documents with a stable ``code``."""

from __future__ import annotations

import json

from unbroken.errors import UnbrokenError
from unbroken.server.http import Response

__all__ = ["problem"]


def problem(error: UnbrokenError) -> Response:
    """The response that tells a client of an error: status, the error's own headers, and a problem body."""
    body = json.dumps({"title": error.title, "status": error.status, "code": error.code, "detail": error.detail})
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in error.headers().items()]
    headers.append((b"content-type", b"application/problem+json"))
    headers.append((b"cache-control", b"no-store"))
    return Response(error.status, headers, body.encode())
