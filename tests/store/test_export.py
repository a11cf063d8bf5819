"""What is exported comes back by an import, and nothing that is damaged does."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.store.sizes import LARGE_BYTES, OVERLAY_BYTES_MAX, miniature
from tests.store.workload import workload
from unbroken.engine.engine import Engine
from unbroken.errors import StoreError
from unbroken.protocol.commands import Delete
from unbroken.protocol.lifetime import Instant, Lifetime
from unbroken.protocol.producers import Producer, ProducerStamp
from unbroken.protocol.stream import StreamState
from unbroken.store import portable
from unbroken.store.portable import Head
from unbroken.store.sqlite import SqliteStore, transfer
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.store.sqlite.snapshot import Run, Snapshot
from unbroken.store.sqlite.transfer import Imported, export_streams, import_streams
from unbroken.testing.store_bench import append, create, execute, fork, settle

NOW_MS = 1_000_500


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX)
    await store.open()
    return store


def exported(directory: Path, **options: Any) -> bytes:
    file = io.BytesIO()
    with Snapshot(directory) as snapshot:
        export_streams(snapshot, file, now_ms=NOW_MS, **options)
    return file.getvalue()


def imported(file: bytes, directory: Path, **options: Any) -> Any:
    return import_streams(io.BytesIO(file), directory, **options)


Shown = dict[str, tuple[StreamState, list[Run], dict[str, Producer]]]


def shown(directory: Path) -> Shown:
    """Everything that an export keeps, of all live streams."""
    assert check(directory) == []
    found: Shown = {}
    with Snapshot(directory) as snapshot:
        for state in snapshot.states():
            if not state.gone:
                found[state.path] = (
                    msgspec.structs.replace(state, number=0, lineage=(), former=(), origin=None, forks=0),
                    joined(snapshot.runs(state)),
                    snapshot.producers(state.number),
                )
    return found


def joined(runs: Iterator[Run]) -> list[Run]:
    """Runs, those of one time put together."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].time_ms == run.time_ms:
            last = found.pop()
            run = Run(last.position, last.time_ms, last.data + run.data)  # noqa: PLW2901
        found.append(run)
    return found


async def fill(directory: Path) -> SqliteStore:
    store = await opened(directory)
    for commands in (await workload()).transactions:
        await execute(store, *commands)
    seq = ProducerStamp("p", 7, 0)
    await execute(
        store,
        create("/chats/1", b"one", lifetime=Lifetime(ttl_s=60)),
        create("/chats/2", b'[{"a":"\x7f"},[1],"\\u001e"]', json=True),
        create("/chats/ü", b"\x1e\n\x00" * LARGE_BYTES, lifetime=Lifetime(expires_at_ms=NOW_MS + 10**9)),
        create("/expired", lifetime=Lifetime(expires_at_ms=NOW_MS)),
        append("/chats/1", b"two", stream_seq="7", producer=seq),
        create("/source", b"source"),
        fork("/kept", "/source", data=b"-fork"),
        create("/empty", closed=True),
        now=Instant(NOW_MS - 100, 0),
    )
    await execute(store, append("/chats/1", b"!", close=True, producer=seq._replace(seq=1)), now=Instant(1_000_321, 0))
    await execute(store, Delete("/source"), append("/kept", b"-more"))
    return store


async def test_all_of_it_comes_back(tmp_path: Path) -> None:
    """From a store in use; with commit times, producers and lifetimes; forks whole; again and again the same."""
    store = await fill(tmp_path / "data")
    file = exported(tmp_path / "data")
    await store.close()
    done = await imported(file, tmp_path / "new")
    expected = shown(tmp_path / "data")
    del expected["/expired"]
    assert shown(tmp_path / "new") == expected
    assert done == Imported(len(expected), 0, sum(state.tail for state, _, _ in expected.values()))
    assert "/source" not in expected
    assert expected["/chats/1"][2] == {"p": Producer(7, 1)}
    assert [run.time_ms for run in expected["/chats/1"][1]] == [NOW_MS - 100, 1_000_321]
    second = exported(tmp_path / "new")
    assert without_times(second) == without_times(file)


def without_times(file: bytes) -> list[bytes]:
    """An export's first lines, and checksums, which do not depend on how the bytes are cut only by chance."""
    return sorted(line for line in file.split(b"\n") if line.startswith(b'{"stream":'))


