"""The access log: one line for each request, when its answer is there, or has been sent as far as it went.

A query is shown as far as it is the protocol's own. Whatever else stands there, a token for one, may be a secret.
"""

from __future__ import annotations

import logging
from time import perf_counter

from unbroken.server.http import Request, Response

__all__ = ["LOGGER_NAME", "RequestLog"]

LOGGER_NAME = "unbroken.access"

_log = logging.getLogger(LOGGER_NAME)
_TARGET_CHARS_MAX = 2048
_SHOWN = frozenset((b"offset", b"live", b"cursor", b"timeout", b"since", b"limit", b"prefix", b"after", b"before"))


class RequestLog:
    """Writes the access log."""

    def note(self, request: Request, response: Response) -> None:
        """Log a request that is answered; one whose answer is sent part by part when the last of it was."""
        body = response.body
        if isinstance(body, bytes):
            _write(request, response.status, len(body))
        else:
            body.on_close = lambda: _write(request, response.status, body.sent_bytes)


def _write(request: Request, status: int, size_bytes: int) -> None:
    path = request.target[:_TARGET_CHARS_MAX].decode("latin-1")
    query = _shown(request.query[:_TARGET_CHARS_MAX])
    seconds = perf_counter() - request.begun_s
    facts: dict[str, object] = {
        "request_id": request.id,
        "method": request.method,
        "path": path,
        "query": query,
        "status": status,
        "bytes": size_bytes,
        "seconds": round(seconds, 6),
        "client": request.client,
        "principal": None if request.principal is None else request.principal.name,
        "code": request.refusal,
    }
    by = "" if request.principal is None else f" by {request.principal.name}"
    why = "" if request.refusal is None else f" ({request.refusal})"
    _log.info(
        "%s %s%s %d%s, %d B in %.1f ms, from %s%s, id %s",
        *(request.method, path, f"?{query}" if query else "", status, why, size_bytes, seconds * 1000),
        *(request.client or "unknown", by, request.id),
        extra={"facts": facts},
    )


def _shown(query: bytes) -> str:
    if not query:
        return ""
    pairs = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] in _SHOWN]
    return b"&".join(pairs).decode("latin-1")
