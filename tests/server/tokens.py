"""Tokens for the tests of access: a key that the server has, and what is sent with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.server.site import Site
from unbroken import tokens

__all__ = ["SECRET", "bearer", "key_file", "mint"]

SECRET = "a-secret-of-the-tests-that-is-long-enough"


def key_file(tmp_path: Path) -> str:
    """A file with the secret, as the setting ``jwt_keys`` wants it."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    return str(file)


def mint(site: Site, *, key: Any = SECRET, **options: Any) -> str:
    """A token, made at the time that the server's clock shows."""
    return tokens.mint(key, now_s=site.clock.now().wall_ms / 1000, **options)


def bearer(token: str, **fields: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in fields.items()}}
