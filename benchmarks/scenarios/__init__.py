"""What is measured.

base     what all scenarios share
appends  small appends, creation of streams, what the load generator can drive
reads    catch-up reads and live reads
growth   the same load on a store with ten times as much in it
pauses   small appends beside something large
many     very many streams: memory, disk, restart
clients  Python clients
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scenarios.appends import BARE, RAW, Appends, Creates, Generator
from benchmarks.scenarios.base import Figures, Measure, Pace, Scenario
from benchmarks.scenarios.clients import ClientAppends, ClientLive, ClientReads
from benchmarks.scenarios.growth import GrowthAppends, GrowthCatchUp
from benchmarks.scenarios.many import Fact, ManyStreams
from benchmarks.scenarios.pauses import BESIDE_BODIES, Pauses
from benchmarks.scenarios.reads import CatchUpBytes, CatchUpLargeMessages, CatchUpMessages, Chats, FanOut

__all__ = [
    "BARE",
    "BESIDE_BODIES",
    "MANY_STREAMS",
    "RAW",
    "SCENARIOS",
    "Fact",
    "Figures",
    "ManyStreams",
    "Measure",
    "Pace",
    "Scenario",
]

SCENARIOS: Sequence[Scenario] = (
    Generator(),
    *(Appends(connections, streams) for connections in (1, 64, 512) for streams in (1, 100, 10_000)),
    Creates(),
    CatchUpBytes(),
    CatchUpMessages(),
    CatchUpLargeMessages(),
    FanOut(200, wait=True),
    FanOut(200, wait=False),
    Chats(100),
    GrowthAppends(),
    GrowthCatchUp(),
    Pauses(),
    ClientAppends("append", "Python clients: appending one message of 60 B after the other"),
    ClientAppends("produce", "Python clients: appending messages of 60 B, as many as possible"),
    ClientReads("read", "Python clients: reading a stream of JSON messages of 60 B with one call"),
    ClientReads("follow", "Python clients: following a stream of JSON messages of 60 B from its beginning"),
    ClientLive(),
)

MANY_STREAMS = ManyStreams()
