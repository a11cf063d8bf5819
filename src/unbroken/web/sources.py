"""Where answers come from: any async iterator of text, of parts, or of what the packages of the model vendors stream.

Items are recognised by their shape, each for itself, so a generator may yield text, parts and events of several
packages in turn. None of those packages is imported.

| items | of |
|---|---|
| ``str`` | a generator of your own; ``stream_text(delta=True)`` of pydantic-ai; ``text_stream`` of anthropic |
| mappings | parts, see `unbroken.web.parts` |
| chat completion chunks | openai, and whoever speaks like it; also the events of ``chat.completions.stream`` |
| response events | openai: ``responses.create(stream=True)`` and ``responses.stream`` |
| message events | anthropic: ``messages.create(stream=True)`` and ``messages.stream`` |
| agent events | pydantic-ai: ``run_stream_events`` |
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import msgspec

from unbroken.web.parts import Assembler

__all__ = ["AnswerFailed", "Source", "feed", "opened"]

Opened: TypeAlias = AsyncIterable[Any] | AbstractAsyncContextManager[AsyncIterable[Any]]
Source: TypeAlias = Callable[[], Opened | Awaitable[Opened]]
"""Called by whoever generates the answer, once. Returns an async iterator of items, or what the packages have in its
place: something to await for it, a context manager that gives it, or both."""


class AnswerFailed(Exception):
    """Raise it while an answer is generated to end it with an error whose text readers may see.

    Args:
        message: for people. The text of any other exception goes to the log and nowhere else.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@asynccontextmanager
async def opened(source: Source) -> AsyncIterator[AsyncIterator[Any]]:
    """Call a source. What it holds, such as a connection to a model, is released at the end of the block.

    Raises:
        TypeError: what it returns cannot be iterated asynchronously.
    """
    value: Any = source()
    if inspect.isawaitable(value):
        value = await value
    async with AsyncExitStack() as stack:
        if hasattr(value, "__aenter__"):
            value = await stack.enter_async_context(value)
        if not hasattr(value, "__aiter__"):
            raise TypeError(f"an answer comes from an async iterator, not from {type(value).__name__}")
        items = aiter(value)
        if (close := getattr(items, "aclose", None)) is not None:
            stack.push_async_callback(close)
        yield items


def feed(item: Any, out: Assembler) -> None:
    """Make parts of one item.

    Raises:
        AnswerFailed, RuntimeError: the item says that the model failed.
        TypeError: nobody knows what it is.
        ValueError: a part without a type.
    """
    if isinstance(item, str):
        out.text(item)
        return
    if isinstance(item, Mapping):
        out.part(item)
        return
    if getattr(item, "object", None) == "chat.completion.chunk":
        _chat_chunk(item, out)
        return
    if isinstance(getattr(item, "event_kind", None), str):
        _agent_event(item, out)
        return
    kind = getattr(item, "type", None)
    if not isinstance(kind, str):
        raise TypeError(
            f"{type(item).__name__} is neither text nor a part nor an event of a package that is known here"
        )
    if (handle := _EVENTS.get(kind)) is not None:
        handle(item, out)


# --- openai: chat completions ------------------------------------------------------------------------------------

_FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}


def _chat_chunk(chunk: Any, out: Assembler) -> None:
    if (usage := getattr(chunk, "usage", None)) is not None:
        out.usage = _plain(usage)
    for choice in chunk.choices[:1]:
        if (delta := choice.delta) is not None:
            _chat_delta(delta, out)
        if choice.finish_reason is not None:
            out.finish_reason = _FINISH_REASONS.get(choice.finish_reason, "other")
            out.tools_called()


def _chat_delta(delta: Any, out: Assembler) -> None:
    # Not of OpenAI's own API, but of most who are compatible with it and have models that think.
    out.reasoning(getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or "")
    out.text(delta.content or "")
    out.text(getattr(delta, "refusal", None) or "")
    for call in getattr(delta, "tool_calls", None) or ():
        # The id comes with the first piece only, the index with each.
        calls = out.calls
        if call.id:
            calls[call.index] = call.id
        if (name := call.id or calls.get(call.index)) is None:
            continue
        if call.function is not None and call.function.name:
            out.tool_begins(name, call.function.name)
        if call.function is not None:
            out.tool_input(name, call.function.arguments or "")


def _chat_helper_chunk(event: Any, out: Assembler) -> None:
    _chat_chunk(event.chunk, out)


# --- openai: responses -------------------------------------------------------------------------------------------


def _response_text(event: Any, out: Assembler) -> None:
    out.text(event.delta)


def _response_reasoning(event: Any, out: Assembler) -> None:
    out.reasoning(event.delta)


def _response_item(event: Any, out: Assembler) -> None:
    if event.item.type == "function_call":
        out.calls[event.output_index] = event.item.call_id
        out.tool_begins(event.item.call_id, event.item.name)


def _response_arguments(event: Any, out: Assembler) -> None:
    if (call := out.calls.get(event.output_index)) is not None:
        out.tool_input(call, event.delta)


def _response_item_done(event: Any, out: Assembler) -> None:
    if event.item.type == "function_call":
        out.tool_called(event.item.call_id)
    elif event.item.type == "message":
        out.close_block()


