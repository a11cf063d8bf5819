"""``python -m benchmarks.load``: generate the load that is described on standard input."""

from __future__ import annotations

import gc
import sys

import msgspec

from benchmarks.load import AppendLoad, ChatsLoad, CheckLoad, CreateLoad, Load, Observed, ReadLoad
from benchmarks.load.append import append
from benchmarks.load.fan_out import chats, fan_out
from benchmarks.load.read import read
from benchmarks.load.requests import check, create


def generate(load: Load) -> Observed:
    """Generate a load."""
    if isinstance(load, AppendLoad):
        return append(load)
    if isinstance(load, CreateLoad):
        return create(load)
    if isinstance(load, CheckLoad):
        return check(load)
    if isinstance(load, ChatsLoad):
        return chats(load)
    return read(load) if isinstance(load, ReadLoad) else fan_out(load)


if __name__ == "__main__":
    gc.disable()
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(generate(given)))
