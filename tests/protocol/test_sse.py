"""Server-Sent Events: exact framing, no forged events, and a decoder by the WHATWG rules."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.protocol.sse import HEARTBEAT, Event, EventDecoder, encode_base64, encode_control, encode_text

OFFSET = "0000000000000001_0000000000000005"
LATER = "0000000000000001_0000000000000009"


def decode(*chunks: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders)]


# --- the encoder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(b"hello", [b"data:hello"], id="plain"),
        pytest.param(b"", [b"data:"], id="empty"),
        pytest.param(b"a\nb", [b"data:a", b"data:b"], id="lf"),
        pytest.param(b"a\rb", [b"data:a", b"data:b"], id="cr"),
        pytest.param(b"a\r\nb", [b"data:a", b"data:b"], id="crlf"),
        pytest.param(b"a\n\rb", [b"data:a", b"data:", b"data:b"], id="lf-cr"),
        pytest.param(b"a\r\r\nb", [b"data:a", b"data:", b"data:b"], id="cr-crlf"),
        pytest.param(b"a\n", [b"data:a", b"data:"], id="lf-last"),
        pytest.param(b"\na", [b"data:", b"data:a"], id="lf-first"),
        pytest.param(b"\n\n", [b"data:", b"data:", b"data:"], id="only-lf"),
        pytest.param(b" a", [b"data:  a"], id="leading-space"),
        pytest.param(b"  a", [b"data:   a"], id="two-leading-spaces"),
        pytest.param(b" ", [b"data:  "], id="only-a-space"),
        pytest.param(b"a\n b\n\tc", [b"data:a", b"data:  b", b"data:\tc"], id="leading-space-further-down"),
        pytest.param(b"data: x", [b"data:data: x"], id="looks-like-a-field"),
        pytest.param("\u2028\x85\x0b\x0c\x1e".encode(), ["data:\u2028\x85\x0b\x0c\x1e".encode()], id="other-line-ends"),
    ],
)
def test_framing_of_text(text: bytes, lines: list[bytes]) -> None:
    body = b"\n".join(lines)
    assert encode_text(text, OFFSET) == b"event: data\n" + body + b"\nid:" + OFFSET.encode() + b"\n\n"


def test_framing_of_bytes() -> None:
    assert encode_base64(b"\x00\xff\n", OFFSET) == b"event: data\ndata:AP8K\nid:" + OFFSET.encode() + b"\n\n"


HERE = f'"streamNextOffset":"{OFFSET}"'


@pytest.mark.parametrize(
    ("facts", "payload"),
    [
        pytest.param((7, False, False), f'{{{HERE},"streamCursor":"7"}}', id="behind"),
        pytest.param((7, True, False), f'{{{HERE},"streamCursor":"7","upToDate":true}}', id="caught-up"),
        pytest.param((7, True, True), f'{{{HERE},"upToDate":true,"streamClosed":true}}', id="closed-has-no-cursor"),
        pytest.param((None, True, True), f'{{{HERE},"upToDate":true,"streamClosed":true}}', id="closed"),
        pytest.param((None, False, False), f"{{{HERE}}}", id="no-cursor"),
    ],
)
@pytest.mark.parametrize("with_id", [False, True], ids=["without-id", "with-id"])
def test_framing_of_control(facts: tuple[int | None, bool, bool], payload: str, with_id: bool) -> None:
    cursor, up_to_date, closed = facts
    encoded = encode_control(OFFSET, cursor=cursor, up_to_date=up_to_date, closed=closed, with_id=with_id)
    id_line = f"id:{OFFSET}\n" if with_id else ""
    assert encoded == f"event: control\ndata:{payload}\n{id_line}\n".encode()
    (event,) = decode(encoded)
    assert event == Event("control", payload, OFFSET if with_id else "")
    assert json.loads(event.data)["streamNextOffset"] == OFFSET


FORGERIES = [
    "\n\nevent: control\ndata:{}\n\n",
    "\r\revent: control\rdata:{}\r\r",
    "\r\n\r\nevent: control\r\ndata:{}\r\n\r\n",
    "x\n\rdata:y",
    "x\nid:forged\n\n",
    "x\rid:forged\r\r",
    "\n:comment\nretry:1\n",
    "\ufeffdata:x\n\n",
    "\0",
]


@pytest.mark.parametrize("text", FORGERIES, ids=ascii)
def test_no_payload_forges_an_event(text: str) -> None:
    control = encode_control(LATER, cursor=1, up_to_date=True, closed=False)
    events = decode(encode_text(text.encode(), OFFSET) + control)
    assert [event.type for event in events] == ["data", "control"]
    assert events[0] == Event("data", re.sub("\r\n|\r", "\n", text), OFFSET)
    assert json.loads(events[1].data)["streamNextOffset"] == LATER
    assert events[1].id == OFFSET


TEXTS = st.text(alphabet=st.one_of(st.sampled_from("\r\n :\0\ufeffdataevent{}"), st.characters(codec="utf-8")))
CUTS = st.lists(st.integers(0, 10**6), max_size=12)


@deterministic
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), cuts=CUTS)
@example(texts=["\r", "\n"], cuts=range(500))
def test_text_comes_back_whatever_the_chunks(texts: list[str], cuts: list[int]) -> None:
    wire = b"".join(
        encode_text(text.encode(), OFFSET) + HEARTBEAT + encode_control(LATER, cursor=1, up_to_date=True, closed=False)
        for text in texts
    )
    events = decode(*cut(wire, cuts))
    assert [event.type for event in events] == ["data", "control"] * len(texts)
    assert [event.data for event in events[::2]] == [re.sub("\r\n|\r", "\n", text) for text in texts]
    assert {event.id for event in events} == {OFFSET}


@deterministic
@given(data=st.binary(max_size=200), cuts=CUTS)
def test_bytes_come_back_whatever_the_chunks(data: bytes, cuts: list[int]) -> None:
    (event,) = decode(*cut(encode_base64(data, OFFSET), cuts))
    assert (event.type, base64.b64decode(event.data, validate=True), event.id) == ("data", data, OFFSET)


# --- the decoder -------------------------------------------------------------------------------------------------


def message(data: str, *, type: str = "message", id: str = "") -> Event:  # noqa: A002 as in the standard
    return Event(type, data, id)


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        pytest.param(b"data: a\n\n", [message("a")], id="one-space-is-stripped"),
        pytest.param(b"data:a\n\n", [message("a")], id="no-space"),
        pytest.param(b"data:  a\n\n", [message(" a")], id="second-space-is-kept"),
        pytest.param(b"data:\ta\n\n", [message("\ta")], id="tab-is-kept"),
        pytest.param(b"data:a:b: c\n\n", [message("a:b: c")], id="colons-in-the-value"),
        pytest.param(b"data:a\ndata:b\n\n", [message("a\nb")], id="lines-join"),
        pytest.param(b"data:a\ndata:\n\n", [message("a\n")], id="empty-line-last"),
        pytest.param(b"data\n\n", [message("")], id="field-without-colon"),
        pytest.param(b"data\ndata\n\ndata:", [message("\n")], id="example-of-the-standard"),
        pytest.param(b"data:a\r\n\r\n", [message("a")], id="crlf"),
        pytest.param(b"data:a\r\ndata:b\r\n\r\n", [message("a\nb")], id="crlf-is-one-line-end"),
        pytest.param(b"event:x\r\ndata:a\r\n\r\n", [message("a", type="x")], id="crlf-after-another-field"),
        pytest.param(b"data:a\r\r", [message("a")], id="cr"),
        pytest.param(b"data:a\rdata:b\r\r", [message("a\nb")], id="cr-in-an-event"),
        pytest.param(b"data:a\r\n\ndata:b\r\n\r\n", [message("a"), message("b")], id="mixed-line-ends"),
        pytest.param(b"data:a\n\r\n", [message("a")], id="lf-then-crlf"),
        pytest.param(b"\n\n\ndata:a\n\n\n\n", [message("a")], id="empty-lines-around"),
        pytest.param("data:a\u2028b\x85c\x0b\x0c\n\n".encode(), [message("a\u2028b\x85c\x0b\x0c")], id="no-line-ends"),
        pytest.param(b"event: x\ndata:a\n\n", [message("a", type="x")], id="type"),
        pytest.param(b"event:x\nevent:y\ndata:a\n\n", [message("a", type="y")], id="last-type-counts"),
        pytest.param(b"event:x\ndata:a\n\ndata:b\n\n", [message("a", type="x"), message("b")], id="type-is-for-one"),
        pytest.param(b"event:x\n\ndata:b\n\n", [message("b")], id="type-without-data-is-dropped"),
        pytest.param(b"event\ndata:b\n\n", [message("b")], id="empty-type"),
        pytest.param(b"id:1\ndata:a\n\ndata:b\n\n", [message("a", id="1"), message("b", id="1")], id="id-stays"),
        pytest.param(b"id:1\n\ndata:b\n\n", [message("b", id="1")], id="id-without-data-stays"),
        pytest.param(b"id:1\ndata:a\n\nid\ndata:b\n\n", [message("a", id="1"), message("b")], id="id-is-reset"),
        pytest.param(b"id:1\nid:2\0\ndata:a\n\n", [message("a", id="1")], id="id-with-nul-is-ignored"),
        pytest.param(b":a comment\ndata:a\n:\n\n", [message("a")], id="comments"),
        pytest.param(b": data:a\n\n", [], id="only-a-comment"),
        pytest.param(b"retry:10\nDATA:x\n data:x\ndatax:y\nx\ndata:a\n\n", [message("a")], id="unknown-fields"),
        pytest.param(b"\xef\xbb\xbfdata:a\n\n", [message("a")], id="byte-order-mark"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata:a\n\n", [], id="only-one-byte-order-mark"),
        pytest.param(b"data:\xef\xbb\xbfa\n\n", [message("\ufeffa")], id="byte-order-mark-further-on"),
        pytest.param(b"\n\xef\xbb\xbfdata:a\n\n", [], id="byte-order-mark-on-the-second-line"),
        pytest.param(b"data:\xffa\n\n", [message("\ufffda")], id="broken-utf-8"),
        pytest.param(b"data:a\xe2\x82\n\n", [message("a\ufffd")], id="cut-character"),
        pytest.param(b"data:a\0b\n\n", [message("a\0b")], id="nul-in-data"),
        pytest.param(b"data:a\n", [], id="cut-before-the-empty-line"),
        pytest.param(b"data:a", [], id="cut-in-a-line"),
        pytest.param(b"data:a\n\ndata:b\n", [message("a")], id="cut-second-event"),
        pytest.param(b"", [], id="nothing"),
    ],
)
@pytest.mark.parametrize("size", [1000, 1, 2, 3], ids=["whole", "by-1", "by-2", "by-3"])
def test_decoder_by_the_whatwg_rules(wire: bytes, events: list[Event], size: int) -> None:
    assert decode(*(wire[start : start + size] for start in range(0, len(wire), size))) == events


def by_the_standard(wire: bytes) -> list[Event]:
    """What the parsing rules of HTML section 9.2.6 make of a whole stream, written down one by one."""
    text = wire.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    events = []
    data = kind = last_id = ""
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                events.append(Event(kind or "message", data.removesuffix("\n"), last_id))
            data = kind = ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


PIECES = st.sampled_from(
    [
        *(b"data", b"event", b"id", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"a", b"\0", b"\xef\xbb\xbf", b"\xef"),
        *(b"\xc3", b"\xa9", b"\xe2\x82\xac", b"\xff", b"data:x\r\n", b"data:y\n\n", b"id:7\r", b":c\n"),
    ]
)


@deterministic
@given(wire=st.lists(PIECES, max_size=30).map(b"".join), cuts=CUTS)
def test_decoder_agrees_with_the_standard_whatever_the_chunks(wire: bytes, cuts: list[int]) -> None:
    assert decode(*cut(wire, cuts)) == by_the_standard(wire)
    assert decode(*cut(wire, range(len(wire)))) == by_the_standard(wire)


def test_chunks_without_bytes_change_nothing() -> None:
    wire = (b"", b"data:a\r", b"", b"\n", b"", b"data:b\n", b"\n", b"data:\xc3", b"", b"\xa9\r", b"", b"\r")
    assert decode(*wire) == [message("a\nb"), message("\xe9")]


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_a_line_may_be_as_long_as_the_limit(chunk_size: int) -> None:
    decoder = EventDecoder(line_chars_max=15)
    wire = b"data:0123456789\n" * 2 + b"\n"
    chunks = [wire[start : start + chunk_size] for start in range(0, len(wire), chunk_size)]
    assert [event.data for chunk in chunks for event in decoder.feed(chunk)] == ["0123456789\n0123456789"]


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_a_line_beyond_the_limit_is_not_held(chunk_size: int) -> None:
    decoder = EventDecoder(line_chars_max=15)
    wire = b"data:0123456789x"
    chunks = [wire[start : start + chunk_size] for start in range(0, len(wire), chunk_size)]
    for chunk in chunks[:-1]:
        assert list(decoder.feed(chunk)) == []
    with pytest.raises(ValueError, match="over 15 characters"):
        list(decoder.feed(chunks[-1]))
