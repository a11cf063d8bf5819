"""What the packages of the model vendors stream becomes an answer: with the packages themselves, against a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from tests.web.helpers import Model, collect, events, home
from tests.web.models import ModelServer, chat_chunk, model_server
from unbroken.web import Answer

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]


async def answer_of(source: Any) -> Answer:
    """The whole answer that comes from a source."""
    async with home("embedded") as place, place.answers() as answers:
        body = await collect(await answers.respond("k", source))
        assert events(body)[-1].data["type"] == "end"
        answer = await answers.read("k")
        assert answer is not None
        return answer


def plain(answer: Answer) -> list[tuple[Any, ...]]:
    """Its parts without what does not matter here."""
    return [tuple(part.values()) for part in answer.parts]


# --- openai ------------------------------------------------------------------------------------------------------

CHAT = [
    chat_chunk({"role": "assistant", "content": ""}),
    chat_chunk({"content": "Hel"}),
    chat_chunk({"content": "lo"}),
    chat_chunk({}, "stop"),
    chat_chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
    "[DONE]",
]
CHAT_CALLS: dict[str, Any] = {
    "created": lambda client: client.chat.completions.create(model="m", messages=MESSAGES, stream=True),
    "helper": lambda client: client.chat.completions.stream(model="m", messages=MESSAGES),
}


@asynccontextmanager
async def openai(*said: Any, wait: bool = False) -> AsyncIterator[tuple[AsyncOpenAI, ModelServer]]:
    async with (
        model_server(*said, wait=wait) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield client, server


@pytest.mark.parametrize("call", CHAT_CALLS)
async def test_chat_completions(call: str) -> None:
    async with openai(*CHAT) as (client, server):
        answer = await answer_of(lambda: CHAT_CALLS[call](client))
        assert server.requests[0]["stream"] is True
    assert plain(answer) == [("text-start", "1"), ("text-delta", "1", "Hello"), ("text-end", "1")]
    assert answer.end is not None
    assert (answer.outcome, answer.end.finish_reason) == ("done", "stop")
    assert answer.end.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def tool_chunk(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    first = {"id": f"call_{index}", "type": "function"} if name else {}
    return chat_chunk({"tool_calls": [{"index": index, "function": function, **first}]})


@pytest.mark.parametrize("call", CHAT_CALLS)
async def test_chat_completions_that_think_and_call_tools(call: str) -> None:
    said = [
        chat_chunk({"role": "assistant", "reasoning_content": "Let me "}),
        chat_chunk({"reasoning_content": "see."}),
        chat_chunk({"content": "One moment."}),
        tool_chunk(0, "", "weather"),
        tool_chunk(0, '{"city":'),
        tool_chunk(0, '"Oslo"}'),
        tool_chunk(1, "", "clock"),
        chat_chunk({}, "tool_calls"),
        "[DONE]",
    ]
    async with openai(*said) as (client, _):
        answer = await answer_of(lambda: CHAT_CALLS[call](client))
    assert plain(answer) == [
        ("reasoning-start", "1"),
        ("reasoning-delta", "1", "Let me see."),
        ("reasoning-end", "1"),
        ("text-start", "2"),
        ("text-delta", "2", "One moment."),
        ("text-end", "2"),
        ("tool-input-start", "call_0", "weather"),
        ("tool-input-delta", "call_0", '{"city":"Oslo"}'),
        ("tool-input-start", "call_1", "clock"),
        ("tool-input-available", "call_0", "weather", {"city": "Oslo"}),
        ("tool-input-available", "call_1", "clock", {}),
    ]
    assert answer.end is not None
    assert answer.end.finish_reason == "tool-calls"


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "length"), ("content_filter", "content-filter"), ("strange", "other")]
)
async def test_why_a_chat_completion_ended(finish: str, reason: str) -> None:
    async with openai(chat_chunk({"refusal": "No."}), chat_chunk({}, finish), "[DONE]") as (client, _):
        answer = await answer_of(lambda: CHAT_CALLS["created"](client))
    assert answer.text == "No."
    assert answer.end is not None
    assert answer.end.finish_reason == reason


async def test_input_of_a_tool_that_is_not_json() -> None:
    said = [tool_chunk(0, '{"city', "weather"), chat_chunk({}, "length"), "[DONE]"]
    async with openai(*said) as (client, _):
        answer = await answer_of(lambda: CHAT_CALLS["created"](client))
    assert plain(answer)[-1] == ("tool-input-error", "call_0", "weather", '{"city', "The tool's input is not JSON.")


async def test_halves_of_a_character_are_joined() -> None:
    said = [chat_chunk({"content": "a\ud83d"}), chat_chunk({"content": "\ude00b\ud83d"}), "[DONE]"]
    async with openai(*said) as (client, _):
        assert (await answer_of(lambda: CHAT_CALLS["created"](client))).text == "a\U0001f600b\ufffd"


async def test_a_model_that_breaks_off(caplog: pytest.LogCaptureFixture) -> None:
    async with openai(chat_chunk({"content": "Hel"}), {"error": {"message": "overloaded"}}) as (client, _):
        answer = await answer_of(lambda: CHAT_CALLS["created"](client))
    assert (answer.text, answer.outcome) == ("Hel", "error")
    assert "overloaded" in caplog.text


async def test_a_model_that_cannot_be_reached(caplog: pytest.LogCaptureFixture) -> None:
    async with openai(*CHAT) as (client, server):
        pass
    async with AsyncOpenAI(base_url=server.url, api_key="-", max_retries=0) as client:
        answer = await answer_of(lambda: CHAT_CALLS["created"](client))
    assert (answer.text, answer.outcome) == ("", "error")
    assert "APIConnectionError" in caplog.text


@pytest.mark.parametrize("call", CHAT_CALLS)
async def test_a_stop_ends_the_request_to_the_model(call: str) -> None:
    async with (
        openai(chat_chunk({"content": "Hel"}), wait=True) as (client, server),
        home("embedded") as place,
        place.answers() as answers,
    ):
        await answers.start("k", lambda: CHAT_CALLS[call](client))
        await place.written("k", "Hel")
        assert await answers.stop("k")
        await server.gone.wait()


ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
RESPONSE = {"id": "r", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True, "tools": []}
RESPONSE |= {"tool_choice": "auto", "output": [], "status": "in_progress"}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "status": "completed"}


def response_events(*middle: dict[str, Any], **end: Any) -> list[Any]:
    last = {**RESPONSE, "status": "completed", **end}
    kind = f"response.{last['status']}"
    said = [{"type": "response.created", "response": RESPONSE}, *middle, {"type": kind, "response": last}]
    return [{**event, "sequence_number": number} for number, event in enumerate(said)]


def said_text(text: str, index: int = 0) -> list[dict[str, Any]]:
    place = {"item_id": "msg_1", "output_index": index, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    whole = {**part, "text": text}
    deltas = [{"type": "response.output_text.delta", **place, "delta": char, "logprobs": []} for char in text]
    return [
        {"type": "response.output_item.added", "output_index": index, "item": {**ITEM, "content": []}},
        {"type": "response.content_part.added", **place, "part": part},
        *deltas,
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole},
        {"type": "response.output_item.done", "output_index": index, "item": {**ITEM, "content": [whole]}},
    ]


RESPONSE_CALLS: dict[str, Any] = {
    "created": lambda client: client.responses.create(model="m", input="hello", stream=True),
    "helper": lambda client: client.responses.stream(model="m", input="hello"),
}
USAGE = {
    "input_tokens": 1,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 3,
}


@pytest.mark.parametrize("call", RESPONSE_CALLS)
async def test_responses(call: str) -> None:
    summary = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    middle = [
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": "Hm."},
        *said_text("Hello", 1),
        {"type": "response.output_item.added", "output_index": 2, "item": {**CALL, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 2, "delta": '{"a":1}'},
        {"type": "response.output_item.done", "output_index": 2, "item": {**CALL, "arguments": '{"a":1}'}},
    ]
    if call == "helper":  # it puts the response together, so it has to be whole
        middle = said_text("Hello")
    async with openai(*response_events(*middle, usage=USAGE)) as (client, _):
        answer = await answer_of(lambda: RESPONSE_CALLS[call](client))
    text = [part for part in plain(answer) if part[0].startswith("text")]
    assert [part[0] for part in text] == ["text-start", "text-delta", "text-end"]
    assert answer.text == "Hello"
    assert answer.end is not None
    assert answer.end.usage == USAGE
    if call == "created":
        assert plain(answer)[:3] == [
            ("reasoning-start", "1"),
            ("reasoning-delta", "1", "Hm."),
            ("reasoning-end", "1"),
        ]
        assert plain(answer)[-3:] == [
            ("tool-input-start", "call_1", "weather"),
            ("tool-input-delta", "call_1", '{"a":1}'),
            ("tool-input-available", "call_1", "weather", {"a": 1}),
        ]


RESPONSE_ENDS: list[tuple[dict[str, Any], str | None]] = [
    ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
    ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content-filter"),
    ({"output": [{**CALL, "arguments": "{}"}]}, "tool-calls"),
    ({"status": "failed", "error": {"code": "server_error", "message": "out of order"}}, None),
]


@pytest.mark.parametrize(("end", "reason"), RESPONSE_ENDS, ids=["length", "filter", "tools", "failed"])
async def test_why_a_response_ended(end: dict[str, Any], reason: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async with openai(*response_events(*said_text("Hel"), **end)) as (client, _):
        answer = await answer_of(lambda: RESPONSE_CALLS["created"](client))
    assert answer.end is not None
    assert answer.end.finish_reason == reason
    assert answer.outcome == ("done" if reason else "error")
    assert ("out of order" in caplog.text) == (reason is None)


async def test_a_response_that_says_error(caplog: pytest.LogCaptureFixture) -> None:
    error = {"type": "error", "code": "x", "message": "out of order", "param": None, "sequence_number": 9}
    async with openai(*response_events()[:1], error) as (client, _):
        answer = await answer_of(lambda: RESPONSE_CALLS["created"](client))
    assert answer.outcome == "error"
    assert "out of order" in caplog.text


# --- anthropic ---------------------------------------------------------------------------------------------------

START = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "c"}
STARTED: dict[str, Any] = {**START, "stop_reason": None, "stop_sequence": None}
STARTED["usage"] = {"input_tokens": 5, "output_tokens": 1}


def block(index: int, begin: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begin},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def message_events(*middle: dict[str, Any], stop: str = "end_turn") -> list[Any]:
    delta = {"stop_reason": stop, "stop_sequence": None}
    return [
        {"type": "message_start", "message": STARTED},
        {"type": "ping"},
        *middle,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]


MESSAGE_CALLS: dict[str, Any] = {
    "created": lambda messages: messages.create(model="c", max_tokens=9, messages=MESSAGES, stream=True),
    "helper": lambda messages: messages.stream(model="c", max_tokens=9, messages=MESSAGES),
}


@asynccontextmanager
async def anthropic(*said: Any) -> AsyncIterator[AsyncAnthropic]:
    async with model_server(*said) as server, AsyncAnthropic(base_url=server.url, api_key="-", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("call", MESSAGE_CALLS)
async def test_messages(call: str) -> None:
    said = message_events(
        *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "Hm."}),
        *block(
            1,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Hel"},
            {"type": "text_delta", "text": "lo"},
        ),
        *block(
            2,
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"city":'},
            {"type": "input_json_delta", "partial_json": ' "Oslo"}'},
        ),
        *block(3, {"type": "tool_use", "id": "t2", "name": "clock", "input": {}}),
        stop="tool_use",
    )
    async with anthropic(*said) as client:
        answer = await answer_of(lambda: MESSAGE_CALLS[call](client.messages))
    assert plain(answer) == [
        ("reasoning-start", "1"),
        ("reasoning-delta", "1", "Hm."),
        ("reasoning-end", "1"),
        ("text-start", "2"),
        ("text-delta", "2", "Hello"),
        ("text-end", "2"),
        ("tool-input-start", "t1", "weather"),
        ("tool-input-delta", "t1", '{"city": "Oslo"}'),
        ("tool-input-available", "t1", "weather", {"city": "Oslo"}),
        ("tool-input-start", "t2", "clock"),
        ("tool-input-available", "t2", "clock", {}),
    ]
    assert answer.end is not None
    assert answer.end.finish_reason == "tool-calls"
    assert answer.end.usage is not None
    assert answer.end.usage["output_tokens"] == 7


@pytest.mark.parametrize(
    ("stop", "reason"), [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content-filter"), ("x", "other")]
)
async def test_why_a_message_ended(stop: str, reason: str) -> None:
    async with anthropic(*message_events(*block(0, {"type": "text", "text": "Hi"}), stop=stop)) as client:
        answer = await answer_of(lambda: MESSAGE_CALLS["created"](client.messages))
    assert answer.end is not None
    assert (answer.text, answer.end.finish_reason) == ("Hi", reason)


async def test_a_message_that_breaks_off(caplog: pytest.LogCaptureFixture) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    async with anthropic(*message_events()[:2], error) as client:
        answer = await answer_of(lambda: MESSAGE_CALLS["created"](client.messages))
    assert answer.outcome == "error"
    assert "Overloaded" in caplog.text


async def test_the_text_alone_of_a_message_stream() -> None:
    async with anthropic(*message_events(*block(0, {"type": "text", "text": "Hi"}))) as client:

        async def text() -> AsyncIterator[str]:
            async with client.messages.stream(model="c", max_tokens=9, messages=MESSAGES) as stream:
                async for piece in stream.text_stream:
                    yield piece

        assert (await answer_of(text)).outcome == "done"


# --- pydantic-ai -------------------------------------------------------------------------------------------------


async def talk(messages: list[Any], info: AgentInfo) -> AsyncIterator[Any]:
    """Thinks, calls a tool twice, the first time with what the tool refuses, and tells what it gave."""
    results = [part for message in messages for part in message.parts if part.part_kind.startswith("tool-return")]
    if len(results) < 2:
        city = "Oslo" if results else "Atlantis"
        yield {0: DeltaThinkingPart(content="Hm.")}
        yield {1: DeltaToolCall(name="weather", json_args='{"city":', tool_call_id=city)}
        yield {1: DeltaToolCall(json_args=f'"{city}"}}')}
    else:
        yield "It is "
        yield f"{results[-1].content['sky']}."


def weather(city: str) -> dict[str, str]:
    if city == "Atlantis":
        raise ModelRetry("There is no such city.")
    return {"sky": "grey"}


async def test_agents() -> None:
    agent = Agent(FunctionModel(stream_function=talk), tools=[weather])
    answer = await answer_of(lambda: agent.run_stream_events("How is it in Oslo?"))
    parts = plain(answer)
    assert parts[:6] == [
        ("reasoning-start", "1"),
        ("reasoning-delta", "1", "Hm."),
        ("reasoning-end", "1"),
        ("tool-input-start", "Atlantis", "weather"),
        ("tool-input-delta", "Atlantis", '{"city":"Atlantis"}'),
        ("tool-input-available", "Atlantis", "weather", {"city": "Atlantis"}),
    ]
    assert ("tool-output-available", "Oslo", {"sky": "grey"}) in parts
    refused = next(part for part in parts if part[0] == "tool-output-error")
    assert refused[1] == "Atlantis"
    assert "There is no such city." in refused[2]
    assert answer.text == "It is grey."
    assert answer.end is not None
    assert (answer.end.finish_reason, answer.outcome) == ("stop", "done")
    assert answer.end.usage is not None
    assert answer.end.usage["requests"] == 3


async def test_the_text_alone_of_an_agent() -> None:
    agent = Agent(FunctionModel(stream_function=talk), tools=[weather])

    async def text() -> AsyncIterator[str]:
        async with agent.run_stream("How is it in Oslo?") as run:
            async for piece in run.stream_text(delta=True):
                yield piece

    assert (await answer_of(text)).text == "It is grey."


# --- of one's own ------------------------------------------------------------------------------------------------


async def test_text_parts_and_events_in_one_generator() -> None:
    async with openai(*CHAT) as (client, _):

        async def mixed() -> AsyncIterator[Any]:
            yield "I ask: "
            yield {"type": "data-status", "data": "asking"}
            async for chunk in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                yield chunk

        answer = await answer_of(mixed)
    assert answer.text == "I ask: Hello"
    assert plain(answer)[3] == ("data-status", "asking")
    assert [part["id"] for part in answer.parts if part["type"] == "text-start"] == ["1", "2"]


async def test_sources_of_every_shape() -> None:
    def iterator() -> AsyncIterator[Any]:
        return Model("a", done=True)._generate()

    @asynccontextmanager
    async def manager() -> AsyncIterator[AsyncIterator[Any]]:
        yield iterator()

    async def coroutine() -> AbstractAsyncContextManager[Any]:
        await asyncio.sleep(0)
        return manager()

    for source in (iterator, manager, coroutine):
        assert (await answer_of(source)).text == "a"


async def test_events_that_nobody_knows_add_nothing() -> None:
    unknown = SimpleNamespace(type="response.new_kind_of_event", delta="x")
    assert (await answer_of(Model("a", unknown, "b", done=True))).text == "ab"
