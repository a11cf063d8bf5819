"""What a body means: content types, JSON messages byte for byte, and characters that are never cut."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.support import deterministic
from unbroken.errors import InvalidBody, TooManyMessages
from unbroken.protocol import content
from unbroken.protocol.content import (
    frame_json,
    frames_quickly,
    is_json,
    is_text,
    json_array,
    media_type,
    split_json,
    whole_characters,
)

MESSAGES_MAX = 100_000
DEPTH_MAX = 512
Path = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (b"[]", []),
        (b' [1, "a" ,{"b":[ ]}] ', [b"1", b'"a"', b'{"b":[ ]}']),
        (b"7", [b"7"]),
        (rb'["\ud83d"]', [rb'"\ud83d"']),
    ],
)
def test_a_page_is_split_into_its_messages(body: bytes, messages: list[bytes]) -> None:
    assert split_json(body) == messages


@pytest.mark.parametrize("body", [b"", b"[1", b"[1]x", b"[" * 100_000])
def test_what_is_not_json_is_not_split(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        split_json(body)


# --- content types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "bare", "as_json", "as_text"),
    [
        pytest.param("application/json", "application/json", True, False, id="json"),
        pytest.param("Application/JSON", "application/json", True, False, id="json-case"),
        pytest.param("application/json; charset=utf-8", "application/json", True, False, id="json-parameters"),
        pytest.param("application/json ;x", "application/json", True, False, id="json-space"),
        pytest.param("application/ld+json", "application/ld+json", False, False, id="json-suffix"),
        pytest.param("application/jsonl", "application/jsonl", False, False, id="json-lines"),
        pytest.param("text/json", "text/json", False, True, id="text-json"),
        pytest.param("text/plain", "text/plain", False, True, id="text"),
        pytest.param("TEXT/html;charset=utf-8", "text/html", False, True, id="text-case"),
        pytest.param("application/octet-stream", "application/octet-stream", False, False, id="bytes"),
        pytest.param("application/xml", "application/xml", False, False, id="xml"),
        pytest.param("texture/x", "texture/x", False, False, id="begins-like-text"),
    ],
)
def test_media_types(content_type: str, bare: str, as_json: bool, as_text: bool) -> None:
    assert media_type(content_type) == bare
    assert is_json(content_type) is as_json
    assert is_text(content_type) is as_text


# --- JSON, both ways ---------------------------------------------------------------------------------------------


@contextmanager
def slices(size_bytes: int) -> Iterator[None]:
    """Treat every body as a big one, cut into slices of about this size."""
    with mock.patch.multiple(content, _ONE_CALL_BYTES_MAX=-1, _SLICE_BYTES=size_bytes):
        yield


BOTH_WAYS = pytest.mark.parametrize(
    "way",
    [
        pytest.param(nullcontext, id="in-one-call"),
        pytest.param(lambda: slices(2), id="in-tiny-slices"),
        pytest.param(lambda: slices(16), id="in-slices"),
    ],
)


def framed(*messages: bytes) -> bytes:
    return b"".join(message + b"\x1e" for message in messages)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("body", "messages"),
    [
        pytest.param(b"1", [b"1"], id="number"),
        pytest.param(b'"a"', [b'"a"'], id="string"),
        pytest.param(b"null", [b"null"], id="null"),
        pytest.param(b'{"a":1}', [b'{"a":1}'], id="object"),
        pytest.param(b"[]", [], id="empty-array"),
        pytest.param(b"[ \n]", [], id="empty-array-with-white-space"),
        pytest.param(b"[1,2,3]", [b"1", b"2", b"3"], id="array"),
        pytest.param(b"[[1,2],[3]]", [b"[1,2]", b"[3]"], id="one-level-is-flattened"),
        pytest.param(b"[[]]", [b"[]"], id="empty-array-as-message"),
        pytest.param(b"[[[1]]]", [b"[[1]]"], id="deeper-levels-stay"),
        pytest.param(b" \t\r\n{ }\n", [b"{ }"], id="surrounding-white-space-goes"),
        pytest.param(b" \t\r\n[1, 2]\n ", [b"1", b"2"], id="white-space-around-an-array"),
        pytest.param(rb' "\ud83d" ', [rb'"\ud83d"'], id="white-space-around-a-lone-surrogate"),
        pytest.param(rb' ["\ud83d", 1] ', [rb'"\ud83d"', b"1"], id="white-space-around-an-array-of-them"),
        pytest.param(
            b'[ 1 ,\t{ "a" : [ 1 , 2 ] }\r\n, "x" ]', [b"1", b'{ "a" : [ 1 , 2 ] }', b'"x"'], id="inner-stays"
        ),
        pytest.param(b'{"a":1,"a":2}', [b'{"a":1,"a":2}'], id="duplicate-keys"),
        pytest.param(b'{"b":1,"a":2}', [b'{"b":1,"a":2}'], id="key-order"),
        pytest.param(
            b"[1234567890123456789012345678901234567890]", [b"1234567890123456789012345678901234567890"], id="int"
        ),
        pytest.param(b"[" + b"9" * 5000 + b"]", [b"9" * 5000], id="very-long-int"),
        pytest.param(b"[1.10,1e400,-0,0.1e-5]", [b"1.10", b"1e400", b"-0", b"0.1e-5"], id="spelling-of-numbers"),
        pytest.param(rb'["\u0041\/\n","A"]', [rb'"\u0041\/\n"', b'"A"'], id="escapes"),
        pytest.param(rb'["\ud83d\ude00"]', [rb'"\ud83d\ude00"'], id="surrogate-pair"),
        pytest.param(rb'"\ud83d"', [rb'"\ud83d"'], id="lone-surrogate"),
        pytest.param(rb'["\uD83D",1]', [rb'"\uD83D"', b"1"], id="lone-surrogate-upper-case"),
        pytest.param(rb'[1 , "\ude00x" , [ 2 ] ]', [b"1", rb'"\ude00x"', b"[ 2 ]"], id="lone-low-surrogate"),
        pytest.param(rb'["\ude00\ud83d","\\ud83d"]', [rb'"\ude00\ud83d"', rb'"\\ud83d"'], id="surrogates-swapped"),
        pytest.param(rb'{"\udfff":"\\\udbff\\"}', [rb'{"\udfff":"\\\udbff\\"}'], id="lone-surrogates-and-backslashes"),
        pytest.param(rb'[" , ] \ud800 [ ,"," "]', [rb'" , ] \ud800 [ ,"', b'" "'], id="lone-surrogate-and-commas"),
        pytest.param('["\u20ac\U0001f600"]'.encode(), ['"\u20ac\U0001f600"'.encode()], id="utf-8"),
        pytest.param(b'["\x7f"]', [b'"\x7f"'], id="delete-character"),
        pytest.param(rb'["],[","\"],[\"","\\"]', [b'"],["', rb'"\"],[\""', rb'"\\"'], id="brackets-in-strings"),
    ],
)
def test_messages_are_kept_byte_for_byte(way: Path, body: bytes, messages: list[bytes]) -> None:
    with way():
        assert frame_json(body) == framed(*messages)


@BOTH_WAYS
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="white-space"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"[NaN]", id="nan-in-array"),
        pytest.param(b"Infinity", id="infinity"),
        pytest.param(b"[-Infinity]", id="minus-infinity"),
        pytest.param(rb'["\ud800",NaN]', id="nan-beside-lone-surrogate"),
        pytest.param(rb'["\ud800",Infinity]', id="infinity-beside-lone-surrogate"),
        pytest.param(b"1 2", id="two-texts"),
        pytest.param(b"[1] [2]", id="two-arrays"),
        pytest.param(b"[1],[2]", id="two-arrays-with-comma"),
        pytest.param(b"[1]x", id="trailing-garbage"),
        pytest.param(b"[1]]", id="trailing-bracket"),
        pytest.param(rb'"\ud800"x', id="trailing-garbage-after-lone-surrogate"),
        pytest.param(rb'["\ud800"]]', id="trailing-bracket-after-lone-surrogate"),
        pytest.param(b"1\x00", id="trailing-nul"),
        pytest.param(b"\x0b1", id="white-space-json-does-not-know"),
        pytest.param(b"\xc2\xa01", id="no-break-space"),
        pytest.param(b"\xef\xbb\xbf1", id="byte-order-mark"),
        pytest.param(b"[", id="open-array"),
        pytest.param(b"[1", id="cut-array"),
        pytest.param(b"[1,", id="cut-after-comma"),
        pytest.param(b"]", id="closing-bracket"),
        pytest.param(b"[1,]", id="trailing-comma"),
        pytest.param(b"[1, ]", id="trailing-comma-and-space"),
        pytest.param(b"[1,     ]", id="trailing-comma-and-spaces"),
        pytest.param(b"[,1]", id="leading-comma"),
        pytest.param(b"[ ,1]", id="leading-space-and-comma"),
        pytest.param(b"[    ,1]", id="leading-spaces-and-comma"),
        pytest.param(b"[1,,2]", id="two-commas"),
        pytest.param(b"[1, ,2]", id="two-commas-and-space"),
        pytest.param(b"[1,                              ,2]", id="two-commas-and-spaces"),
        pytest.param(b"[,]", id="only-a-comma"),
        pytest.param(b"[  ,  ]", id="only-a-comma-and-spaces"),
        pytest.param(b"[1 2]", id="no-comma"),
        pytest.param(b"[1}", id="wrong-bracket"),
        pytest.param(b'[{"a":1],2}', id="crossed-brackets"),
        pytest.param(b"[1,2},{3]", id="crossed-brackets-at-the-top"),
        pytest.param(b"[1]{,}[2]", id="array-and-more"),
        pytest.param(b'{"a":1,}', id="trailing-comma-in-object"),
        pytest.param(b"{1:2}", id="key-that-is-no-string"),
        pytest.param(b'{"a"}', id="key-without-value"),
        pytest.param(b"{a:1}", id="unquoted-key"),
        pytest.param(b"'a'", id="single-quotes"),
        pytest.param(b"[01]", id="leading-zero"),
        pytest.param(b"[+1]", id="plus"),
        pytest.param(b"[.5]", id="no-whole-part"),
        pytest.param(b"[1.]", id="no-fraction"),
        pytest.param(b"[1e]", id="no-exponent"),
        pytest.param(b"[-]", id="only-minus"),
        pytest.param(b"[0x10]", id="hexadecimal"),
        pytest.param(b"[True]", id="case-of-literals"),
        pytest.param(b"[nul]", id="cut-literal"),
        pytest.param(b"[1]//x", id="comment"),
        pytest.param(b'["a', id="open-string"),
        pytest.param(b'["a\\', id="cut-in-an-escape"),
        pytest.param(b'["a\\"', id="escaped-quote-last"),
        pytest.param(b'["\n"]', id="newline-in-string"),
        pytest.param(b'["\x1e"]', id="separator-in-string"),
        pytest.param(b"[1\x1e2]", id="separator-between"),
        pytest.param(b'{"\x1e":1}', id="separator-in-key"),
        pytest.param(b'["\x00"]', id="nul-in-string"),
        pytest.param(rb'["\ud800' + b'\x1e"]', id="separator-beside-lone-surrogate"),
        pytest.param(rb'["\x41"]', id="unknown-escape"),
        pytest.param(rb'["\u12"]', id="short-escape"),
        pytest.param(rb'["\u12zz"]', id="escape-without-digits"),
        pytest.param(rb'["\ud8"]', id="short-surrogate"),
        pytest.param(rb'["\ud8zz"]', id="surrogate-without-digits"),
        pytest.param(rb'["\ud800\x"]', id="unknown-escape-after-lone-surrogate"),
        pytest.param(rb'["\u\\d800"]', id="escape-cut-by-another"),
        pytest.param(rb"[\ud800]", id="surrogate-outside-a-string"),
        pytest.param(rb'["\ud800",\\]', id="backslashes-outside-a-string"),
        pytest.param(b'["\xff"]', id="invalid-byte"),
        pytest.param(b'["\xc3"]', id="cut-character"),
        pytest.param(b'"\xe2\x82', id="cut-character-at-the-end"),
        pytest.param(b'["\xa9"]', id="continuation-byte"),
        pytest.param(b'["\xc0\xaf"]', id="overlong"),
        pytest.param(b'["\xed\xa0\x80"]', id="encoded-surrogate"),
        pytest.param(b'["\xf4\x90\x80\x80"]', id="beyond-unicode"),
        pytest.param(b'{"\xff":1}', id="invalid-byte-in-key"),
    ],
)
def test_what_is_not_json_is_400(way: Path, body: bytes) -> None:
    with way(), pytest.raises(InvalidBody) as refused:
        frame_json(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("stored", "array"),
    [
        pytest.param(b"", b"[]", id="none"),
        pytest.param(b"1\x1e", b"[1]", id="one"),
        pytest.param(b'1\x1e{"a":[1,2]}\x1e"x"\x1e', b'[1,{"a":[1,2]},"x"]', id="several"),
    ],
)
def test_a_page_is_one_array(stored: bytes, array: bytes) -> None:
    assert json_array(stored) == array


# --- JSON against the standard library -----------------------------------------------------------------------------


def _refuse(name: str) -> Any:
    raise ValueError(name)


STRICT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def split_by_the_standard_library(body: bytes) -> list[bytes] | None:
    """The messages of a body; None if it is not JSON."""
    space = " \t\n\r"
    try:
        text = body.decode().strip(space)
        STRICT.decode(text)
    except ValueError:
        return None
    if not text.startswith("["):
        return [text.encode()]
    messages = []
    rest = text[1:].lstrip(space)
    while rest != "]":
        _, end = STRICT.raw_decode(rest)
        messages.append(rest[:end].encode())
        rest = rest[end:].lstrip(space).removeprefix(",").lstrip(space)
    return messages


def outcome(body: bytes) -> bytes | None:
    try:
        return frame_json(body)
    except InvalidBody:
        return None


def oracle(body: bytes) -> bytes | None:
    messages = split_by_the_standard_library(body)
    return None if messages is None else framed(*messages)


SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n", b"\t \r\n", b"          "])
ATOMS = st.sampled_from(
    [
        *(b"0", b"-1", b"12.50", b"1E+2", b"true", b"null", b'""', b'"a"', b'" "', b'",[{"', rb'"\"]\\"', rb'"\u00e9"'),
        *(rb'"\ud83d"', rb'"\ud83d\ude00"', rb'"\\ud83d"', '"\u20ac"'.encode(), '"\U0001f600"'.encode(), b'"\x7f"'),
    ]
)


def _array(parts: list[tuple[bytes, bytes, bytes]]) -> bytes:
    return b"[" + b",".join(before + item + after for before, item, after in parts) + b"]"


def _object(parts: list[tuple[bytes, bytes, bytes]]) -> bytes:
    return b"{" + b",".join(b'"k"' + before + b":" + after + item for before, item, after in parts) + b"}"


def _nest(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    parts = st.lists(st.tuples(SPACE, inner, SPACE), max_size=5)
    return st.one_of(parts.map(_array), parts.map(_object))


VALUES = st.recursive(ATOMS, _nest, max_leaves=20)
ARRAYS = st.lists(st.tuples(SPACE, VALUES, SPACE), max_size=8).map(_array)
TEXTS = st.tuples(SPACE, st.one_of(ARRAYS, VALUES), SPACE).map(b"".join)
SCRAPS = st.sampled_from(
    [bytes((byte,)) for byte in b'[]{},:"\\ \n-+.0eu/n\x00\x1e\x0b\x7f\x80\xc3\xed\xff']
    + [b",,", b"]]", b"NaN", b"Infinity", rb"\u", rb"\ud800", rb"\udc00", b"\xe2\x82", b"\xed\xa0\x80", b"true"]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A JSON text with one to three bytes or pieces put in, taken out or replaced."""
    body = bytearray(draw(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = start + draw(st.integers(0, 2))
        body[start:end] = draw(st.one_of(st.just(b""), SCRAPS))
    return bytes(body)


SIZES = st.one_of(st.none(), st.integers(2, 40))


def _way(size_bytes: int | None) -> AbstractContextManager[None]:
    return nullcontext() if size_bytes is None else slices(size_bytes)


@deterministic
@given(body=TEXTS, size_bytes=SIZES)
def test_json_is_split_as_the_standard_library_reads_it(body: bytes, size_bytes: int | None) -> None:
    expected = oracle(body)
    assert expected is not None
    with _way(size_bytes):
        assert outcome(body) == expected


@deterministic
@given(body=mutated(), size_bytes=SIZES)
@example(body=b"[1,2,  ,3]", size_bytes=2)
@example(body=b"[1]  ,  [2]", size_bytes=2)
def test_what_the_standard_library_refuses_is_refused(body: bytes, size_bytes: int | None) -> None:
    with _way(size_bytes):
        assert outcome(body) == oracle(body)


@deterministic
@given(body=ARRAYS, size_bytes=st.integers(2, 40))
def test_stored_messages_read_back_as_the_array_that_was_sent(body: bytes, size_bytes: int) -> None:
    with slices(size_bytes):
        assert json.loads(json_array(frame_json(body))) == json.loads(body)


# --- JSON at its limits ------------------------------------------------------------------------------------------


def arrays(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def objects(levels: int) -> bytes:
    return b'{"":' * levels + b"0" + b"}" * levels


def mixed(levels: int) -> bytes:
    opening = b"".join(b'{"":' if level % 2 else b"[" for level in range(levels))
    closing = b"".join(b"}" if level % 2 else b"]" for level in reversed(range(levels)))
    return opening + b"0" + closing


def with_strings(levels: int) -> bytes:
    """Every level holds strings that are full of brackets."""
    return rb'["]}\"[{\\",' * levels + b"0" + rb',"[[[{\"[[["]' * levels


def as_one_of_many(message: bytes) -> bytes:
    return b'[1,"[[[[",' + message + b',{"a":[]}]'


def beside_a_lone_surrogate(message: bytes) -> bytes:
    return rb'["\ud800",' + message + b"]"


DEEP = pytest.mark.parametrize("nested", [arrays, objects, mixed, with_strings], ids=lambda function: function.__name__)
PLACES = pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda message: b"[" + message + b"]", id="alone"),
        pytest.param(as_one_of_many, id="one-of-many"),
        pytest.param(beside_a_lone_surrogate, id="beside-a-lone-surrogate"),
    ],
)


