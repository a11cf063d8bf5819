"""Durable answers for Starlette and what is built on it, such as FastAPI.

answers = Answers(create_app(data_dir="streams"))
app = FastAPI(lifespan=answers.lifespan)

@app.post("/answers/{key}")
async def answer(key: str, prompt: str):
    return await answers.respond(key, lambda: generate(prompt))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from unbroken.web.answers import BaseAnswers
from unbroken.web.reply import Reply

__all__ = ["AnswerResponse", "Answers"]


class AnswerResponse(StreamingResponse):
    """An answer on its way, as a Starlette response. It lets go of readers that take nothing."""

    def __init__(self, body: AsyncIterator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(body, status, headers)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and run the background task."""
        await Reply(self.status_code, dict(self.headers), self._body)(scope, receive, send)
        if self.background is not None:
            await self.background()


class Answers(BaseAnswers[Response]):
    """`unbroken.web.Answers` whose responses are Starlette's."""

    def _response(self, reply: Reply) -> Response:
        if isinstance(reply.body, bytes):
            return Response(reply.body, reply.status, reply.headers)
        return AnswerResponse(reply.body, reply.status, reply.headers)
