"""Headers and query parameters: names and strict values."""

from __future__ import annotations

import pytest

from tests.protocol.support import fields
from unbroken.errors import InvalidHeader, InvalidOffset
from unbroken.protocol.headers import (
    ALLOWED_METHODS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Fields,
    ReadQuery,
    field,
    is_true,
    parse_content_type,
    parse_integer,
    parse_lifetime,
    parse_producer,
    parse_read_query,
    parse_stream_seq,
)
from unbroken.protocol.lifetime import Lifetime
from unbroken.protocol.producers import ProducerStamp


def test_methods() -> None:
    assert set(ALLOWED_METHODS.split(", ")) == {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Type", "If-None-Match", "Last-Event-ID"),
        *("Producer-Epoch", "Producer-Id", "Producer-Seq"),
        *("Stream-Closed", "Stream-Expires-At", "Stream-Seq", "Stream-TTL"),
        *("Stream-Fork-Offset", "Stream-Fork-Sub-Offset", "Stream-Forked-From"),
    ],
)
def test_request_headers_that_a_preflight_allows(name: str) -> None:
    assert name in REQUEST_HEADERS.split(", ")


@pytest.mark.parametrize(
    "name",
    [
        *("ETag", "Location", "Retry-After"),
        *("Producer-Epoch", "Producer-Expected-Seq", "Producer-Received-Seq", "Producer-Seq"),
        *("Stream-Closed", "Stream-Cursor", "Stream-Expires-At", "Stream-Next-Offset", "Stream-SSE-Data-Encoding"),
        *("Stream-TTL", "Stream-Up-To-Date"),
    ],
)
def test_response_headers_that_scripts_may_read(name: str) -> None:
    assert name in RESPONSE_HEADERS.split(", ")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"abc", "abc", id="plain"),
        pytest.param(b" \tabc\t ", "abc", id="white-space-around"),
        pytest.param(b"a b", "a b", id="white-space-within"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b" ", "", id="only-white-space"),
        pytest.param(b"\xe9", "\xe9", id="latin-1"),
        pytest.param("\xe0".encode(), "\xc3\xa0", id="ends-like-a-no-break-space"),
        pytest.param("\xc5".encode(), "\xc3\x85", id="ends-like-a-line-separator"),
        pytest.param(b"\xa0a\x85", "\xa0a\x85", id="no-white-space-of-http"),
    ],
)
def test_a_value_loses_only_the_white_space_around_it(raw: bytes, text: str) -> None:
    assert field({b"x": raw}, b"x") == text


def test_an_absent_header_has_no_value() -> None:
    assert field(fields(other="1"), b"x") is None


@pytest.mark.parametrize(
    ("headers", "flag"),
    [
        pytest.param(fields(stream_closed="true"), True, id="true"),
        pytest.param(fields(stream_closed="TRUE"), True, id="upper-case"),
        pytest.param(fields(stream_closed="True"), True, id="title-case"),
        pytest.param(fields(stream_closed=" true "), True, id="white-space"),
        pytest.param(fields(), False, id="absent"),
        pytest.param(fields(stream_closed=""), False, id="empty"),
        pytest.param(fields(stream_closed="false"), False, id="false"),
        pytest.param(fields(stream_closed="1"), False, id="one"),
        pytest.param(fields(stream_closed="yes"), False, id="yes"),
        pytest.param(fields(stream_closed='"true"'), False, id="quoted"),
        pytest.param(fields(stream_closed="true,true"), False, id="twice"),
    ],
)
def test_a_flag_counts_only_if_it_is_true(headers: Fields, flag: bool) -> None:
    assert is_true(headers, b"stream-closed") is flag


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("7", 7), ("10", 10), ("9007199254740991", 2**53 - 1)],
)
def test_integers(text: str, value: int) -> None:
    assert parse_integer(text, "X") == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+1", "-0", "01", "1.0", "1e3", "0x1", "1 ", " 1", "1\n", "1,1", "\u0661", "x"),
        *("9007199254740992", "99999999999999999", "1" + "0" * 400),
    ],
    ids=lambda text: f"{text[:20]!a}",
)
def test_malformed_integers_are_400(text: str) -> None:
    with pytest.raises(InvalidHeader, match="X must be") as refused:
        parse_integer(text, "X")
    assert refused.value.status == 400


def test_an_integer_may_have_another_limit() -> None:
    assert parse_integer("5", "X", maximum=5) == 5
    with pytest.raises(InvalidHeader, match="from 0 to 5"):
        parse_integer("6", "X", maximum=5)


