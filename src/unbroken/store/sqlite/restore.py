"""Restoring a backup: a database from which no offset is given out that was given out before, for other bytes.

After a backup was made the server went on: it created streams, appended to those it had, gave out offsets. All of that
is lost with a restore, but clients and caches remember. So a restored database begins a new life:

- It goes on with creation numbers that nobody has used: microseconds of Unix time. No server creates a million streams
  a second, so all numbers of an earlier life of the same backup are smaller; and a clock does not tell the same time
  twice.
- Its streams that can still grow go on under new numbers. What they have stays theirs under their `former` ones, so
  that what was given out for it counts; what they get belongs to the new number. An offset past what was restored,
  under an old number, is refused.
- It has a new identity, which is part of cache validators.

It is made in a folder of the new data directory and moved into place when it is complete and durable: until then there
is no database, and a restore that was killed is begun again.
"""

from __future__ import annotations

import shutil
import time
import zlib
from contextlib import closing
from pathlib import Path
from secrets import randbelow, token_hex

import apsw
import msgspec

from unbroken.errors import StoreError
from unbroken.protocol.stream import Lineage
from unbroken.store.sqlite.backup import Progress
from unbroken.store.sqlite.check import Report, examine
from unbroken.store.sqlite.records import pack, unpack_former
from unbroken.store.sqlite.schema import (
    DATABASE_NAME,
    RESTORING_NAME,
    DirectoryLock,
    empty_log,
    open_writer,
    rows,
    sync,
)
from unbroken.store.sqlite.snapshot import Snapshot, find_database, open_still, require_ours
from unbroken.store.sqlite.store import SqliteStore

__all__ = ["FORMER_MAX", "renumber", "restore"]

FORMER_MAX = 32
"""How many former numbers a stream keeps: offsets of that many earlier lives count."""

# 2025 and 2255: numbers have 16 digits in offsets.
_NOW_US_MIN, _NOW_US_MAX = 1_735_689_600_000_000, 9_000_000_000_000_000
_FAR = 1_000_000_000
_IGNORED = frozenset({"lock", "lost+found", RESTORING_NAME})

_lineage = msgspec.json.Decoder(tuple[tuple[int, int], ...])

_CAN_GROW = "NOT closed AND NOT gone"
_RENUMBER = f"""
CREATE TEMP TABLE renumbered (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
INSERT INTO renumbered SELECT number, ? + row_number() OVER (ORDER BY number) FROM streams WHERE {_CAN_GROW};
UPDATE streams SET
    former = json_insert(former, '$[#]', number),
    lineage = json_insert(lineage, '$[#]', json_array(number, tail)),
    number = (SELECT new FROM renumbered WHERE old = number)
WHERE {_CAN_GROW};
UPDATE streams SET
    origin = json_set(origin, '$[1]', (SELECT new FROM renumbered WHERE old = origin ->> 1))
WHERE origin IS NOT NULL AND origin ->> 1 IN (SELECT old FROM renumbered);
UPDATE trash SET source_number = (SELECT new FROM renumbered WHERE old = source_number)
WHERE source_number IN (SELECT old FROM renumbered);
UPDATE producers SET stream = (SELECT new FROM renumbered WHERE old = stream)
WHERE stream IN (SELECT old FROM renumbered);
"""  # noqa: S608


async def restore(
    source: Path | str, directory: Path | str, *, now_us: int | None = None, progress: Progress | None = None
) -> Report:
    """Make a data directory from a backup.

    Args:
        source: a backup, or any other copy of a database that nobody has open; with its write-ahead log beside it, if
            it has one.
        directory: new or empty.
        now_us: what time it is, in microseconds since 1970; by default the system's.
        progress: told how it goes.

    Returns:
        What the check of the backup found; it is sound.

    Raises:
        StoreError: the backup is in use or damaged, the directory is in use or not empty, the clock is impossible.
        OSError: files cannot be read or written.
    """
    source, directory = find_database(source), Path(directory)
    now_us = time.time_ns() // 1000 if now_us is None else now_us
    if not _NOW_US_MIN < now_us < _NOW_US_MAX:
        raise StoreError("the clock of this machine is wrong; a restore relies on it: set it, then restore again")
    told = progress or (lambda doing, done: None)
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        _require_empty(directory)
        work = directory / RESTORING_NAME
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(0o700)
        sync(directory)
        _copy(source, work, told)
        report = await _make(work, now_us, told)
        sync(work / DATABASE_NAME)
        (work / DATABASE_NAME).rename(directory / DATABASE_NAME)
        sync(directory)
        sync(directory.resolve().parent)
        shutil.rmtree(work)
    except apsw.Error as error:
        raise StoreError(f"{source} cannot be restored: {error}") from error
    finally:
        lock.release()
    return report


