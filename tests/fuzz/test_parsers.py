"""Every parser, fed near misses of what it reads: it gives an answer, or refuses in the way it promises.

Find more, or again what failed:

    UNBROKEN_FUZZ_SEED=7 pytest tests/fuzz -m "full or not full"
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import apsw
import msgspec
import pytest

from tests.fuzz.mutator import FIRST_SEED, Mutator, cut
from unbroken import errors, tokens
from unbroken.client.positions import Position
from unbroken.client.retry import parse_retry_after
from unbroken.engine import Engine
from unbroken.protocol import headers
from unbroken.protocol.caching import matches
from unbroken.protocol.content import frame_json, json_array
from unbroken.protocol.cursors import next_cursor
from unbroken.protocol.lifetime import parse_time, parse_ttl
from unbroken.protocol.offsets import Anchor, Offset, parse_offset
from unbroken.protocol.paths import decode_target, parse_path
from unbroken.protocol.producers import ProducerStamp
from unbroken.protocol.scopes import ScopeError, parse_glob, parse_scopes
from unbroken.protocol.sse import Event, EventDecoder
from unbroken.server.access import hide_token, query_token
from unbroken.server.cors import CorsPolicy
from unbroken.server.hosts import HostPolicy
from unbroken.server.http import Request, join_fields
from unbroken.server.settings import Settings, SettingsError, load_settings
from unbroken.store.portable import ExportReader
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check, examine
from unbroken.store.sqlite.transfer import import_streams
from unbroken.tokens.keys import KeyFault, parse_keys
from unbroken.tokens.signed import Verifier, read_header
from unbroken.tokens.static import TokenFile, TokenFileError

SECRET = "a-secret-of-more-than-thirty-two-characters"
ROUNDS = 1_500
ROUNDS_IN_FULL = 60_000


class Parser(NamedTuple):
    """Something that reads what others wrote.

    Args:
        read: reads it, and checks what it found.
        refusals: how it may refuse.
        corpus: what it takes.
        tokens: what means something to it.
        cost: how many times as long as the others it takes.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    corpus: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    cost: int = 1


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- what is sent with requests --------------------------------------------------------------------------------------


def read_offset(data: bytes) -> None:
    found = parse_offset(text(data))
    if isinstance(found, Offset):
        assert str(found) == text(data)
    else:
        assert isinstance(found, Anchor)


def read_path(data: bytes) -> None:
    path = parse_path(decode_target(data))
    assert path.startswith("/")
    assert len(path.encode()) <= 1024
    assert not {"", ".", ".."} & set(path[1:].split("/"))
    assert not any(char in path for char in "\\\x00\r\n")


def fields_of(data: bytes) -> dict[bytes, bytes]:
    """Headers as an HTTP server hands them over: names in lower case, values without line ends."""
    lines = [line.partition(b":") for line in data.replace(b"\r", b"").split(b"\n") if line]
    return dict(join_fields([(name.lower(), value.strip(b" \t")) for name, _, value in lines]))


def read_fields(data: bytes) -> None:
    fields = fields_of(data)
    refused = 0
    for parse in (
        headers.parse_content_type,
        headers.parse_lifetime,
        headers.parse_producer,
        headers.parse_stream_seq,
        lambda fields: headers.is_true(fields, b"stream-closed"),
    ):
        try:
            parse(fields)
        except errors.InvalidHeader:
            refused += 1
    if refused:
        raise errors.InvalidHeader


def read_time(data: bytes) -> None:
    parse_time(text(data), "since")


def read_ttl(data: bytes) -> None:
    assert 0 <= parse_ttl(text(data)) < 2**63


def read_query(data: bytes) -> None:
    headers.parse_read_query(data)
    hidden = hide_token(data)
    token = query_token(data)
    assert token is None or f"token={token}".encode() not in hidden.split(b"&")


def read_tag(data: bytes) -> None:
    found = matches(data.decode("latin-1"), '"a-1:0:5"')
    assert isinstance(found, bool)


def read_cursor(data: bytes) -> None:
    given = text(data)
    cursor = next_cursor(1_790_000_000_000, given, 0.5)
    if given.isascii() and given.isdecimal() and len(given) < 16:
        assert cursor > int(given) or int(given) < cursor


class _Named(Request):
    """A request that names a host."""

    async def next_part(self) -> None:
        return None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        pass


