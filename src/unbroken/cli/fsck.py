"""``unbroken fsck``: check a database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unbroken.cli.terminal import Progress, fail, format_size, print_json, reported
from unbroken.store.sqlite.check import FAULTS_MAX, Report, examine

__all__ = ["fsck"]


def fsck(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory, or a database file such as a backup.")],
    json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of text.")] = False,
) -> None:
    """Check a database: every checksum, every stream, the journal. Changes nothing; the server must be stopped.

    Exit codes: 0 sound, 1 faults were found, 2 it could not be checked (no database there, or in use).
    """
    with reported(2):
        with Progress() as progress:
            progress("checking")
            report = examine(target)
        if json:
            print_json({"sound": not report.faults, **report._asdict()})
        else:
            _print(report)
    if report.faults:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    for fault in report.faults:
        typer.echo(fault)
    checked = f"{report.streams} streams, {report.chunks} chunks, {format_size(report.chunk_bytes)}"
    if not report.faults:
        typer.echo(f"sound: {checked}")
        return
    count = f"{len(report.faults)} faults" if len(report.faults) < FAULTS_MAX else "the first faults of many"
    fail(f"{count} ({checked} checked): keep a copy, and restore a backup into a new directory", 1)