def _require_empty(directory: Path) -> None:
    found = sorted(path.name for path in directory.iterdir() if path.name not in _IGNORED)
    if found:
        raise StoreError(f"{directory} is not empty: there is {found[0]}; restore into a new directory")


def _copy(source: Path, work: Path, told: Progress) -> None:
    told("copying", 0.0)
    lock = DirectoryLock(source.parent)
    is_store = source.name == DATABASE_NAME and (source.parent / "lock").exists()
    if is_store:
        lock.acquire()  # a copy of what is being written to would be torn
    try:
        log = source.with_name(f"{source.name}-wal")
        if log.exists():
            shutil.copyfile(log, work / f"{DATABASE_NAME}-wal")
        shutil.copyfile(source, work / DATABASE_NAME)
        (work / DATABASE_NAME).chmod(0o600)
    finally:
        lock.release()


async def _make(work: Path, now_us: int, told: Progress) -> Report:
    """Make a new life of the copy."""
    with closing(open_still(work / DATABASE_NAME)) as db:
        require_ours(db, work / DATABASE_NAME)
    told("checking", 0.0)
    report = examine(work)
    if report.faults:
        raise StoreError(f"the backup is damaged: {report.faults[0]}; unbroken fsck tells all")
    told("restoring", 0.0)
    store = SqliteStore(work)
    await store.open()
    folded = await store.fold_everything()
    await store.close()
    with Snapshot(work) as snapshot:
        if not folded or snapshot.unfolded:
            raise StoreError("the disk is almost full; nothing was restored")
    with closing(open_writer(work)) as db:
        rows(db, "PRAGMA cache_spill = ON; BEGIN IMMEDIATE")
        renumber(db, now_us)
        rows(db, "COMMIT")
        empty_log(db)
    return report


def renumber(db: apsw.Connection, now_us: int) -> None:
    """Begin a new life, in a transaction. Nothing may be unfolded.

    Args:
        db: writes.
        now_us: what time it is, in microseconds since 1970.
    """
    ((last_number,),) = rows(db, "SELECT value FROM meta WHERE key = 'last_number'")
    # A clock that was set back says nothing. What was given out after the backup was made is not far from its last
    # number, and another restore of it will not draw the same lot.
    base = now_us if now_us > last_number else last_number + _FAR + randbelow(1_000 * _FAR)
    rows(db, _RENUMBER, base)
    ((count,),) = rows(db, "SELECT count(*) FROM renumbered")
    rows(db, "DROP TABLE renumbered")
    rows(db, "UPDATE meta SET value = ? WHERE key = 'last_number'", base + count)
    rows(db, "UPDATE meta SET value = ? WHERE key = 'identity'", token_hex(4))
    # The newest row says which id was used last. What it tells of streams is folded, under their former numbers.
    nothing = pack([])
    rows(db, "DELETE FROM journal WHERE id < (SELECT max(id) FROM journal)")
    rows(db, "UPDATE journal SET records = ?, checksum = ?", nothing, zlib.crc32(nothing))
    _forget_oldest(db)


def _forget_oldest(db: apsw.Connection) -> None:
    """Put what lies under the oldest former numbers of a stream under the next one, where it has too many.

    A lineage may not grow without end. Offsets of a number that is given up are refused from now on; those of the
    one that takes its bytes over were given out for later positions only.
    """
    takes_over: dict[int, int] = {}
    for (former,) in rows(db, "SELECT former FROM streams WHERE json_array_length(former) > ?", FORMER_MAX):
        numbers = unpack_former(former)
        surplus = len(numbers) - FORMER_MAX
        takes_over |= dict.fromkeys(numbers[:surplus], numbers[surplus])
    if not takes_over:
        return
    for old, new in takes_over.items():
        rows(db, "UPDATE chunks SET stream = ? WHERE stream = ?", new, old)
    for number, packed, former in rows(db, "SELECT number, lineage, former FROM streams WHERE lineage <> '[]'"):
        lineage = _lineage.decode(packed)
        if any(old in takes_over for old, _ in lineage):
            kept = [old for old in unpack_former(former) if old not in takes_over]
            values = (msgspec.json.encode(_merged(lineage, takes_over)).decode(), msgspec.json.encode(kept).decode())
            rows(db, "UPDATE streams SET lineage = ?, former = ? WHERE number = ?", *values, number)


def _merged(lineage: Lineage, takes_over: dict[int, int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for old, end in lineage:
        number = takes_over.get(old, old)
        if merged and merged[-1][0] == number:
            merged.pop()
        merged.append((number, end))
    return merged
