"""Answers of language models that survive dropped connections, refreshed pages, a second device, and the server's end.

    answers = Answers(create_app(data_dir="streams"))
    ...
    return await answers.respond(key, lambda: generate(prompt))

`unbroken.web.fastapi` and `unbroken.web.django` have the same for their frameworks.
"""

from unbroken.web.answers import Answers
from unbroken.web.formats import Format
from unbroken.web.parts import Answer, Begin, End, Outcome, Part
from unbroken.web.reply import Reply
from unbroken.web.sources import AnswerFailed, Source

__all__ = ["Answer", "AnswerFailed", "Answers", "Begin", "End", "Format", "Outcome", "Part", "Reply", "Source"]
