"""The kinds of store that engine and HTTP tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check

__all__ = ["STORES", "checked_store"]

STORES = ["memory", "sqlite"]


@contextmanager
def checked_store(kind: str, directory: Path) -> Iterator[Store]:
    """A store, not opened. When it has been used and closed, its own integrity is checked."""
    if kind == "memory":
        yield MemoryStore()
        return
    data = directory / "data"
    yield SqliteStore(data)
    if data.exists():
        assert check(data) == []