def depth(value: object) -> int:
    levels = 0
    layer = [value]
    while layer := [item for item in layer if isinstance(item, list | dict)]:
        levels += 1
        layer = [child for item in layer for child in (item.values() if isinstance(item, dict) else item)]
    return levels


@DEEP
@pytest.mark.parametrize("levels", [1, 2, 511, 512])
def test_the_nesting_of_the_examples(nested: Callable[[int], bytes], levels: int) -> None:
    assert depth(json.loads(nested(levels))) == levels


@BOTH_WAYS
@PLACES
@DEEP
def test_a_message_may_be_512_levels_deep(
    way: Path, place: Callable[[bytes], bytes], nested: Callable[[int], bytes]
) -> None:
    with way():
        assert nested(DEPTH_MAX) + b"\x1e" in frame_json(place(nested(DEPTH_MAX)))


@BOTH_WAYS
@PLACES
@DEEP
@pytest.mark.parametrize("levels", [513, 600])
def test_a_deeper_message_is_400(
    way: Path, place: Callable[[bytes], bytes], nested: Callable[[int], bytes], levels: int
) -> None:
    with way(), pytest.raises(InvalidBody) as refused:
        frame_json(place(nested(levels)))
    assert refused.value.detail == "JSON nested deeper than 512 levels"


