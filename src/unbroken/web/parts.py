"""What an answer is made of: the messages in its stream, and how they come about.

The stream of an answer is a JSON stream. Its first message is a `Begin`, its last an `End`, which arrives in the same
step that closes the stream. Everything between is a part in the vocabulary of the AI SDK's UI message stream:
``text-start``, ``text-delta`` and ``text-end`` for text, the same for ``reasoning``, ``tool-...``, ``source-...``,
``data-...``, ``file``. Each message means the same wherever reading begins, so a reader can resume between any two.
`Beat` is a sign of life of a silent writer, for whom no part stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "INTERRUPTED",
    "Answer",
    "Assembler",
    "Beat",
    "Begin",
    "End",
    "Message",
    "Outcome",
    "Part",
    "PartBuffer",
    "decode",
    "encode",
    "summarize",
]

Part: TypeAlias = Mapping[str, Any]
"""One part: ``type`` says which, the AI SDK's documentation of its stream protocol says what else is in it."""

Outcome = Literal["done", "error", "cancelled", "interrupted"]
"""How an answer ended: complete; the model failed, or a limit was reached; somebody stopped it; its process ended."""


class Begin(msgspec.Struct, tag_field="type", tag="begin", frozen=True):
    """The first message.

    Args:
        key: the answer's key.
        run: names the one run that writes the stream.
    """

    key: str
    run: str


class End(msgspec.Struct, tag_field="type", tag="end", frozen=True, omit_defaults=True, rename="camel"):
    """The last message.

    Args:
        outcome: how the answer ended.
        error: for people, if it is not done; never the text of an exception.
        finish_reason: why the model stopped, in the AI SDK's words: ``stop``, ``length``, ``content-filter``,
            ``tool-calls``, ``error``, ``other``.
        usage: what the model counted, as its package gives it.
    """

    outcome: Outcome
    error: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


INTERRUPTED = End("interrupted", "The answer was interrupted.")


class Beat(msgspec.Struct, tag_field="type", tag="beat", frozen=True):
    """The writer lives, and has nothing to say."""


Message: TypeAlias = Begin | End | Beat | Part

_own: msgspec.json.Decoder[Begin | End | Beat] = msgspec.json.Decoder(Begin | End | Beat)
_any = msgspec.json.Decoder()
_OWN_TYPES = ("begin", "end", "beat")


def encode(message: Message) -> bytes:
    """A message as JSON, on one line.

    Raises:
        TypeError: a value that JSON has no form for.
    """
    return msgspec.json.encode(message)


def decode(data: bytes) -> Message:
    """Read a message. What no writer of ours wrote is a part of the type ``unknown``."""
    try:
        value = _any.decode(data)
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            return _own.decode(data) if value["type"] in _OWN_TYPES else value
    except msgspec.DecodeError:
        pass
    return {"type": "unknown"}


class Answer(msgspec.Struct, frozen=True):
    """An answer as far as it is there.

    Args:
        key: its key.
        text: the text so far.
        parts: all parts so far, with the deltas of one block joined.
        end: how it ended; None while it runs.
    """

    key: str
    text: str
    parts: Sequence[Part]
    end: End | None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        return None if self.end is None else self.end.outcome


def summarize(key: str, messages: Sequence[bytes], *, closed: bool) -> Answer:
    """Put the messages of a stream together.

    Args:
        key: of the answer.
        messages: all that there are.
        closed: whether nothing will follow.
    """
    buffer, end = PartBuffer(), None
    for data in messages:
        message = decode(data)
        if isinstance(message, End):
            end = message
        elif not isinstance(message, Begin | Beat):
            buffer.add(message)
    parts = buffer.take()
    text = "".join(str(part.get("delta", "")) for part in parts if part.get("type") == "text-delta")
    return Answer(key, text, parts, INTERRUPTED if closed and end is None else end)


_DELTA_FIELDS = {
    "text-delta": ("id", "delta"),
    "reasoning-delta": ("id", "delta"),
    "tool-input-delta": ("toolCallId", "inputTextDelta"),
}


