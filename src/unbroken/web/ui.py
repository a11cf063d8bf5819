"""Answers as the AI SDK keeps them: as UI messages, for the history that a page begins with."""

from __future__ import annotations

from typing import Any

from unbroken.web.parts import Answer, Part

__all__ = ["ui_message"]

_TOOL_STATES = {
    "tool-input-available": "input-available",
    "tool-input-error": "output-error",
    "tool-output-available": "output-available",
    "tool-output-error": "output-error",
}
_TOOL_FACTS = ("input", "output", "errorText", "providerExecuted", "title")
_WHOLE = ("file", "source-url", "source-document")


def ui_message(answer: Answer) -> dict[str, Any]:
    """An answer as a UI message, as ``useChat`` takes it among its first ``messages``.

    Args:
        answer: one that has ended; what still runs comes by `Answers.resume`.
    """
    parts: list[dict[str, Any]] = []
    open_blocks: dict[tuple[str, Any], dict[str, Any]] = {}
    for part in answer.parts:
        kind = part["type"]
        block = kind.partition("-")[0]
        if kind in ("text-start", "reasoning-start"):
            name = {"id": part.get("id")} if block == "reasoning" else {}
            open_blocks[block, part.get("id")] = made = {"type": block, **name, "text": "", "state": "done"}
            parts.append(made)
        elif kind in ("text-delta", "reasoning-delta"):
            if (grown := open_blocks.get((block, part.get("id")))) is not None:
                grown["text"] += part.get("delta", "")
        elif kind.startswith("tool-"):
            _add_tool(part, parts, open_blocks)
        elif kind in _WHOLE or (kind.startswith("data-") and not part.get("transient")):
            parts.append(dict(part))
    return {"id": answer.key, "role": "assistant", "parts": parts}


def _add_tool(part: Part, parts: list[dict[str, Any]], calls: dict[tuple[str, Any], dict[str, Any]]) -> None:
    key = ("tool", part.get("toolCallId"))
    call = calls.get(key)
    if call is None:
        name = part.get("toolName", "")
        call = {"type": f"tool-{name}"} if not part.get("dynamic") else {"type": "dynamic-tool", "toolName": name}
        calls[key] = call = {**call, "toolCallId": part.get("toolCallId"), "state": "input-streaming"}
        parts.append(call)
    call["state"] = _TOOL_STATES.get(part["type"], call["state"])
    call.update({name: part[name] for name in _TOOL_FACTS if name in part})
