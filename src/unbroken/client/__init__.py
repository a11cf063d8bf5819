"""A client for any server of the protocol: reading that never breaks, writing that loses and doubles nothing."""

from unbroken.client._async.client import AsyncClient
from unbroken.client._async.consume import AsyncConsumer
from unbroken.client._async.follow import AsyncFollow
from unbroken.client._async.producer import AsyncProducer
from unbroken.client._async.stream import AsyncStream
from unbroken.client._sync.client import Client
from unbroken.client._sync.consume import Consumer
from unbroken.client._sync.follow import Follow
from unbroken.client._sync.producer import Producer
from unbroken.client._sync.stream import Stream
from unbroken.client.asgi import AsgiTransport
from unbroken.client.batches import Batch, Message
from unbroken.client.offsets import AsyncOffsetStore, FileOffsets, OffsetStore, SqliteOffsets
from unbroken.client.positions import Position
from unbroken.client.retry import Retry
from unbroken.client.values import Appended, Page, StreamInfo
from unbroken.protocol.listing import ListedStream

__all__ = [
    "Appended",
    "AsgiTransport",
    "AsyncClient",
    "AsyncConsumer",
    "AsyncFollow",
    "AsyncOffsetStore",
    "AsyncProducer",
    "AsyncStream",
    "Batch",
    "Client",
    "Consumer",
    "FileOffsets",
    "Follow",
    "ListedStream",
    "Message",
    "OffsetStore",
    "Page",
    "Position",
    "Producer",
    "Retry",
    "SqliteOffsets",
    "Stream",
    "StreamInfo",
]
