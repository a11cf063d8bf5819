"""Tools for testing Unbroken and what is built on it: a clock to move, a real server, a client without manners.

Fixtures for pytest are in `unbroken.testing.fixtures`, a network that fails in `unbroken.testing.proxy`, a disk that
fails in `unbroken.testing.faults`.
"""

from unbroken.testing.clock import ManualClock
from unbroken.testing.live import Address, LiveServer, live_server, serve_asgi, threaded_server
from unbroken.testing.process import ServerProcess
from unbroken.testing.raw import RawConnection, RawResponse, connect, encode_chunk, encode_request

__all__ = [
    "Address",
    "LiveServer",
    "ManualClock",
    "RawConnection",
    "RawResponse",
    "ServerProcess",
    "connect",
    "encode_chunk",
    "encode_request",
    "live_server",
    "serve_asgi",
    "threaded_server",
]