def _response_done(event: Any, out: Assembler) -> None:
    response = event.response
    if response.status == "failed":
        raise RuntimeError(f"the model failed: {response.error.message if response.error else 'no reason given'}")
    called = any(item.type == "function_call" for item in response.output)
    out.finish_reason = "tool-calls" if called else "stop"
    if response.incomplete_details is not None:
        limit = response.incomplete_details.reason == "max_output_tokens"
        out.finish_reason = "length" if limit else "content-filter"
    if response.usage is not None:
        out.usage = _plain(response.usage)


def _said_error(event: Any, out: Assembler) -> None:
    error = getattr(event, "error", event)
    raise RuntimeError(f"the model failed: {getattr(error, 'message', error)}")


# --- anthropic ---------------------------------------------------------------------------------------------------

_STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "other",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool-calls",
    "refusal": "content-filter",
}


def _block_begins(event: Any, out: Assembler) -> None:
    block = event.content_block
    if block.type == "text":
        out.close_block()
        out.text(block.text)
    elif block.type == "thinking":
        out.close_block()
        out.reasoning(block.thinking)
    elif block.type in ("tool_use", "server_tool_use"):
        out.calls[event.index] = block.id
        out.tool_begins(block.id, block.name)


def _block_delta(event: Any, out: Assembler) -> None:
    delta = event.delta
    if delta.type == "text_delta":
        out.text(delta.text)
    elif delta.type == "thinking_delta":
        out.reasoning(delta.thinking)
    elif delta.type == "input_json_delta" and (call := out.calls.get(event.index)) is not None:
        out.tool_input(call, delta.partial_json)


def _block_ends(event: Any, out: Assembler) -> None:
    if (call := out.calls.pop(event.index, None)) is not None:
        out.tool_called(call)
    else:
        out.close_block()


def _message_delta(event: Any, out: Assembler) -> None:
    if event.delta.stop_reason is not None:
        out.finish_reason = _STOP_REASONS.get(event.delta.stop_reason, "other")
    if event.usage is not None:
        out.usage = _plain(event.usage)


_EVENTS: Mapping[str, Callable[[Any, Assembler], None]] = {
    "chunk": _chat_helper_chunk,
    "response.output_text.delta": _response_text,
    "response.refusal.delta": _response_text,
    "response.reasoning_summary_text.delta": _response_reasoning,
    "response.reasoning_text.delta": _response_reasoning,
    "response.output_item.added": _response_item,
    "response.function_call_arguments.delta": _response_arguments,
    "response.output_item.done": _response_item_done,
    "response.completed": _response_done,
    "response.incomplete": _response_done,
    "response.failed": _response_done,
    "content_block_start": _block_begins,
    "content_block_delta": _block_delta,
    "content_block_stop": _block_ends,
    "message_delta": _message_delta,
    "error": _said_error,
}
"""By type. All others add nothing: they repeat what came, or tell of things that no part stands for."""


# --- pydantic-ai -------------------------------------------------------------------------------------------------


def _agent_event(event: Any, out: Assembler) -> None:
    kind = event.event_kind
    if kind == "part_start":
        _agent_part(event, out)
    elif kind == "part_delta":
        _agent_delta(event, out)
    elif kind == "part_end" and event.part.part_kind in ("text", "thinking"):
        out.close_block()
    elif kind in ("function_tool_call", "output_tool_call"):
        out.tool_begins(event.part.tool_call_id, event.part.tool_name)
        out.tool_called(event.part.tool_call_id, event.part.args_as_dict())
    elif kind in ("function_tool_result", "output_tool_result"):
        _agent_result(event.part, out)
    elif kind == "agent_run_result":
        out.finish_reason = "stop"
        out.usage = _plain(event.result.usage)


def _agent_part(event: Any, out: Assembler) -> None:
    part = event.part
    out.close_block()
    if part.part_kind == "text":
        out.text(part.content)
    elif part.part_kind == "thinking":
        out.reasoning(part.content)
    elif part.part_kind in ("tool-call", "builtin-tool-call"):
        out.calls[event.index] = part.tool_call_id
        out.tool_begins(part.tool_call_id, part.tool_name)
        out.tool_input(part.tool_call_id, _agent_arguments(part.args))
    elif part.part_kind == "builtin-tool-return":
        _agent_result(part, out)


def _agent_delta(event: Any, out: Assembler) -> None:
    delta = event.delta
    if delta.part_delta_kind == "text":
        out.text(delta.content_delta)
    elif delta.part_delta_kind == "thinking":
        out.reasoning(delta.content_delta or "")
    elif delta.part_delta_kind == "tool_call" and (call := out.calls.get(event.index)) is not None:
        out.tool_input(call, _agent_arguments(delta.args_delta))


def _agent_arguments(value: Any) -> str:
    """Only pieces of JSON text can be passed on as pieces; a whole mapping comes with the call."""
    return value if isinstance(value, str) else ""


def _agent_result(part: Any, out: Assembler) -> None:
    failed = part.part_kind == "retry-prompt" or getattr(part, "outcome", "success") != "success"
    out.tool_result(part.tool_call_id, _plain(part.content), failed=failed)


def _plain(value: Any) -> Any:
    """As something that JSON has a form for."""
    return msgspec.to_builtins(value, enc_hook=_plain_object)


def _plain_object(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else str(value)
