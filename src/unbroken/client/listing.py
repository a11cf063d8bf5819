"""Reads what Unbroken's own servers tell of many streams together."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from unbroken.client.values import Answer
from unbroken.errors import ProtocolViolation
from unbroken.protocol.listing import Deletion, Listing

__all__ = ["read_deletion", "read_listing"]

T = TypeVar("T")


def read_listing(answer: Answer) -> Listing:
    """The list in an answer.

    Raises:
        ProtocolViolation: it is something else.
    """
    return _read(answer, Listing)


def read_deletion(answer: Answer) -> Deletion:
    """The count in an answer.

    Raises:
        ProtocolViolation: it is something else.
    """
    return _read(answer, Deletion)


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        violation = ProtocolViolation(f"the answer to {answer.request} is not what Unbroken sends ({error})")
        violation.request = answer.request
        raise violation from None