async def test_it_can_go_on_after_an_import(tmp_path: Path) -> None:
    async with Engine(SqliteStore(tmp_path / "data")) as engine:
        await engine.create("/m", content_type="application/json", data=b"[1,2]")
        await engine.append("/m", b"3", producer=ProducerStamp("p", 0, 0))
    await imported(exported(tmp_path / "data"), tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new")) as engine:
        assert (await engine.append("/m", b"3", producer=ProducerStamp("p", 0, 0))).duplicate
        await engine.append("/m", b"4", producer=ProducerStamp("p", 0, 1))
        await engine.fork("/f", "/m")
        await engine.append("/f", b"5")
        assert (await engine.read("/f")).messages == [b"1", b"2", b"3", b"4", b"5"]
    assert check(tmp_path / "new") == []


async def test_some_of_it(tmp_path: Path) -> None:
    store = await fill(tmp_path / "data")
    await store.close()
    chats = exported(tmp_path / "data", prefix="/chats/")
    assert (await imported(chats, tmp_path / "a", prefix_to="/old/talks-")).streams == 3
    assert list(shown(tmp_path / "a")) == ["/old/talks-1", "/old/talks-2", "/old/talks-ü"]
    one = exported(tmp_path / "data", path="/chats/1")
    assert (await imported(one, tmp_path / "a")).streams == 1
    assert (await imported(one, tmp_path / "a", prefix_to="/other")).streams == 1
    assert {"/chats/1", "/other"} < shown(tmp_path / "a").keys()
    with pytest.raises(StoreError, match="there is no stream at /chats/7"):
        exported(tmp_path / "data", path="/chats/7")
    with pytest.raises(StoreError, match="cannot be moved"):
        await imported(chats, tmp_path / "a", prefix_to="nowhere")


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, create("/a", b"a"), create("/b", b"b"), create("/c", b"c"))
    await store.close()
    file = exported(tmp_path / "data")
    store = await opened(tmp_path / "new")
    await execute(store, create("/b", b"mine"), create("/c"), fork("/fork", "/c"))
    await execute(store, Delete("/c"))
    with pytest.raises(StoreError, match="in use"):
        await imported(file, tmp_path / "new")
    await store.close()
    with pytest.raises(StoreError, match=r"/b is there already; 1 streams were imported before it\. --skip-existing"):
        await imported(file, tmp_path / "new")
    assert await imported(file, tmp_path / "new", skip_existing=True) == (0, 3, 0)
    data = {path: [run.data for run in runs] for path, (_, runs, _) in shown(tmp_path / "new").items()}
    assert data == {"/a": [b"a"], "/b": [b"mine"], "/fork": []}


async def test_large_streams_come_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed in many steps."""
    monkeypatch.setattr(transfer, "_COMMIT_BYTES", 500)
    monkeypatch.setattr(transfer, "_FLUSH_BYTES", 200)
    monkeypatch.setattr(transfer, "_LOG_BYTES_MAX", 1_000)
    monkeypatch.setattr(transfer, "_MESSAGES_PER_CHECK", 3)
    monkeypatch.setattr(portable, "_PIECE_BYTES_WRITTEN", 90)
    store = await opened(tmp_path / "data")
    await execute(store, create("/a", b"first"), create("/b", b"[" + b'"123456789",' * 500 + b'"end"]', json=True))
    for time_ms in range(300):
        await execute(store, append("/a", b"%d-" % time_ms * 20), now=Instant(time_ms, 0))
    await execute(store, append("/b", b'"%b"' % (b"x" * 2_000), json=True), create("/c"))
    await store.close()
    file = exported(tmp_path / "data")
    await imported(file, tmp_path / "new")
    assert shown(tmp_path / "new") == shown(tmp_path / "data")
    cut = file.index(b"299-299-")
    with pytest.raises(StoreError, match="cut off"):
        await imported(file[:cut], tmp_path / "cut")
    assert shown(tmp_path / "cut") == {}
    await imported(file, tmp_path / "cut")
    assert shown(tmp_path / "cut") == shown(tmp_path / "data")
    store = await opened(tmp_path / "cut")
    await settle(store)
    await store.close()
    assert shown(tmp_path / "cut") == shown(tmp_path / "data")


KILLED = """
import asyncio, os, signal, sys
from unbroken.store.sqlite import transfer
transfer._COMMIT_BYTES = 100_000
commits = 0
def dying(self, commit=transfer._Loader._commit):
    global commits
    commit(self)
    commits += 1
    commits == int(sys.argv[3]) and os.kill(os.getpid(), signal.SIGKILL)
