"""Values to JSON messages and back: any value of msgspec's, dataclasses, pydantic models.

A page is decoded in one call, which is what makes reading fast. What msgspec refuses although it is JSON (lone
surrogate escapes, numbers beyond a double) goes through the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from unbroken.errors import InvalidBody
from unbroken.protocol.content import split_json

__all__ = ["Decoder", "as_found", "decoder_of", "encode_json", "encode_message", "joined_messages"]

Decoder = Callable[[bytes | str], list[Any]]
"""Takes a JSON array and gives its decoded elements; raises ValueError."""

_encoder = msgspec.json.Encoder()


def encode_json(value: object) -> bytes:
    """A value as JSON: what msgspec encodes, and pydantic models, at any depth. JSON text goes in a ``msgspec.Raw``.

    Raises:
        TypeError: it cannot be.
        ValueError: it is not JSON, such as text with lone surrogates.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("bytes are no JSON value: decode them, or put JSON text into msgspec.Raw")
    dump = getattr(value, "model_dump_json", None)
    if dump is not None and not isinstance(value, type):
        return bytes(dump(), "utf-8")
    try:
        return _encoder.encode(value)
    except TypeError:
        return msgspec.json.encode(value, enc_hook=_dump_model)


def _dump_model(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__qualname__} cannot be encoded as JSON")
    return dump(mode="json")


def encode_message(value: object, *, json: bool) -> bytes:
    """What a producer was given, as it goes into a body.

    Args:
        value: any value if the stream holds JSON, else bytes or text.
        json: whether it does.

    Raises:
        TypeError: not of a type that this stream takes.
    """
    if json:
        return encode_json(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a stream that is not JSON takes bytes or text, not {type(value).__qualname__}")


def joined_messages(messages: list[bytes], *, json: bool) -> bytes:
    """Messages as one body. Each element of a JSON array becomes a message, arrays too: servers flatten one level."""
    if not json:
        return b"".join(messages)
    return b"[%b]" % b",".join(messages) if messages else b""


def as_found(messages: list[bytes], *, json_messages: bool) -> bytes:
    """What messages look like in what is read of a stream, so that they can be looked for.

    Of JSON, without what servers may change: how numbers are written, the order of keys, repeated keys, escapes.
    """
    if not json_messages:
        return b"".join(messages)
    return b"".join(b"\x1e%b\x1f" % _canonical(message) for message in messages)


def _canonical(message: bytes) -> bytes:
    value = json.loads(message, parse_int=float)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def decoder_of(kind: Any) -> Decoder:
    """How an array of messages of a type is decoded.

    Args:
        kind: None for plain Python values, else a type that msgspec knows (structs, dataclasses, TypedDicts, unions of
            them ...) or one of pydantic's.
    """
    if kind is not None and hasattr(kind, "__get_pydantic_core_schema__"):
        from pydantic import TypeAdapter  # noqa: PLC0415 (whoever has a model has pydantic)

        return TypeAdapter(list[kind]).validate_json
    if kind is msgspec.Raw:
        return _raw_messages
    decode = msgspec.json.Decoder(list[Any] if kind is None else list[kind], dec_hook=_load_model).decode

    def decode_array(text: bytes | str) -> list[Any]:
        try:
            return decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("the page is not a JSON array")
        return values if kind is None else msgspec.convert(values, list[kind], dec_hook=_load_model)

    return decode_array


def _load_model(kind: type, value: Any) -> Any:
    """A pydantic model within a type of msgspec's."""
    load = getattr(kind, "model_validate", None)
    if load is None:
        raise TypeError(f"{kind.__qualname__} cannot be decoded from JSON")
    return load(value)


def _raw_messages(text: bytes | str) -> list[msgspec.Raw]:
    """Messages as they were sent."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        messages = split_json(data)
    except InvalidBody as error:
        raise ValueError(str(error)) from None
    if not data.lstrip().startswith(b"["):
        raise ValueError("the page is not a JSON array")
    return [msgspec.Raw(message) for message in messages]