@pytest.mark.parametrize(
    ("headers", "content_type"),
    [
        pytest.param(fields(), None, id="absent"),
        pytest.param(fields(content_type=""), None, id="empty"),
        pytest.param(fields(content_type="  "), None, id="white-space"),
        pytest.param(fields(content_type="text/plain"), "text/plain", id="plain"),
        pytest.param(fields(content_type=" Text/Plain "), "Text/Plain", id="case-is-kept"),
        pytest.param(
            fields(content_type='text/plain; charset="utf-8"'), 'text/plain; charset="utf-8"', id="parameters-are-kept"
        ),
        pytest.param(fields(content_type="text/plain ;a=b;c=d"), "text/plain ;a=b;c=d", id="several-parameters"),
        pytest.param(
            fields(content_type="application/vnd.x-y+json"), "application/vnd.x-y+json", id="punctuation-in-the-type"
        ),
        pytest.param(fields(content_type="a/" + "b" * 254), "a/" + "b" * 254, id="256-characters"),
    ],
)
def test_content_type_comes_back_as_given(headers: Fields, content_type: str | None) -> None:
    assert parse_content_type(headers) == content_type


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("text", id="no-subtype"),
        pytest.param("text/", id="empty-subtype"),
        pytest.param("/plain", id="empty-type"),
        pytest.param("text/plain/x", id="two-slashes"),
        pytest.param("text /plain", id="space"),
        pytest.param("text/plain, text/html", id="two"),
        pytest.param("text/plain charset=x", id="no-semicolon"),
        pytest.param("text/pl\xe4in", id="letter-beyond-ascii"),
        pytest.param("text/plain; a=\xe4", id="parameter-beyond-ascii"),
        pytest.param("text/plain;\x00", id="control"),
        pytest.param("text/plain;\r\nx: y", id="newline"),
        pytest.param("a/" + "b" * 255, id="257-characters"),
    ],
)
def test_malformed_content_type_is_400(value: str) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_content_type(fields(content_type=value))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("headers", "seq"),
    [
        pytest.param(fields(), None, id="absent"),
        pytest.param(fields(stream_seq="0"), "0", id="digit"),
        pytest.param(fields(stream_seq="a b,c"), "a b,c", id="opaque"),
        pytest.param(fields(stream_seq=b"\xff"), "\xff", id="highest-byte"),
        pytest.param(fields(stream_seq="x" * 256), "x" * 256, id="256-characters"),
    ],
)
def test_stream_seq(headers: Fields, seq: str | None) -> None:
    assert parse_stream_seq(headers) == seq


@pytest.mark.parametrize("value", ["", " ", "x" * 257], ids=["empty", "white-space", "257-characters"])
def test_malformed_stream_seq_is_400(value: str) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_stream_seq(fields(stream_seq=value))
    assert refused.value.status == 400


def test_stream_seq_sorts_as_its_bytes_do() -> None:
    raw = [bytes((first, second)) for first in (0x21, 0x41, 0x7E, 0x80, 0xFF) for second in (0x21, 0xA1, 0xFF)]
    values = [parse_stream_seq(fields(stream_seq=value)) or "" for value in raw]
    assert sorted(values) == values
    assert len(set(values)) == len(raw)


