"""The load generator: one process, one thread, plain sockets and epoll, so that the server is what is measured.

Run as a process, ``python -m benchmarks.load``: a `Load` in, `Observed` out, both as JSON.

base      where loads go, how they are counted, connections
append    small appends, and large bodies or deletes beside them
requests  streams created, streams looked at
read      catch-up reads
fan_out   SSE readers: many with one writer, or each with one of its own
"""

from benchmarks.load.append import AppendLoad, Bodies, Deletes
from benchmarks.load.base import MARK_BYTES, Observed, Target, quantile_ms
from benchmarks.load.fan_out import ChatsLoad, FanOutLoad
from benchmarks.load.read import ReadLoad
from benchmarks.load.requests import CheckLoad, CreateLoad

__all__ = [
    "MARK_BYTES",
    "AppendLoad",
    "Bodies",
    "ChatsLoad",
    "CheckLoad",
    "CreateLoad",
    "Deletes",
    "FanOutLoad",
    "Load",
    "Observed",
    "ReadLoad",
    "Target",
    "quantile_ms",
]

Load = AppendLoad | CreateLoad | CheckLoad | ReadLoad | FanOutLoad | ChatsLoad
