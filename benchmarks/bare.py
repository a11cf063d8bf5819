"""Commits of one small row in SQLite and nothing else: the lower bound of what one durable append can take.

Run as a process: `Commits` in, `Written` out, both as JSON.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import apsw
import msgspec

from benchmarks.raw import Written

__all__ = ["Commits"]


class Commits(msgspec.Struct):
    """What to write: a database in this directory, rows of this size in bytes, as many as there is time for."""

    directory: str
    size_bytes: int
    duration_s: float


def commit(commits: Commits) -> Written:
    """Commit rows, one at a time, with the settings of Unbroken's store."""
    row = bytes(commits.size_bytes)
    took: list[float] = []
    with tempfile.TemporaryDirectory(dir=commits.directory) as directory:
        connection = apsw.Connection(str(Path(directory) / "bare.db"))
        for setting in ("page_size = 8192", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        connection.execute("CREATE TABLE journal (id INTEGER PRIMARY KEY, records BLOB NOT NULL) STRICT")
        start, cpu_s = time.perf_counter(), time.process_time()
        before = start
        while before < start + commits.duration_s:
            connection.execute("INSERT INTO journal (records) VALUES (?)", (row,))  # which is a transaction by itself
            now = time.perf_counter()
            took.append(now - before)
            before = now
        cpu_s = time.process_time() - cpu_s
        connection.close()
    return Written(before - start, cpu_s, took)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Commits)
    sys.stdout.buffer.write(msgspec.json.encode(commit(given)))
