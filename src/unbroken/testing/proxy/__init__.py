"""A proxy that does to requests what networks do: cuts, stalls, errors, delays, buffering; seeded.

    async with FaultyProxy(server.url, Weather(seed=7)) as proxy:
        ...                 # any HTTP client, at proxy.url
    assert proxy.counts["cut-response-body-rst"]

`threaded_proxy` is the same for code that is not asynchronous.
"""

from unbroken.testing.proxy.faults import (
    KINDS,
    PASS,
    Answer,
    Buffer,
    Cut,
    Delay,
    Fault,
    Pass,
    Plan,
    ProxiedRequest,
    Script,
    Stall,
    Trickle,
    Truncate,
    Twice,
    Weather,
)
from unbroken.testing.proxy.relay import FaultyProxy, threaded_proxy

__all__ = [
    "KINDS",
    "PASS",
    "Answer",
    "Buffer",
    "Cut",
    "Delay",
    "Fault",
    "FaultyProxy",
    "Pass",
    "Plan",
    "ProxiedRequest",
    "Script",
    "Stall",
    "Trickle",
    "Truncate",
    "Twice",
    "Weather",
    "threaded_proxy",
]
