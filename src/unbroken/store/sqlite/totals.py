"""How much a database holds: counted once, in a thread, from how it was at one moment.

SQLite does the counting, below each prefix too: in Python it would take the interpreter from the event loop for every
one of millions of streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import apsw
import msgspec

from unbroken.protocol.prefixes import Prefixes
from unbroken.protocol.stream import StreamState
from unbroken.store.base import Held, Totals
from unbroken.store.sqlite.overlay import Overlay
from unbroken.store.sqlite.schema import rows

__all__ = ["count"]

# For each row that a cursor yields the thread has to get the interpreter back from the event loop.
_PREFIXES_PER_ROW = 256

# A fork's lineage ends where its own bytes begin; what a stream has from lives before a restore is its own.
_STREAMS = """
SELECT path, tail - CASE lineage WHEN '[]' THEN 0 ELSE coalesce((
    SELECT max(json_extract(part.value, '$[1]')) FROM json_each(lineage) AS part
    WHERE json_extract(part.value, '$[0]') NOT IN (SELECT value FROM json_each(former))
), 0) END AS size, 1 AS slash
FROM streams WHERE number NOT IN (SELECT value FROM json_each(:but))
"""
# ``slash`` is where the segments that were looked at end: at the next slash, or past the last character. The limits
# limit nothing; without one SQLite would make one query of all, and write out ``slash`` anew for each of its uses.
_STAR = """
SELECT path, size, slash + coalesce(nullif(instr(substr(path, slash + 1), '/'), 0), length(path) - slash + 1) AS slash
FROM ({}) WHERE slash < length(path) LIMIT -1
"""
_NAME = """
SELECT path, size, slash + 1 + length(:{name}) AS slash FROM ({})
WHERE substr(path, slash + 1, length(:{name})) = :{name} AND substr(path, slash + 1 + length(:{name}), 1) IN ('', '/')
LIMIT -1
"""
_IN_ALL = "SELECT count(*), coalesce(sum(size), 0) FROM ({})"
_BY_PREFIX = f"""
SELECT json_group_array(json_array(prefix, streams, size)) FROM (
    SELECT prefix, streams, size, row_number() OVER () AS at FROM (
        SELECT substr(path, 1, slash - 1) AS prefix, count(*) AS streams, sum(size) AS size FROM ({{}}) GROUP BY prefix
    )
) GROUP BY at / {_PREFIXES_PER_ROW}
"""  # noqa: S608
_counts = msgspec.json.Decoder(list[tuple[str, int, int]])


def count(
    connect: Callable[[], apsw.Connection], overlay: Overlay, resources: ExitStack, below: Sequence[Prefixes]
) -> asyncio.Future[Totals]:
    """Count what is in the tables and in the overlay over them, as both are at the moment of the call.

    Args:
        connect: opens a connection that only reads.
        overlay: what is not in the tables yet.
        resources: to be closed when the store is, which ends this too.
        below: the prefixes for each of which to count as well.
    """
    unfolded = [pending.state for pending in overlay.oldest() if pending.state is not None]
    covered = [pending.number for pending in overlay.oldest() if not pending.born]
    with ExitStack() as unless_it_fails:
        db = connect()
        unless_it_fails.callback(db.close)
        # From here on it reads what there is now, whatever is folded meanwhile.
        rows(db, "BEGIN")
        rows(db, "SELECT 1 FROM meta")
        unless_it_fails.pop_all()
    thread = resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="unbroken-count"))
    resources.callback(_interrupt, db)
    return asyncio.get_running_loop().run_in_executor(thread, _count, db, covered, unfolded, below)


def _interrupt(db: apsw.Connection) -> None:
    with contextlib.suppress(apsw.ConnectionClosedError):
        db.interrupt()


def _count(db: apsw.Connection, covered: list[int], unfolded: list[StreamState], below: Sequence[Prefixes]) -> Totals:
    but = msgspec.json.encode(covered).decode()
    with contextlib.closing(db):
        ((streams, total_bytes),) = db.execute(_IN_ALL.format(_STREAMS), {"but": but})
        held = tuple(_count_below(db, but, prefixes) for prefixes in below)
    for prefixes, part in zip(below, held, strict=True):
        part.add_all(unfolded, prefixes)
    return Totals(streams + len(unfolded), total_bytes + sum(state.own_bytes for state in unfolded), held)


def _count_below(db: apsw.Connection, but: str, prefixes: Prefixes) -> Held:
    query, values = _STREAMS, {"but": but}
    for at, segment in enumerate(prefixes.segments):
        if segment is None:
            query = _STAR.format(query)
        else:
            values[f"segment{at}"] = segment
            query = _NAME.format(query, name=f"segment{at}")
    held = Held({}, {})
    for (packed,) in db.execute(_BY_PREFIX.format(query), values):
        for prefix, streams, size_bytes in _counts.decode(packed):
            held.add(prefix, streams, size_bytes)
    return held
