"""Hearing of the end early: what to do as soon as the process is asked to stop.

Servers announce their end to an application only after the last response has ended, and a live read would hold them up.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["on_stop_signal"]


def on_stop_signal(callback: Callable[[], object]) -> Callable[[], None]:
    """Have ``callback`` called in the running event loop when SIGINT or SIGTERM arrives, and let them do what they did.

    Returns:
        Call it to undo this. Several of them are undone in the reverse order. Outside of the main thread nothing is
        done.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        earlier = before[signal.Signals(number)]
        if callable(earlier):
            earlier(number, frame)

    for number, earlier in before.items():
        if callable(earlier):
            signal.signal(number, on_signal)

    def restore() -> None:
        for number, earlier in before.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, earlier)

    return restore
