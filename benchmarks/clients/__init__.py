"""Clients, each run in a process of its own, and measured there.

``python -m benchmarks.clients.ours`` and ``python benchmarks/clients/official.py`` read a task as JSON from standard
input and write what they did to standard output. The latter runs in an environment of its own and imports nothing of
the rest.

Both send and expect the same messages: `TEXT` and a number.
"""

from __future__ import annotations

import msgspec

__all__ = ["TEXT", "Done", "Task"]

TEXT = "." * 40


class Task(msgspec.Struct):
    """What a client is to do.

    Args:
        name: ``append`` (one message after the other), ``produce`` (as many as possible), ``read`` (all messages with
            one call) or ``follow`` (message by message, until the last).
        url: of the stream.
        seconds: for how long it appends.
        messages: how many there are to read.
        live: how it follows.
    """

    name: str
    url: str
    seconds: float = 0.0
    messages: int = 0
    live: str = "auto"


class Done(msgspec.Struct):
    """What a client did.

    Args:
        messages: how many were acknowledged or received.
        seconds: how long that took, from the first to the last.
        cpu_s: processor time of the client, in seconds.
    """

    messages: int
    seconds: float
    cpu_s: float
