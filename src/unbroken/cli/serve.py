"""``unbroken serve``: run the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unbroken.server.serve import run
from unbroken.server.settings import SettingsError, load_settings

__all__ = ["serve"]

Flag = str | None


def serve(
    host: Annotated[Flag, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[Flag, typer.Option(help="TCP port; 0 lets the system choose. [9999]")] = None,
    data_dir: Annotated[Flag, typer.Option(help="Where the sqlite store keeps its files. [./unbroken-data]")] = None,
    store: Annotated[Flag, typer.Option(help="sqlite (durable) or memory (gone at the end). [sqlite]")] = None,
    litestream: Annotated[
        bool | None,
        typer.Option("--litestream/--no-litestream", help="Leave checkpoints to Litestream, running beside it. [no]"),
    ] = None,
    page_size: Annotated[Flag, typer.Option(help="Greatest size of a read's answer. [1MiB]")] = None,
    max_body: Annotated[Flag, typer.Option(help="Greatest request body. [64MiB]")] = None,
    long_poll_timeout: Annotated[Flag, typer.Option(help="Seconds a long-poll waits for news. [30]")] = None,
    sse_lifetime: Annotated[Flag, typer.Option(help="Seconds until an SSE response is ended. [60]")] = None,
    sse_heartbeat: Annotated[Flag, typer.Option(help="Seconds of silence until an SSE comment. [15]")] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may use the server, * for all; repeatable. [pages of this machine]"),
    ] = None,
    public_url: Annotated[Flag, typer.Option(help="How clients reach the server, for Location. [from Host]")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure/--no-insecure", help="Serve everybody, on any address, unasked. [no]"),
    ] = None,
    tokens_file: Annotated[Flag, typer.Option(help="Static tokens. [tokens.json in the data directory]")] = None,
    jwt_keys: Annotated[
        list[str] | None,
        typer.Option(help="File, env:NAME or JWKS URL to check signed tokens with; repeatable. [none]"),
    ] = None,
    jwt_audience: Annotated[
        list[str] | None, typer.Option(help="Name of this server, which tokens must have as aud; repeatable. [none]")
    ] = None,
    jwt_issuer: Annotated[
        list[str] | None, typer.Option(help="Who may make tokens: their iss; repeatable. [anybody with a key]")
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None, typer.Option(help="Host name to answer to; repeatable. [those of this machine]")
    ] = None,
    log_level: Annotated[Flag, typer.Option(help="debug, info, warning or error. [info]")] = None,
    log_format: Annotated[Flag, typer.Option(help="text or json. [text]")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these settings. [none]")] = None,
) -> None:
    """Run the server.

    Every option can also be set in the environment (--page-size is UNBROKEN_PAGE_SIZE) and in a TOML file
    (page_size). Flags win over the environment, the environment over the file.
    """
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "store": store,
        "litestream": litestream,
        "page_size": page_size,
        "max_body": max_body,
        "long_poll_timeout": long_poll_timeout,
        "sse_lifetime": sse_lifetime,
        "sse_heartbeat": sse_heartbeat,
        "cors_origin": cors_origin,
        "public_url": public_url,
        "insecure": insecure,
        "tokens_file": tokens_file,
        "jwt_keys": jwt_keys or None,
        "jwt_audience": jwt_audience or None,
        "jwt_issuer": jwt_issuer or None,
        "allowed_hosts": allowed_hosts or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    try:
        code = run(load_settings(flags, config=config))
    except SettingsError as error:
        typer.echo(f"unbroken: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)