HOSTS = HostPolicy(("*.example.com",), None, secluded=True)


def read_host(data: bytes) -> None:
    HOSTS.check(_Named("GET", b"/a", ("",), b"", "http", {b"host": data}))


def read_origin(data: bytes) -> None:
    allowed = CorsPolicy(None, False, None).headers({b"origin": data})
    assert allowed


# --- what is sent as bodies ------------------------------------------------------------------------------------------


def read_json(data: bytes) -> None:
    """What is taken is JSON by another parser's judgement too, and comes back as it was; what is refused is not."""
    try:
        framed = frame_json(data)
    except errors.InvalidBody:
        with contextlib.suppress(ValueError, RecursionError):
            _strict_json(data)
            assert data.count(b"[") + data.count(b"{") > 512, "it is JSON"
        raise
    value = _strict_json(data)
    messages = value if isinstance(value, list) else [value]
    assert _strict_json(json_array(framed)) == messages


def _strict_json(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(data.decode("utf-8"), parse_constant=refuse, parse_float=str, parse_int=str)


# --- what is read elsewhere ------------------------------------------------------------------------------------------


def read_events(data: bytes) -> None:
    """However it is cut, the same events come out."""
    whole = list(EventDecoder().feed(data))
    chance = Random(zlib.crc32(data))
    decoder = EventDecoder()
    events: list[Event] = []
    for piece in cut(chance, data):
        events += decoder.feed(piece)
    assert events == whole


def read_retry_after(data: bytes) -> None:
    seconds = parse_retry_after(text(data), 1_790_000_000.0)
    assert seconds is None or seconds >= 0


def read_position(data: bytes) -> None:
    position = Position.parse(text(data))
    assert Position.parse(str(position)) == position


def read_settings(data: bytes) -> None:
    """As a file, and each line of it as a variable and as a flag."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        refused: SettingsError | None = None
        try:
            load_settings(config=Path(file.name), environ={})
        except SettingsError as error:
            refused = error
    for line in text(data).splitlines():
        name, _, value = line.partition(" = ")
        with contextlib.suppress(SettingsError):
            load_settings({name: value}, environ={})
        with contextlib.suppress(SettingsError):
            settings = load_settings({}, environ={f"UNBROKEN_{name.upper()}": value.strip('"')})
            assert isinstance(settings, Settings)
    if refused is not None:
        assert "\n" not in str(refused)
        raise refused


def read_glob(data: bytes) -> None:
    glob = parse_glob(text(data))
    assert parse_glob(str(glob)) == glob


def read_scopes(data: bytes) -> None:
    scopes = parse_scopes(text(data))
    assert parse_scopes(str(scopes)) == scopes
    assert not scopes.allows("admin", "/-/streams") or "/-/" in str(scopes)


KEYS = parse_keys(SECRET)


def read_token(data: bytes) -> None:
    """Nothing but what was signed is taken."""
    given = text(data)
    header = read_header(given)
    principal = Verifier((), ()).check(given, [key for key in KEYS if header.fits(key)], 1_790_000_000.0)
    assert _signed(data) in [_signed(token) for token in TOKENS], principal


def _signed(token: bytes) -> tuple[bytes, bytes]:
    """What was signed, and the signature, which has several spellings."""
    payload, _, signature = token.rpartition(b".")
    return payload, base64.urlsafe_b64decode(signature.rstrip(b"=") + b"=" * (-len(signature.rstrip(b"=")) % 4))


def read_keys(data: bytes) -> None:
    for key in parse_keys(data):
        assert key.algorithm in ("HS256", "EdDSA", "ES256", "RS256")


def read_token_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tokens.json"
        path.write_bytes(data)
        path.chmod(0o600)
        for token in TokenFile(path).read():
            with contextlib.suppress(ScopeError):
                assert token.principal.name


def read_export(data: bytes) -> None:
    """What is taken in is sound; and what was in before stays, whatever is wrong with the file."""
    reader = ExportReader(io.BytesIO(data))
    for head in reader.heads():
        for _ in reader.contents(head):
            pass
    with tempfile.TemporaryDirectory() as directory:
        try:
            asyncio.run(import_streams(io.BytesIO(data), Path(directory) / "data", prefix_to=None))
        finally:
            if (Path(directory) / "data" / "unbroken.db").exists():
                assert check(Path(directory) / "data") == []


def read_database(data: bytes) -> None:
    """``unbroken fsck``, of a file that a disk has spoiled."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "unbroken.db").write_bytes(data)
        examine(Path(directory))


def _database() -> bytes:
    """A database with a little of everything in its tables and in its journal."""

    async def fill(directory: str) -> None:
        async with Engine(SqliteStore(directory)) as engine:
            await engine.create("/a", content_type="application/json", data=b"[1,2]", ttl_s=60)
            await engine.append("/a", b"[3]", producer=ProducerStamp("p", 0, 0), stream_seq="1")
            await engine.fork("/fork", "/a", data=b"[4]")
            await engine.create("/b", data=b"x" * 3000)
            await engine.delete("/b")

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(fill(directory))
        return (Path(directory) / "unbroken.db").read_bytes()


TOKENS = [
    tokens.mint(SECRET, read="/a", now_s=1_789_999_000.0, ttl_s=1e7).encode(),
    tokens.mint(SECRET, admin="/**", subject="ann", issuer="me", now_s=1_789_999_000.0, ttl_s=1e7).encode(),
]
EXPORT = (
    b'{"unbroken_export":1,"prefix":"/chats/","exported_ms":1760000000000}\n'
    b'{"stream":"/chats/7","content_type":"text/plain","created_ms":1750000000000,"closed":false}\n'
    b'{"producer":"me","epoch":0,"seq":4}\n'
    b'{"time_ms":1750000000123,"bytes":5}\nhello\n'
    b'{"time_ms":1750000000456,"bytes":6}\n world\n'
    b'{"end":"/chats/7","size":11,"sha256":"5e15d234176b1b3b2680422a329db423acf65de374609a0bfa93c928296898aa"}\n'
    b'{"streams":1}\n'
)
SETTINGS = (
    b'port = "8080"\npage_size = "64KiB"\nmax_streams = "none"\n',
    b"cors_origin = ['https://a.example', '*']\nlog_format = 'json'\nlitestream = true\n",
    b'long_poll_timeout = 0.5\npublic_url = "https://streams.example.com/x"\nallowed_hosts = ["*.example.com"]\n',
    b'jwt_keys = ["env:KEY"]\nappend_rate = 100\ndisk_reserve = "1GiB"\nstore = "memory"\n',
)
STATIC = (
    b'{"version":1,"tokens":[{"id":"a1","name":"x","hash":"' + b"0" * 64 + b'","scope":"read:/a","createdAt":1,'
    b'"expiresAt":2}]}'
)
JWK = b'{"kty":"oct","k":"' + b"QUJD" * 12 + b'","kid":"k","alg":"HS256","use":"sig"}'
STARTS = (b"0000000000000001_0000000000000005", b"-1", b"now")

PARSERS = {
    "offset": Parser(read_offset, (errors.InvalidOffset,), STARTS, (b"_",)),
    "path": Parser(
        read_path, (errors.InvalidPath,), (b"/a", b"/chats/7/%C3%A9", b"/a" * 32), (b"/-", b"/__ds", b"%2F")
    ),
    "fields": Parser(
        read_fields,
        (errors.InvalidHeader,),
        (
            b"content-type: text/plain; charset=utf-8\nstream-ttl: 60\nstream-seq: 1\nstream-closed: true",
            b"producer-id: p\nproducer-epoch: 0\nproducer-seq: 5\ncontent-type: application/json",
            b"stream-expires-at: 2026-11-26T20:00:00.123+01:00",
        ),
        (b"\nstream-ttl: 1", b"\nproducer-seq: 1", b", "),
    ),
    "time": Parser(
        read_time,
        (errors.InvalidHeader,),
        (b"2026-11-26T20:00:00Z", b"0001-01-02T00:00:00+23:59", b"9999-12-30T23:59:60.999999999-23:59"),
        (b"T", b"t", b"z", b".", b"+", b"-"),
    ),
    "ttl": Parser(read_ttl, (errors.InvalidHeader,), (b"0", b"60", b"9223372036854775807")),
    "query": Parser(
        read_query,
        (errors.InvalidOffset, errors.InvalidHeader, errors.InvalidToken),
        (
            b"offset=-1&live=sse&cursor=5",
            b"offset=now&live=long-poll&timeout=0.5",
            b"since=2026-01-01T00:00:00Z&token=a.b.c",
        ),
        (b"&offset=", b"&live=sse", b"&token=x", b"&limit=1", b"&before=now", b"+", b"%20"),
    ),
    "etag": Parser(read_tag, (), (b'"a-1:0:5"', b'W/"x", "y"', b"*"), (b"W/", b", ")),
    "cursor": Parser(read_cursor, (), (b"3346835", b"0", b"99999999999")),
    "host": Parser(
        read_host,
        (errors.HostNotAllowed,),
        (b"localhost:9999", b"127.0.0.1", b"[::1]:80", b"a.example.com"),
        (b".", b"[", b"]:", b"@", b"localhost"),
    ),
    "origin": Parser(
        read_origin, (), (b"http://localhost:3000", b"https://[::1]:1", b"null"), (b"://", b"@", b"[", b".localhost")
    ),
    "json": Parser(
        read_json,
        (errors.InvalidBody, errors.TooManyMessages),
        (
            b'[{"n":1,"s":"\\u00e9\\ud83d\\ude00"},2.5e-3,[null,true],"x"]',
            b' {"a":{"b":[1,2,{"c":"\\\\"}]}} ',
            b"[" * 40 + b"]" * 40,
            '"é\u2028"'.encode(),
        ),
        (b'"', b"\\", b"\\u", b"\\ud800", b",", b"[]", b"{}", b"NaN", b"1e999", b"-", b"\x1e", b"//"),
    ),
    "events": Parser(
        read_events,
        (),
        (
            b'event: data\ndata:hello\nid:1\n\nevent: control\ndata:{"x":1}\n\n',
            b"\xef\xbb\xbfdata: a\r\ndata\r\n\r\n: ping\r\r",
        ),
        (b"data:", b"\nid:", b"\r\n\r\n", b"event:", b"retry: 5"),
    ),
    "retry-after": Parser(
        read_retry_after, (), (b"120", b"Fri, 31 Dec 1999 23:59:59 GMT"), (b"GMT", b"-9999", b" 0000 ")
    ),
    "position": Parser(read_position, (ValueError,), (b"-1", b"now,5", b"0000000000000001_0000000000000005,17")),
    "settings": Parser(read_settings, (SettingsError,), SETTINGS, (b"[x]", b' = "', b"none", b"KiB", b"9" * 30), 5),
    "glob": Parser(read_glob, (ScopeError,), (b"/a/*", b"/**", b"/a/%2A/b"), (b"*", b"**", b"/-/", b"%2A")),
    "scopes": Parser(
        read_scopes, (ScopeError,), (b"read:/a/* append:/**", b"admin:/a", b"create:/x delete:/y/**"), (b" ", b"read:")
    ),
    "token": Parser(read_token, (errors.InvalidToken,), TOKENS, (b".", b"eyJhbGciOiJub25lIn0", b"=", b"-")),
    "keys": Parser(
        read_keys, (KeyFault,), (SECRET.encode(), JWK, b'{"keys":[' + JWK + b"]}"), (b"-----BEGIN X-----",), 2
    ),
    "token file": Parser(read_token_file, (TokenFileError,), (STATIC,), (b'"scope"', b"1e400", b"[]"), 5),
    "export": Parser(read_export, (errors.StoreError,), (EXPORT,), (b"\n", b'"bytes":', b'{"streams":1}\n'), 10),
    "database": Parser(
        read_database, (errors.StoreError, apsw.Error, msgspec.DecodeError), (_database(),), (b"/a", b"\x00" * 100), 3
    ),
}


def fuzz(name: str, rounds: int) -> None:
    parser = PARSERS[name]
    for data in parser.corpus:
        with contextlib.suppress(errors.InvalidOffset) if name == "query" else contextlib.nullcontext():
            parser.read(data)
    mutator = Mutator(Random(f"{name} {FIRST_SEED}"), parser.corpus, parser.tokens)
    taken = 0
    for _ in range(rounds // parser.cost):
        data = mutator.next()
        try:
            parser.read(data)
            taken += 1
        except parser.refusals:
            pass
        except BaseException as error:
            error.add_note(f"it was {data!r}")
            raise
    assert taken, "near misses are sometimes hits"


@pytest.mark.parametrize("name", PARSERS)
def test_near_misses(name: str) -> None:
    fuzz(name, ROUNDS)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PARSERS)
def test_many_near_misses(name: str) -> None:
    fuzz(name, ROUNDS_IN_FULL)
