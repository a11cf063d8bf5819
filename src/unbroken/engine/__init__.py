"""Streams in-process: asyncio, no HTTP."""

from unbroken.engine.clock import Clock, SystemClock
from unbroken.engine.engine import Engine, Follower
from unbroken.engine.pages import Page

__all__ = ["Clock", "Engine", "Follower", "Page", "SystemClock"]
