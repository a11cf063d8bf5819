"""``unbroken serve``: run the server."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from unbroken.server.serve import run
from unbroken.server.settings import SettingsError, load_settings

__all__ = ["serve"]

_FLAGS = {
    "Server": {
        "host": "Address to listen on. (127.0.0.1)",
        "port": "TCP port; 0 lets the system choose. (9999)",
        "data_dir": "Where the sqlite store keeps its files. (./unbroken-data)",
        "store": "sqlite (durable) or memory (gone at the end). (sqlite)",
        "litestream": "Leave checkpoints to Litestream, running beside it. (no)",
        "page_size": "Greatest size of a read's answer. (1MiB)",
        "long_poll_timeout": "Seconds a long-poll waits for news. (30)",
        "sse_lifetime": "Seconds until an SSE response is ended. (60)",
        "sse_heartbeat": "Seconds of silence until an SSE comment. (15)",
        "cors_origin": "Origin whose pages may use the server, * for all; repeatable. (pages of this machine)",
        "public_url": "How clients reach the server, for Location. (from Host)",
        "access_log": "Log each request. (no)",
        "log_level": "debug, info, warning or error. (info)",
        "log_format": "text or json. (text)",
    },
    "Access": {
        "insecure": "Serve everybody, on any address, unasked. (no)",
        "tokens_file": "Static tokens. (tokens.json in the data directory)",
        "jwt_keys": "File, env:NAME or JWKS URL to check signed tokens with; repeatable. (none)",
        "jwt_audience": "Name of this server, which tokens must have as aud; repeatable. (none)",
        "jwt_issuer": "Who may make tokens: their iss; repeatable. (anybody with a key)",
        "allowed_hosts": "Host name to answer to; repeatable. (those of this machine)",
        "tls_cert": "PEM file with the certificate chain, for HTTPS. (none)",
        "tls_key": "PEM file with the certificate's private key. (none)",
        "trusted_proxies": "Address or network whose X-Forwarded-... is believed; repeatable. (this machine)",
    },
    "Limits": {
        "max_body": "Greatest request body. (64MiB)",
        "max_stream_size": "Greatest size of one stream, or none. (1TiB)",
        "max_producers": "Greatest number of producers of one stream, or none. (100000)",
        "max_streams": "Greatest number of streams, or none. (10000000)",
        "max_total_size": "Greatest size of all streams together, or none. (none)",
        "quota": "What streams at or below a path may hold: '/users/* streams=1000 size=10GiB'; repeatable. (none)",
        "disk_reserve": "Of the disk, left free: nothing but deletes is taken once no more is. (128MiB)",
        "max_bodies_size": "Greatest size of all request bodies under way. (256MiB)",
        "max_answers_size": "Greatest size of all answers that readers are slow to take. (256MiB)",
        "append_rate": "Appends in a second, or none. (none)",
        "append_bandwidth": "Bytes appended in a second, or none. (none)",
        "principal_append_rate": "Appends in a second by each client that is recognised, or none. (10000)",
        "principal_append_bandwidth": "Bytes appended in a second by each of them, or none. (64MiB)",
        "max_live_reads": "Long-polls and SSE responses at a time. (10000)",
        "principal_live_reads": "The same, by each client that is recognised, or none. (1000)",
        "max_connections": "Connections at a time. (10000, or fewer if the system allows no more open files)",
        "address_connections": "The same, from each address but those of trusted proxies, or none. (1000)",
        "address_wrong_tokens": "Wrong tokens in a second from each such address, or none. (20)",
        "head_timeout": "Seconds until the head of a request must have arrived. (20)",
        "idle_timeout": "Seconds that a connection stays open between two requests. (75)",
        "body_timeout": "Seconds without a byte until a request's body is given up. (30)",
        "upload_timeout": "Seconds that a request's body may take in all. (600)",
    },
}
_SWITCHES = ("litestream", "access_log", "insecure")
_LISTS = ("cors_origin", "jwt_keys", "jwt_audience", "jwt_issuer", "allowed_hosts", "trusted_proxies", "quota")


def _serve(config: Path | None, **flags: object) -> None:
    """Run the server.

    Every option can also be set in the environment (--page-size is UNBROKEN_PAGE_SIZE) and in a TOML file
    (page_size). Flags win over the environment, the environment over the file.
    """
    try:
        # typer makes a list of an option that may be repeated, an empty one if it was not given.
        given = {name: value for name, value in flags.items() if value != []}
        code = run(load_settings(given, config=config))
    except SettingsError as error:
        typer.echo(f"unbroken: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its options as a signature, which is what typer reads."""
    annotations: dict[str, Any] = {
        name: _annotation(name, text, panel) for panel, flags in _FLAGS.items() for name, text in flags.items()
    }
    text = "TOML file with any of these settings. (none)"
    annotations["config"] = Annotated[Path | None, typer.Option(help=text, rich_help_panel="Server")]
    command.__annotations__ = {**annotations, "return": None}
    command.__name__ = command.__name__.lstrip("_")
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    return command


def _annotation(name: str, text: str, panel: str) -> Any:
    if name in _SWITCHES:
        flag = name.replace("_", "-")
        return Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", help=text, rich_help_panel=panel)]
    return Annotated[list[str] | None if name in _LISTS else str | None, typer.Option(help=text, rich_help_panel=panel)]


serve = _with_flags(_serve)
