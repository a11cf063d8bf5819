"""ETags, If-None-Match and Cache-Control of pages."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.protocol.caching import entity_tag, matches, page_cache_control

TAG = '"store-5:0:10"'


def test_a_tag_is_quoted_and_differs_with_every_fact() -> None:
    facts = itertools.product(("s-1", "s-12"), (0, 1, 11), (11, 111), (False, True))
    tags = [entity_tag(identity, start, end, closed=closed) for identity, start, end, closed in facts]
    assert len(set(tags)) == len(tags) == 24
    assert all(re.fullmatch(r'"[\x21\x23-\x7e]+"', tag) for tag in tags)


def test_closing_changes_the_tag_and_nothing_else_does() -> None:
    tag = entity_tag("s-1", 0, 10, closed=False)
    assert entity_tag("s-1", 0, 10, closed=False) == tag
    assert entity_tag("s-1", 0, 10, closed=True) != tag


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(TAG, id="same"),
        pytest.param(f"W/{TAG}", id="weak"),
        pytest.param(f" {TAG} ", id="spaces"),
        pytest.param(f'"x", {TAG}', id="last-of-a-list"),
        pytest.param(f'{TAG}, "x"', id="first-of-a-list"),
        pytest.param(f'"x",{TAG},"y"', id="list-without-spaces"),
        pytest.param(f'W/"x" , W/{TAG}', id="list-of-weak"),
        pytest.param(f'"a, b", {TAG}', id="comma-in-another-tag"),
        pytest.param(f'"", {TAG}', id="empty-tag-in-the-list"),
        pytest.param("*", id="star"),
        pytest.param(" * ", id="star-and-spaces"),
    ],
)
def test_if_none_match_that_names_the_page(header: str) -> None:
    assert matches(header, TAG)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param('"x"', id="another"),
        pytest.param('"store-5:0:10:c"', id="closed"),
        pytest.param('"store-5:0:1"', id="shorter"),
        pytest.param('"xstore-5:0:10"', id="longer"),
        pytest.param('"STORE-5:0:10"', id="case"),
        pytest.param("store-5:0:10", id="unquoted"),
        pytest.param('"store-5:0:10', id="half-quoted"),
        pytest.param('"*"', id="quoted-star"),
        pytest.param('"x", "y"', id="list-of-others"),
    ],
)
def test_if_none_match_that_names_other_pages(header: str) -> None:
    assert not matches(header, TAG)


@pytest.mark.parametrize(
    ("empty", "closed", "left_s", "private", "value"),
    [
        pytest.param(False, False, None, False, "public, max-age=60, stale-while-revalidate=300", id="data"),
        pytest.param(False, True, None, False, "public, max-age=60, stale-while-revalidate=300", id="data-and-closed"),
        pytest.param(False, False, None, True, "private, max-age=60, stale-while-revalidate=300", id="with-auth"),
        pytest.param(True, False, None, False, "no-cache", id="empty-at-an-open-tail"),
        pytest.param(True, False, 5, True, "private, no-cache", id="empty-at-an-open-tail-with-auth"),
        pytest.param(True, True, None, False, "public, max-age=60, stale-while-revalidate=300", id="empty-and-closed"),
        pytest.param(False, False, 0, False, "public, max-age=0, stale-while-revalidate=0", id="expires-now"),
        pytest.param(False, False, 1, False, "public, max-age=1, stale-while-revalidate=0", id="expires-soon"),
        pytest.param(False, False, 60, False, "public, max-age=60, stale-while-revalidate=0", id="just-fresh"),
        pytest.param(False, False, 61, False, "public, max-age=60, stale-while-revalidate=1", id="hardly-stale"),
        pytest.param(False, False, 359, False, "public, max-age=60, stale-while-revalidate=299", id="nearly-whole"),
        pytest.param(False, False, 360, False, "public, max-age=60, stale-while-revalidate=300", id="whole"),
        pytest.param(False, False, 2**63, False, "public, max-age=60, stale-while-revalidate=300", id="far"),
    ],
)
def test_cache_control_of_a_page(empty: bool, closed: bool, left_s: int | None, private: bool, value: str) -> None:
    assert page_cache_control(empty=empty, closed=closed, left_s=left_s, private=private) == value


@deterministic
@given(empty=st.booleans(), closed=st.booleans(), left_s=st.integers(0, 1000), private=st.booleans())
def test_nothing_is_served_from_a_cache_after_expiry(empty: bool, closed: bool, left_s: int, private: bool) -> None:
    value = page_cache_control(empty=empty, closed=closed, left_s=left_s, private=private)
    assert sum(int(seconds) for seconds in re.findall(r"=(\d+)", value)) <= left_s
