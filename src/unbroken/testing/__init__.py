"""Tools for testing Unbroken and what is built on it: a clock to move, a real server, a client without manners."""

from unbroken.testing.clock import ManualClock
from unbroken.testing.live import Address, LiveServer, live_server, serve_asgi, threaded_server
from unbroken.testing.raw import RawConnection, RawResponse, connect, encode_chunk, encode_request

__all__ = [
    "Address",
    "LiveServer",
    "ManualClock",
    "RawConnection",
    "RawResponse",
    "connect",
    "encode_chunk",
    "encode_request",
    "live_server",
    "serve_asgi",
    "threaded_server",
]
