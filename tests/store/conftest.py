"""Fixtures of the store tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 256 * 1024 * 1024


def room() -> Path | None:
    """A place in memory for files, if the system has one that is large enough."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES else None


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where the system has a place for that. These tests sync thousands of times, and what they need of a
    disk is its order (see `unbroken.testing.faults` for its faults), not its latency.
    """
    memory = room()
    if memory is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="unbroken-test-") as directory:
        yield Path(directory)
