"""How much a database holds: counted once, in a thread, from how it was at one moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import apsw

from unbroken.store.base import Totals
from unbroken.store.sqlite.overlay import Overlay
from unbroken.store.sqlite.schema import rows

__all__ = ["count"]

_NUMBERS_PER_QUERY = 500

# A fork's lineage ends where its own bytes begin; what a stream has from lives before a restore is its own.
_INHERITED = """
SELECT coalesce(sum((
    SELECT max(json_extract(part.value, '$[1]')) FROM json_each(lineage) AS part
    WHERE json_extract(part.value, '$[0]') NOT IN (SELECT value FROM json_each(former))
)), 0) FROM streams WHERE lineage <> '[]'
"""


def count(connect: Callable[[], apsw.Connection], overlay: Overlay, resources: ExitStack) -> asyncio.Future[Totals]:
    """Count what is in the tables and in the overlay over them, as both are at the moment of the call.

    Args:
        connect: opens a connection that only reads.
        overlay: what is not in the tables yet.
        resources: to be closed when the store is, which ends this too.
    """
    unfolded = [pending.state for pending in overlay.oldest() if pending.state is not None]
    covered = [pending.number for pending in overlay.oldest() if not pending.born]
    db = connect()
    # From here on it reads what there is now, whatever is folded meanwhile.
    rows(db, "BEGIN")
    rows(db, "SELECT 1 FROM meta")
    thread = resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="unbroken-count"))
    resources.callback(_interrupt, db)
    base = Totals(len(unfolded), sum(state.own_bytes for state in unfolded))
    return asyncio.get_running_loop().run_in_executor(thread, _count_rows, db, covered, base)


def _interrupt(db: apsw.Connection) -> None:
    with contextlib.suppress(apsw.ConnectionClosedError):
        db.interrupt()


def _count_rows(db: apsw.Connection, but: list[int], base: Totals) -> Totals:
    with contextlib.closing(db):
        streams, total_bytes = _sum(db, "", ())
        for start in range(0, len(but), _NUMBERS_PER_QUERY):
            numbers = but[start : start + _NUMBERS_PER_QUERY]
            among = f"number IN ({', '.join('?' * len(numbers))})"
            less_streams, less_bytes = _sum(db, among, numbers)
            streams, total_bytes = streams - less_streams, total_bytes - less_bytes
        return Totals(streams + base.streams, total_bytes + base.total_bytes)


def _sum(db: apsw.Connection, among: str, numbers: Iterable[int]) -> tuple[int, int]:
    where, also = (f" WHERE {among}", f" AND {among}") if among else ("", "")
    ((streams, tails),) = rows(db, f"SELECT count(*), coalesce(sum(tail), 0) FROM streams{where}", *numbers)  # noqa: S608
    ((inherited,),) = rows(db, _INHERITED + also, *numbers)
    return streams, tails - inherited
