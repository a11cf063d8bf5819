"""What all errors have in common."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FailedRequest", "UnbrokenError"]


class FailedRequest(NamedTuple):
    """A request to a server that an error is about.

    Args:
        method: such as ``GET``.
        url: where it went, without user name, password and query.
        sent: whether the server may have got it. If not, it has certainly done nothing.
        unsure: whether an earlier attempt to send the same may have been done.
    """

    method: str
    url: str
    sent: bool = True
    unsure: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


class UnbrokenError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        code: stable, for programs.
        status: the HTTP status that stands for it; of an error that a server answered, the status it answered with.
        detail: for people.
        request: in a client, the request that failed.
        offset: in a client that reads, where it stood: everything before it was delivered.
        retry_after_s: how many seconds to wait before asking again, if that can help.
    """

    code: str = "internal-error"
    status: int = 500
    title: str = "Internal error"
    request: FailedRequest | None = None
    offset: str | None = None
    retry_after_s: float | None = None

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    def headers(self) -> dict[str, str]:
        """Response headers that carry this error's facts."""
        return {}
