"""Write the databases that every later version must be able to open:

    python -m tests.store.formats.make

They go to a folder named after the format's version, with a JSON file beside each that says what must be found in it.
Those of released versions are never written again.
"""

from __future__ import annotations

import asyncio
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.store.formats.history import STAGED, describe, live, make_history, run
from unbroken.protocol.commands import Delete
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore
from unbroken.store.sqlite import store as sizes
from unbroken.store.sqlite.check import check
from unbroken.store.sqlite.restore import restore
from unbroken.store.sqlite.schema import DATABASE_NAME, FORMAT_VERSION
from unbroken.testing.store_bench import append, create, settle

__all__ = ["HERE", "make_all"]

HERE = Path(__file__).parent

Make = Callable[[Path], Coroutine[Any, Any, None]]


async def empty(directory: Path) -> None:
    """A store that was opened and closed."""
    store = SqliteStore(directory)
    await store.open()
    await store.close()


async def folded(directory: Path) -> None:
    """All the history, closed in good order."""
    store = SqliteStore(directory)
    await store.open()
    await make_history(store)
    await settle(store)
    await store.close()


async def killed(directory: Path) -> None:
    """All the history, as ``kill -9`` leaves it: most of it in the journal, and that in the write-ahead log."""
    store = SqliteStore(directory)
    await store.open()
    await make_history(store)
    await _kill(store, directory)


async def half_folded(directory: Path) -> None:
    """Killed in the midst of folding: some streams are in the tables, the journal still tells of all."""
    store = SqliteStore(directory)
    await store.open()
    with patch.multiple(sizes, _FOLD_STREAMS_PER_COMMIT=2):
        await make_history(store)
        for _ in range(4):
            await store.maintain()
    await run(store, 40, append("/bytes", b"and then"), create("/late", b"late"), Delete("/large"))
    await _kill(store, directory)


async def staging(directory: Path) -> None:
    """Killed while a large body was being written in pieces, after small ones before it."""
    await folded(directory)
    store = SqliteStore(directory)
    await store.open()
    await run(store, 40, append("/bytes", b"before it"))
    state = live(store, "/bytes")
    for start in range(0, len(STAGED), 2**18):
        async with store.transaction([]) as transaction:
            transaction.stage(state.number, state.tail + start, STAGED[start : start + 2**18], 0)
    await run(store, 41, append("/empty", b"meanwhile"))
    await _kill(store, directory)


async def trash(directory: Path) -> None:
    """Killed when streams had been deleted, and their bytes not yet."""
    await folded(directory)
    store = SqliteStore(directory)
    await store.open()
    await run(store, 40, Delete("/large"), Delete("/fork/deep/er"), Delete("/bytes"), create("/bytes", b"others"))
    await store.maintain()
    await _kill(store, directory)


async def restored(directory: Path) -> None:
    """From a backup of a store that was restored from a backup: streams have former numbers, and went on since."""
    first, second = directory.with_name("first"), directory.with_name("second")
    await folded(first)
    for source, target, now_us in ((first, second, 1_800_000_000_000_000), (second, directory, 1_900_000_000_000_000)):
        await restore(source, target, now_us=now_us)
        store = SqliteStore(target)
        await store.open()
        await run(store, 50, append("/bytes", b"since then"), append("/fork/deep/er", b"and on"))
        await store.close()


async def _kill(store: SqliteStore, directory: Path) -> None:
    """Leave in the directory what is there now, whatever closing does. No checkpoint may be under way."""
    beside = directory.with_name("beside")
    shutil.copytree(directory, beside)
    await store.close()
    shutil.rmtree(directory)
    beside.rename(directory)


MAKES: tuple[Make, ...] = (empty, folded, half_folded, killed, restored, staging, trash)


def make_all(target: Path) -> None:
    """Write all of them into a folder, which must be new."""
    target.mkdir()
    for make in MAKES:
        name = make.__name__
        with tempfile.TemporaryDirectory() as temporary, patch("secrets.token_hex", lambda _: "f0f1f2f3"):
            directory = Path(temporary) / "data"
            asyncio.run(make(directory))
            assert check(directory) == []
            for file in (directory / DATABASE_NAME, directory / f"{DATABASE_NAME}-wal"):
                if file.exists():
                    packed = lzma.compress(file.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
                    (target / f"{name}{file.suffix}.xz").write_bytes(packed)
            found = asyncio.run(_describe(directory))
        if make in (folded, killed):
            assert found == asyncio.run(_describe_model(found["due"])), "the memory store is the model"
        (target / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


async def _describe(directory: Path) -> dict[str, Any]:
    store = SqliteStore(directory)
    await store.open()
    try:
        return await describe(store)
    finally:
        await store.close()


async def _describe_model(due: object) -> dict[str, Any]:
    """What there must be; a store in memory has nothing that was due before it was opened."""
    model = MemoryStore()
    await make_history(model)
    return {**await describe(model), "due": due}


def main() -> None:
    """Write those of this version."""
    target = HERE / f"v{FORMAT_VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    make_all(target)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:8} {file.relative_to(HERE)}")  # noqa: T201


if __name__ == "__main__":
    main()
