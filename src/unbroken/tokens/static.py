"""Static tokens: made by an operator, kept in a file, valid until they expire or are revoked.

    unb_<10 hexadecimal digits, its id>_<43 characters, the secret>

The file holds the SHA-256 of each and no token. That hash is fast, and right: a slow one protects what people think up
against guessing, and 256 bits from the system's random source cannot be guessed. What is stored is compared in constant
time.

The file is replaced as a whole, never written in place, and only its owner may read or change it. A running server
notices within a second.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from unbroken.protocol.scopes import Principal, ScopeError, Scopes, parse_scopes

__all__ = ["STATIC_PREFIX", "StaticToken", "TokenFile", "TokenFileError", "find_token"]

STATIC_PREFIX = "unb_"
_TOKEN = re.compile(r"unb_([0-9a-f]{10})_[A-Za-z0-9_-]{43}")
_FILE_BYTES_MAX = 4 * 1024 * 1024
_OTHERS_MAY_WRITE = 0o022


class TokenFileError(Exception):
    """The file cannot be read or written, or is not one of these. The message is one line."""


class StaticToken(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A token as it is kept.

    Args:
        id: names it, and is no secret.
        name: what it is for, in words.
        hash: SHA-256 of the whole token, in hexadecimal digits.
        scope: what it may do; see `unbroken.protocol.scopes`.
        created_at: Unix time in seconds.
        expires_at: Unix time in seconds; None for never.
    """

    id: str
    name: str
    hash: str
    scope: str
    created_at: int
    expires_at: int | None = None

    @property
    def principal(self) -> Principal:
        """Whom it makes of its bearer.

        Raises:
            ScopeError: the file was changed by hand, and wrongly.
        """
        return Principal(f"token:{self.id}", parse_scopes(self.scope), self.expires_at)


class _Contents(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[StaticToken]
    version: int = 1


class TokenFile:
    """The file with the tokens.

    Args:
        path: where it is. It need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> tuple[int, int, int] | None:
        """Changes whenever the file does; None if it is not there."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def read(self) -> tuple[StaticToken, ...]:
        """All tokens; none if there is no file.

        Raises:
            TokenFileError: it cannot be read, is malformed, or others may change it.
        """
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise TokenFileError(f"cannot read {self.path}: {error.strerror}") from None
        if mode & _OTHERS_MAY_WRITE:
            raise TokenFileError(f"others than its owner may change {self.path}: chmod 600 it, and look what is in it")
        try:
            contents = msgspec.json.decode(content, type=_Contents)
            for token in contents.tokens:
                parse_scopes(token.scope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ScopeError) as error:
            raise TokenFileError(f"{self.path} is damaged: {error}") from None
        if contents.version != 1:
            raise TokenFileError(f"{self.path} was written by a newer version")
        return tuple(contents.tokens)

    def create(
        self, name: str, scopes: Scopes, *, now_s: float, expires_at: int | None = None
    ) -> tuple[str, StaticToken]:
        """Make a token.

        Args:
            name: what it is for.
            scopes: what it may do.
            now_s: Unix time in seconds.
            expires_at: Unix time in seconds; None for never.

        Returns:
            The token, which cannot be had again, and what is kept of it.

        Raises:
            TokenFileError: the file cannot be read or written.
        """
        token_id = secrets.token_hex(5)
        text = f"{STATIC_PREFIX}{token_id}_{secrets.token_urlsafe(32)}"
        kept = StaticToken(token_id, name, _digest(text), str(scopes), int(now_s), expires_at)
        self._change(lambda tokens: [*tokens, kept])
        return text, kept

    def revoke(self, token_id: str) -> bool:
        """Remove a token; whether there was one of this id.

        Raises:
            TokenFileError: the file cannot be read or written.
        """
        before: list[StaticToken] = []

        def without(tokens: list[StaticToken]) -> list[StaticToken]:
            before.extend(token for token in tokens if token.id == token_id)
            return [token for token in tokens if token.id != token_id]

        self._change(without)
        return bool(before)

    def _change(self, change: Callable[[list[StaticToken]], list[StaticToken]]) -> None:
        try:
            self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
            with _locked(self.path.parent):
                before = list(self.read())
                after = change(before)
                if after != before:
                    _replace(self.path, msgspec.json.format(msgspec.json.encode(_Contents(after))) + b"\n")
        except OSError as error:
            raise TokenFileError(f"cannot write {self.path}: {error.strerror}") from None


def find_token(text: str, tokens: dict[str, StaticToken]) -> StaticToken | None:
    """The token that this is, among those given by their ids."""
    match = _TOKEN.fullmatch(text)
    kept = None if match is None else tokens.get(match[1])
    if kept is None or not hmac.compare_digest(kept.hash, _digest(text)):
        return None
    return kept


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time. The directory itself is locked, so no other file is needed."""
    import fcntl  # noqa: PLC0415 (those who only sign tokens may do so where there is none)

    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
