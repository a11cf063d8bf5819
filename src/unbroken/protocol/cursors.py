"""Cursors: how CDNs collapse live readers without ever looping one.

A cursor is the number of 20-second intervals since 2024-10-09T00:00:00Z. Readers echo it, so those who ask in the same
interval use the same URL and share one cached answer. A reader whose cursor is not below the present interval would be
given the same URL again, and with it the same cached answer for ever; it is sent strictly ahead by a random step.
"""

from __future__ import annotations

import re

__all__ = ["CURSOR_EPOCH_MS", "INTERVAL_MS", "JITTER_INTERVALS_MAX", "next_cursor"]

CURSOR_EPOCH_MS = 1_728_432_000_000
INTERVAL_MS = 20_000
JITTER_INTERVALS_MAX = 3600_000 // INTERVAL_MS

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def next_cursor(wall_ms: int, client_cursor: str | None, random_unit: float) -> int:
    """The cursor to answer with.

    Args:
        wall_ms: Unix time in milliseconds.
        client_cursor: what the client echoed; anything that is not a number counts as none.
        random_unit: a random number, 0 <= x < 1.
    """
    interval = max(0, (wall_ms - CURSOR_EPOCH_MS) // INTERVAL_MS)
    if client_cursor is None or not _NUMBER.fullmatch(client_cursor) or int(client_cursor) < interval:
        return interval
    return int(client_cursor) + 1 + int(random_unit * JITTER_INTERVALS_MAX)
