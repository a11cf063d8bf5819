"""An application for pages with the AI SDK's useChat."""

from __future__ import annotations

import json
import os
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from openai import AsyncOpenAI

from unbroken.asgi import create_app
from unbroken.errors import StreamNotFound
from unbroken.web.fastapi import Answers
from unbroken.web.ui import ui_message

streams = create_app(data_dir=os.environ["DATA"])
answers = Answers(streams, format="ui", grace_s=float(os.environ.get("GRACE_S", "10")))
model = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key="-", max_retries=0)
app = FastAPI(lifespan=answers.lifespan)


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(
        '<!doctype html><title>Chat</title><div id="root"></div><script type="module" src="/page.js"></script>'
    )


@app.get("/page.js")
async def script() -> FileResponse:
    return FileResponse(os.environ["SCRIPT"], media_type="text/javascript")


@app.post("/api/chat")
async def ask(body: dict[str, Any]) -> Response:
    chat, question = body["id"], body["messages"][-1]
    key = f"{chat}/{question['id']}"
    if body["trigger"] == "regenerate-message":
        await answers.stop(thread=chat)
        key = f"{chat}/{uuid4()}"
    await streams.engine.create(f"/chats/{chat}", content_type="application/json")
    await streams.engine.append(f"/chats/{chat}", json.dumps({"question": question, "key": key}).encode())
    messages: list[Any] = [{"role": "user", "content": question["parts"][0]["text"]}]
    return await answers.respond(
        key, lambda: model.chat.completions.create(model="m", messages=messages, stream=True), thread=chat
    )


@app.get("/api/chat/{chat}/stream")
async def resume(chat: str, request: Request) -> Response:
    return await answers.resume(thread=chat, request=request)


@app.post("/api/chat/{chat}/stop")
async def stop(chat: str) -> bool:
    return await answers.stop(thread=chat)


@app.get("/api/chat/{chat}")
async def history(chat: str) -> list[Any]:
    """What was said; an answer that still runs comes by `resume`."""
    try:
        page = await streams.engine.read(f"/chats/{chat}")
    except StreamNotFound:
        return []
    asked = {entry["question"]["id"]: entry for entry in map(json.loads, page.messages)}
    messages = []
    for entry in asked.values():
        messages.append(entry["question"])
        answer = await answers.read(entry["key"])
        if answer is not None and answer.end is not None:
            messages.append(ui_message(answer))
    return messages
