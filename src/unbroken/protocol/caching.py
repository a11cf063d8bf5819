"""Validators and freshness of pages (RFC 9110 section 8.8.3 and 13.1.2, RFC 9111)."""

from __future__ import annotations

import re

__all__ = ["COLLAPSE_S", "MAX_AGE_S", "STALE_S", "entity_tag", "matches", "page_cache_control"]

MAX_AGE_S = 60
STALE_S = 300
COLLAPSE_S = 1
"""How long nginx may give the answer of a long-poll without news to those who wait for the same; no other cache may.

Otherwise it would send them to the server one after the other, each to wait there in turn. It goes before
Cache-Control: nginx older than 1.23 obeys the first of the two.
"""

_TAG = re.compile(r'(?:W/)?("[^"]*")')


def entity_tag(identity: str, start: int, end: int, *, closed: bool) -> str:
    """The ETag of the page ``[start, end)`` of a stream.

    Args:
        identity: names the stream uniquely across paths, re-creations and stores.
        start: byte position of the page's first byte.
        end: byte position after its last byte.
        closed: whether the page says that the stream ends here. Closing changes the tag, or caches would hide it.
    """
    return f'"{identity}:{start}:{end}{":c" if closed else ""}"'


def matches(if_none_match: str, tag: str) -> bool:
    """Whether ``If-None-Match`` (a list, or ``*``) names this tag, by weak comparison (RFC 9110 section 8.8.3.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def page_cache_control(*, empty: bool, closed: bool, left_s: int | None, private: bool) -> str:
    """``Cache-Control`` of a page.

    Args:
        empty: the page holds no data.
        closed: the page says that the stream ends here.
        left_s: seconds until the stream expires; None for never. Nothing may be served from a cache after that.
        private: only the asking client may keep it.
    """
    if empty and not closed:
        return "private, no-cache" if private else "no-cache"
    max_age = MAX_AGE_S if left_s is None else min(MAX_AGE_S, left_s)
    stale = STALE_S if left_s is None else min(STALE_S, left_s - max_age)
    scope = "private" if private else "public"
    return f"{scope}, max-age={max_age}, stale-while-revalidate={stale}"
