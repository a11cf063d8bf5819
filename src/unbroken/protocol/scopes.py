"""Scopes: who may do what to which streams. Pure, like every rule here.

A scope is an action and a glob over stream paths, written ``read:/chats/*``. Several stand in one text, separated by
spaces: that is the ``scope`` of OAuth 2.0 (RFC 6749 section 3.3), so any issuer of tokens can make them.

**Globs.** A glob is written like the path of a URL, segment by segment:

- ``*`` stands for exactly one segment, whatever it holds;
- ``**``, only as the last segment, stands for one or more segments: everything below, at any depth;
- every other segment stands for itself, percent-escapes decoded once, as in a path. So ``%2A`` is a segment named
  ``*``, and what is quoted as for a URL can never become a wildcard.

A glob is compared with the path that is routed and stored (`unbroken.protocol.paths`), byte for byte. No wildcard
stands for the reserved first segments ``-`` and ``__ds``: ``/**`` is every stream and none of the server's endpoints.

**Actions.** ``create``, ``append`` (and close), ``read``, ``delete``; ``admin`` includes them all on its paths, and
lists streams and deletes many at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args
from urllib.parse import quote

from unbroken.errors import InvalidPath
from unbroken.protocol.paths import decode_target, parse_path

__all__ = [
    "ACTIONS",
    "SCOPES_MAX",
    "Action",
    "Glob",
    "Principal",
    "ScopeError",
    "Scopes",
    "grant",
    "parse_glob",
    "parse_scopes",
]

Action = Literal["create", "append", "read", "delete", "admin"]
ACTIONS: tuple[Action, ...] = get_args(Action)

SCOPES_MAX = 64
"""The most scopes that one token may have."""

_DECIDED_MAX = 64
_RESERVED = "-"
_SAFE = "~!$&'()+,;=:@"


class ScopeError(ValueError):
    """A scope is malformed, or there are too many."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of stream paths; see the module.

    Args:
        segments: each decoded, None for any one segment.
        deep: whether one or more segments follow.
    """

    segments: tuple[str | None, ...]
    deep: bool = False

    def matches(self, path: str) -> bool:
        """Whether it stands for this path: one that `unbroken.protocol.paths` let through, or a reserved one."""
        parts = path.split("/")
        more = len(parts) - 1 - len(self.segments)
        if more < 1 if self.deep else more:
            return False
        if parts[1] == _RESERVED and (not self.segments or self.segments[0] is None):
            return False
        return self._agrees(parts)

    def covers(self, prefix: str) -> bool:
        """Whether it stands for every path that begins with these characters."""
        if not self.deep or not self.segments:
            return self.deep
        # Only what stands between two slashes is a whole segment: "/a" is also the beginning of "/ab".
        parts = prefix.split("/")
        return not parts[0] and len(parts) - 2 >= len(self.segments) and self._agrees(parts)

    def _agrees(self, parts: list[str]) -> bool:
        return all(segment is None or segment == part for segment, part in zip(self.segments, parts[1:], strict=False))

    def __str__(self) -> str:
        written = ["*" if segment is None else quote(segment, safe=_SAFE) for segment in self.segments]
        return "/" + "/".join([*written, "**"] if self.deep else written)


@lru_cache(maxsize=1024)
def parse_glob(text: str) -> Glob:
    """Parse a glob such as ``/chats/*``.

    Raises:
        ScopeError: it is not written like a path, ``*`` is part of a segment, or ``**`` is not the last one.
    """
    raw = text.split("/")[1:]
    deep = bool(raw) and raw[-1] == "**"
    if deep:
        raw.pop()
    try:
        if not text.startswith("/"):
            raise InvalidPath("it must begin with /")
        segments = tuple(_parse_segment(segment) for segment in raw)
        # Checked as a path of the same shape. Reserved endpoints have names as well: /-/metrics.
        named = [
            "x" if segment is None or (not at and segment == _RESERVED) else segment
            for at, segment in enumerate(segments)
        ]
        parse_path("/" + "/".join([*named, "x"] if deep else named))
    except InvalidPath as error:
        raise ScopeError(f"{text!r} is no glob over paths: {error.detail}") from None
    return Glob(segments, deep)


def _parse_segment(raw: str) -> str | None:
    if raw == "*":
        return None
    if "*" in raw:
        raise InvalidPath("* stands for a whole segment, ** only for the last; a segment named * is written %2A")
    return decode_target(raw.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Scopes:
    """What somebody may do.

    Args:
        entries: pairs of action and glob.
    """

    entries: tuple[tuple[Action, Glob], ...] = ()

    @cached_property
    def _globs(self) -> dict[Action, tuple[Glob, ...]]:
        return {
            action: tuple(glob for granted, glob in self.entries if granted in (action, "admin")) for action in ACTIONS
        }

    @cached_property
    def _decided(self) -> dict[tuple[Action, str], bool]:
        """What was found lately. Whoever appends to a stream does so again and again."""
        return {}

    def allows(self, action: Action, path: str) -> bool:
        """Whether this may be done to the stream, or the reserved endpoint, at this path."""
        allowed = self._decided.get((action, path))
        if allowed is None:
            allowed = any(glob.matches(path) for glob in self._globs[action])
            if len(self._decided) >= _DECIDED_MAX:
                self._decided.clear()
            self._decided[action, path] = allowed
        return allowed

    def covers(self, prefix: str) -> bool:
        """Whether all streams whose path begins with these characters are under its administration."""
        return any(glob.covers(prefix) for glob in self._globs["admin"])

    def __str__(self) -> str:
        return " ".join(f"{action}:{glob}" for action, glob in self.entries)


def parse_scopes(text: str) -> Scopes:
    """Parse scopes separated by spaces. What is no scope of ours (``openid``, ``read:org``) grants nothing.

    Raises:
        ScopeError: a malformed glob, or over 64 scopes.
    """
    entries: list[tuple[Action, Glob]] = []
    for word in text.split(" "):
        name, _, glob = word.partition(":")
        action = _ACTIONS_BY_NAME.get(name)
        if action is not None and glob.startswith("/"):
            entries.append((action, parse_glob(glob)))
    return _bounded(entries)


_ACTIONS_BY_NAME: dict[str, Action] = {action: action for action in ACTIONS}


def grant(
    *,
    create: str | Iterable[str] = (),
    append: str | Iterable[str] = (),
    read: str | Iterable[str] = (),
    delete: str | Iterable[str] = (),
    admin: str | Iterable[str] = (),
) -> Scopes:
    """Put scopes together: ``grant(read="/chats/7", append=["/chats/7", "/events/**"])``.

    Args:
        create: one glob or several (see `unbroken.protocol.scopes`), over the streams that may be created.
        append: the streams that may be appended to, and closed.
        read: the streams that may be read.
        delete: the streams that may be deleted.
        admin: the streams to which all of that may be done, and that may be listed and deleted by prefix.

    Raises:
        ScopeError: a malformed glob, or over 64 of them.
    """
    given = {"create": create, "append": append, "read": read, "delete": delete, "admin": admin}
    entries: list[tuple[Action, Glob]] = []
    for action in ACTIONS:
        globs = given[action]
        entries += ((action, parse_glob(glob)) for glob in ([globs] if isinstance(globs, str) else globs))
    return _bounded(entries)


def _bounded(entries: list[tuple[Action, Glob]]) -> Scopes:
    if len(entries) > SCOPES_MAX:
        raise ScopeError(f"there are more than {SCOPES_MAX} scopes")
    return Scopes(tuple(entries))


@dataclass(frozen=True)
class Principal:
    """Somebody who was recognised.

    Args:
        name: who it is, for logs and for limits that count by principal; the same on every request.
        scopes: what they may do; see `grant`.
        expires_at: Unix time in seconds from which on they are no longer recognised; live reads end then. None if each
            request is to be recognised anew.
    """

    name: str
    scopes: Scopes
    expires_at: float | None = None
