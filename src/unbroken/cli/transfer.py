"""``unbroken export`` and ``unbroken import``."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from unbroken.cli.terminal import Progress, fail, format_size, reported
from unbroken.errors import StoreError
from unbroken.store.sqlite.schema import sync
from unbroken.store.sqlite.snapshot import Snapshot
from unbroken.store.sqlite.transfer import export_streams, import_streams

__all__ = ["export_", "import_"]


def export_(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory, or a database file such as a backup.")],
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="One stream. (all)")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")
    ] = "-",
    prefix: Annotated[str | None, typer.Option(help="Streams whose path begins with this: /chats/.")] = None,
) -> None:
    """Write streams to a portable file, also while the server runs.

    Kept: bytes and message boundaries, commit times, content type, lifetime, closure, producers, Stream-Seq. A fork is
    written as a stream of its own. Not kept: offsets, which are new after an import.

    Exit codes: 0 written, 1 not written, 2 not understood.
    """
    if path is not None and prefix is not None:
        fail("give either a PATH or --prefix", 2)
    if output == "-" and sys.stdout.isatty():
        fail("an export is not for a terminal: name a file with -o, or pipe it on", 2)
    with reported():
        with Progress() as progress, Snapshot(source) as snapshot, _created(output) as file:
            count = export_streams(
                *(snapshot, file),
                now_ms=time.time_ns() // 1_000_000,
                prefix=prefix or "/",
                path=path,
                told=lambda streams: progress(f"{streams} streams"),
            )
        if output != "-":
            typer.echo(f"{output}: {count} streams, {format_size(Path(output).stat().st_size)}")


@contextmanager
def _created(output: str) -> Iterator[BinaryIO]:
    """A new file that appears under its name when it is complete."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(output)
    if target.is_file():
        raise StoreError(f"{target} is there already: name a new file")
    if not target.parent.is_dir() or target.exists():
        # A device or a pipe is written to as it is.
        with target.open("wb") as file:
            yield file
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        sync(partial)
        partial.replace(target)
        sync(target.resolve().parent)
    finally:
        partial.unlink(missing_ok=True)


def import_(
    source: Annotated[str, typer.Argument(metavar="FILE", help="An export; - is standard input.")],
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="Data directory of a server that is not running, or new.")
    ],
    prefix_to: Annotated[
        str | None, typer.Option(help="What takes the place of the export's prefix: /old/ for what was /chats/.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave streams that are there already as they are, and go on.")
    ] = False,
) -> None:
    """Add streams from an export. Each comes whole or not at all; what was interrupted goes on with --skip-existing.

    Exit codes: 0 imported, 1 not, or not all of them, 2 not understood.
    """
    with reported():
        with Progress() as progress, _opened(source) as file:
            done = asyncio.run(
                import_streams(
                    *(file, target),
                    prefix_to=prefix_to,
                    skip_existing=skip_existing,
                    told=lambda done: progress(f"{done.streams} streams, {format_size(done.size_bytes)}"),
                )
            )
        skipped = f", {done.skipped} were there already" if done.skipped else ""
        typer.echo(f"{target}: {done.streams} streams imported, {format_size(done.size_bytes)}{skipped}")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
    else:
        with Path(source).open("rb") as file:
            yield file
