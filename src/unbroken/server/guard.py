"""What guards a server, put together from its settings, and the refusal to stand unguarded on a network."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from unbroken.engine.clock import Clock
from unbroken.server.access import Access, Authorize
from unbroken.server.hosts import HostPolicy, is_loopback_host
from unbroken.server.settings import Settings, SettingsError
from unbroken.server.shares import Places, WrongTokens

__all__ = ["TOKENS_FILE_NAME", "check_exposure", "create_access", "host_policy", "with_tokens_file"]

TOKENS_FILE_NAME = "tokens.json"


def with_tokens_file(settings: Settings) -> Settings:
    """The settings, with the tokens in the data directory if there are any and no other file is named."""
    path = settings.data_dir / TOKENS_FILE_NAME
    # Also if it is a link to what is not there (yet): a server that is meant to be closed must not start open.
    if settings.tokens_file is None and os.path.lexists(path):
        return replace(settings, tokens_file=path)
    return settings


def create_access(settings: Settings, clock: Clock, authorize: Authorize | None = None) -> Access | None:
    """What decides who may do what; None if nobody is asked who they are.

    Raises:
        SettingsError: a key or the file with the tokens cannot be read, or a package for it is missing.
    """
    if authorize is None and settings.tokens_file is None and not settings.jwt_keys:
        return None
    try:
        return _create_access(settings, clock, authorize)
    except ImportError as error:
        raise SettingsError(f"tokens need {error.name}: pip install 'unbroken[server]'") from None


def _create_access(settings: Settings, clock: Clock, authorize: Authorize | None) -> Access:
    # Only servers that check tokens load what that takes.
    from unbroken.server.jwks import RemoteKeys  # noqa: PLC0415
    from unbroken.tokens.keys import KeyFault, load_keys  # noqa: PLC0415
    from unbroken.tokens.signed import Verifier  # noqa: PLC0415
    from unbroken.tokens.static import TokenFile, TokenFileError  # noqa: PLC0415

    urls = [source for source in settings.jwt_keys if "://" in source]
    verifier = Verifier(settings.jwt_audience, settings.jwt_issuer) if settings.jwt_keys else None
    file = None if settings.tokens_file is None else TokenFile(settings.tokens_file)

    rate = settings.address_wrong_tokens
    wrong = None if rate is None else WrongTokens(rate, Places(settings.trusted_proxies), time.monotonic)

    def remote(on_change: Callable[[], None]) -> tuple[RemoteKeys, ...]:
        return tuple(RemoteKeys(url, on_change) for url in urls)

    try:
        keys = tuple(key for source in settings.jwt_keys if source not in urls for key in load_keys(source))
        return Access(
            clock,
            authorize=authorize,
            public_url=settings.public_url,
            keys=keys,
            verifier=verifier,
            tokens=file,
            remote=remote,
            wrong=wrong,
        )
    except (KeyFault, TokenFileError) as error:
        raise SettingsError(str(error)) from None


def host_policy(settings: Settings, *, open_to_all: bool) -> HostPolicy | None:
    """The addresses and host names that requests may be for; None for all.

    Args:
        settings: what was allowed.
        open_to_all: whether nobody is asked who they are.
    """
    secluded = open_to_all and not settings.insecure
    if not secluded and not settings.allowed_hosts:
        return None
    return HostPolicy(settings.allowed_hosts, settings.public_url, secluded=secluded)


def check_exposure(settings: Settings) -> None:
    """Refuse to serve where other machines can reach a server that asks nobody who they are.

    A public URL that is not of this machine says that something in front of the server lets them.

    Raises:
        SettingsError: so it is; the message says what can be done.
    """
    if settings.insecure or settings.tokens_file is not None or settings.jwt_keys:
        return
    if not _is_loopback(settings.host):
        where, way = settings.host, "listen on 127.0.0.1"
    elif settings.public_url and not is_loopback_host(urlsplit(settings.public_url).hostname or ""):
        where, way = settings.public_url, "leave --public-url out"
    else:
        return
    raise SettingsError(
        f"other machines can reach {where}, and nobody would be asked who they are. Make a token ("
        f"unbroken token create) or name keys (--jwt-keys); or {way}; or, if something in front of the "
        "server sees to it, say --insecure"
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True  # nothing will listen there, and why is told then
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
