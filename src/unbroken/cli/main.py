"""``unbroken``: the door to all commands."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["application", "main"]

_COMMANDS = {
    "Streams": {
        "create": "create",
        "append": "append",
        "read": "read",
        "follow": "read",
        "head": "inspect",
        "ls": "inspect",
        "close": "create",
        "delete": "delete",
        "fork": "create",
    },
    "Server": {"serve": "serve", "stats": "stats", "token": "token", "bench": "bench"},
    "Data directories": {
        "backup": "backup",
        "restore": "backup",
        "export": "transfer",
        "import": "transfer",
        "dump": "dump",
        "fsck": "fsck",
    },
}
"""Commands and the modules they are in, as the help shows them."""

_NAMES = {"export": "export_", "import": "import_", "token": "application"}
"""What they are called there, if not the same."""


def main() -> None:
    """Run the command line; exit code 2 means that the command was not understood."""
    # Most need little of what others import: it would be carried along for nothing, by a server for weeks.
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        app = application(first)
    except ImportError as error:
        sys.exit(f"unbroken: the command line needs {error.name}: pip install 'unbroken[server]'")
    app()


def _paragraphs(docstring: str) -> str:
    """Without the line breaks in between: how wide the terminal is decides where lines end."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def application(only: str | None = None) -> typer.Typer:
    """The command line.

    Args:
        only: leave out all other commands, if there is one of this name.
    """
    import typer  # noqa: PLC0415

    app = typer.Typer(
        name="unbroken",
        help="Durable, append-only byte streams over plain HTTP.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    everything = not any(only in commands for commands in _COMMANDS.values())
    for panel, commands in _COMMANDS.items():
        for name, module in commands.items():
            if everything or name == only:
                command = getattr(import_module(f"unbroken.cli.{module}"), _NAMES.get(name, name))
                if isinstance(command, typer.Typer):
                    app.add_typer(command, name=name, rich_help_panel=panel)
                else:
                    app.command(name, help=_paragraphs(command.__doc__), rich_help_panel=panel)(command)

    @app.callback(invoke_without_command=True)
    def options(show_version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
        if show_version:
            typer.echo(f"unbroken {version('unbroken')}")
            raise typer.Exit

    return app
