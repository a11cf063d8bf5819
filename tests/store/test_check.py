"""The check finds damage of every sort, and nothing else."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.store.sizes import OVERLAY_BYTES_MAX, miniature
from tests.store.workload import workload
from unbroken.errors import StoreError
from unbroken.protocol.commands import Delete
from unbroken.protocol.stream import Addition, Creation, Deletion, Record
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.records import pack
from unbroken.store.sqlite.schema import DATABASE_NAME
from unbroken.testing.faults import FaultyDisk
from unbroken.testing.store_bench import append, create, execute, fork


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with miniature():
        yield


async def fill(directory: Path) -> None:
    """A database with something of everything."""
    store = SqliteStore(directory, overlay_bytes_max=OVERLAY_BYTES_MAX)
    await store.open()
    for commands in (await workload()).transactions:
        await execute(store, *commands)
    await execute(store, create("/source", b"s" * 100), create("/messages", b"[1,2,3]", json=True))
    state = store.state("/messages")
    assert state is not None
    await execute(store, fork("/copy", "/source", data=b"c" * 60), fork("/some", state, 2, b"[4]"))
    await store.close()


def damage(directory: Path, statement: str, *values: object) -> None:
    db = apsw.Connection(str(directory / DATABASE_NAME))
    db.execute("PRAGMA writable_schema = ON")
    db.execute(statement, values)
    assert db.total_changes() or "PRAGMA" in statement
    db.close()


SOURCE = "(SELECT number FROM streams WHERE path = '/source')"
COPY = "(SELECT number FROM streams WHERE path = '/copy')"
MESSAGES = "(SELECT number FROM streams WHERE path = '/messages')"

DAMAGES = {
    "PRAGMA application_id = 1": "application id",
    "PRAGMA user_version = 0": "format",
    "DELETE FROM meta WHERE key = 'identity'": "identity is missing",
    "DELETE FROM meta WHERE key = 'last_number'": "last_number is missing",
    "UPDATE meta SET value = 3 WHERE key = 'last_number'": "is used, but the last number is 3",
    "UPDATE streams SET lineage = '[[1' WHERE path = '/copy'": "cannot be decoded",
    "UPDATE streams SET origin = '{}' WHERE path = '/copy'": "cannot be decoded",
    "UPDATE streams SET applied = 10000": "the newest is",
    "DELETE FROM journal": "the newest is 0",
    "UPDATE streams SET tail = tail + 1 WHERE path = '/source'": "its chunks end at 100, its tail is 101",
    "UPDATE streams SET tail = tail - 1 WHERE path = '/source'": "its chunks end at 100, its tail is 99",
    "UPDATE streams SET tail = 5 WHERE path = '/copy'": "beyond its tail",
    f"DELETE FROM chunks WHERE stream = {SOURCE} AND start = 0": "a chunk begins at 48 where 0 was expected",
    f"DELETE FROM chunks WHERE stream = {SOURCE} AND start = 48": "a chunk begins at 96 where 48 was expected",
    f"DELETE FROM chunks WHERE stream = {SOURCE} AND start = 96": "its chunks end at 96",
    f"INSERT INTO chunks VALUES (NULL, {SOURCE}, 100, 0, 0, NULL, x'00')": "its chunks end at 101",
    f"INSERT INTO chunks VALUES (NULL, {SOURCE}, 50, 0, 0, NULL, x'00')": "a chunk begins at 50 where 96 was expected",
    f"UPDATE chunks SET data = x'' WHERE stream = {SOURCE} AND start = 0": "the chunk at 0 has 0 bytes",
    f"UPDATE chunks SET data = zeroblob(300000) WHERE stream = {SOURCE} AND start = 0": "at 0 has 300000 bytes",
    f"UPDATE chunks SET data = zeroblob(48) WHERE stream = {SOURCE} AND start = 0": "does not match its checksum",
    f"UPDATE chunks SET times = x'9130' WHERE stream = {SOURCE} AND start = 0": "commit times",
    f"UPDATE chunks SET times = x'92cd01' WHERE stream = {SOURCE} AND start = 0": "commit times",
    f"UPDATE chunks SET times = x'921807' WHERE stream = {SOURCE} AND start = 0": "commit times",
    f"UPDATE chunks SET times = x'923007' WHERE stream = {SOURCE} AND start = 0": "than its earliest byte",
    "INSERT INTO chunks VALUES (NULL, 9999, 0, 0, 0, NULL, x'00')": "neither there nor in the trash",
    "UPDATE streams SET former = '[99]' WHERE path = '/source'": "which none of its bytes are from",
    f"UPDATE streams SET former = json_array({SOURCE}) WHERE path = '/copy'": "and so is another",
    f"INSERT INTO staging VALUES ({SOURCE}, 7)": "a body is being written at 7, its tail is 100",
    "INSERT INTO producers VALUES (9999, 'p', 0, 0)": "neither there nor in the trash",
    f"INSERT INTO producers VALUES ({SOURCE}, 'p', -1, 0)": "is at (-1, 0)",
    f"INSERT INTO producers VALUES ({SOURCE}, 'p', 0, {2**62})": "is at (0, 4611686018427387904)",
    f"INSERT INTO trash VALUES ({SOURCE}, NULL, NULL)": "both there and in the trash",
    f"INSERT INTO trash VALUES (9999, {SOURCE}, '/source')": "counts 1 forks, and has 2",
    "INSERT INTO trash VALUES (3, 9999, '/nowhere')": "holds stream 9999 at /nowhere, not there",
    "INSERT INTO trash VALUES (3, 5, NULL)": "half a hold",
    "UPDATE streams SET forks = 0 WHERE path = '/source'": "counts 0 forks, and has 1",
    "UPDATE streams SET forks = 2 WHERE path = '/source'": "counts 2 forks, and has 1",
    "UPDATE streams SET forks = -1 WHERE path = '/b'": "it has -1 forks",
    "UPDATE streams SET gone = 1 WHERE path = '/b'": "kept for forks, and has 0",
    "UPDATE streams SET ttl_s = 1, expires_at_ms = 1 WHERE path = '/b'": "both a TTL and an expiry",
    "UPDATE streams SET closed = 0, closed_by = '[\"p\",0,0]' WHERE path = '/b'": "closed by a producer, yet open",
    "UPDATE streams SET origin = NULL WHERE path = '/copy'": "inherits bytes, but is no fork",
    "UPDATE streams SET path = '/elsewhere' WHERE path = '/source'": "its source is at /elsewhere",
    f"DELETE FROM streams WHERE number = {SOURCE}": "neither there nor in the trash",
    f"UPDATE streams SET lineage = json_array(json_array({MESSAGES}, 100)) WHERE path = '/copy'": "lineage",
    "UPDATE streams SET content_type = 'application/json' WHERE path = '/copy'": "JSON, unlike its source",
    f"UPDATE chunks SET data = x'313131313131' WHERE stream = {MESSAGES}": "do not end with a separator",
    f"UPDATE chunks SET data = x'31311e31311e' WHERE stream = {MESSAGES}": "forked inside a message",
    "UPDATE journal SET records = x'93'": "cannot be decoded",
    "UPDATE journal SET records = x'90'": "does not match its checksum",
    "DELETE FROM sqlite_schema WHERE name = 'streams_by_ttl'": "SQLite: ",
}


@pytest.mark.parametrize("statement", DAMAGES, ids=range(len(DAMAGES)))
async def test_damage_is_found(tmp_path: Path, statement: str) -> None:
    await fill(tmp_path / "data")
    assert check(tmp_path / "data") == []
    damage(tmp_path / "data", statement)
    found = check(tmp_path / "data")
    assert DAMAGES[statement] in "\n".join(found)


def _addition(position: int, data: bytes = b"x", number: int = 1) -> Addition:
    return Addition(number, 0, position, data, None, None, False)


def _creation(number: int, path: str, position: int = 0) -> Creation:
    return Creation(number, 0, path, "text/plain", None, None, False, (), None, position, b"")


JOURNALS: dict[str, list[Record]] = {
    "appends at 7, the tail is 3": [_addition(7)],
    "appends at 3, the tail is 4": [_addition(3), _addition(3)],
    "creates it a second time": [_creation(1, "/other")],
    "begins it at 5 instead of 0": [_creation(4, "/new", 5)],
    "2 streams at /text": [_creation(4, "/text")],
    "number 5 is used, but the last number is 4": [_creation(5, "/new")],
    "deletes it softly, and it has 0 forks": [Deletion(1, 0, keep=True)],
    "appends messages without a separator": [_addition(2, b"1", number=2)],
    "appends to it, and it is closed": [_addition(1, number=3)],
}


@pytest.mark.parametrize("complaint", JOURNALS)
async def test_what_is_unfolded_counts(tmp_path: Path, complaint: str) -> None:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    await execute(
        store, create("/text", b"one"), create("/json", b"1", json=True), create("/closed", b"c", closed=True)
    )
    await execute(store, create("/last"))
    await execute(store, Delete("/last"))
    await store.close()
    packed = pack(JOURNALS[complaint])
    damage(tmp_path / "data", "INSERT INTO journal VALUES (1000, ?, ?)", zlib.crc32(packed), packed)
    assert complaint in "\n".join(check(tmp_path / "data"))


async def test_a_sound_database_is_left_as_it_is(tmp_path: Path) -> None:
    """Its log too, if it has one."""
    with FaultyDisk() as disk:
        store = SqliteStore(tmp_path / "data", vfs=disk.name)
        await store.open()
        for commands in (await workload()).transactions:
            await execute(store, *commands)
        disk.leave(tmp_path / "data", tmp_path / "killed")
        await store.close()

    def digests() -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / "killed").iterdir()
            if path.name.endswith((".db", "-wal"))
        }

    before = digests()
    assert len(before) == 2
    assert check(tmp_path / "killed") == []
    assert digests() == before


async def test_a_database_in_use_is_not_checked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    await execute(store, create("/a"), append("/a", b"x"))
    with pytest.raises(StoreError, match="in use"):
        check(tmp_path / "data")
    await store.close()
    assert check(tmp_path / "data") == []


def test_where_there_is_no_database_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no unbroken"):
        check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_no_database(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"not a database" * 1000)
    assert check(tmp_path) == ["the database cannot be read: file is not a database"]


async def test_complaints_are_limited(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    await execute(store, *(create(f"/{index}", b"x") for index in range(150)))
    await store.close()
    damage(tmp_path / "data", "DELETE FROM chunks")
    assert len(check(tmp_path / "data")) == 100
