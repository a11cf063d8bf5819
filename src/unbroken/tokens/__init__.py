"""Tokens: what says who may do what to which streams.

An application makes a short-lived token for a browser in one call, and the browser reads straight from the server:

    from unbroken import tokens

    token = tokens.mint(key, read="/chats/7", ttl_s=600)

The server that is to accept it has the same key, or its public half, as ``--jwt-keys``. See `unbroken.protocol.scopes`
for what a glob such as ``/chats/*`` stands for.
"""

from unbroken.protocol.scopes import Principal, ScopeError, Scopes, grant
from unbroken.tokens.keys import Key, KeyFault, load_keys, parse_keys
from unbroken.tokens.signed import Verifier, mint
from unbroken.tokens.static import StaticToken, TokenFile

__all__ = [
    "Key",
    "KeyFault",
    "Principal",
    "ScopeError",
    "Scopes",
    "StaticToken",
    "TokenFile",
    "Verifier",
    "grant",
    "load_keys",
    "mint",
    "parse_keys",
]