@PLACES
@pytest.mark.parametrize("nested", [arrays, objects])
def test_so_is_one_that_no_stack_could_hold(place: Callable[[bytes], bytes], nested: Callable[[int], bytes]) -> None:
    with pytest.raises(InvalidBody) as refused:
        frame_json(place(nested(50_000)))
    assert refused.value.detail == "JSON nested deeper than 512 levels"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("key", "levels", "accepted"),
    [
        pytest.param(b'"a"', 511, True, id="at-the-limit"),
        pytest.param(b'"a"', 512, False, id="beyond"),
        pytest.param(rb'"\ud800"', 511, True, id="lone-surrogate-at-the-limit"),
        pytest.param(rb'"\ud800"', 512, False, id="lone-surrogate-beyond"),
        pytest.param(rb'"\ud800"', 50_000, False, id="lone-surrogate-far-beyond"),
    ],
)
def test_the_same_limit_holds_for_a_body_that_is_one_message(
    way: Path, key: bytes, levels: int, accepted: bool
) -> None:
    body = b"{" + key + b":" + arrays(levels) + b"}"
    with way():
        assert outcome(body) == (body + b"\x1e" if accepted else None)


@BOTH_WAYS
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b'"' + b"[" * 2000 + b'"', id="in-a-string"),
        pytest.param(b'"' + rb"\"[{" * 2000 + b'"', id="after-escaped-quotes"),
        pytest.param(b"[" + b",".join([b"[]"] * 2000) + b"]", id="side-by-side"),
        pytest.param(b"[" + b",".join([b'"]","["'] * 2000) + b"]", id="in-many-strings"),
    ],
)
def test_many_brackets_are_not_depth(way: Path, message: bytes) -> None:
    with way():
        assert frame_json(b"[" + message + b"]") == message + b"\x1e"


