"""What can go wrong between a client and a server, and seeded plans of what does.

A plan answers each `ProxiedRequest` with a `Fault`. It is a function, a `Script` for a test that knows what it wants,
or `Weather` for runs in which everything happens. Plans are pure: the n-th request of a seed always meets the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Literal, Protocol

__all__ = [
    "KINDS",
    "PASS",
    "Answer",
    "Buffer",
    "Cut",
    "Delay",
    "Fault",
    "Pass",
    "Plan",
    "ProxiedRequest",
    "Script",
    "Stall",
    "Trickle",
    "Truncate",
    "Twice",
    "Weather",
]

Side = Literal["request", "response"]
Part = Literal["head", "body"]


@dataclass(frozen=True)
class ProxiedRequest:
    """A request as the proxy sees it.

    Args:
        number: how many came before it, over all connections.
        method: such as ``GET``.
        target: path and query, as sent.
        fields: header names in lower case, and values.
    """

    number: int
    method: str
    target: str
    fields: Mapping[str, str]

    @property
    def is_sse(self) -> bool:
        """Whether it asks for server-sent events."""
        return "live=sse" in self.target or "text/event-stream" in self.fields.get("accept", "")

    @property
    def is_repeatable(self) -> bool:
        """Whether doing it twice does it once: a read, or an append that carries its producer's number."""
        return self.method in ("GET", "HEAD") or "producer-id" in self.fields


class Fault(Protocol):
    """What happens to one request and its response."""

    @property
    def kind(self) -> str:
        """What it is called in `FaultyProxy.counts`."""


@dataclass(frozen=True)
class Pass:
    """Nothing happens."""

    kind: str = "pass"


PASS = Pass()


@dataclass(frozen=True)
class Cut:
    """The connections to both sides end in the middle.

    Args:
        side: of the request, so that the server may or may not have understood it, or of the response.
        part: before or after the empty line. A message without a body is cut in its head.
        at_bytes: after how many bytes of that part, modulo its size where that is known before. A chunked body that
            ends sooner is cut before the chunk that would have said so.
        reset: as when a process dies or a firewall forgets (RST); otherwise an orderly end of the connection (FIN).
    """

    side: Side = "response"
    part: Part = "body"
    at_bytes: int = 0
    reset: bool = False

    @property
    def kind(self) -> str:
        return f"cut-{self.side}-{self.part}-{'rst' if self.reset else 'fin'}"


@dataclass(frozen=True)
class Stall:
    """Half-open: nothing is passed on any more, and the client's connection stays open until the client ends it.

    Args:
        side: see `Cut`.
        part: see `Cut`.
        at_bytes: see `Cut`.
    """

    side: Side = "response"
    part: Part = "body"
    at_bytes: int = 0

    @property
    def kind(self) -> str:
        return f"stall-{self.side}"


@dataclass(frozen=True)
class Answer:
    """The proxy answers by itself.

    Args:
        status: such as 503.
        after: when the server has done what was asked; so what the client is told says nothing about what happened.
        retry_after: value of the header of that name.
    """

    status: int
    after: bool = False
    retry_after: str | None = None

    @property
    def kind(self) -> str:
        hint = "" if self.retry_after is None else "-retry-after"
        return f"answer-{self.status}{hint}{'-after' if self.after else ''}"


@dataclass(frozen=True)
class Delay:
    """The request reaches the server late, by this many seconds."""

    seconds: float
    kind: str = "delay"


@dataclass(frozen=True)
class Truncate:
    """The response ends too early and in good order, as some proxies end one whose origin they lost.

    Nothing on the wire says that something is missing: for server-sent events, whose grammar tells, and not for others.

    Args:
        at_bytes: of the body that are passed on.
    """

    at_bytes: int
    kind: str = "truncate"


@dataclass(frozen=True)
class Buffer:
    """The body is passed on only when it has come to its end.

    Args:
        head: it is held back as well.
    """

    head: bool = False

    @property
    def kind(self) -> str:
        return "buffer-all" if self.head else "buffer"


@dataclass(frozen=True)
class Trickle:
    """The response comes in small pieces, each in a packet of its own.

    Args:
        piece_bytes: size of a piece.
        pause_s: seconds between them.
        for_bytes: of the head and the body each; the rest comes as it comes.
    """

    piece_bytes: int = 1
    pause_s: float = 0.0
    for_bytes: int = 1024
    kind: str = "trickle"


@dataclass(frozen=True)
class Twice:
    """The server gets the request twice, as from a proxy that tries again; the client gets the second response."""

    kind: str = "twice"


