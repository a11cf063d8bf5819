"""The SQLite store keeps the contract, at its own sizes and in miniature; and what is true of it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from tests.store.stress import StressSuite
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check


def assert_sound(directory: Path) -> None:
    assert check(directory) == []


class TestSqliteStore(StressSuite):
    durable = True

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory)

    def check(self, directory: Path) -> None:
        assert_sound(directory)


class TestSqliteStoreInMiniature(TestSqliteStore):
    """Folds, merges, trims and checkpoints all the time."""

    large_bytes = LARGE_BYTES

    @pytest.fixture(autouse=True)
    def small(self) -> Iterator[None]:
        with miniature():
            yield

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX)


@pytest.mark.full
class TestSqliteStoreFoldingAtOnce(TestSqliteStoreInMiniature):
    """Each commit folds what the one before brought."""

    def make(self, directory: Path) -> SqliteStore:
        return SqliteStore(directory, overlay_bytes_max=1)