FEW_SLICES = pytest.mark.parametrize(
    "way", [pytest.param(nullcontext, id="in-one-call"), pytest.param(lambda: slices(1024), id="in-slices")]
)


@FEW_SLICES
@pytest.mark.parametrize(
    ("body", "count"),
    [
        pytest.param(b"[" + b"1," * (MESSAGES_MAX - 1) + b"1]", MESSAGES_MAX, id="limit"),
        pytest.param(b"[ " + b"1 , " * (MESSAGES_MAX - 1) + b"1 ]", MESSAGES_MAX, id="limit-with-white-space"),
        pytest.param(b"[" + b"[1,2,3]," * 49_999 + b"0]", 50_000, id="many-commas-within"),
        pytest.param(b"[" + b'",,,,",' * 49_999 + b"0]", 50_000, id="many-commas-in-strings"),
        pytest.param(b"[[" + b"1," * (MESSAGES_MAX + 1) + b"1]]", 1, id="one-long-message"),
    ],
)
def test_one_request_may_hold_100_000_messages(way: Path, body: bytes, count: int) -> None:
    with way():
        assert frame_json(body).count(b"\x1e") == count


@FEW_SLICES
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"1," * MESSAGES_MAX + b"1]", id="one-more"),
        pytest.param(b"[" + b"[1,2]," * MESSAGES_MAX + b"1]", id="one-more-array"),
        pytest.param(b"[" + rb'"\ud800",' * MESSAGES_MAX + b"1]", id="one-more-lone-surrogate"),
        pytest.param(b"[" + b"1," * (2 * MESSAGES_MAX) + b"1]", id="many-more"),
    ],
)
def test_more_messages_are_413(way: Path, body: bytes) -> None:
    with way(), pytest.raises(TooManyMessages) as refused:
        frame_json(body)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("body", "quick"),
    [
        pytest.param(b"[1,2]", True, id="small"),
        pytest.param(b" " * 2**20, True, id="1-MiB"),
        pytest.param(b" " * 2**20 + b" ", False, id="over-1-MiB"),
        pytest.param(b"," * (MESSAGES_MAX - 1), True, id="99,999-commas"),
        pytest.param(b"," * MESSAGES_MAX, False, id="100,000-commas"),
        pytest.param(b"[" * 25_000 + b"{" * 24_999, True, id="49,999-brackets"),
        pytest.param(b"[" * 25_000 + b"{" * 25_000, False, id="50,000-brackets"),
        pytest.param(rb"\ud83d" + b"," * 4_999, True, id="surrogate-and-4,999-commas"),
        pytest.param(rb"\ud83d" + b"," * 5_000, False, id="surrogate-and-5,000-commas"),
        pytest.param(rb"\uDE00" + b"," * 5_000, False, id="low-surrogate-and-5,000-commas"),
        pytest.param(rb"\u00e9" + b"," * 5_000, True, id="another-escape-and-5,000-commas"),
    ],
)
def test_which_bodies_take_only_milliseconds(body: bytes, quick: bool) -> None:
    assert frames_quickly(body) is quick


