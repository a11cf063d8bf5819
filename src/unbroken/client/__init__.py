"""A client for any server of the protocol: reading that never breaks, writing that loses and doubles nothing."""

from unbroken.client._async.client import AsyncClient
from unbroken.client._async.follow import AsyncFollow
from unbroken.client._async.producer import AsyncProducer
from unbroken.client._async.stream import AsyncStream
from unbroken.client.batches import Batch, Message
from unbroken.client.listing import ListedStream
from unbroken.client.positions import Position
from unbroken.client.retry import Retry
from unbroken.client.values import Appended, Page, StreamInfo

__all__ = [
    "Appended",
    "AsyncClient",
    "AsyncFollow",
    "AsyncProducer",
    "AsyncStream",
    "Batch",
    "ListedStream",
    "Message",
    "Page",
    "Position",
    "Retry",
    "StreamInfo",
]
