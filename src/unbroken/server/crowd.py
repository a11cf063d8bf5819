"""The connections that there are: how many there may be, in all and from one address, and who gives way to whom.

A client that may never ask again gives way to one that has come to. Whoever looks for one notes all that it finds, for
those who come next, and where there was none nobody looks again at once: so a crowd at the door of a full house costs
little, and still nobody is turned away as long as somebody inside is idle.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from unbroken.errors import TooManyConnections
from unbroken.server.logs import Seldom
from unbroken.server.settings import Settings
from unbroken.server.shares import Places

__all__ = ["Crowd", "Guest"]

_log = logging.getLogger("unbroken.server")
_IDLE_GIVES_WAY_S = 2.0
_LOOK_S = 0.1
_FEW = 64
"""So many are looked at whenever somebody comes."""


class Guest(Protocol):
    """A connection, to those who count them.

    Attributes:
        client: its address and port; None if it has none.
    """

    client: tuple[str, int] | None

    @property
    def idle_since_s(self) -> float | None:
        """Since when its client is waited for, on the event loop's clock; None if it is not."""

    def give_way(self) -> None:
        """Close it."""


class Crowd:
    """All connections.

    Args:
        settings: how many there may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._places = Places(settings.trusted_proxies)
        self._all = _Group(settings.max_connections)
        self._of_each_maximum = settings.address_connections
        self._of: dict[str, _Group] = {}
        self._seldom = Seldom()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all.guests)

    def enter(self, guest: Guest, before: Guest | None = None) -> None:
        """Count one more, who takes the place of one that is idle if there are too many.

        Args:
            guest: the connection.
            before: what it was counted as until now, if it was: it keeps its place.

        Raises:
            TooManyConnections: there is nobody who gives way. It is counted all the same, until it has left.
        """
        was_let_in = before is not None and before in self._all.guests
        if before is not None:
            self.leave(before)
        place = self._place(guest)
        self._all.add(guest)
        if place is not None and self._of_each_maximum is not None:
            group = self._of.get(place)
            if group is None:
                group = self._of[place] = _Group(self._of_each_maximum)
            group.add(guest)
            if not (was_let_in or group.has_room(guest)):
                self._tell(place)
                raise TooManyConnections(f"this address has {self._of_each_maximum} connections open already")
        if not (was_let_in or self._all.has_room(guest)):
            raise TooManyConnections

    def leave(self, guest: Guest) -> None:
        """It is there no more."""
        self._all.discard(guest)
        place = self._place(guest)
        if place is not None and (group := self._of.get(place)) is not None:
            group.discard(guest)
            if not group.guests:
                del self._of[place]

    def _place(self, guest: Guest) -> str | None:
        return None if guest.client is None else self._places.of(guest.client[0])

    def _tell(self, place: str) -> None:
        if self._seldom.left_out("address") is not None:
            text = "%s has %d connections and gets no more; if it is a proxy, name it in --trusted-proxies"
            _log.warning(text, place, self._of_each_maximum)


class _Group:
    """Connections that share a limit."""

    __slots__ = ("_idle", "_looked_s", "_maximum", "guests")

    def __init__(self, maximum: int) -> None:
        self.guests: set[Guest] = set()
        self._maximum = maximum
        self._idle: list[Guest] = []
        self._looked_s = float("-inf")

    def add(self, guest: Guest) -> None:
        self.guests.add(guest)

    def discard(self, guest: Guest) -> None:
        self.guests.discard(guest)
        if self._idle and len(self.guests) < self._maximum // 2:
            self._idle.clear()  # whoever is in there was closed long ago, or need not be

    def has_room(self, newcomer: Guest) -> bool:
        """Whether it may stay; somebody else is sent away for that if need be."""
        if len(self.guests) <= self._maximum:
            return True
        now_s = asyncio.get_running_loop().time()
        before_s = now_s - _IDLE_GIVES_WAY_S
        if self._send_one_away(newcomer, before_s):
            return True
        if now_s - self._looked_s < _LOOK_S and len(self.guests) > _FEW:
            return False
        self._looked_s = now_s
        idle = [guest for guest in self.guests if _is_idle(guest, before_s)]
        self._idle = sorted(idle, key=lambda guest: guest.idle_since_s or 0.0, reverse=True)
        return self._send_one_away(newcomer, before_s)

    def _send_one_away(self, newcomer: Guest, before_s: float) -> bool:
        """Close the one that has been idle longest, of those that were found."""
        while self._idle:
            guest = self._idle.pop()
            if guest is not newcomer and guest in self.guests and _is_idle(guest, before_s):
                guest.give_way()
                return True
        return False


def _is_idle(guest: Guest, before_s: float) -> bool:
    since_s = guest.idle_since_s
    return since_s is not None and since_s < before_s
