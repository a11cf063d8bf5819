"""The same batches written raw: one file, and for each batch one write and one fdatasync.

Run as a process: sizes in, `Written` out, both as JSON.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import msgspec

__all__ = ["Batches", "Written"]


class Batches(msgspec.Struct):
    """What to write: a file in this directory, batches of these sizes in bytes."""

    directory: str
    sizes: list[int]


class Written(msgspec.Struct):
    """How long all of it took, and each batch, in seconds; and the CPU time of it."""

    seconds: float
    cpu_s: float
    batch_seconds: list[float]


def write(batches: Batches) -> Written:
    """Write the batches."""
    data = memoryview(bytes(max(batches.sizes)))
    took: list[float] = []
    with tempfile.NamedTemporaryFile(dir=batches.directory, buffering=0) as file:
        start, cpu_s = time.perf_counter(), time.process_time()
        before = start
        for size in batches.sizes:
            file.write(data[:size])
            os.fdatasync(file.fileno())
            now = time.perf_counter()
            took.append(now - before)
            before = now
        return Written(before - start, time.process_time() - cpu_s, took)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Batches)
    sys.stdout.buffer.write(msgspec.json.encode(write(given)))