transfer._Loader._commit = dying
asyncio.run(transfer.import_streams(open(sys.argv[1], "rb"), sys.argv[2], skip_existing=True))
"""


@pytest.mark.parametrize("commits", [1, 3])
async def test_a_killed_import_goes_on(tmp_path: Path, commits: int) -> None:
    store = await opened(tmp_path / "data")
    await execute(store, *(create(f"/{name}", name.encode() * 150_000) for name in "abc"))
    await store.close()
    with (tmp_path / "file").open("wb") as file:
        file.write(exported(tmp_path / "data"))
    command = (sys.executable, "-c", KILLED, str(tmp_path / "file"), str(tmp_path / "new"), str(commits))
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == -signal.SIGKILL
    before = shown(tmp_path / "new")
    assert len(before) < 3
    done = await imported(exported(tmp_path / "data"), tmp_path / "new", skip_existing=True)
    assert done[:2] == (3 - len(before), len(before))
    assert shown(tmp_path / "new") == shown(tmp_path / "data")


# --- the file --------------------------------------------------------------------------------------------------------


async def example(tmp_path: Path) -> bytes:
    store = await opened(tmp_path / "data")
    stamp = ProducerStamp("me", 0, 4)._replace(seq=0)
    await execute(store, create("/chats/7", b"hello"), create("/chats/m", b"[1,22]", json=True))
    await execute(store, append("/chats/7", b" world", producer=stamp), now=Instant(1_000_456, 0))
    await store.close()
    return exported(tmp_path / "data", prefix="/chats/")


async def test_any_language_can_read_it(tmp_path: Path) -> None:
    """With nothing but a JSON parser and a hash function."""
    file = io.BytesIO(await example(tmp_path))
    first = json.loads(file.readline())
    assert (first["unbroken_export"], first["prefix"]) == (1, "/chats/")
    streams: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    current: dict[str, Any] = {}
    while True:
        text = file.readline()
        line = json.loads(text)
        if "streams" in line:
            assert line["streams"] == len(streams)
            break
        if "end" in line:
            assert line["sha256"] == digest.hexdigest()
            assert line["size"] == len(current["data"])
            continue
        if "stream" in line:
            digest, current = hashlib.sha256(), {**line, "data": b"", "senders": []}
            streams[line["stream"]] = current
        if "producer" in line:
            current["senders"].append(line)
        data = file.read(line["bytes"] + 1) if "bytes" in line else b""
        digest.update(text + data)
        current["data"] += data[:-1]
    assert file.read() == b""
    assert streams["/chats/7"]["data"] == b"hello world"
    assert streams["/chats/7"]["senders"] == [{"producer": "me", "epoch": 0, "seq": 0}]
    assert streams["/chats/m"]["data"] == b"1\x1e22\x1e"
    assert streams["/chats/m"]["content_type"] == "application/json"
    assert streams["/chats/m"]["closed"] is False


async def test_any_damage_is_found(tmp_path: Path) -> None:
    """Every byte matters; a file that was cut off is never taken for a whole one."""
    file = await example(tmp_path)
    start, end = file.index(b'{"stream":'), file.rindex(b'{"streams":')
    for position in range(start, end, 3):
        damaged = bytearray(file)
        damaged[position] ^= 1
        with pytest.raises(StoreError, match=r"damaged|not an export|is there already"):
            await parsed(bytes(damaged))
    for size_bytes in range(len(file)):
        with pytest.raises(StoreError, match=r"cut off|not an export|damaged"):
            await parsed(file[:size_bytes])
    assert await parsed(file) == 2


async def parsed(file: bytes) -> int:
    reader = portable.ExportReader(io.BytesIO(file))
    for head in reader.heads():
        for _ in reader.contents(head):
            pass
    return reader.streams


HEAD = {"stream": "/a", "content_type": "text/plain", "created_ms": 1, "closed": False}


def handmade(*lines: object, sha256: str | None = None) -> bytes:
    """A file with one stream, made of these lines, and a right checksum."""
    body = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    size_bytes = sum(line["bytes"] for line in lines if isinstance(line, dict) and "bytes" in line)
    end = {"end": "/a", "size": size_bytes, "sha256": sha256 or hashlib.sha256(body).hexdigest()}
    return b'{"unbroken_export":1}\n' + body + json.dumps(end).encode() + b'\n{"streams":1}\n'


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not an export"),
    "text": (b"hello\n", "not an export"),
    "newer": (b'{"unbroken_export":2}\n', "version 2; this program reads up to 1"),
    "count": (b'{"unbroken_export":1}\n{"streams":1}\n', "says that it has 1 streams, and has 0"),
    "no stream": (b'{"unbroken_export":1}\n{"time_ms":1,"bytes":1}\nx\n', "a stream should begin"),
    "path": (handmade({**HEAD, "stream": "/a/../b"}), "dot segments"),
    "reserved": (handmade({**HEAD, "stream": "/-/health"}), "reserved"),
    "type": (handmade({**HEAD, "content_type": "a\r\nb"}), "Content-Type"),
    "no type": (handmade({**HEAD, "content_type": ""}), "no content type"),
    "lifetimes": (handmade({**HEAD, "ttl_s": 1, "expires_at_ms": 1}), "lifetime"),
    "ttl": (handmade({**HEAD, "ttl_s": -1}), "lifetime"),
    "time": (handmade({**HEAD, "created_ms": 2**62}), "a time of it"),
    "closed by": (handmade({**HEAD, "closed_by": ["p", 0, 0]}), "closed by a producer, yet open"),
    "field": (handmade({**HEAD, "closed": "yes"}), "Expected `bool`"),
    "producer": (handmade(HEAD, {"producer": "p", "epoch": 0, "seq": -1}), "impossible number"),
    "unknown": (handmade(HEAD, {"time": 1}), "/a has no end"),
    "size": (handmade(HEAD, {"time_ms": 1, "bytes": 2**40}), f"{2**40} bytes"),
    "empty": (handmade(HEAD, {"time_ms": 1, "bytes": 0}), "0 bytes"),
    "newline": (handmade(HEAD, {"time_ms": 1, "bytes": 1}, b"xy"), "do not end where they should"),
    "checksum": (handmade(HEAD, sha256="0" * 64), "does not match its checksum"),
    "line": (handmade({**HEAD, "stream_seq": "x" * 10**5}), "a line is too long"),
    "not JSON": (
        handmade({**HEAD, "content_type": "application/json"}, {"time_ms": 1, "bytes": 2}, b"{\x1e\n"),
        "holds something that is not JSON",
    ),
    "two texts": (
        handmade({**HEAD, "content_type": "application/json"}, {"time_ms": 1, "bytes": 4}, b"1,2\x1e\n"),
        "holds something that is not JSON",
    ),
    "half a message": (
        handmade({**HEAD, "content_type": "application/json"}, {"time_ms": 1, "bytes": 1}, b"1\n"),
        "ends inside a message",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_nothing_is_taken_on_trust(tmp_path: Path, name: str) -> None:
    file, message = BAD[name]
    with pytest.raises(StoreError, match=message):
        await imported(file, tmp_path / "new")
    if (tmp_path / "new" / DATABASE_NAME).exists():
        assert shown(tmp_path / "new") == {}


async def test_a_file_made_by_hand(tmp_path: Path) -> None:
    head = {**HEAD, "content_type": "application/json", "something new": [1]}
    file = handmade(head, {"time_ms": 5, "bytes": 2}, b"1\x1e\n", {"time_ms": 6, "bytes": 7}, b"[2,3]\x1e\n\n")
    with pytest.raises(StoreError):
        await imported(file, tmp_path / "bad")  # a newline after the last separator begins a message
    file = handmade(head, {"time_ms": 5, "bytes": 2}, b"1\x1e\n", {"time_ms": 6, "bytes": 6}, b"[2,3]\x1e\n")
    await imported(file, tmp_path / "new")
    async with Engine(SqliteStore(tmp_path / "new")) as engine:
        assert (await engine.read("/a")).messages == [b"1", b"[2,3]"]
    assert Head("/a", "text/plain", 1, closed=False).fault() is None
