"""The few requests around a measurement: create streams, fill them, read them back."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

__all__ = ["Streams"]

_TIMEOUT_S = 60.0


class Streams:
    """Streams of a server on the loopback interface. Use it as a context manager."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create(self, path: str, content_type: str) -> None:
        """Create a stream."""
        self._request("PUT", path, {"content-type": content_type})

    def delete(self, path: str) -> None:
        """Delete a stream."""
        self._request("DELETE", path, {})

    def append(self, path: str, content_type: str, body: bytes) -> None:
        """Append to a stream."""
        self._request("POST", path, {"content-type": content_type}, body)

    def pages(self, path: str) -> Iterator[bytes]:
        """All that a stream holds, page by page."""
        offset, caught_up = "-1", False
        while not caught_up:
            head, body = self._request("GET", f"{path}?offset={offset}", {})
            caught_up = head.getheader("stream-up-to-date") == "true"
            offset = head.getheader("stream-next-offset", "")
            yield body

    def _request(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.request(method, target, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status // 100 != 2:
            raise RuntimeError(f"{method} {target} was answered with {response.status}: {answer[:500]!r}")
        return response, answer
