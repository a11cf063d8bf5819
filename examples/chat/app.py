"""A chat whose answers survive: a refreshed page, a second device, a lost connection, and the end of this very process.

    pip install '.[server]' fastapi openai
    python examples/chat/model.py     # in another terminal: a model to talk to, on port 8001
    python examples/chat/app.py       # then open http://127.0.0.1:8000

Each chat is a stream of its questions, each answer a stream of its own. The page reads both straight from the streams,
which it may read but not write. Set OPENAI_BASE_URL, OPENAI_API_KEY and MODEL to talk to another model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from unbroken.asgi import Principal, create_app, grant
from unbroken.protocol.producers import ProducerStamp
from unbroken.web.fastapi import Answers

HERE = Path(__file__).parent
MODEL = os.environ.get("MODEL", "stub")
Id = Annotated[str, PathParameter(pattern="^[A-Za-z0-9-]{1,64}$")]

model = AsyncOpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8001/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
streams = create_app(
    data_dir=os.environ.get("CHAT_DATA", HERE / "data"),
    # Anybody may read who knows a chat's id. An application with users says here who somebody is, and what is theirs.
    authorize=lambda request: Principal("page", grant(read=["/chats/*", "/answers/**"])),
)
answers = Answers(streams)
app = FastAPI(title="Unbroken chat", lifespan=answers.lifespan)
app.mount("/streams", streams)


class Question(BaseModel):
    """What somebody asks. Its key names the answer: a request that is repeated asks nothing new."""

    key: Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")]
    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    again: bool = False


@app.get("/")
async def page() -> FileResponse:
    """The page, for every chat the same."""
    return FileResponse(HERE / "page.html")


@app.put("/api/chats/{chat}")
async def open_chat(chat: Id) -> None:
    """Make sure that a chat is there."""
    await streams.engine.create(f"/chats/{chat}", content_type="application/json")


@app.post("/api/chats/{chat}/questions")
async def ask(chat: Id, question: Question) -> None:
    """Start to answer a question, and note it in the chat, both exactly once. Nobody needs to wait for the answer."""
    await open_chat(chat)
    messages = [*await history(chat), {"role": "user", "content": question.text}]
    await answers.start(
        f"{chat}/{question.key}",
        lambda: model.chat.completions.create(model=MODEL, messages=messages, stream=True),
    )
    once = ProducerStamp(question.key, 0, 0)
    await streams.engine.append(f"/chats/{chat}", json.dumps(question.model_dump()).encode(), producer=once)


@app.post("/api/chats/{chat}/answers/{key}/stop")
async def stop(chat: Id, key: Id) -> bool:
    """Stop an answer, whoever asked for it."""
    return await answers.stop(f"{chat}/{key}")


async def history(chat: str) -> list[Any]:
    """What was said in a chat, as models want it."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    page = await streams.engine.read(f"/chats/{chat}")  # up to a megabyte of questions
    for question in map(json.loads, page.messages):
        answer = await answers.read(f"{chat}/{question['key']}")
        messages.append({"role": "user", "content": question["text"]})
        messages.append({"role": "assistant", "content": answer.text if answer else ""})
    return messages


if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")))
