"""What the SQLite store tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unbroken.measures import SECONDS, Histogram, Metric
from unbroken.store.sqlite.overlay import Overlay
from unbroken.store.sqlite.records import JournalSize
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.space import DiskSpace

__all__ = ["Counts", "collect"]


class Counts:
    """What is counted as it happens.

    Attributes:
        sync_seconds: how long COMMIT took, with its fsync; observed by the thread that does it, and by no other.
        states_cached: look-ups of folded streams that found them in memory.
        states_read: those that did not.
        reads_cached: pages that were read from what is not folded yet.
        reads: pages that were read from the tables.
    """

    def __init__(self) -> None:
        self.sync_seconds = Histogram(SECONDS)
        self.states_cached = 0
        self.states_read = 0
        self.reads_cached = 0
        self.reads = 0


def collect(
    counts: Counts, directory: Path, overlay: Overlay, journal: JournalSize, space: DiskSpace, left_bytes: int
) -> Sequence[Metric]:
    """All of it, as it is now."""
    states = {"hit": counts.states_cached, "miss": counts.states_read}
    reads = {"memory": counts.reads_cached, "disk": counts.reads}
    return (
        Metric("sync_seconds", "histogram", "Time of COMMIT, with its fsync.", counts.sync_seconds),
        Metric("unfolded_bytes", "gauge", "Memory of what is not in the tables yet (the overlay).", overlay.cost_bytes),
        Metric("unfolded_streams", "gauge", "Streams that are in part not in the tables yet.", len(overlay.streams)),
        Metric("journal_bytes", "gauge", "Journal, about; without what was there at the start.", journal.size_bytes),
        Metric("database_bytes", "gauge", "The database file.", _size_of(directory / DATABASE_NAME)),
        Metric("log_bytes", "gauge", "Its write-ahead log (WAL).", _size_of(directory / f"{DATABASE_NAME}-wal")),
        Metric("log_left_bytes", "gauge", "What of the log is not copied into the database yet.", left_bytes),
        Metric("disk_free_bytes", "gauge", "Free on the disk of the data directory.", space.free_bytes),
        Metric("disk_full", "gauge", "1 while nothing but deletes is taken for want of room.", space.full(left_bytes)),
        Metric("states_total", "counter", "Look-ups of streams in the cache of states.", states, ("result",)),
        Metric("reads_total", "counter", "Reads, by where the bytes were.", reads, ("source",)),
    )


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