Plan = Callable[[ProxiedRequest], Fault]


class Script:
    """One fault after the other, then none.

    Args:
        faults: in order.
        only: which requests they are for; all by default. Others pass.
        then: what happens when all have happened.
    """

    def __init__(
        self, *faults: Fault, only: Callable[[ProxiedRequest], bool] = lambda _: True, then: Fault = PASS
    ) -> None:
        self._faults = list(faults)
        self._only = only
        self._then = then

    @property
    def left(self) -> int:
        """How many have not been given out yet."""
        return len(self._faults)

    def __call__(self, request: ProxiedRequest) -> Fault:
        """The fault for a request."""
        if not self._only(request):
            return PASS
        return self._faults.pop(0) if self._faults else self._then


def _position(chance: Random) -> int:
    """Small ones as often as large ones: up to 64 KiB."""
    return int(2 ** chance.uniform(0, 16)) - 1


def _cut(side: Side, part: Part, *, reset: bool) -> Callable[[Random], Fault]:
    return lambda chance: Cut(side, part, _position(chance), reset)


def _answer(status: int, *, after: bool = False, retry_after: str | None = None) -> Callable[[Random], Fault]:
    return lambda _: Answer(status, after, retry_after)


_DRAWS: Iterable[tuple[float, Callable[[Random], Fault]]] = (
    (3, _cut("request", "head", reset=True)),
    (3, _cut("request", "head", reset=False)),
    (3, _cut("request", "body", reset=True)),
    (3, _cut("request", "body", reset=False)),
    (3, _cut("response", "head", reset=True)),
    (3, _cut("response", "head", reset=False)),
    (8, _cut("response", "body", reset=True)),
    (8, _cut("response", "body", reset=False)),
    (1, lambda chance: Stall("request", "body", _position(chance))),
    (1, lambda chance: Stall("response", "body", _position(chance))),
    (2, _answer(500)),
    (2, _answer(500, after=True)),
    (2, _answer(502)),
    (2, _answer(502, after=True)),
    (2, _answer(503)),
    (2, _answer(503, after=True)),
    (2, _answer(503, retry_after="0")),
    (1, _answer(503, retry_after="0", after=True)),
    (2, _answer(429)),
    (2, _answer(429, retry_after="0")),
    (0.5, _answer(429, retry_after="1")),
    (3, lambda chance: Delay(chance.uniform(0, 0.05))),
    (6, lambda chance: Truncate(_position(chance))),
    (1, lambda _: Buffer()),
    (1, lambda _: Buffer(head=True)),
    (4, lambda chance: Trickle(chance.choice((1, 2, 3, 7)), chance.choice((0, 0, 0.0005)), 400)),
    (4, lambda _: Twice()),
)
_OF_SSE = frozenset({"truncate", "buffer", "buffer-all"})

_ANY = Random(0)  # noqa: S311 (chance is not secret here: it is to be had again)
_MAKERS = {make(_ANY).kind: make for _, make in _DRAWS}

KINDS: Mapping[str, float] = MappingProxyType({make(_ANY).kind: weight for weight, make in _DRAWS})
"""The kinds of faults that `Weather` has, and how often each comes in relation to the others."""


@dataclass(frozen=True)
class Weather:
    """Faults by chance, the same ones for the same seed.

    The n-th request's depends on nothing but the seed, n, and what kind of request it is: bodies end early or are held
    back where they are server-sent events, and only what is safe to repeat is sent twice.

    Args:
        seed: of chance.
        rate: share of the requests to which something happens, 0 to 1.
        weights: how often each kind comes, `KINDS` by default; kinds that are not named do not come at all.
        calm_after: how many requests may meet a fault; all later ones pass.
    """

    seed: int
    rate: float = 0.3
    weights: Mapping[str, float] | None = None
    calm_after: int | None = None

    def __call__(self, request: ProxiedRequest) -> Fault:
        """The fault for a request."""
        if self.calm_after is not None and request.number >= self.calm_after:
            return PASS
        chance = Random(f"{self.seed}/{request.number}")  # noqa: S311
        if chance.random() >= self.rate:
            return PASS
        weights = KINDS if self.weights is None else self.weights
        weights = {kind: weight for kind, weight in weights.items() if _can_happen(kind, request)}
        if not any(weights.values()):
            return PASS
        (kind,) = chance.choices([*weights], [*weights.values()])
        return _MAKERS[kind](chance)


def _can_happen(kind: str, request: ProxiedRequest) -> bool:
    return (kind not in _OF_SSE or request.is_sse) and (kind != "twice" or request.is_repeatable)
