"""What can be set about the server, and how it is parsed: defaults, then a TOML file, then the environment, then flags.

The same names everywhere: ``page_size`` in TOML, ``UNBROKEN_PAGE_SIZE``, ``--page-size``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from unbroken.engine.quotas import PathQuota
from unbroken.protocol.prefixes import Prefixes
from unbroken.server.hosts import is_loopback_host
from unbroken.store.base import PRODUCERS_COUNTED_MAX

__all__ = ["LogFormat", "LogLevel", "Settings", "SettingsError", "StoreKind", "load_settings"]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
StoreKind = Literal["sqlite", "memory"]


class SettingsError(ValueError):
    """A setting has an unknown name or a bad value. The message is one line that says which and why."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Args:
        host: address to listen on.
        port: TCP port to listen on; 0 lets the system choose.
        data_dir: where the sqlite store keeps its files.
        store: ``sqlite`` (durable) or ``memory`` (gone when the server ends).
        litestream: leave the checkpoints of the sqlite store to Litestream, which must be running.
        page_size: greatest size of a read's answer, in bytes.
        max_body: greatest request body, in bytes.
        max_stream_size: greatest size of one stream, in bytes; None for no limit, as with the next three.
        max_producers: greatest number of producers of one stream that are remembered.
        max_streams: greatest number of streams.
        max_total_size: greatest size of all streams together, in bytes.
        quota: what all streams at or below each prefix may hold together; as text a pattern and limits, such as
            ``/users/* streams=1000 size=10GiB``.
        disk_reserve: bytes of the disk that are left free: nothing but deletes is taken once no more are.
        max_bodies_size: greatest size of all request bodies that are being received or stored, in bytes.
        max_answers_size: greatest size of all answers together that their readers are slow to take, in bytes.
        append_rate: greatest number of appends and creations in a second; None for no limit, as with the next three.
        append_bandwidth: greatest number of bytes in them in a second.
        principal_append_rate: as ``append_rate``, by each client that is recognised.
        principal_append_bandwidth: as ``append_bandwidth``, by each client that is recognised.
        max_live_reads: greatest number of long-polls and SSE responses at a time.
        principal_live_reads: as ``max_live_reads``, by each client that is recognised; None for no limit.
        max_connections: greatest number of connections, less if the system allows fewer open files.
        address_connections: as ``max_connections``, from each address that is no trusted proxy's; None for no limit.
        address_wrong_tokens: greatest number of tokens in a second that are no good, from each such address; or None.
        head_timeout: seconds until the head of a request must have arrived.
        idle_timeout: seconds that a connection stays open between two requests.
        body_timeout: seconds without a byte after which a request's body is given up.
        upload_timeout: seconds that a request's body may take in all.
        long_poll_timeout: seconds until a long-poll without news is answered.
        sse_lifetime: seconds until an SSE response is ended, so that shared caches can collapse readers.
        sse_heartbeat: seconds of silence until an SSE comment keeps the connection alive.
        cors_origin: origins whose pages may use the server, ``*`` for all; None for pages of this machine only.
        public_url: how clients reach the server, if not by the Host they name.
        insecure: serve everybody, on any address, without asking who they are.
        tokens_file: static tokens, as `unbroken token create` makes them; by default tokens.json in the data directory,
            if it is there.
        jwt_keys: what signed tokens are checked with: files, ``env:NAME`` for variables, URLs of JWK sets.
        jwt_audience: names of this server; tokens must have one of them as ``aud``.
        jwt_issuer: who may make tokens; they must have one of them as ``iss``.
        allowed_hosts: host names to answer to besides those of this machine; ``*.example.com`` for all below.
        tls_cert: PEM file with the certificate, and those between it and a root, to serve HTTPS; needs ``tls_key``.
        tls_key: PEM file with the certificate's private key.
        trusted_proxies: addresses and networks of proxies whose ``X-Forwarded-Proto`` and ``-For`` are believed.
        access_log: log each request, whatever the level; ``debug`` does too.
        log_level: least important messages that are logged.
        log_format: ``text`` for people, ``json`` for machines.
    """

    host: str = "127.0.0.1"
    port: int = 9999
    data_dir: Path = Path("unbroken-data")
    store: StoreKind = "sqlite"
    litestream: bool = False
    page_size: int = 1024 * 1024
    max_body: int = 64 * 1024 * 1024
    max_stream_size: int | None = 1024**4
    max_producers: int | None = 100_000
    max_streams: int | None = 10_000_000
    max_total_size: int | None = None
    quota: tuple[PathQuota, ...] = ()
    disk_reserve: int = 128 * 1024 * 1024
    max_bodies_size: int = 256 * 1024 * 1024
    max_answers_size: int = 256 * 1024 * 1024
    append_rate: int | None = None
    append_bandwidth: int | None = None
    principal_append_rate: int | None = 10_000
    principal_append_bandwidth: int | None = 64 * 1024 * 1024
    max_live_reads: int = 10_000
    principal_live_reads: int | None = 1_000
    max_connections: int = 10_000
    address_connections: int | None = 1_000
    address_wrong_tokens: int | None = 20
    head_timeout: float = 20.0
    idle_timeout: float = 75.0
    body_timeout: float = 30.0
    upload_timeout: float = 600.0
    long_poll_timeout: float = 30.0
    sse_lifetime: float = 60.0
    sse_heartbeat: float = 15.0
    cors_origin: tuple[str, ...] | None = None
    public_url: str | None = None
    insecure: bool = False
    tokens_file: Path | None = None
    jwt_keys: tuple[str, ...] = ()
    jwt_audience: tuple[str, ...] = ()
    jwt_issuer: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    access_log: bool = False
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"


_SIZE = re.compile(r"([0-9]{1,15})\s*(|B|[KMGT]i?B)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def _size(low: int, high: int) -> Any:
    def parse(value: object) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or not low <= (size := int(match[1]) * _UNITS[match[2].lower()]) <= high:
            raise ValueError(f"must be a size from {low} to {high} bytes, such as 1048576 or 1MiB")
        return size

    return parse


def _number(low: int, high: int) -> Any:
    def parse(value: object) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", str(value)) or not low <= int(str(value)) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(str(value))

    return parse


def _or_none(parse: Any) -> Any:
    """The setting may be ``none``: no limit."""

    def parse_or_none(value: object) -> Any:
        if value is None or str(value).strip().lower() == "none":
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None

    return parse_or_none


def _seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0.01 <= seconds <= 86_400:
        raise ValueError("must be a number of seconds from 0.01 to 86400")
    return seconds


def _choice(*allowed: str) -> Any:
    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return str(value)

    return parse


def _switch(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError("must be true or false")
    return text in ("true", "1", "yes", "on")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def _path(value: object) -> Path:
    return Path(_text(str(value)))


def _list(value: object) -> tuple[str, ...]:
    """A list, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts, or one with commas")
    return tuple(part.strip() for part in parts if part.strip())


def _origins(value: object) -> tuple[str, ...]:
    origins = tuple(origin.rstrip("/").lower() for origin in _list(value))
    for origin in origins:
        url = urlsplit(origin)
        if origin != "*" and (url.scheme not in ("http", "https") or not url.hostname or url.path or url.query):
            raise ValueError(f"{origin!r} is not an origin such as https://example.com, nor *")
    return origins


def _hosts(value: object) -> tuple[str, ...]:
    hosts = tuple(host.lower().strip("[]") for host in _list(value))
    for host in hosts:
        if not re.fullmatch(r"\*|(?:\*\.)?[a-z0-9._-]+|[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*", host):
            raise ValueError(f"{host!r} is not a host name such as streams.example.com, without a port, nor *")
    return hosts


_QUOTAS_MAX = 32
_QUOTA_LIMITS = {"streams": ("streams", _number(0, 10**12)), "size": ("total_bytes", _size(0, 10**15))}


def _quotas(value: object) -> tuple[PathQuota, ...]:
    if isinstance(value, tuple) and all(isinstance(quota, PathQuota) for quota in value):
        quotas = value
    else:
        quotas = tuple(_quota(text) for texts in _list(value) for text in _list(texts))
    if len(quotas) > _QUOTAS_MAX:
        raise ValueError(f"must be at most {_QUOTAS_MAX} quotas")
    patterns = [str(Prefixes(quota.pattern)) for quota in quotas]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise ValueError(f"must be one quota for each pattern, and {pattern} has several")
    return quotas


def _quota(text: str) -> PathQuota:
    """Parse ``/users/* streams=1000 size=10GiB``."""
    pattern, *words = text.split()
    given = [word.partition("=") for word in words]
    names = {name for name, _, _ in given}
    if not names or not names <= set(_QUOTA_LIMITS) or len(names) != len(given):
        raise ValueError(f"must be patterns, each with streams=NUMBER, size=SIZE or both ({text!r} is not)")
    limits: dict[str, int] = {}
    for name, _, limit in given:
        field, parse = _QUOTA_LIMITS[name]
        try:
            limits[field] = parse(limit)
        except ValueError as error:
            raise ValueError(f"{name} of {pattern} {error}") from None
    return PathQuota(str(Prefixes(pattern)), **limits)


def _networks(value: object) -> tuple[str, ...]:
    networks = _list(value)
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(f"{network!r} is neither an address nor a network such as 10.0.0.0/8") from None
    return networks


def _keys(value: object) -> tuple[str, ...]:
    sources = _list(value)
    for source in sources:
        url = urlsplit(source)
        local = url.scheme == "http" and is_loopback_host(url.hostname or "")
        if "://" in source and not (url.scheme == "https" and url.hostname) and not local:
            raise ValueError("must be files, env:NAME, or URLs that begin with https://")
    return sources


def _url(value: object) -> str:
    url = urlsplit(_text(value))
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as https://streams.example.com")
    return url.geturl().rstrip("/")


_PARSERS: Mapping[str, Any] = {
    "host": _text,
    "port": _number(0, 65_535),
    "data_dir": _path,
    "store": _choice(*get_args(StoreKind)),
    "litestream": _switch,
    "page_size": _size(16, 64 * 2**20),
    "max_body": _size(1, 2**30),
    "max_stream_size": _or_none(_size(1, 10**15)),
    "max_producers": _or_none(_number(0, PRODUCERS_COUNTED_MAX)),
    "max_streams": _or_none(_number(0, 10**12)),
    "max_total_size": _or_none(_size(0, 10**15)),
    "quota": _quotas,
    "disk_reserve": _size(16 * 2**20, 2**50),
    "max_bodies_size": _size(2**20, 2**40),
    "max_answers_size": _size(2**20, 2**40),
    "append_rate": _or_none(_number(1, 10**9)),
    "append_bandwidth": _or_none(_size(1, 10**12)),
    "principal_append_rate": _or_none(_number(1, 10**9)),
    "principal_append_bandwidth": _or_none(_size(1, 10**12)),
    "max_live_reads": _number(0, 10**9),
    "principal_live_reads": _or_none(_number(0, 10**9)),
    "max_connections": _number(1, 10**7),
    "address_connections": _or_none(_number(1, 10**7)),
    "address_wrong_tokens": _or_none(_number(1, 10**9)),
    "head_timeout": _seconds,
    "idle_timeout": _seconds,
    "body_timeout": _seconds,
    "upload_timeout": _seconds,
    "long_poll_timeout": _seconds,
    "sse_lifetime": _seconds,
    "sse_heartbeat": _seconds,
    "cors_origin": _origins,
    "public_url": _url,
    "insecure": _switch,
    "tokens_file": _path,
    "jwt_keys": _keys,
    "jwt_audience": _list,
    "jwt_issuer": _list,
    "allowed_hosts": _hosts,
    "tls_cert": _path,
    "tls_key": _path,
    "trusted_proxies": _networks,
    "access_log": _switch,
    "log_level": _choice(*get_args(LogLevel)),
    "log_format": _choice(*get_args(LogFormat)),
}
assert set(_PARSERS) == {field.name for field in fields(Settings)}


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Put settings together.

    Args:
        flags: settings given explicitly; they win. None values count as not given.
        config: a TOML file. ``UNBROKEN_CONFIG`` names it where this does not.
        environ: the environment; the process's own by default.

    Raises:
        SettingsError: an unknown name, a bad value, or a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    if config is None and environ.get("UNBROKEN_CONFIG"):
        config = Path(environ["UNBROKEN_CONFIG"])
    settings = Settings()
    if config is not None:
        settings = _override(settings, _read_toml(config), "{}", f"{config}: ")
    named = {name: environ[key] for name in _PARSERS if (key := f"UNBROKEN_{name.upper()}") in environ}
    settings = _override(settings, named, "UNBROKEN_{}", "", upper=True)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    return _override(settings, given, "--{}", "", dashes=True)


def _read_toml(config: Path) -> dict[str, object]:
    try:
        with config.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"cannot read {config}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # what is not TOML or UTF-8, or has a number without end
        raise SettingsError(f"{config} is not TOML: {error}") from None


def _override(
    settings: Settings,
    values: Mapping[str, object],
    spelling: str,
    where: str,
    *,
    upper: bool = False,
    dashes: bool = False,
) -> Settings:
    for name, value in values.items():
        shown = spelling.format(name.upper() if upper else name.replace("_", "-") if dashes else name)
        if name not in _PARSERS:
            raise SettingsError(f"{where}unknown setting {shown}")
        try:
            settings = replace(settings, **{name: _PARSERS[name](value)})
        except ValueError as error:
            raise SettingsError(f"{where}{shown}: {error}, not {value!r}") from None
    return settings
