"""Durable answers for FastAPI: those for Starlette."""

from unbroken.web.starlette import Answers

__all__ = ["Answers"]