def test_a_really_big_array_is_split_exactly() -> None:
    messages = [
        json.dumps({"n": number, "text": "\u20ac\U0001f600[," * 40}, ensure_ascii=False) for number in range(9000)
    ]
    body = ("[" + " , ".join(messages) + "]").encode()
    assert len(body) > 2**21
    assert frame_json(body) == framed(*(message.encode() for message in messages))


def test_a_fault_near_the_end_of_a_big_array_is_found() -> None:
    items = b'{"text":"' + b"x" * 100 + b'"},'
    assert 10_000 * len(items) > 2**20
    for fault in (b"nope", b"", b"  ", b'"\xc3"', b"1 2", b"}", b"[", b'"'):
        with pytest.raises(InvalidBody):
            frame_json(b"[" + items * 10_000 + fault + b"]")


def _peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_big_array_of_small_messages_is_refused_in_little_memory() -> None:
    body = b"[" + b"1," * (31 * 2**20) + b"1]"

    def refuse() -> None:
        with pytest.raises(TooManyMessages):
            frame_json(body)

    assert _peak_bytes(refuse) < 8 * 2**20


@pytest.mark.parametrize(
    "first",
    [pytest.param(b'"a"', id="plain"), pytest.param(rb'"\ud800"', id="lone-surrogate")],
)
def test_a_message_is_not_blown_up_into_objects(first: bytes) -> None:
    body = b'{"a":[' + first + b",[]" * 2**17 + b"]}"
    assert _peak_bytes(lambda: frame_json(body)) < 5 * len(body)


