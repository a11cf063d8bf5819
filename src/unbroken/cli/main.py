"""``unbroken``: the door to all commands."""

from __future__ import annotations

import sys
from importlib.metadata import version

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit code 2 means that the command was not understood."""
    try:
        import typer  # noqa: PLC0415

        from unbroken.cli import token  # noqa: PLC0415
        from unbroken.cli.backup import backup, restore  # noqa: PLC0415
        from unbroken.cli.delete import delete  # noqa: PLC0415
        from unbroken.cli.dump import dump  # noqa: PLC0415
        from unbroken.cli.fsck import fsck  # noqa: PLC0415
        from unbroken.cli.serve import serve  # noqa: PLC0415
        from unbroken.cli.transfer import export_, import_  # noqa: PLC0415
    except ImportError as error:
        sys.exit(f"unbroken: the command line needs {error.name}: pip install 'unbroken[server]'")
    app = typer.Typer(
        name="unbroken",
        help="Durable, append-only byte streams over plain HTTP.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    tokens = typer.Typer(help="Static tokens: for those who may use the server.", no_args_is_help=True)
    tokens.command("create")(token.create)
    tokens.command("ls")(token.ls)
    tokens.command("revoke")(token.revoke)
    app.add_typer(tokens, name="token")
    for command in (serve, delete, backup, restore, export_, import_, dump, fsck):
        app.command(command.__name__.rstrip("_"))(command)

    @app.callback(invoke_without_command=True)
    def options(show_version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
        if show_version:
            typer.echo(f"unbroken {version('unbroken')}")
            raise typer.Exit

    app()
