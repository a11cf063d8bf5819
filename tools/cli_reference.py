"""Writes the reference part of docs/cli.md from the commands themselves.

python tools/cli_reference.py            # write it
python tools/cli_reference.py --check    # exit code 1 if it is not what it would be
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from unbroken.cli.main import application

__all__ = ["PAGE", "page", "reference"]

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_BEGIN = "<!-- From here on written by tools/cli_reference.py. -->\n"


def reference() -> str:
    """Every command with its arguments and options, in Markdown."""
    group = typer.main.get_command(application())
    return "\n".join(_sections("unbroken", group))


def _sections(name: str, group: Any) -> Iterator[str]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _sections(f"{name} {word}", command)
        else:
            yield from _section(f"{name} {word}", command)


def _section(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    yield f"### {name}\n\n```text\n{usage}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    rows = [_row(parameter, context) for parameter in command.params if parameter.name != "help"]
    yield "\n".join(("| | |", "|---|---|", *rows, ""))


def _row(parameter: Any, context: Any) -> str:
    names, text = parameter.get_help_record(context) or (parameter.make_metavar(context), parameter.help or "")
    return "| `{}` | {} |".format(*(" ".join(part.split()).replace("|", "\\|") for part in (names, text)))


def page() -> str:
    """The whole page: its introduction as it is, and the reference as it should be."""
    introduction, _, _ = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{introduction}{_BEGIN}\n{reference()}"


def main() -> int:
    """Write, or check."""
    if "--check" in sys.argv:
        return PAGE.read_text(encoding="utf-8") != page()
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