# --- UTF-8 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["\xe9", "\u20ac", "\U0001f600"], ids=ascii)
@pytest.mark.parametrize("size_bytes", [2, 3, 4, 5, 7])
def test_characters_across_the_borders_of_slices_are_whole(character: str, size_bytes: int) -> None:
    for shift in range(8):
        message = f'"{"x" * shift}{character * 5}y"'.encode()
        with slices(size_bytes):
            assert frame_json(message) == message + b"\x1e"


@pytest.mark.parametrize("character", ["\xe9", "\u20ac", "\U0001f600"], ids=ascii)
@pytest.mark.parametrize("size_bytes", [2, 3, 4, 5, 7])
def test_characters_cut_at_the_borders_of_slices_are_400(character: str, size_bytes: int) -> None:
    encoded = character.encode()
    for shift in range(8):
        for kept in range(1, len(encoded)):
            for body in (b"x" * shift + encoded[:kept] + b"x" * 8, b"x" * shift + encoded[kept:] + b"x" * 8):
                with slices(size_bytes), pytest.raises(InvalidBody, match="not UTF-8"):
                    frame_json(b'"' + body + b'"')


def test_a_body_that_ends_within_a_character_is_not_utf_8() -> None:
    with slices(4), pytest.raises(InvalidBody, match="not UTF-8"):
        frame_json(b'"abc\xe2\x82')


