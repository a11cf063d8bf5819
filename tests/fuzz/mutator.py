"""A seeded mutator of bytes: near misses of valid input find more than noise does, and a seed finds them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random

__all__ = ["FIRST_SEED", "Mutator", "cut"]

FIRST_SEED = int(os.environ.get("UNBROKEN_FUZZ_SEED", "1"))
"""Where seeds begin: run again what failed, or look elsewhere."""

_NUMBERS = [
    *(b"0", b"1", b"-1", b"+1", b"00", b"01", b"1.5", b"1e9", b"NaN", b"Infinity", b"0x10", b"1_000", b" 1", b"1 "),
    *(b"255", b"256", b"65535", b"65536", b"2147483648", b"4294967296", b"9007199254740992", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551616", b"9" * 40, b"9" * 5000, "٣".encode(), "²".encode()),
]
_ALWAYS = [
    *(
        b"\x00",
        b"\r",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(
        b"%",
        b"%2",
        b"%2f",
        b"%00",
        b"%2e",
        b"%ff",
        b"//",
        b"/./",
        b"/../",
        b"\\",
        b"?",
        b"&",
        b"=",
        b"#",
        b";",
        b",",
        b":",
    ),
    *(b'"', b"'", b"*", b"{", b"}", b"[", b"]", b"\\ud83d", b"null", b"true", "é".encode(), "\u2028".encode(), b"\xa0"),
]


class Mutator:
    """Changes valid input a little.

    Args:
        chance: where all chance comes from.
        corpus: valid inputs.
        tokens: what means something in this language, to be put where it does not belong.
    """

    def __init__(self, chance: Random, corpus: Sequence[bytes], tokens: Sequence[bytes] = ()) -> None:
        self._chance = chance
        self._corpus = corpus
        self._tokens = [*_ALWAYS, *tokens, *tokens]

    def next(self) -> bytes:
        """One more input."""
        data = self._chance.choice(self._corpus)
        for _ in range(self._chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            data = self._changed(data)
        return data

    def _changed(self, data: bytes) -> bytes:
        chance = self._chance
        start, end = self._slice(data)
        head, piece, tail = data[:start], data[start:end], data[end:]
        other = chance.choice(self._corpus)
        token = chance.choice(self._tokens)
        changes = (
            lambda: head + tail,
            lambda: head + piece + piece + tail,
            lambda: head + token + piece + tail,
            lambda: head + token + tail,
            lambda: head + bytes([chance.randrange(256)]) + data[start + 1 :],
            lambda: head,
            lambda: head + piece * chance.choice((2, 10, 100, 1000)) + tail,
            lambda: head + other[self._slice(other)[0] :],
            lambda: self._with_number(data),
            lambda: head + piece.swapcase() + tail,
            lambda: head + piece[::-1] + tail,
        )
        return chance.choice(changes)()

    def _slice(self, data: bytes) -> tuple[int, int]:
        start = self._chance.randrange(len(data) + 1)
        return start, min(len(data), start + self._chance.choice((1, 1, 2, 4, 8, 40)))

    def _with_number(self, data: bytes) -> bytes:
        """Another number where one stands."""
        digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
        if not digits:
            return data
        start = end = self._chance.choice(digits)
        while end < len(data) and 0x30 <= data[end] <= 0x39:
            end += 1
        return data[:start] + self._chance.choice(_NUMBERS) + data[end:]


def cut(chance: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces, now a few and now many."""
    count = chance.choice((0, 0, 0, 1, 1, 3, 8, 40))
    places = sorted(chance.randrange(len(data) + 1) for _ in range(count)) if data else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]
