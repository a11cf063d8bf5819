"""HTTPS from certificate files, which may be renewed while the server runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from unbroken.server.settings import Settings, SettingsError

__all__ = ["Certificate", "certificate"]

_log = logging.getLogger("unbroken.server")


@dataclass(frozen=True)
class Certificate:
    """A certificate in use.

    Args:
        chain: the file with it, and with those between it and a root.
        key: the file with its private key.
        context: what connections are made with.
    """

    chain: Path
    key: Path
    context: ssl.SSLContext

    def reload(self) -> None:
        """Read the files anew, for connections from now on. What is no good changes nothing."""
        try:
            # Tried first where it can do no harm: to load one file and fail at the other would leave a mixture.
            _context(self.chain, self.key)
            self.context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            _log.error("the certificate stays as it was: %s: %s", self.chain, error)
        else:
            _log.info("the certificate in %s was read anew", self.chain)


def certificate(settings: Settings) -> Certificate | None:
    """The certificate that the settings name, if any.

    Raises:
        SettingsError: one of the two files is not named, or they cannot be used.
    """
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise SettingsError("HTTPS takes both --tls-cert and --tls-key")
    try:
        return Certificate(chain, key, _context(chain, key))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot serve HTTPS with {chain} and {key}: {error}") from None


def _context(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Without a password an encrypted key would make OpenSSL ask for one at the terminal.
    context.load_cert_chain(chain, key, password=_no_password)
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted")
