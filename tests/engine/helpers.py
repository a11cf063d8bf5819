"""Small waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["settle", "until"]


async def until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (conditions of all sorts)
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let everything run that can run without waiting for time or other threads."""
    for _ in range(50):
        await asyncio.sleep(0)
