"""``unbroken backup`` and ``unbroken restore``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from unbroken.cli.terminal import Progress, format_size, reported
from unbroken.store.sqlite.backup import backup as make_backup
from unbroken.store.sqlite.restore import restore as make_of_backup

__all__ = ["backup", "restore"]


def backup(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory.")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Make a backup, also while the server runs: the database at one moment, checked, as one file.

    The file appears under its name only when it is complete, sound and on the disk.

    Exit codes: 0 made, 1 not made, 2 not understood.
    """
    with reported():
        with Progress() as progress:
            report = make_backup(source, target, overwrite=overwrite, progress=progress)
        typer.echo(f"{target}: {report.streams} streams, {format_size(target.stat().st_size)}, sound")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The data directory to make: new or empty.")],
) -> None:
    """Make a data directory from a backup.

    What was given out for streams in the backup stays good. Offsets that the server gave out after the backup was made
    are refused (410), never answered with other data. It may be interrupted at any moment, and run again.

    Exit codes: 0 restored, 1 not restored, 2 not understood.
    """
    with reported():
        with Progress() as progress:
            report = asyncio.run(make_of_backup(source, target, progress=progress))
        typer.echo(f"{target}: {report.streams} streams, sound; unbroken serve --data-dir {target} serves them")
