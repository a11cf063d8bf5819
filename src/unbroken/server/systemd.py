"""A word to systemd, which starts what depends on a service only when that says that it is ready (sd_notify(3))."""

from __future__ import annotations

import os
import socket

__all__ = ["notify"]


def notify(state: str) -> None:
    """Tell systemd, if it started this process and wants to hear it.

    Args:
        state: such as ``READY=1`` or ``STOPPING=1``.

    Raises:
        OSError: it does not listen where it said it would.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # An @ stands for the NUL of an abstract name.
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())
