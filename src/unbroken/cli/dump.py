"""``unbroken dump``: look into a database."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from unbroken.cli.terminal import fail, format_moment, format_size, print_json, reported
from unbroken.protocol.content import SEPARATOR
from unbroken.protocol.producers import Producer
from unbroken.protocol.stream import StreamState, offset_at
from unbroken.store.sqlite.snapshot import Run, Snapshot

__all__ = ["dump"]

_BYTES_SHOWN = 60
_HEADER = ("NUMBER", "SIZE", "CREATED", "STATE", "LIFETIME", "FORKS", "TYPE", "PATH")
_ROW = "{:>16} {:>10} {:24} {:6} {:>14} {:>5} {:24} {}"
_RECORD = "{:>14} {:>10} {:24} {}"


def dump(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory, or a database file such as a backup.")],
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="A stream, to see all of it.")] = None,
    prefix: Annotated[str, typer.Option(help="Only streams whose path begins with this.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many streams, or records. (all)")] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each stream, or record.")] = False,
) -> None:
    """List the streams of a database, or show one: state, lineage, producers, and what each commit brought.

    Works while a server runs, and shows one moment. The server's write-ahead log grows until the end of it.

    Exit codes: 0 shown, 1 no such stream, or the database cannot be read, 2 not understood.
    """
    with reported(), Snapshot(target) as snapshot:
        if path is None:
            _list(itertools.islice(snapshot.states(prefix), limit), json=json)
        elif (state := snapshot.state(path)) is None:
            fail(f"there is no stream at {path}", 1)
        else:
            producers = snapshot.producers(state.number)
            records = itertools.islice(_records(snapshot.runs(state)), limit)
            (_show_json if json else _show)(state, producers, records)


def _list(states: Iterator[StreamState], *, json: bool) -> None:
    if not json:
        print(_ROW.format(*_HEADER))
    for state in states:
        if json:
            print_json(_facts(state))
            continue
        print(
            _ROW.format(
                *(state.number, format_size(state.tail), format_moment(state.created_ms), _condition(state)),
                *(_lifetime(state), state.forks, state.content_type, state.path),
            )
        )


def _condition(state: StreamState) -> str:
    return "gone" if state.gone else "closed" if state.closed else "open"


def _lifetime(state: StreamState) -> str:
    lifetime = state.lifetime
    if lifetime.ttl_s is not None:
        return f"{lifetime.ttl_s} s"
    return "-" if lifetime.expires_at_ms is None else format_moment(lifetime.expires_at_ms)[:10]


def _facts(state: StreamState) -> dict[str, Any]:
    return {
        "path": state.path,
        "number": state.number,
        "content_type": state.content_type,
        "size": state.tail,
        "closed": state.closed,
        "gone": state.gone,
        "ttl_s": state.lifetime.ttl_s,
        "expires_at_ms": state.lifetime.expires_at_ms,
        "forks": state.forks,
        "created_ms": state.created_ms,
    }


class _Record(NamedTuple):
    """What one commit brought, as far as that is known: bytes of one commit time."""

    position: int
    size_bytes: int
    time_ms: int
    first: bytes


def _records(runs: Iterator[Run]) -> Iterator[_Record]:
    record: _Record | None = None
    for run in runs:
        if record is not None and record.time_ms == run.time_ms:
            first = (record.first + run.data[:_BYTES_SHOWN])[:_BYTES_SHOWN]
            record = record._replace(size_bytes=record.size_bytes + len(run.data), first=first)
            continue
        if record is not None:
            yield record
        record = _Record(run.position, len(run.data), run.time_ms, run.data[:_BYTES_SHOWN])
    if record is not None:
        yield record


def _readable(record: _Record) -> str:
    """The first bytes: text as it is, all else escaped, ends of messages as a sign."""
    text = record.first.decode("utf-8", "backslashreplace").replace(SEPARATOR.decode(), "␞")
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return shown if record.size_bytes <= len(record.first) else f"{shown} ..."


def _origins(state: StreamState) -> list[dict[str, Any]]:
    starts = (0, *(end for _, end in state.lineage))
    return [
        {"number": number, "start": start, "end": end, "former": number in state.former}
        for (number, end), start in zip(state.lineage, starts, strict=False)
    ]


def _show_json(state: StreamState, producers: dict[str, Producer], records: Iterator[_Record]) -> None:
    details = {
        "next_offset": str(state.tail_offset),
        "stream_seq": state.stream_seq,
        "closed_by": state.closed_by,
        "forked_from": None if state.origin is None else state.origin.source_path,
        "lineage": _origins(state),
        "producers": {name: producer._asdict() for name, producer in producers.items()},
    }
    print_json({**_facts(state), **details})
    for position, size_bytes, time_ms, first in records:
        text = first.decode("utf-8", "backslashreplace")
        print_json({"position": position, "size": size_bytes, "time_ms": time_ms, "first": text})


def _show(state: StreamState, producers: dict[str, Producer], records: Iterator[_Record]) -> None:
    print(f"path          {state.path}")
    print(f"number        {state.number}")
    print(f"content type  {state.content_type}")
    print(f"state         {_condition(state)}")
    print(f"size          {state.tail} bytes, next offset {offset_at(state, state.tail)}")
    print(f"created       {format_moment(state.created_ms)}")
    if state.lifetime.expires_at_ms is not None:
        print(f"expires       {format_moment(state.lifetime.expires_at_ms)}")
    elif state.lifetime.ttl_s is not None:
        print(f"expires       {state.lifetime.ttl_s} s after it was last used")
    if state.stream_seq is not None:
        print(f"Stream-Seq    {state.stream_seq}")
    if state.origin is not None:
        print(f"forked from   {state.origin.source_path}")
    if state.forks:
        print(f"forks         {state.forks}")
    for piece in _origins(state):
        whose = "its own, before a restore" if piece["former"] else "inherited"
        print(f"lineage       {piece['start']} to {piece['end']}: number {piece['number']}, {whose}")
    for name, producer in producers.items():
        print(f"producer      {name!r}: epoch {producer.epoch}, last sequence {producer.seq}")
    print()
    print(_RECORD.format("POSITION", "BYTES", "COMMITTED", "BEGINS WITH"))
    for record in records:
        moment = format_moment(record.time_ms)
        print(_RECORD.format(record.position, record.size_bytes, moment, _readable(record)))
