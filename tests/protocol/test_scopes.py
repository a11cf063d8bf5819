"""Scopes: which paths a glob stands for, exactly, and what a set of scopes allows."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.errors import InvalidPath
from unbroken.protocol.paths import parse_path
from unbroken.protocol.scopes import ACTIONS, SCOPES_MAX, ScopeError, Scopes, grant, parse_glob, parse_scopes


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("/a", ["/a"], ["/b", "/A", "/a/b", "/aa", "/-/a"]),
        ("/a/b", ["/a/b"], ["/a", "/a/b/c", "/b/a"]),
        ("/*", ["/a", "/*", "/é", "/a b"], ["/a/b", "/-/health", "/__ds/x"]),
        ("/a/*", ["/a/b", "/a/*", "/a/-"], ["/a", "/a/b/c", "/b/b"]),
        ("/*/b", ["/a/b", "/b/b"], ["/b", "/a/c", "/-/b"]),
        ("/*/*", ["/a/b"], ["/a", "/a/b/c", "/-/streams"]),
        ("/**", ["/a", "/a/b", "/a/b/c", "/a/-/b"], ["/-/streams", "/-/metrics"]),
        ("/a/**", ["/a/b", "/a/b/c", "/a/-"], ["/a", "/b/a", "/ab", "/ab/c"]),
        ("/a/*/**", ["/a/b/c", "/a/b/c/d"], ["/a", "/a/b"]),
        ("/*/b/**", ["/a/b/c"], ["/a/b", "/-/b/c"]),
        ("/%2A", ["/*"], ["/a", "/%2A"]),
        ("/%2a%2A", ["/**"], ["/a", "/a/b"]),
        ("/a%20b", ["/a b"], ["/a%20b"]),
        ("/%252F", ["/%2F"], ["/%252F"]),
        ("/%C3%A9", ["/é"], ["/e\u0301", "/É"]),
        ("/é", ["/é"], ["/e\u0301"]),
        ("/-/metrics", ["/-/metrics"], ["/-/streams", "/a/metrics"]),
        ("/-/**", ["/-/metrics", "/-/streams"], ["/a/metrics"]),
    ],
)
def test_what_a_glob_stands_for(glob: str, matching: list[str], others: list[str]) -> None:
    parsed = parse_glob(glob)
    assert [path for path in (*matching, *others) if parsed.matches(path)] == matching
    scopes = grant(read=glob)
    assert [path for path in (*matching, *others) if scopes.allows("read", path)] == matching


@pytest.mark.parametrize(
    "glob",
    [
        *("", "a", "a/b", "*", "**", "/", "//", "/a/", "/a//b", "/**/", "//**"),
        *("/a*", "/*a", "/a*b", "/**a", "/***", "/**/a", "/**/*", "/*/**/a", "/**/**"),
        *("/.", "/..", "/a/../b", "/%2e%2e/a", "/a%2Fb", "/a%2fb", "/%", "/a%4", "/a%zz", "/%FF", "/a\\b", "/a%5Cb"),
        *(
            "/a%00",
            "/a\x00",
            "/a%0A",
            "/a\n",
            "/\ud83d",
            "/__ds/x",
            "/" + "a" * 1024,
            "/a" * 33,
            "/*" * 33,
            "/*" * 32 + "/**",
        ),
    ],
)
def test_what_is_no_glob(glob: str) -> None:
    with pytest.raises(ScopeError):
        parse_glob(glob)
    with pytest.raises(ScopeError):
        grant(append=["/fine", glob])


@pytest.mark.parametrize("glob", ["/a" * 32, "/*" * 32, "/*" * 31 + "/**", "/" + "a" * 1023])
def test_a_glob_may_be_as_long_as_a_path(glob: str) -> None:
    assert str(parse_glob(glob)) == glob


SEGMENTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=4)
PATHS = st.lists(SEGMENTS | st.sampled_from(["a", "b", "*", "**", "-"]), min_size=1, max_size=5).map(
    lambda segments: "/" + "/".join(segments)
)


def is_path(path: str) -> bool:
    try:
        return parse_path(path) == path
    except InvalidPath:
        return False


@deterministic
@given(PATHS.filter(is_path), PATHS.filter(is_path))
def test_a_quoted_path_stands_for_itself_alone(path: str, other: str) -> None:
    """What an application quotes, as it does for a URL, never becomes a wildcard."""
    glob = parse_glob("/" + "/".join(quote(segment, safe="") for segment in path[1:].split("/")))
    assert glob.matches(path)
    assert glob.matches(other) == (path == other)
    assert parse_glob(str(glob)) == glob


GLOBS = st.tuples(st.lists(st.sampled_from(["a", "b", "*", "-", "é"]), max_size=3), st.booleans()).map(
    lambda parts: "/" + "/".join([*parts[0], "**"] if parts[1] or not parts[0] else parts[0])
)


@deterministic
@given(GLOBS, st.lists(st.sampled_from(["a", "b", "-", "é", "c"]), min_size=1, max_size=4))
def test_globs_against_regular_expressions(glob: str, segments: list[str]) -> None:
    """The same rules, written another way."""
    path = "/" + "/".join(segments)
    wild = "(?!-(?:/|$))" if glob.startswith("/*") else ""
    parts = [{"*": "[^/]+", "**": ".+"}.get(part, re.escape(part)) for part in glob[1:].split("/")]
    assert parse_glob(glob).matches(path) == bool(re.fullmatch("/" + wild + "/".join(parts), path))
    assert str(parse_glob(str(parse_glob(glob)))) == str(parse_glob(glob))


@pytest.mark.parametrize(
    ("admin", "prefix", "covered"),
    [
        ("/**", "/", True),
        ("/**", "", True),
        ("/**", "/a", True),
        ("/**", "x", True),
        ("/a/**", "/a/", True),
        ("/a/**", "/a/b", True),
        ("/a/**", "/a/b/", True),
        ("/a/**", "/a", False),
        ("/a/**", "/", False),
        ("/a/**", "", False),
        ("/a/**", "/b/", False),
        ("/a/**", "/ab/", False),
        ("/a/**", "x/a/", False),
        ("/*/b/**", "/a/b/", True),
        ("/*/b/**", "/a/b", False),
        ("/*/b/**", "/a/", False),
        ("/a/*", "/a/", False),
        ("/a", "/a", False),
        ("/*", "/", False),
    ],
)
def test_whether_all_below_a_prefix_is_administered(admin: str, prefix: str, covered: bool) -> None:
    assert grant(admin=admin).covers(prefix) is covered
    assert not grant(read=admin, delete=admin, create=admin, append=admin).covers(prefix)


@deterministic
@given(GLOBS, st.lists(st.sampled_from(["a", "b", "é", "c"]), min_size=1, max_size=4), st.integers(0, 9))
def test_what_is_covered_matches(glob: str, segments: list[str], cut: int) -> None:
    path = "/" + "/".join(segments)
    if parse_glob(glob).covers(path[:cut]):
        assert parse_glob(glob).matches(path)


def test_actions_are_apart_and_admin_includes_them() -> None:
    for action in ACTIONS:
        scopes = grant(**{action: "/a/*"})
        for wanted in ACTIONS:
            assert scopes.allows(wanted, "/a/b") == (action in (wanted, "admin"))
            assert not scopes.allows(wanted, "/b")
    assert not any(Scopes().allows(wanted, "/a") for wanted in ACTIONS)


def test_scopes_as_text() -> None:
    scopes = grant(read=["/a b/*", "/é"], append="/a/**", admin="/-/metrics")
    assert str(scopes) == "append:/a/** read:/a%20b/* read:/%C3%A9 admin:/-/metrics"
    assert parse_scopes(str(scopes)) == scopes


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("", ""),
        ("openid profile email offline_access", ""),
        ("read:/a  openid append:/b", "read:/a append:/b"),
        ("read read: read:org repo:status admin:org write:/a READ:/a Read:/a", ""),
        ("read:a\tread:/b", ""),
        (":/a create:/a", "create:/a"),
    ],
)
def test_foreign_scopes_grant_nothing(text: str, granted: str) -> None:
    assert str(parse_scopes(text)) == granted


@pytest.mark.parametrize("text", ["read:/a*", "openid read:/", "append:/../a", "read:/a read:/**/x", "admin:/a%"])
def test_malformed_scopes_are_told(text: str) -> None:
    with pytest.raises(ScopeError, match="no glob"):
        parse_scopes(text)


def test_the_number_of_scopes_is_bounded() -> None:
    words = [f"read:/{number}" for number in range(SCOPES_MAX)]
    assert len(parse_scopes(" ".join(words)).entries) == SCOPES_MAX
    with pytest.raises(ScopeError, match="more than"):
        parse_scopes(" ".join([*words, "append:/a"]))
    with pytest.raises(ScopeError, match="more than"):
        grant(read=[f"/{number}" for number in range(SCOPES_MAX + 1)])


def test_decisions_about_many_paths() -> None:
    """What is remembered of them is bounded, and changes none."""
    scopes = grant(read="/a/*")
    for _ in range(2):
        for number in range(200):
            assert scopes.allows("read", f"/a/{number}")
            assert not scopes.allows("read", f"/b/{number}")
            assert not scopes.allows("append", f"/a/{number}")
    assert scopes == grant(read="/a/*")
    assert hash(scopes) == hash(grant(read="/a/*"))
