"""Path identity: one stream has one spelling, and everything else is refused instead of normalised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.errors import InvalidPath
from unbroken.protocol.paths import decode_target, parse_path


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        pytest.param(b"/a/b", "/a/b", id="plain"),
        pytest.param(b"/a%20b", "/a b", id="space"),
        pytest.param(b"/a+b", "/a+b", id="plus-is-no-space"),
        pytest.param(b"/%e2%82%ac", "/\u20ac", id="utf-8"),
        pytest.param(b"/%E2%82%ac", "/\u20ac", id="case-of-digits"),
        pytest.param("/\u20ac".encode(), "/\u20ac", id="raw-utf-8"),
        pytest.param(b"/%2561", "/%61", id="once"),
        pytest.param(b"/%252F", "/%2F", id="once-even-a-slash"),
        pytest.param(b"/a%3Fb%23c", "/a?b#c", id="delimiters"),
        pytest.param(b"/%2e%2e/x", "/../x", id="dots-show"),
        pytest.param(b"/%00", "/\x00", id="nul-shows"),
    ],
)
def test_target_is_decoded_once(raw: bytes, path: str) -> None:
    assert decode_target(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"/a%2Fb", id="encoded-slash"),
        pytest.param(b"/a%2fb", id="encoded-slash-lower"),
        pytest.param(b"/a%", id="cut-escape"),
        pytest.param(b"/a%2", id="half-escape"),
        pytest.param(b"/a%g1", id="no-hex"),
        pytest.param(b"/a%%41", id="percent"),
        pytest.param(b"/%ff", id="no-utf-8"),
        pytest.param(b"/\xff", id="raw-no-utf-8"),
        pytest.param(b"/%e2%82", id="cut-character"),
        pytest.param(b"/%c0%af", id="overlong-slash"),
        pytest.param(b"/%ed%a0%80", id="surrogate"),
    ],
)
def test_targets_that_cannot_be_decoded_are_400(raw: bytes) -> None:
    with pytest.raises(InvalidPath) as refused:
        decode_target(raw)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/a", id="one-segment"),
        pytest.param("/events", id="word"),
        pytest.param("/v1/stream/a/b", id="deep"),
        pytest.param("/" + "/".join("x" * 32), id="32-segments"),
        pytest.param("/" + "x" * 1023, id="1024-bytes"),
        pytest.param("/" + "\u20ac" * 341, id="1024-bytes-utf-8"),
        pytest.param("/a b/%/?#", id="delimiters"),
        pytest.param("/...", id="three-dots"),
        pytest.param("/.a/b.", id="dot-in-a-segment"),
        pytest.param("/a/-", id="dash-further-on"),
        pytest.param("/a/__ds/x", id="control-name-further-on"),
        pytest.param("/-a", id="dash-and-more"),
        pytest.param("/__dsx", id="control-name-and-more"),
        pytest.param("/__DS", id="control-name-other-case"),
        pytest.param("/a\u2028b\U0001f600", id="beyond-latin-1"),
    ],
)
def test_stream_paths_are_their_own_identity(path: str) -> None:
    assert parse_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param("/", id="root"),
        pytest.param("a", id="no-slash-first"),
        pytest.param("//", id="two-slashes"),
        pytest.param("//a", id="empty-segment-first"),
        pytest.param("/a//b", id="empty-segment"),
        pytest.param("/a/", id="trailing-slash"),
        pytest.param("/./a", id="dot"),
        pytest.param("/a/.", id="dot-last"),
        pytest.param("/../a", id="dots"),
        pytest.param("/a/..", id="dots-last"),
        pytest.param("/a\\b", id="backslash"),
        pytest.param("/a\x00", id="nul"),
        pytest.param("/a\nb", id="newline"),
        pytest.param("/a\n", id="newline-last"),
        pytest.param("/\x1f", id="last-control"),
        pytest.param("/\x7f", id="delete"),
        pytest.param("/\x80", id="first-c1-control"),
        pytest.param("/\x9f", id="last-c1-control"),
        pytest.param("/-", id="reserved-dash"),
        pytest.param("/-/health", id="below-reserved-dash"),
        pytest.param("/__ds", id="reserved-control-name"),
        pytest.param("/__ds/subscriptions/x", id="below-reserved-control-name"),
        pytest.param("/" + "/".join("x" * 33), id="33-segments"),
        pytest.param("/" + "x" * 1024, id="1025-bytes"),
        pytest.param("/x" + "\u20ac" * 341, id="1025-bytes-utf-8"),
        pytest.param("/\ud83d", id="lone-surrogate"),
    ],
)
def test_other_paths_are_400(path: str) -> None:
    with pytest.raises(InvalidPath) as refused:
        parse_path(path)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("/a", "/A", id="case"),
        pytest.param("/\u00e9", "/e\u0301", id="normalisation"),
        pytest.param("/a%62", "/ab", id="escape-in-a-decoded-path"),
    ],
)
def test_paths_are_compared_byte_for_byte(one: str, other: str) -> None:
    assert parse_path(one) != parse_path(other)


@deterministic
@given(st.text(alphabet=st.sampled_from("/.-_%\\ab\x00\x7f\u20ac"), max_size=12))
def test_a_path_that_is_accepted_survives_the_wire(path: str) -> None:
    try:
        key = parse_path(path)
    except InvalidPath:
        return
    target = "".join(f"%{byte:02x}" if byte != 0x2F else "/" for byte in key.encode())
    assert parse_path(decode_target(target.encode())) == path
