"""Faults dealt from shuffled decks: each kind comes as often as any other, and soon all have come."""

from __future__ import annotations

import math
from collections.abc import Collection
from random import Random

from unbroken.testing.proxy import PASS, Fault, ProxiedRequest, Weather

__all__ = ["Deck"]


class Deck:
    """A plan for a proxy. A request gets the first card that suits it; when there is none, another deck is dealt.

    Args:
        seed: of chance.
        kinds: of faults, see `unbroken.testing.proxy.KINDS`.
        rate: share of the requests that meet a fault.
    """

    def __init__(self, seed: int, kinds: Collection[str], rate: float) -> None:
        self._seed = seed
        self._chance = Random(f"deck {seed}")
        self._cards = [*kinds, *["pass"] * (math.ceil(len(kinds) / rate) - len(kinds))]
        self._hand: list[str] = []

    def __call__(self, request: ProxiedRequest) -> Fault:
        for index, kind in enumerate(self._hand):
            fault = PASS if kind == "pass" else Weather(self._seed, 1, {kind: 1})(request)
            if fault.kind == kind:
                del self._hand[index]
                return fault
        self._hand += self._chance.sample(self._cards, len(self._cards))
        return self(request)
