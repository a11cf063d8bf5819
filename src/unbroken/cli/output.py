"""How messages come out of ``read`` and ``follow``."""

from __future__ import annotations

import asyncio
import base64
import codecs
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from unbroken.cli.terminal import fail
from unbroken.client import Message, Position
from unbroken.protocol.content import is_json, is_text

__all__ = ["Output", "Piece", "Shape", "until_nobody_reads"]


class Shape(Enum):
    """What a message looks like when it is printed."""

    PLAIN = "plain"
    RAW = "raw"
    JSON = "json"


class Piece(NamedTuple):
    """What is left of a message to be printed.

    Args:
        data: of the message.
        position: after it.
    """

    data: bytes
    position: Position


class Output:
    """Standard output.

    Args:
        shape: what a message looks like.
        content_type: of the stream.
    """

    def __init__(self, shape: Shape, content_type: str) -> None:
        self.json = is_json(content_type)
        self._text = is_text(content_type)
        self._shape = shape
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._console: Console | None = None
        self.on_terminal = sys.stdout.isatty()
        if self.on_terminal and shape is Shape.PLAIN:
            if self.json:
                self._console = Console(highlight=False, soft_wrap=True)
            elif not self._text:
                fail(f"{content_type} is not for a terminal: redirect it, or take --json or --raw", 2)

    def print(self, messages: Iterable[Message[Any] | Piece]) -> int:
        """Print messages, or pieces of a stream, that came together, and see that they are out.

        Returns:
            How many bytes of the stream they are.

        Raises:
            OSError: nobody reads (any more), or the disk is full.
        """
        size_bytes = 0
        for message in messages:
            data = message.data
            size_bytes += len(data)
            self._write(message, data)
        sys.stdout.flush()
        return size_bytes

    def _write(self, message: Message[Any] | Piece, data: bytes) -> None:
        if self._shape is Shape.JSON:
            line = msgspec.json.encode({"position": str(message.position), **self._described(data)})
            sys.stdout.buffer.write(line + b"\n")
        elif not self.json:
            sys.stdout.buffer.write(data)
        elif self._console is not None:
            self._console.print(JSONHighlighter()(Text(_one_line(data).decode())))
        else:
            sys.stdout.buffer.write((_one_line(data) if self._shape is Shape.PLAIN else data) + b"\n")

    def _described(self, data: bytes) -> dict[str, object]:
        if self.json:
            return {"value": msgspec.Raw(_one_line(data))}
        if self._text:
            return {"text": self._decoder.decode(data)}
        return {"base64": base64.b64encode(data).decode()}


def _one_line(data: bytes) -> bytes:
    """A message without the line breaks that may be between its parts; everything else stays as it is."""
    return msgspec.json.format(data, indent=-1) if b"\n" in data or b"\r" in data else data


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Ends the block as soon as whoever reads standard output has gone, also while there is nothing to print.

    Raises:
        BrokenPipeError: that has happened.
    """
    descriptor = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        yield
        return
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    gone = False

    def end() -> None:
        nonlocal gone
        gone = True
        loop.remove_reader(descriptor)
        task.cancel()

    # The writing end of a pipe becomes readable when its last reader has gone.
    loop.add_reader(descriptor, end)
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(descriptor)
