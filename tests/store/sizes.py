"""A SQLite store in miniature: with every size small, a short test meets what takes gigabytes otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from unbroken.store.sqlite import checkpoint, folding, store

__all__ = ["LARGE_BYTES", "OVERLAY_BYTES_MAX", "miniature"]

LARGE_BYTES = 160
OVERLAY_BYTES_MAX = 2_000


@contextmanager
def miniature(*, checkpoints: bool = True) -> Iterator[None]:
    """Shrink every size of `SqliteStore` but the overlay's, which is an argument (`OVERLAY_BYTES_MAX`).

    Args:
        checkpoints: take one every few pages. They run in a thread of their own, in their own time.
    """
    sizes = [
        (store, {"LARGE_BYTES": LARGE_BYTES, "OVERLAY_STREAMS_MAX": 6, "_STATES_CACHED_MAX": 3}),
        (store, {"_FOLD_BYTES_PER_COMMIT": 300, "_FOLD_STREAMS_PER_COMMIT": 2, "_COMMITS_PER_TRASH_STEP": 2}),
        (folding, {"CHUNK_BYTES_MAX": 48, "_MERGE_CHUNKS_MAX": 3, "_JOURNAL_ROWS_PER_STEP": 2}),
        (folding, {"_TRASH_CHUNKS_PER_STEP": 2, "_TRASH_PRODUCERS_PER_STEP": 2}),
        (checkpoint, {"_PAGES_TO_START": 8, "_PAGES_MAX": 40} if checkpoints else {}),
    ]
    with _all(patch.multiple(module, **values) for module, values in sizes if values):
        yield


@contextmanager
def _all(patches: Iterator[object]) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)  # type: ignore[arg-type]
        yield
