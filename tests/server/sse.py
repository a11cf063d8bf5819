"""A reader of event streams, by the WHATWG rules (HTML section 9.2.6) and written apart from the package's own."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from unbroken.testing import RawConnection, RawResponse

__all__ = ["Event", "EventStream", "parse_events"]

_LINE_END = re.compile("\r\n|\r|\n")


class Event(NamedTuple):
    """A dispatched event; ``id`` is the one written in its own block, None if it has none."""

    type: str
    data: str
    id: str | None = None

    @property
    def control(self) -> dict[str, Any]:
        assert self.type == "control", self
        value = json.loads(self.data)
        assert isinstance(value, dict)
        return value


def parse_events(block: str) -> tuple[list[Event], list[str]]:
    """Events and comments of a whole text that ends with a blank line."""
    events: list[Event] = []
    comments: list[str] = []
    kind, event_id = "message", None
    data: list[str] = []
    for line in _LINE_END.split(block):
        if not line:
            if data:
                events.append(Event(kind, "\n".join(data), event_id))
            kind, data, event_id = "message", [], None
        elif line.startswith(":"):
            comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                event_id = value
            else:
                raise AssertionError(f"no field of ours: {line!r}")
    return events, comments


class EventStream:
    """What arrives over one SSE response."""

    def __init__(self, connection: RawConnection, response: RawResponse) -> None:
        self.connection = connection
        self.response = response
        self.raw = b""
        self.ended = False
        self.comments: list[str] = []
        self._events: list[Event] = []

    async def read(self) -> bool:
        """Take one part of the response; False at its clean end."""
        part = await self.connection.read_part()
        if not part:
            self.ended = True
            return False
        assert part.endswith(b"\n\n"), "an event was cut"
        self.raw += part
        events, comments = parse_events(part.decode("utf-8"))
        self._events += events
        self.comments += comments
        return True

    async def next(self) -> Event:
        """The next event.

        Raises:
            EOFError: the response ended.
        """
        while not self._events:
            if not await self.read():
                raise EOFError("the event stream ended")
        return self._events.pop(0)

    async def batch(self) -> tuple[str | None, dict[str, Any]]:
        """Data (None if there is none) and the control event that follows it."""
        event = await self.next()
        if event.type == "control":
            return None, event.control
        assert event.type == "data"
        return event.data, (await self.next()).control

    async def rest(self) -> list[Event]:
        """All events up to the response's clean end."""
        while await self.read():
            pass
        events, self._events = self._events, []
        return events

    async def until_data(self, wanted: str) -> dict[str, Any]:
        """Read batches until their data, joined, is what is wanted; the last control event."""
        seen = ""
        while True:
            data, control = await self.batch()
            seen += data or ""
            assert wanted.startswith(seen), (wanted, seen)
            if seen == wanted:
                return control
