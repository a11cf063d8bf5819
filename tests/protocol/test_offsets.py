"""Offsets: what is accepted, what is sent, and how they sort."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.errors import InvalidOffset
from unbroken.protocol.offsets import Anchor, Offset, parse_offset

LARGEST = 10**16 - 1
OFFSETS = st.builds(Offset, st.integers(1, LARGEST), st.integers(0, LARGEST))


@pytest.mark.parametrize(
    ("token", "meaning"),
    [
        pytest.param("-1", Anchor.BEGINNING, id="beginning"),
        pytest.param("now", Anchor.NOW, id="tail"),
        pytest.param("0000000000000000_0000000000000000", Anchor.BEGINNING, id="beginning-on-every-stream"),
        pytest.param("0000000000000001_0000000000000000", Offset(1, 0), id="first"),
        pytest.param("0000000000000012_0000000000000345", Offset(12, 345), id="between"),
        pytest.param("9999999999999999_9999999999999999", Offset(LARGEST, LARGEST), id="largest"),
    ],
)
def test_accepted_tokens(token: str, meaning: Offset | Anchor) -> None:
    assert parse_offset(token) == meaning


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("NOW", id="case-of-now"),
        pytest.param("Now", id="title-case-of-now"),
        pytest.param("now ", id="space-after-now"),
        pytest.param("-2", id="minus-two"),
        pytest.param("-01", id="zero-before-minus-one"),
        pytest.param("+1", id="plus-one"),
        pytest.param("0", id="number"),
        pytest.param("1_2", id="short"),
        pytest.param("000000000000001_0000000000000000", id="15-digits-first"),
        pytest.param("0000000000000001_000000000000000", id="15-digits-last"),
        pytest.param("00000000000000001_0000000000000000", id="17-digits-first"),
        pytest.param("0000000000000001_00000000000000000", id="17-digits-last"),
        pytest.param("0000000000000001-0000000000000000", id="other-separator"),
        pytest.param("00000000000000010000000000000000", id="no-separator"),
        pytest.param("000000000000000a_0000000000000000", id="letter"),
        pytest.param("-000000000000001_0000000000000000", id="sign"),
        pytest.param(" 0000000000000001_0000000000000000", id="space-before"),
        pytest.param("0000000000000001_0000000000000000\n", id="newline-after"),
        pytest.param("000000000000000\uff11_0000000000000000", id="digit-of-another-script"),
        pytest.param("0000000000000001_0000000000000000,0000000000000001_0000000000000000", id="two"),
        pytest.param("0000000000000000_0000000000000001", id="stream-number-zero"),
        pytest.param("0" * 300, id="long"),
    ],
)
def test_malformed_tokens_are_400(token: str) -> None:
    with pytest.raises(InvalidOffset) as refused:
        parse_offset(token)
    assert refused.value.status == 400


@deterministic
@given(OFFSETS)
def test_what_is_sent_is_a_url_safe_token_that_is_read_back(offset: Offset) -> None:
    token = str(offset)
    assert parse_offset(token) == offset
    assert not set(token) & set(",&=?/")
    assert len(token) < 256
    assert token not in ("-1", "now", "0000000000000000_0000000000000000")


@deterministic
@given(OFFSETS, OFFSETS)
def test_tokens_sort_as_offsets_do(one: Offset, other: Offset) -> None:
    assert (str(one) < str(other)) == (one < other)
    assert (str(one) == str(other)) == (one == other)


@deterministic
@given(st.text(alphabet="0123456789_-now", max_size=40))
def test_every_token_but_the_beginning_has_one_spelling(token: str) -> None:
    try:
        meaning = parse_offset(token)
    except InvalidOffset:
        return
    beginning = ("-1", "0000000000000000_0000000000000000")
    spellings = {Anchor.BEGINNING: beginning, Anchor.NOW: ("now",)}
    assert token in (spellings[meaning] if isinstance(meaning, Anchor) else (str(meaning),))
