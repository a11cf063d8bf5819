"""The ledger finds what is lost, doubled, swapped or made up, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest

from tests.network.decks import Deck
from tests.network.feeds import Feed, Kind, Ledger
from unbroken.testing.proxy import KINDS, ProxiedRequest

KINDS_OF_STREAM: tuple[Kind, ...] = ("json", "text", "bytes")


def arrivals(feed: Feed) -> list:
    if feed.kind == "json":
        return list(feed.items)
    cuts = sorted(Random(1).sample(range(1, len(feed.whole)), 50))
    return [feed.whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(feed.whole)], strict=True)]


def settle(feed: Feed, arrived: list) -> None:
    ledger = Ledger(feed)
    for item in arrived:
        ledger.add(item)
    ledger.check()


@pytest.mark.parametrize("kind", KINDS_OF_STREAM)
def test_what_is_right_passes(kind: Kind) -> None:
    feed = Feed(kind, 1, 200)
    settle(feed, arrivals(feed))
    assert Feed(kind, 1, 200).items == feed.items
    assert Feed(kind, 2, 200).items != feed.items


@pytest.mark.parametrize("kind", KINDS_OF_STREAM)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda items: items[:-1],
        lambda items: items[1:],
        lambda items: items[:20] + items[21:],
        lambda items: items[:20] + items[19:],
        lambda items: [*items, items[-1]],
        lambda items: [*items[:20], items[21], items[20], *items[22:]],
        lambda items: [*items[:20], items[20] * 2 if isinstance(items[20], bytes) else "?", *items[21:]],
    ],
    ids=["no end", "no beginning", "lost", "again", "end again", "swapped", "damaged"],
)
def test_what_is_wrong_is_found(kind: Kind, spoil) -> None:
    feed = Feed(kind, 1, 200)
    with pytest.raises(AssertionError):
        settle(feed, spoil(arrivals(feed)))


def test_it_says_what_is_wrong() -> None:
    feed = Feed("json", 1, 50)
    with pytest.raises(AssertionError, match="7 was due, and 6 came again"):
        settle(feed, feed.items[:7] + feed.items[6:])
    with pytest.raises(AssertionError, match="7 was due, and 9 came without the 2 before it"):
        settle(feed, feed.items[:7] + feed.items[9:])
    text = Feed("text", 1, 50)
    with pytest.raises(AssertionError, match=r"at byte 100 came .*, which belongs to byte 80"):
        settle(text, [text.whole[:100], text.whole[80:]])


@pytest.mark.parametrize("kind", KINDS_OF_STREAM)
def test_appends_bring_everything(kind: Kind) -> None:
    feed = Feed(kind, 1, 200)
    appends = list(feed.pieces())
    if kind == "json":
        assert [item for body in appends for item in json.loads(body)] == feed.items
        assert any(b"\n" in body for body in appends)
    else:
        assert b"".join(appends) == feed.whole
    assert 200 > len(appends) > 10


def test_text_is_cut_in_characters() -> None:
    def starts_inside(body: bytes) -> bool:
        return body[0] & 0xC0 == 0x80

    assert any(map(starts_inside, Feed("text", 1, 500).pieces()))
    assert not any(map(starts_inside, Feed("text", 1, 500, plain=True).pieces()))


def request(number: int, target: str = "/a?live=sse") -> ProxiedRequest:
    return ProxiedRequest(number, "GET", target, {})


def test_a_deck_holds_every_kind_once() -> None:
    deck, again = Deck(1, KINDS, 0.5), Deck(1, KINDS, 0.5)
    dealt = [deck(request(number)).kind for number in range(2 * len(KINDS))]
    assert Counter(dealt) == {"pass": len(KINDS)} | dict.fromkeys(KINDS, 1)
    assert dealt == [again(request(number)).kind for number in range(2 * len(KINDS))]


def test_what_does_not_suit_a_request_waits_for_one_that_it_does() -> None:
    deck = Deck(1, ["truncate", "delay"], 1)
    dealt = [deck(request(number, "/a")).kind for number in range(5)]
    assert dealt == ["delay"] * 5
    assert [deck(request(number)).kind for number in range(5, 8)].count("truncate") >= 2
