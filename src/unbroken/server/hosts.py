"""Where a server answers that asks nobody who they are: on this machine, and to names of this machine.

A page on the internet can make its own name point to 127.0.0.1 (DNS rebinding): to the browser, what listens there is
then the page's own site, and no rule about origins stops it. But the browser still says by which name it came. So such
a server answers to loopback names and addresses, to its public URL's and to ``--allowed-hosts``, and to nobody at an
address that other machines can reach: an application that mounts it cannot be open by oversight.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from unbroken.errors import AccessNotConfigured, HostNotAllowed
from unbroken.server.http import Request

__all__ = ["HostPolicy", "is_loopback_host"]

_KNOWN_MAX = 256
_HOST = re.compile(rb"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class HostPolicy:
    """The addresses and host names that requests may be for.

    Args:
        allowed: names besides those of this machine, in lower case and without ports; ``*`` for all, ``*.example.com``
            for all below that.
        public_url: its host is allowed too.
        secluded: whether nobody is asked who they are, so that other machines must not be served.
    """

    def __init__(self, allowed: tuple[str, ...] = (), public_url: str | None = None, *, secluded: bool = True) -> None:
        self._any = "*" in allowed
        self._suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))
        self._names = {name for name in allowed if not name.startswith("*")}
        if public_url is not None:
            self._names.add(urlsplit(public_url).hostname or "")
        self._secluded = secluded
        self._known: set[object] = set()

    def check(self, request: Request) -> None:
        """Refuse a request that is for another host.

        Raises:
            HostNotAllowed: so it is.
            AccessNotConfigured: it came in at an address that other machines can reach.
        """
        server, host = request.server, request.fields.get(b"host")
        if (server, host) in self._known:
            return
        address = _address(server[0]) if server is not None else None
        if self._secluded and address is not None and not address.is_loopback:
            raise AccessNotConfigured(
                f"this server asks nobody who they are, and other machines can reach {address}: give it keys, tokens "
                "or an authorize hook, or listen on 127.0.0.1, or say insecure"
            )
        # Whoever calls the application within its process, or by a Unix socket, is no page. No browser leaves Host out.
        outside = address is not None or not self._secluded
        if outside and host is not None and not self._allows(host):
            raise HostNotAllowed("this server does not answer to that host name; --allowed-hosts names those it does")
        if len(self._known) < _KNOWN_MAX:
            self._known.add((server, host))

    def _allows(self, host: bytes) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].decode("ascii").lower().strip("[]").removesuffix(".")
        return self._any or name in self._names or name.endswith(self._suffixes) or is_loopback_host(name)


def is_loopback_host(name: str) -> bool:
    """Whether a host name or an address, in lower case, is one of this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