@pytest.mark.parametrize(
    ("headers", "stamp"),
    [
        pytest.param(fields(), None, id="absent"),
        pytest.param(
            fields(producer_id="p", producer_epoch="0", producer_seq="0"), ProducerStamp("p", 0, 0), id="zeros"
        ),
        pytest.param(
            fields(producer_id="a b", producer_epoch="3", producer_seq="9007199254740991"),
            ProducerStamp("a b", 3, 2**53 - 1),
            id="limit",
        ),
        pytest.param(
            fields(producer_id="x" * 256, producer_epoch="9007199254740991", producer_seq="1"),
            ProducerStamp("x" * 256, 2**53 - 1, 1),
            id="long-id",
        ),
    ],
)
def test_producer(headers: Fields, stamp: ProducerStamp | None) -> None:
    assert parse_producer(headers) == stamp


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(fields(producer_id="p"), id="only-id"),
        pytest.param(fields(producer_epoch="0"), id="only-epoch"),
        pytest.param(fields(producer_seq="0"), id="only-seq"),
        pytest.param(fields(producer_epoch="0", producer_seq="0"), id="no-id"),
        pytest.param(fields(producer_id="p", producer_seq="0"), id="no-epoch"),
        pytest.param(fields(producer_id="p", producer_epoch="0"), id="no-seq"),
        pytest.param(fields(producer_id="", producer_epoch="0", producer_seq="0"), id="empty-id"),
        pytest.param(fields(producer_id=" ", producer_epoch="0", producer_seq="0"), id="blank-id"),
        pytest.param(fields(producer_id="x" * 257, producer_epoch="0", producer_seq="0"), id="257-characters"),
        pytest.param(fields(producer_id="p", producer_epoch="", producer_seq="0"), id="empty-epoch"),
        pytest.param(fields(producer_id="p", producer_epoch="-1", producer_seq="0"), id="negative-epoch"),
        pytest.param(fields(producer_id="p", producer_epoch="0", producer_seq="1.5"), id="fraction-of-seq"),
        pytest.param(fields(producer_id="p", producer_epoch="0", producer_seq="01"), id="leading-zero"),
        pytest.param(fields(producer_id="p", producer_epoch="9007199254740992", producer_seq="0"), id="epoch-2-53"),
        pytest.param(fields(producer_id="p", producer_epoch="0", producer_seq="9007199254740992"), id="seq-2-53"),
    ],
)
def test_malformed_producer_headers_are_400(headers: Fields) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_producer(headers)
    assert refused.value.status == 400


def test_two_names_in_utf_8_are_two_producers() -> None:
    names = [
        parse_producer(fields(producer_id=name.encode(), producer_epoch="0", producer_seq="0"))
        for name in ("\xe0", "\xc5", "\xc3")
    ]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        pytest.param(fields(), None, id="absent"),
        pytest.param(fields(stream_ttl="60"), Lifetime(ttl_s=60), id="ttl"),
        pytest.param(fields(stream_ttl="0"), Lifetime(ttl_s=0), id="ttl-zero"),
        pytest.param(fields(stream_ttl=" 60 "), Lifetime(ttl_s=60), id="white-space-around"),
        pytest.param(fields(stream_expires_at="1970-01-01T00:00:01Z"), Lifetime(expires_at_ms=1000), id="expiry"),
    ],
)
def test_lifetime(headers: Fields, lifetime: Lifetime | None) -> None:
    assert parse_lifetime(headers) == lifetime


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(fields(stream_ttl="60", stream_expires_at="2030-01-01T00:00:00Z"), id="both"),
        pytest.param(fields(stream_ttl="", stream_expires_at="2030-01-01T00:00:00Z"), id="both-one-empty"),
        pytest.param(fields(stream_ttl=""), id="empty-ttl"),
        pytest.param(fields(stream_ttl="-1"), id="negative-ttl"),
        pytest.param(fields(stream_ttl="60, 60"), id="ttl-twice"),
        pytest.param(fields(stream_expires_at=""), id="empty-expiry"),
        pytest.param(fields(stream_expires_at="soon"), id="no-date"),
    ],
)
def test_malformed_lifetime_is_400(headers: Fields) -> None:
    with pytest.raises(InvalidHeader) as refused:
        parse_lifetime(headers)
    assert refused.value.status == 400


ZERO = "0000000000000000_0000000000000000"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        pytest.param(b"", ReadQuery(None, None, None, None), id="none"),
        pytest.param(b"offset=-1", ReadQuery("-1", None, None, None), id="offset"),
        pytest.param(b"offset=" + ZERO.encode(), ReadQuery(ZERO, None, None, None), id="offset-token"),
        pytest.param(b"offset=%2D1", ReadQuery("-1", None, None, None), id="escaped-value"),
        pytest.param(b"off%73et=now", ReadQuery("now", None, None, None), id="escaped-name"),
        pytest.param(b"offset=a+b", ReadQuery("a b", None, None, None), id="plus"),
        pytest.param(b"offset=a=b", ReadQuery("a=b", None, None, None), id="equals-sign-in-a-value"),
        pytest.param(b"offset=now&live=long-poll", ReadQuery("now", "long-poll", None, None), id="long-poll"),
        pytest.param(b"live=sse&offset=now", ReadQuery("now", "sse", None, None), id="sse"),
        pytest.param(b"offset=-1&live=sse&cursor=12", ReadQuery("-1", "sse", "12", None), id="cursor"),
        pytest.param(b"live=sse", ReadQuery(None, "sse", None, None), id="no-offset"),
        pytest.param(b"cursor=", ReadQuery(None, None, "", None), id="empty-cursor"),
        pytest.param(b"timeout=2", ReadQuery(None, None, None, 2.0), id="timeout"),
        pytest.param(b"timeout=0.25", ReadQuery(None, None, None, 0.25), id="timeout-fraction"),
        pytest.param(b"timeout=0", ReadQuery(None, None, None, 0.0), id="timeout-zero"),
        pytest.param(b"before=now", ReadQuery(None, None, None, None, None, "now"), id="before"),
        pytest.param(b"limit=10", ReadQuery(None, None, None, None, None, None, 10), id="limit"),
        pytest.param(b"offset=-1&x=1&&y&=z&x=2", ReadQuery("-1", None, None, None), id="unknown-are-ignored"),
        pytest.param(b"Offset=&LIVE=x", ReadQuery(None, None, None, None), id="names-have-a-case"),
        pytest.param(b"\xff=\xfe&offset=%ff", ReadQuery("\ufffd", None, None, None), id="not-utf-8"),
        pytest.param(b"x&" * 63 + b"offset=1", ReadQuery("1", None, None, None), id="64-parameters"),
    ],
)
def test_read_query(query: bytes, wanted: ReadQuery) -> None:
    assert parse_read_query(query) == wanted


