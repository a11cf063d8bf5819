"""The memory store keeps the contract."""

from __future__ import annotations

from pathlib import Path

from tests.store.stress import StressSuite
from unbroken.store.memory import MemoryStore


class TestMemoryStore(StressSuite):
    durable = False
    large_bytes = 1000

    def make(self, directory: Path) -> MemoryStore:
        return MemoryStore()
