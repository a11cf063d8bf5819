"""What the commands share: errors in one line, progress where somebody watches, sizes and times as people read them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import apsw
import msgspec
import typer

from unbroken.errors import UnbrokenError
from unbroken.protocol.lifetime import format_time, parse_time

__all__ = ["Progress", "fail", "format_moment", "format_size", "parse_moment", "print_json", "reported"]

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    typer.echo(f"unbroken: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def reported(code: int = 1) -> Iterator[None]:
    """Turns what can go wrong with a database or a file into one line and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. Nothing more may be written, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except UnbrokenError as error:
        fail(str(error), code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", code)
    except (apsw.Error, msgspec.DecodeError) as error:
        fail(f"the database cannot be read or written: {error}", code)


class Progress:
    """One line that is overwritten, and only on a terminal. Use it as a context manager."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, doing: str, done: float | None = None) -> None:
        """Show what is being done, and how much of it is done, 0 to 1, if that is known."""
        text = f"{doing} ..." if not done else f"{doing} {done:.0%}"
        if self._watched and text != self._shown:
            self._shown = text
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def print_json(value: object) -> None:
    """One value as one line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")


def format_size(size_bytes: int) -> str:
    """Such as ``17 B`` or ``1.5 MiB``."""
    size, unit = float(size_bytes), 0
    while size >= 1023.95 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} B"


def format_moment(time_ms: int) -> str:
    """A time in UTC, or the number if it is beyond all calendars."""
    try:
        return format_time(time_ms)
    except OverflowError:
        return f"{time_ms} ms"


def parse_moment(text: str, option: str) -> datetime:
    """A time as people give it: RFC 3339, or so long ago; ends the command if it is neither."""
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _AGO_S[ago[2]])
    try:
        return datetime.fromtimestamp(parse_time(text, option) / 1000, UTC)
    except (UnbrokenError, OverflowError, OSError):
        fail(f"{option}: {text!r} is neither a time such as 2027-01-01T00:00:00Z nor one ago such as 5m, 2h or 7d", 2)
