"""What is sent in a seeded run, and the ledger of what arrives: everything, once, in order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from random import Random
from typing import Any, Literal

__all__ = ["CONTENT_TYPES", "Feed", "Kind", "Ledger"]

Kind = Literal["json", "text", "bytes"]

CONTENT_TYPES: dict[Kind, str] = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "bytes": "application/octet-stream",
}

_WORDS = (
    "a",
    "",
    "é",
    "漢字",
    "🙂",
    "\n",
    "\n\n",
    " data: x",
    "event: control\n",
    "id: 1",
    "\u2028",
    "\ufeff",
    "\t",
    ":",
)
"""What would upset a decoder of server-sent events that is not careful. No carriage return in text: the format of such
events cannot tell it from a line feed.
"""


class Feed:
    """The messages of a run, the same for the same seed.

    Args:
        kind: of stream.
        seed: of chance.
        count: how many messages.
        plain: no append of text ends inside a character, and no line begins with a space: for servers whose events
            cannot carry that.
    """

    def __init__(self, kind: Kind, seed: int, count: int, *, plain: bool = False) -> None:
        self.kind = kind
        self.content_type = CONTENT_TYPES[kind]
        chance = Random(f"feed {seed}")
        make = {"json": _value, "text": _text, "bytes": _bytes}[kind]
        self.items: list[Any] = [make(chance, number) for number in range(count)]
        if kind == "text" and plain:
            self.items = [item.replace(b"\n ", b"\n") for item in self.items]
        self._chance = chance
        self._plain = plain

    @cached_property
    def whole(self) -> bytes:
        """All of a stream that is not JSON."""
        return b"".join(self.items)

    @property
    def size(self) -> int:
        """How much a `Ledger` counts up to."""
        return len(self.items) if self.kind == "json" else len(self.whole)

    def appends(self, at_most: int = 40) -> Iterator[bytes]:
        """Bodies of requests that bring everything, each up to so many messages.

        Those of JSON are arrays, now and then in a layout with line breaks. Those of text are cut anywhere.
        """
        start = 0
        while start < len(self.items):
            end = start + self._chance.choice((1, 1, 2, 5, at_most))
            batch = self.items[start:end]
            start = end
            if self.kind == "json":
                yield json.dumps(batch, indent=self._chance.choice((None, None, 2)), ensure_ascii=False).encode()
            else:
                yield b"".join(batch)

    def pieces(self) -> Iterator[bytes]:
        """Like `appends`; those of text end anywhere in a character as well."""
        if self.kind != "text" or self._plain:
            yield from self.appends()
            return
        sizes = [len(body) for body in self.appends()]
        ends = [max(1, end - self._chance.randrange(4)) for end in itertools.accumulate(sizes)][:-1]
        for start, end in itertools.pairwise([0, *ends, len(self.whole)]):
            if start < end:
                yield self.whole[start:end]


def _value(chance: Random, number: int) -> Any:
    filling: Any = chance.choice(("", None, True, -1, 0.5, 2**53 - 1, [], {}, [1, [2]], {"x": [{}]}, _string(chance)))
    if chance.random() < 0.02:
        filling = chance.choice("xyz") * chance.choice((3_000, 20_000))
    return {"n": number, "filling": filling}


def _text(chance: Random, number: int) -> bytes:
    return f"<{number}|{_string(chance)}>\n".encode()


def _bytes(chance: Random, number: int) -> bytes:
    return f"<{number}|".encode() + chance.randbytes(chance.choice((0, 1, 3, 20, 200))) + b">"


def _string(chance: Random) -> str:
    return "".join(chance.choices(_WORDS, k=chance.choice((0, 1, 3, 9))))


class Ledger:
    """What has arrived of a feed. Fails at the first thing that should not have come."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.size = 0

    def add(self, arrived: Any) -> None:
        """Count a message of a JSON stream, or bytes of another.

        Raises:
            AssertionError: it is not what comes next.
        """
        if self.feed.kind == "json":
            items = self.feed.items
            assert self.size < len(items), f"after the end came {arrived!r}"
            assert arrived == items[self.size], _explain(items, self.size, arrived)
            self.size += 1
            return
        expected = self.feed.whole[self.size : self.size + len(arrived)]
        assert arrived == expected, _explain_bytes(self.feed.whole, self.size, arrived)
        self.size += len(arrived)

    @property
    def is_complete(self) -> bool:
        """Whether everything has come."""
        return self.size == self.feed.size

    def check(self) -> None:
        """Fail unless everything has come."""
        assert self.is_complete, f"{self.size} of {self.feed.size} came, then the end"


def _explain(items: Sequence[Any], due: int, arrived: Any) -> str:
    if arrived in items:
        found = items.index(arrived)
        return f"{due} was due, and {found} came {'again' if found < due else f'without the {found - due} before it'}"
    return f"{due} was due, and this came, which nobody sent: {arrived!r}"


def _explain_bytes(whole: bytes, due: int, arrived: bytes) -> str:
    same = next((n for n, (a, b) in enumerate(zip(arrived, whole[due:], strict=False)) if a != b), len(whole) - due)
    wrong = arrived[same : same + 24]
    found = whole.find(wrong)
    where = "which nobody sent" if found < 0 else f"which belongs to byte {found}"
    return f"at byte {due + same} came {wrong!r}, {where}; due was {whole[due + same : due + same + 24]!r}"