class PartBuffer:
    """Parts on their way, adjacent deltas of one block joined."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._pieces: list[str] = []
        self.size_bytes = 0

    def add(self, part: Part) -> int:
        """Append a part, which has a type.

        Returns:
            About how many bytes it takes in the stream; of a delta only its text counts.

        Raises:
            TypeError, ValueError: JSON has no form for it.
        """
        fields = _DELTA_FIELDS.get(part["type"])
        piece = None if fields is None or len(part) != 3 else part.get(fields[1])
        if fields is None or not isinstance(piece, str) or not isinstance(part.get(fields[0]), str):
            self._join()
            size_bytes = len(encode(part))
            self._parts.append(part)
        else:
            size_bytes = len(piece.encode())
            if not self._pieces or not _same_block(self._parts[-1], part, fields[0]):
                self._join()
                self._parts.append(part)
            self._pieces.append(piece)
        self.size_bytes += size_bytes
        return size_bytes

    def take(self) -> list[Part]:
        """All parts since the last call."""
        self._join()
        parts, self._parts = self._parts, []
        self.size_bytes = 0
        return parts

    def _join(self) -> None:
        if self._pieces:
            last = self._parts[-1]
            name = _DELTA_FIELDS[last["type"]][1]
            self._parts[-1] = {**last, name: "".join(self._pieces)}
            self._pieces = []


def _same_block(last: Part, part: Part, id_field: str) -> bool:
    return last["type"] == part["type"] and last.get(id_field) == part.get(id_field)


BlockKind = Literal["text", "reasoning"]


class Assembler:
    """Makes parts of what a model says, and opens and closes the blocks that they belong to.

    Attributes:
        finish_reason: why the model stopped, once it said so.
        usage: what it counted, once it said so.
        calls: the ids of tool calls by their place in what the model says now.
    """

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.calls: dict[int, str] = {}
        self._parts: list[Part] = []
        self._open: tuple[BlockKind, str] | None = None
        self._half = ""
        self._blocks = 0
        self._tools: dict[str, tuple[str, list[str]]] = {}

    def take(self) -> list[Part]:
        """The parts since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def text(self, delta: str) -> None:
        """More text."""
        self._block("text", delta)

    def reasoning(self, delta: str) -> None:
        """More of what the model thinks."""
        self._block("reasoning", delta)

    def _block(self, kind: BlockKind, delta: str) -> None:
        if not delta:
            return
        if self._open is None or self._open[0] != kind:
            self.close_block()
            self._blocks += 1
            self._open = (kind, str(self._blocks))
            self._parts.append({"type": f"{kind}-start", "id": self._open[1]})
        if delta := self._mend(delta):
            self._parts.append({"type": f"{kind}-delta", "id": self._open[1], "delta": delta})

    def _mend(self, delta: str) -> str:
        """Join the halves of a character that a model's server cut in two, each in a JSON escape of its own."""
        if not self._half and delta.isprintable():  # which no surrogate is
            return delta
        delta, self._half = self._half + delta, ""
        if "\ud800" <= delta[-1] <= "\udbff":
            delta, self._half = delta[:-1], delta[-1]
        return delta.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def close_block(self) -> None:
        """The text or the thought is complete."""
        if self._open is not None:
            kind, block = self._open
            if self._half:
                self._parts.append({"type": f"{kind}-delta", "id": block, "delta": "\ufffd"})
                self._half = ""
            self._parts.append({"type": f"{kind}-end", "id": block})
            self._open = None

    def part(self, part: Part) -> None:
        """Any part, as it is.

        Raises:
            ValueError: it has no type, or one of ours.
        """
        kind = part.get("type")
        if not isinstance(kind, str) or kind in _OWN_TYPES:
            raise ValueError(f"a part needs a type of the AI SDK's UI message stream, not {kind!r}")
        self.close_block()
        self._parts.append(part)

    def tool_begins(self, call: str, name: str) -> None:
        """The model calls a tool; its input may follow piece by piece."""
        if call not in self._tools:
            self._tools[call] = (name, [])
            self.part({"type": "tool-input-start", "toolCallId": call, "toolName": name})

    def tool_input(self, call: str, delta: str) -> None:
        """A piece of a tool's input, as JSON text."""
        if delta and call in self._tools:
            self._tools[call][1].append(delta)
            self.part({"type": "tool-input-delta", "toolCallId": call, "inputTextDelta": delta})

    def tool_called(self, call: str, value: Any = None) -> None:
        """A tool's input is complete.

        Args:
            call: the call's id. Nothing happens if it is not under way.
            value: the input; by default the pieces that came, put together.
        """
        if call not in self._tools:
            return
        name, pieces = self._tools.pop(call)
        facts = {"toolCallId": call, "toolName": name}
        if value is None:
            text = "".join(pieces)
            try:
                value = json.loads(text or "{}")
            except ValueError:
                wrong = {"input": text, "errorText": "The tool's input is not JSON."}
                self.part({"type": "tool-input-error", **facts, **wrong})
                return
        self.part({"type": "tool-input-available", **facts, "input": value})

    def tools_called(self) -> None:
        """The inputs of all tools under way are complete."""
        for call in list(self._tools):
            self.tool_called(call)

    def tool_result(self, call: str, output: Any, *, failed: bool = False) -> None:
        """What a tool returned, or, if it failed, why."""
        self.tool_called(call)
        if failed:
            self.part({"type": "tool-output-error", "toolCallId": call, "errorText": str(output)})
        else:
            self.part({"type": "tool-output-available", "toolCallId": call, "output": output})
