"""Export and import: streams out of a database into a portable file (`unbroken.store.portable`), and into another.

What is imported goes straight to the tables, so commit times are kept, and a stream of any size comes whole or not at
all: while it is on its way its chunks are those of a number in the trash, which any start would empty. Numbers are new,
so offsets are; a fork comes as a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import apsw

from unbroken.errors import StoreError, UnbrokenError
from unbroken.protocol.content import SEPARATOR, frame_json, is_json, json_array
from unbroken.protocol.lifetime import IMMORTAL, Lifetime
from unbroken.protocol.paths import parse_path
from unbroken.protocol.stream import StreamState
from unbroken.store.portable import ExportReader, ExportWriter, Head, Piece, Sender
from unbroken.store.runs import Runs, append_run
from unbroken.store.sqlite.chunks import write_chunks
from unbroken.store.sqlite.folding import write_producer, write_state
from unbroken.store.sqlite.schema import DirectoryLock, open_writer, rows
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.store.sqlite.store import SqliteStore

__all__ = ["Imported", "export_streams", "import_streams"]

_FLUSH_BYTES = 1024 * 1024
_COMMIT_BYTES = 16 * 1024 * 1024
_COMMIT_STREAMS = 4_000
_LOG_BYTES_MAX = 64 * 1024 * 1024
_MESSAGES_PER_CHECK = 50_000


# --- out -------------------------------------------------------------------------------------------------------------


def export_streams(
    snapshot: Snapshot,
    file: BinaryIO,
    *,
    now_ms: int,
    prefix: str = "/",
    path: str | None = None,
    told: Callable[[int], object] = lambda count: None,
) -> int:
    """Write live streams to a file.

    Args:
        snapshot: where from.
        file: where to.
        now_ms: what time it is; streams that have expired by then are left out.
        prefix: which streams: those whose path begins with it, compared character by character.
        path: one stream only.
        told: called with the number of streams written so far.

    Returns:
        How many streams there were.

    Raises:
        StoreError: bytes are missing; or there is no stream at the path.
    """
    if path is not None:
        state = snapshot.state(path)
        states = iter(() if state is None else (state,))
        prefix = path
    else:
        states = snapshot.states(prefix)
    writer = ExportWriter(file, prefix, now_ms)
    for state in states:
        expires_at_ms = state.lifetime.expires_at_ms
        if not state.gone and (expires_at_ms is None or now_ms < expires_at_ms):
            _export(snapshot, state, writer)
            told(writer.streams)
    if path is not None and not writer.streams:
        raise StoreError(f"there is no stream at {path}")
    writer.finish()
    return writer.streams


def _export(snapshot: Snapshot, state: StreamState, writer: ExportWriter) -> None:
    head = Head(
        path=state.path,
        content_type=state.content_type,
        created_ms=state.created_ms,
        closed=state.closed,
        closed_by=state.closed_by,
        ttl_s=state.lifetime.ttl_s,
        expires_at_ms=state.lifetime.expires_at_ms,
        stream_seq=state.stream_seq,
    )
    writer.begin(head)
    for producer_id, producer in snapshot.producers(state.number).items():
        writer.sender(Sender(producer_id, producer))
    for run in snapshot.runs(state):
        writer.piece(Piece(run.time_ms, run.data))
    writer.end()


# --- in --------------------------------------------------------------------------------------------------------------


class Imported(NamedTuple):
    """What an import did: how many streams came, how many were there already, how many bytes came."""

    streams: int = 0
    skipped: int = 0
    size_bytes: int = 0


async def import_streams(
    file: BinaryIO,
    directory: Path | str,
    *,
    prefix_to: str | None = None,
    skip_existing: bool = False,
    told: Callable[[Imported], object] = lambda done: None,
) -> Imported:
    """Add streams from a file to the database in a data directory, which is created if it is not there.

    Args:
        file: an export.
        directory: of a server that is not running.
        prefix_to: what takes the place of the export's prefix in all paths.
        skip_existing: leave streams alone that are there already; else the first one ends the import.
        told: called with what is done so far, after each stream.

    Raises:
        StoreError: the file is damaged, a stream exists, or the directory is in use. Streams that came before it in
            the file are imported.
    """
    reader = ExportReader(file)
    directory = Path(directory)
    # So that the tables know all paths.
    store = SqliteStore(directory)
    await store.open()
    folded = await store.fold_everything()
    await store.close()
    with _Loader(directory) as loader:
        with Snapshot(directory) as snapshot:
            if not folded or snapshot.unfolded:
                raise StoreError("the disk is almost full; nothing was imported")
        done = Imported()
        for head in reader.heads():
            path = head.path if prefix_to is None else _moved(head.path, reader.prefix, prefix_to)
            if loader.exists(path):
                if not skip_existing:
                    raise StoreError(
                        f"{path} is there already; {done.streams} streams were imported before it. "
                        "--skip-existing leaves it as it is and goes on"
                    )
                for _ in reader.contents(head):
                    pass
                done = done._replace(skipped=done.skipped + 1)
            else:
                size_bytes = loader.load(path, head, reader.contents(head))
                done = done._replace(streams=done.streams + 1, size_bytes=done.size_bytes + size_bytes)
            told(done)
    return done


def _moved(path: str, prefix: str, prefix_to: str) -> str:
    if not path.startswith(prefix):
        raise StoreError(f"the export says that all paths begin with {prefix}, and has {path}")
    try:
        return parse_path(prefix_to + path.removeprefix(prefix))
    except UnbrokenError as error:
        raise StoreError(f"{path} cannot be moved to {prefix_to}{path.removeprefix(prefix)}: {error}") from None


class _Loader:
    """Writes streams to the tables of a store that nobody has open. What is complete when it is closed, stays."""

    def __init__(self, directory: Path) -> None:
        self._resources = ExitStack()
        lock = DirectoryLock(directory)
        lock.acquire()
        self._resources.callback(lock.release)
        try:
            self._db = open_writer(directory)
            self._resources.callback(self._db.close)
        except BaseException:
            self._resources.close()
            raise
        ((self._last_number,),) = rows(self._db, "SELECT value FROM meta WHERE key = 'last_number'")
        self._uncommitted_bytes = self._uncommitted_streams = self._logged_bytes = 0
        rows(self._db, "BEGIN IMMEDIATE")

    def __enter__(self) -> _Loader:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._resources:
            if not isinstance(error, apsw.Error):
                self._commit()

    def exists(self, path: str) -> bool:
        """Whether a path is taken, or blocked by forks of a deleted stream."""
        return bool(rows(self._db, "SELECT 1 FROM streams WHERE path = ?", path))

    def load(self, path: str, head: Head, contents: Iterator[Piece | Sender]) -> int:
        """Add a stream.

        Returns:
            Its size in bytes.
        """
        self._last_number = number = self._last_number + 1
        rows(self._db, "UPDATE meta SET value = ? WHERE key = 'last_number'", number)
        body = _Body(self._db, number, json=is_json(head.content_type))
        # What is committed before the stream is complete, is trash.
        rows(self._db, "INSERT INTO trash VALUES (?, NULL, NULL)", number)
        for part in contents:
            if isinstance(part, Sender):
                write_producer(self._db, number, part.id, part.last)
                continue
            self._uncommitted_bytes += len(part.data)
            body.add(part)
            if self._uncommitted_bytes >= _COMMIT_BYTES:
                body.flush()
                self._begin_anew()
        body.end()
        rows(self._db, "DELETE FROM trash WHERE number = ?", number)
        write_state(self._db, _state(number, path, head, body.tail), 0)
        self._uncommitted_streams += 1
        if self._uncommitted_streams >= _COMMIT_STREAMS:
            self._begin_anew()
        return body.tail

    def _begin_anew(self) -> None:
        self._commit()
        rows(self._db, "BEGIN IMMEDIATE")

    def _commit(self) -> None:
        rows(self._db, "COMMIT")
        self._logged_bytes += self._uncommitted_bytes
        self._uncommitted_bytes = self._uncommitted_streams = 0
        if self._logged_bytes >= _LOG_BYTES_MAX:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._logged_bytes = 0


class _Body:
    """The bytes of a stream on their way to its chunks."""

    def __init__(self, db: apsw.Connection, number: int, *, json: bool) -> None:
        self._db = db
        self._number = number
        self._json = json
        self._rest = bytearray()
        self._data = bytearray()
        self._runs: Runs = []
        self._start = 0

    @property
    def tail(self) -> int:
        """The position after the last byte."""
        return self._start + len(self._data)

    def add(self, piece: Piece) -> None:
        """Take bytes."""
        if self._json:
            self._check(piece.data)
        self._data += piece.data
        append_run(self._runs, len(piece.data), piece.time_ms)
        if len(self._data) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if self._data:
            write_chunks(self._db, self._number, self._start, bytes(self._data), self._runs, grown=self._start > 0)
            self._start += len(self._data)
            self._data, self._runs = bytearray(), []

    def end(self) -> None:
        """There is no more."""
        if self._rest:
            raise StoreError("the export is damaged: a JSON stream ends inside a message")
        self.flush()

    def _check(self, data: bytes) -> None:
        """Messages must be JSON, or nobody could read them."""
        cut = data.rfind(SEPARATOR) + 1
        if cut:
            messages = (bytes(self._rest) + data[:cut]).split(SEPARATOR)[:-1]
            self._rest.clear()
            for first in range(0, len(messages), _MESSAGES_PER_CHECK):
                framed = SEPARATOR.join((*messages[first : first + _MESSAGES_PER_CHECK], b""))
                try:
                    sound = frame_json(json_array(framed)) == framed
                except UnbrokenError:
                    sound = False
                if not sound:
                    raise StoreError("the export is damaged: a JSON stream holds something that is not JSON")
        self._rest += data[cut:]


def _state(number: int, path: str, head: Head, tail: int) -> StreamState:
    is_mortal = head.ttl_s is not None or head.expires_at_ms is not None
    return StreamState(
        number=number,
        path=path,
        content_type=head.content_type,
        json=is_json(head.content_type),
        lifetime=Lifetime(head.ttl_s, head.expires_at_ms) if is_mortal else IMMORTAL,
        tail=tail,
        closed=head.closed,
        closed_by=head.closed_by,
        stream_seq=head.stream_seq,
        created_ms=head.created_ms,
    )
