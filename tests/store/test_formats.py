"""Databases that earlier versions wrote, in `tests/store/formats`, are opened, read to the byte, and written to."""

from __future__ import annotations

import json
import lzma
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from tests.store.formats.history import describe, run
from tests.store.formats.make import HERE, make_all
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.records import STREAM_COLUMNS
from unbroken.store.sqlite.schema import DATABASE_NAME, FORMAT_VERSION
from unbroken.testing.store_bench import append, create, fork, settle

FIXTURES = [description.with_suffix("") for description in sorted(HERE.glob("v*/*.json"))]

CHANGED = (
    f"a new database differs from those of format {FORMAT_VERSION} in tests/store/formats. If databases of that format "
    "are in use: raise FORMAT_VERSION, bring older ones up to it when they are opened, and write new ones beside them. "
    "If none are, write them anew. Either way: python -m tests.store.formats.make"
)


# How many of a row's first columns tell what it is about.
KEYS = {"meta": 1, "journal": 1, "streams": 1, "chunks": 3, "producers": 2, "staging": 1, "trash": 1, "pragmas": 1}


def unpack(fixture: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    for suffix in (".db", ".db-wal"):
        packed = fixture.with_suffix(f"{suffix}.xz")
        if packed.exists():
            file = (directory / DATABASE_NAME).with_suffix(suffix)
            file.write_bytes(lzma.decompress(packed.read_bytes()))
    return directory


@pytest.mark.parametrize("fixture", FIXTURES, ids=[f"{fixture.parent.name}-{fixture.name}" for fixture in FIXTURES])
async def test_what_was_written_is_read_and_written_to(tmp_path: Path, fixture: Path) -> None:
    directory = unpack(fixture, tmp_path / "data")
    expected = json.loads(fixture.with_suffix(".json").read_text())
    assert check(directory) == []
    store = SqliteStore(directory)
    await store.open()
    assert await describe(store) == expected
    await settle(store)
    assert await describe(store) == expected
    await write_to_everything(store)
    after = await describe(store)
    await settle(store)
    await store.close()
    assert check(directory) == []
    await store.open()
    assert {**await describe(store), "due": None} == {**after, "due": None}
    await store.close()
    for path, before in expected["streams"].items():
        if not before["state"]["closed"] and not before["state"]["gone"]:
            assert after["streams"][path]["state"]["tail"] > before["state"]["tail"]
            assert after["streams"][path]["offsets"][0] == before["offsets"][0]


async def write_to_everything(store: SqliteStore) -> None:
    """Append to all that can be appended to, fork all that can be forked."""
    for index, state in enumerate(store.states("/", "", 1000)):
        if not state.gone:
            await run(store, 100, fork(f"/new/{index}", state, data=b'"x"' if state.json else b"x"))
        if not state.gone and not state.closed:
            data = b'["more"]' if state.json else b"more"
            command = append(state.path, data, json=state.json)
            await run(store, 101, replace(command, content_type=state.content_type))
    await run(store, 102, create("/new", b"new"))


def test_the_format_has_not_changed_under_its_number(tmp_path: Path) -> None:
    """Neither its tables nor what is in them: the same history makes the same rows."""
    assert (HERE / f"v{FORMAT_VERSION}").is_dir(), CHANGED
    make_all(tmp_path / "now")
    for name in ("empty", "folded", "killed"):
        then = rows_of(unpack(HERE / f"v{FORMAT_VERSION}" / name, tmp_path / f"then-{name}"))
        now = rows_of(unpack(tmp_path / "now" / name, tmp_path / f"now-{name}"))
        assert now["schema"] == then["schema"], CHANGED
        for table, key_columns in KEYS.items():
            # When something is folded, and how bytes are cut into chunks, may change; what is said of a thing may not.
            old = {row[:key_columns]: row for row in then[table]}
            new = {row[:key_columns]: row for row in now[table]}
            shared = old.keys() & new.keys()
            assert shared or not (old and new), (name, table)
            assert {key: new[key] for key in shared} == {key: old[key] for key in shared}, CHANGED


def rows_of(directory: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(apsw.Connection(str(directory / DATABASE_NAME))) as db:
        found = {"schema": db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()}
        pragmas = ("application_id", "user_version", "page_size", "auto_vacuum", "journal_mode", "encoding")
        found["pragmas"] = [(name, db.pragma(name)) for name in pragmas]
        for table in ("meta", "journal", "producers", "staging", "trash"):
            found[table] = db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        found["streams"] = db.execute(f"SELECT {STREAM_COLUMNS} FROM streams ORDER BY number").fetchall()
        columns = "stream, start, checksum, time_ms, times, data"
        found["chunks"] = db.execute(f"SELECT {columns} FROM chunks ORDER BY stream, start").fetchall()
    return found


def test_the_databases_hold_what_they_are_for(tmp_path: Path) -> None:
    folder = HERE / f"v{FORMAT_VERSION}"
    found = {name: rows_of(unpack(folder / name, tmp_path / name)) for name in ("folded", "half_folded", "killed")}
    found |= {name: rows_of(unpack(folder / name, tmp_path / name)) for name in ("restored", "staging", "trash")}
    counts = {name: {table: len(rows) for table, rows in tables.items()} for name, tables in found.items()}
    assert counts["killed"]["journal"] > 20
    assert counts["killed"]["streams"] == 1  # the large one
    assert counts["half_folded"]["journal"] > 10
    assert counts["half_folded"]["streams"] > 3
    assert counts["folded"]["journal"] == 1
    assert counts["folded"]["trash"] > 0  # the hold
    assert counts["trash"]["trash"] > counts["folded"]["trash"] + 2
    assert counts["trash"]["chunks"] >= counts["folded"]["chunks"]
    assert counts["staging"]["staging"] == 1
    assert counts["staging"]["chunks"] > counts["folded"]["chunks"]
    assert any(row[4] is not None for row in found["folded"]["chunks"]), "several commit times in a chunk"
    assert any("[2,1800000000000002]" in row for row in found["restored"]["streams"]), "former numbers"
    assert any(str(row[1]).startswith("/fork/deep/er") for row in found["folded"]["streams"])
