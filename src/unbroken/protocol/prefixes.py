"""Which beginning of a path streams are counted by: that of a tenant, say. Pure, like every rule here.

A pattern is a glob over paths (`unbroken.protocol.scopes`) without ``**``: ``/users/*`` stands for ``/users/ann``,
``/users/ben`` and so on, and for each of these everything at or below it is counted together.
"""

from __future__ import annotations

import re

from unbroken.protocol.scopes import ScopeError, parse_glob

__all__ = ["Prefixes"]

_RESERVED = "-"


class Prefixes:
    """The prefixes that a pattern stands for.

    Args:
        pattern: such as ``/users/*``; ``*`` stands for one segment, every other segment for itself, percent-escapes
            decoded.

    Attributes:
        segments: of the pattern, decoded, None for any one segment.

    Raises:
        ScopeError: the pattern is not written like a path, has ``*`` as part of a segment, or ``**``.
    """

    def __init__(self, pattern: str) -> None:
        glob = parse_glob(pattern)
        if glob.deep:
            raise ScopeError(f"{pattern!r} has ** at its end: leave it out, what lies below is counted all the same")
        if glob.segments[0] == _RESERVED:
            raise ScopeError(f"{pattern!r} begins with /-, and there are no streams")
        self._text = str(glob)
        self.segments = glob.segments
        spelled = ("/[^/]+" if segment is None else "/" + re.escape(segment) for segment in glob.segments)
        self._match = re.compile("".join(spelled) + r"(?=/|\Z)").match

    def of(self, path: str) -> str | None:
        """The prefix by which a stream at this path is counted; None if it is not."""
        found = self._match(path)
        return None if found is None else found[0]

    def __str__(self) -> str:
        return self._text
