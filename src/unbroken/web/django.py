"""Durable answers for Django's asynchronous views, under ASGI.

answers = Answers(create_app(data_dir="streams"))
application = answers.around(get_asgi_application())

async def answer(request, key):
    return await answers.respond(key, lambda: generate(prompt), request=request)
"""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from unbroken.web.answers import BaseAnswers
from unbroken.web.reply import Reply

__all__ = ["Answers"]


class Answers(BaseAnswers[HttpResponseBase]):
    """`unbroken.web.Answers` whose responses are Django's."""

    def _response(self, reply: Reply) -> HttpResponseBase:
        if isinstance(reply.body, bytes):
            return HttpResponse(reply.body, status=reply.status, headers=reply.headers)
        return StreamingHttpResponse(reply.body, status=reply.status, headers=reply.headers)
