"""What a store wrote, written raw: for each batch one write and one fdatasync of a plain file.

Run as a process: what to write in, `Written` out, both as JSON.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from typing import IO

import msgspec

__all__ = ["Batches", "Beside", "Written"]

_FILE_BYTES = 64 * 1024 * 1024
_BURST_BYTES = 512 * 1024


class Batches(msgspec.Struct, tag="batches"):
    """What to write: a file in this directory, batches of these sizes in bytes."""

    directory: str
    sizes: list[int]


class Beside(msgspec.Struct, tag="beside"):
    """What to write: a log, and at the same time a database, both at an even pace, over what is there already.

    Args:
        directory: where the two files are to be.
        seconds: how long.
        batches: writes to the log in this time.
        batch_bytes: of each.
        database_bytes: in all, synced every 512 KiB.
    """

    directory: str
    seconds: float
    batches: int
    batch_bytes: int
    database_bytes: int


class Written(msgspec.Struct):
    """How long all of it took, and each batch, in seconds; and the CPU time of it."""

    seconds: float
    cpu_s: float
    batch_seconds: list[float]


def _temporary(directory: str) -> AbstractContextManager[IO[bytes]]:
    return tempfile.NamedTemporaryFile(dir=directory, buffering=0)


def write(batches: Batches) -> Written:
    """Write the batches."""
    data = memoryview(bytes(max(batches.sizes)))
    took: list[float] = []
    with _temporary(batches.directory) as file:
        start, cpu_s = time.perf_counter(), time.process_time()
        before = start
        for size in batches.sizes:
            file.write(data[:size])
            os.fdatasync(file.fileno())
            now = time.perf_counter()
            took.append(now - before)
            before = now
        return Written(before - start, time.process_time() - cpu_s, took)


def write_beside(beside: Beside) -> Written:
    """Write a log and a database; `Written` is about the log."""
    with _temporary(beside.directory) as log, _temporary(beside.directory) as database:
        for file in (log, database):
            file.write(bytes(_FILE_BYTES))
            os.fdatasync(file.fileno())
        bursts = beside.database_bytes // _BURST_BYTES
        other = threading.Thread(target=_write_evenly, args=(database, bursts, _BURST_BYTES, beside.seconds))
        start, cpu_s = time.perf_counter(), time.process_time()
        other.start()
        took = _write_evenly(log, beside.batches, beside.batch_bytes, beside.seconds)
        other.join()
        return Written(time.perf_counter() - start, time.process_time() - cpu_s, took)


def _write_evenly(file: IO[bytes], count: int, size_bytes: int, seconds: float) -> list[float]:
    """Write and sync as often as that, as evenly as the disk permits, and say how long each took."""
    data = os.urandom(size_bytes)
    took: list[float] = []
    start = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, start + number * seconds / count - time.perf_counter()))
        before = time.perf_counter()
        os.pwrite(file.fileno(), data, number * size_bytes % (_FILE_BYTES - size_bytes))
        os.fdatasync(file.fileno())
        took.append(time.perf_counter() - before)
    return took


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Batches | Beside)
    sys.stdout.buffer.write(msgspec.json.encode(write(given) if isinstance(given, Batches) else write_beside(given)))