@deterministic
@given(raw=st.lists(st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x98\x80"])))
def test_broken_utf_8_is_found_wherever_it_is(raw: list[bytes]) -> None:
    body = b'"' + b"".join(raw) + b'"'
    for size_bytes in (2, 3, 5):
        with slices(size_bytes):
            assert outcome(body) == oracle(body)


MULTIBYTE = "a\xe9\u20ac\U0001f600b\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\x80\u07ff"


def test_text_is_cut_only_between_characters() -> None:
    data = MULTIBYTE.encode()
    for cut in range(len(data) + 1):
        shown = whole_characters(data[:cut])
        assert data[:shown].decode() == data[:cut].decode("utf-8", "ignore")
        assert cut - shown <= 3


def _beginnings() -> set[bytes]:
    """Every way in which a character can begin without being whole."""
    characters = [*range(0x80, 0x800, 0x40), *range(0x800, 0xD800, 0x40), *range(0xE000, 0x110000, 0x40)]
    encoded = [chr(character).encode() for character in characters]
    return {character[:length] for character in encoded for length in range(1, len(character))}


BEGINNINGS = _beginnings()


@deterministic
@given(st.one_of(st.binary(max_size=8), st.text(max_size=4).map(str.encode), st.sampled_from(sorted(BEGINNINGS))))
@example(b"")
@example(b"\xe0\x80")
@example(b"\xed\xa0")
@example(b"\xf4\x90")
@example(b"\xf0\x8f\x80")
@example(b"\xc1")
@example(b"\xf5\x80")
@example(b"\x80\x80\x80\x80")
@example(b"x\xf0\x9f\x98")
def test_only_what_can_become_a_character_is_waited_for(data: bytes) -> None:
    held = [data[-length:] for length in (1, 2, 3) if data[-length:] in BEGINNINGS and length <= len(data)]
    assert whole_characters(data) == len(data) - max(map(len, held), default=0)


@deterministic
@given(st.lists(st.binary(max_size=5)))
def test_showing_whole_characters_step_by_step_shows_what_the_whole_text_shows(parts: list[bytes]) -> None:
    shown, held = "", b""
    for part in parts:
        held += part
        whole = whole_characters(held)
        shown += held[:whole].decode("utf-8", "replace")
        held = held[whole:]
    assert shown + held.decode("utf-8", "replace") == b"".join(parts).decode("utf-8", "replace")