@pytest.mark.parametrize(
    ("query", "error"),
    [
        pytest.param(b"offset=", InvalidOffset, id="empty-offset"),
        pytest.param(b"offset", InvalidOffset, id="offset-without-value"),
        pytest.param(b"offset=-1&offset=-1", InvalidOffset, id="repeated-offset"),
        pytest.param(b"offset=&offset=-1", InvalidOffset, id="repeated-offset-first-empty"),
        pytest.param(b"offset=-1&off%73et=now", InvalidOffset, id="repeated-offset-in-disguise"),
        pytest.param(b"before=", InvalidOffset, id="empty-before"),
        pytest.param(b"before=now&before=-1", InvalidOffset, id="repeated-before"),
        pytest.param(b"live=sse&offset=-1&live=long-poll", InvalidHeader, id="repeated-live"),
        pytest.param(b"live=sse&offset=-1&l%69ve=sse", InvalidHeader, id="repeated-live-in-disguise"),
        pytest.param(b"cursor=1&cursor=1", InvalidHeader, id="repeated-cursor"),
        pytest.param(b"limit=1&limit=2", InvalidHeader, id="repeated-limit"),
        pytest.param(b"timeout=1&timeout=1", InvalidHeader, id="repeated-timeout"),
        pytest.param(b"since=x&since=x", InvalidHeader, id="repeated-since"),
        pytest.param(b"before=now&offset=-1", InvalidHeader, id="before-and-offset"),
        pytest.param(b"before=now&since=2026-01-01T00:00:00Z", InvalidHeader, id="before-and-since"),
        pytest.param(b"before=now&live=sse", InvalidHeader, id="before-and-live"),
        pytest.param(b"limit=0", InvalidHeader, id="limit-zero"),
        pytest.param(b"limit=", InvalidHeader, id="empty-limit"),
        pytest.param(b"limit=01", InvalidHeader, id="limit-with-leading-zero"),
        pytest.param(b"live=", InvalidHeader, id="empty-live"),
        pytest.param(b"live=true", InvalidHeader, id="unknown-live"),
        pytest.param(b"live=SSE", InvalidHeader, id="case-of-live"),
        pytest.param(b"timeout=", InvalidHeader, id="empty-timeout"),
        pytest.param(b"timeout=-1", InvalidHeader, id="negative-timeout"),
        pytest.param(b"timeout=nan", InvalidHeader, id="timeout-not-a-number"),
        pytest.param(b"timeout=inf", InvalidHeader, id="timeout-without-end"),
        pytest.param(b"timeout=1e3", InvalidHeader, id="timeout-with-exponent"),
        pytest.param(b"timeout=1234567", InvalidHeader, id="timeout-too-long"),
        pytest.param(b"timeout=.5", InvalidHeader, id="timeout-without-whole-part"),
        pytest.param(b"x&" * 64 + b"offset=1", InvalidHeader, id="65-parameters"),
        pytest.param(b"&" * 60_000, InvalidHeader, id="parameters-without-end"),
    ],
)
def test_malformed_read_query_is_400(query: bytes, error: type[InvalidHeader | InvalidOffset]) -> None:
    with pytest.raises(error) as refused:
        parse_read_query(query)
    assert refused.value.status == 400
