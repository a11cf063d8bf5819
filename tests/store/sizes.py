"""A SQLite store in miniature: with every size small, a short test meets what takes gigabytes otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from unittest.mock import patch

from unbroken.store.sqlite import checkpoint, chunks, folding, store
from unbroken.store.sqlite.space import DiskSpace

__all__ = ["LARGE_BYTES", "OVERLAY_BYTES_MAX", "full_disk", "miniature"]

LARGE_BYTES = 160
OVERLAY_BYTES_MAX = 2_000


@contextmanager
def miniature() -> Iterator[None]:
    """Shrink every size of `SqliteStore` but the overlay's, which is an argument (`OVERLAY_BYTES_MAX`)."""
    sizes: list[tuple[ModuleType, dict[str, int]]] = [
        (store, {"LARGE_BYTES": LARGE_BYTES, "OVERLAY_STREAMS_MAX": 6, "_STATES_CACHED_MAX": 3}),
        (store, {"_FOLD_BYTES_PER_COMMIT": 300, "_FOLD_STREAMS_PER_COMMIT": 2, "_COMMITS_PER_CHORE": 2}),
        (chunks, {"CHUNK_BYTES_MAX": 48, "_RUNS_MAX": 20}),
        (
            folding,
            {
                "_JOURNAL_ROWS_PER_STEP": 2,
                "_TRASH_CHUNKS_PER_STEP": 2,
                "_TRASH_PRODUCERS_PER_STEP": 2,
                "_FREE_PAGES_KEPT": 1,
            },
        ),
        (checkpoint, {"_PAGES_TO_START": 8, "_PAGES_TO_START_LARGE": 8, "_PAGES_MAX": 40}),
    ]
    with ExitStack() as patches:
        for module, values in sizes:
            for name, value in values.items():
                patches.enter_context(patch.object(module, name, value))
        yield


@contextmanager
def full_disk() -> Iterator[None]:
    """Let stores find that nothing is free, so that they write nothing, in the background either."""
    with patch.object(DiskSpace, "free_bytes", 0):
        yield
