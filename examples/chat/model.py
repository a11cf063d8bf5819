"""A stand-in for a language model: speaks as OpenAI's chat completions do, and knows one story.

python examples/chat/model.py
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

STORY = """\
You asked: "{question}"

That reminds me of a lighthouse keeper who wrote down every ship that passed. One night the lamp went out, \
the ink froze, and the page blew into the sea.

In the morning she found that each ship had kept a copy of the line with its own name. She collected them in \
the harbour, one by one, and the book was whole again.

So it is with what I am telling you: close this page, take another device, or switch the server off. What was \
said is written down, and what is missing can be asked for from exactly where you were."""

app = FastAPI(title="A model that is none")
delay_s = float(os.environ.get("DELAY_S", "0.05"))


@app.post("/v1/chat/completions")
async def complete(request: dict[str, Any]) -> StreamingResponse:
    """Tell the story, a word at a time."""
    question = request["messages"][-1]["content"]
    return StreamingResponse(chunks(STORY.format(question=question), request["model"]), media_type="text/event-stream")


async def chunks(text: str, name: str) -> AsyncIterator[str]:
    """A text as a stream of chunks."""
    head = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": int(time.time()), "model": name}
    for word in text.split(" "):
        yield event({**head, "choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]})
        await asyncio.sleep(delay_s)
    yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield "data: [DONE]\n\n"


def event(data: dict[str, Any]) -> str:
    """A Server-Sent Event."""
    return f"data: {json.dumps(data)}\n\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8001")))
