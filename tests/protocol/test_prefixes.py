"""Which prefix a path is counted by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.scopes import ScopeError


@pytest.mark.parametrize(
    ("pattern", "path", "prefix"),
    [
        ("/users/*", "/users/ann", "/users/ann"),
        ("/users/*", "/users/ann/chats/1", "/users/ann"),
        ("/users/*", "/users/ann@example.com/x", "/users/ann@example.com"),
        ("/users/*", "/users", None),
        ("/users/*", "/userss/ann", None),
        ("/users/*", "/a/users/ann", None),
        ("/users", "/users", "/users"),
        ("/users", "/users/ann", "/users"),
        ("/users", "/userss", None),
        ("/*", "/a", "/a"),
        ("/*", "/a/b", "/a"),
        ("/*/x/*", "/a/x/b/c", "/a/x/b"),
        ("/*/x/*", "/a/y/b/c", None),
        ("/*/x/*", "/a/x", None),
        ("/a.b/*", "/a.b/c", "/a.b/c"),
        ("/a.b/*", "/axb/c", None),
        ("/%2A/*", "/*/c", "/*/c"),
        ("/%2A/*", "/a/c", None),
        ("/a%20b%2Cc", "/a b,c/d", "/a b,c"),
        ("/ä/*", "/ä/日本/x", "/ä/日本"),
        ("/%C3%A4/*", "/ä/日本/x", "/ä/日本"),
        ("/users/*", "/users/*/x", "/users/*"),
    ],
)
def test_the_prefix_of_a_path(pattern: str, path: str, prefix: str | None) -> None:
    assert Prefixes(pattern).of(path) == prefix


@pytest.mark.parametrize(
    "pattern", ["", "/", "users/*", "/users/**", "/**", "/a*", "/a//b", "/a/", "/..", "/-/metrics", "/__ds/x", "/%2F"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ScopeError) as refused:
        Prefixes(pattern)
    assert "\n" not in str(refused.value)


def test_a_pattern_is_written_in_one_way() -> None:
    assert str(Prefixes("/a%20b/%2a/*")) == str(Prefixes("/a b/%2A/*")) == "/a%20b/%2A/*"


_segments = st.lists(st.sampled_from(["a", "b", "a.b", "*", "é", "a b"]), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(["a", "b", "a.b", None, "é"]), min_size=1, max_size=4), _segments)
def test_prefixes_are_what_segments_say(pattern: list[str | None], path: list[str]) -> None:
    agrees = len(path) >= len(pattern) and all(
        wanted in (None, found) for wanted, found in zip(pattern, path, strict=False)
    )
    expected = "/" + "/".join(path[: len(pattern)]) if agrees else None
    assert Prefixes("/" + "/".join(part or "*" for part in pattern)).of("/" + "/".join(path)) == expected
