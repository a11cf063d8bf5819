"""Room on the disk: writes are refused while there is still some, so that nothing ever fails half done."""

from __future__ import annotations

import os
from pathlib import Path

from unbroken.errors import StorageFull

__all__ = ["RESERVE_BYTES", "DiskSpace"]

RESERVE_BYTES = 16 * 1024 * 1024
_LAST_BYTES = RESERVE_BYTES // 4
"""What is kept even from deletes and housekeeping, which free space in small steps."""


class DiskSpace:
    """Decides what there is room for.

    Once the reserve was reached, writes go on only when a quarter of it more is free: what is freed little by little
    must not let some in and refuse others, over and over.

    Args:
        directory: on the disk in question.
        reserve_bytes: to be left free.
    """

    def __init__(self, directory: Path, reserve_bytes: int) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._full = False

    @property
    def free_bytes(self) -> int:
        """What is free now, for an ordinary user."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def full(self, left_bytes: int) -> bool:
        """Whether nothing is taken but what frees space.

        Args:
            left_bytes: what is written already and still needs room elsewhere on the disk.
        """
        if self._full:
            self._full = self.free_bytes < self._reserve_bytes + self._reserve_bytes // 4 + left_bytes
        return self._full

    def check(self, size_bytes: int, left_bytes: int, *, frees: bool = False, large: bool = False) -> None:
        """Refuse while nothing has been tried yet: that way a full disk needs no restart once there is room again.

        New bytes need room in the log and, until that starts over, in the database too; what came before them and is
        still to be copied needs it as well.

        Args:
            size_bytes: what is to be written.
            left_bytes: see `full`.
            frees: nothing but deletions is to be written.
            large: pieces of a large body are among it. They leave half of the reserve more, so that such a body fails
                alone, and everybody else's small writes do not.

        Raises:
            StorageFull: there is no room for it.
        """
        free_bytes = self.free_bytes
        if frees:
            if free_bytes < _LAST_BYTES + left_bytes:
                raise StorageFull("the disk is full; nothing was written")
            return
        self._full = self._full or free_bytes < self._reserve_bytes + left_bytes
        wanted_bytes = self._reserve_bytes + 2 * size_bytes + left_bytes + (self._reserve_bytes // 2 if large else 0)
        if self.full(left_bytes) or free_bytes < wanted_bytes:
            raise StorageFull("the disk is almost full; nothing was written")

    @property
    def allows_housekeeping(self) -> bool:
        """Whether there is room for the small steps that free space."""
        return self.free_bytes >= _LAST_BYTES
