"""The kinds of store that engine and HTTP tests run on."""

from __future__ import annotations

from pathlib import Path

from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore

__all__ = ["STORES", "make_store"]

STORES = ["memory", "sqlite"]


def make_store(kind: str, directory: Path) -> Store:
    """A store, not opened."""
    return MemoryStore() if kind == "memory" else SqliteStore(directory / "data")
