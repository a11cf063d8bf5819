"""Logging of the standalone server: one line per event, for people or for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from unbroken.server.request_log import LOGGER_NAME
from unbroken.server.settings import LogFormat, LogLevel

__all__ = ["Seldom", "configure_logging"]


_TOKEN = re.compile(r"([?&]token=)[^&\s\"'\\]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _without_tokens(text: str) -> str:
    """Whatever is logged, and by whom: the token of a URL is not."""
    return _TOKEN.sub(r"\1...", text)


class _TextFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        """One line, whatever a client had in its path: nobody can forge another."""
        return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return _without_tokens(super().format(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = getattr(record, "facts", {})
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: fact for name, fact in facts.items() if fact is not None},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _without_tokens(json.dumps(entry))


class Seldom:
    """Lets a log tell the same thing only now and then: a server in trouble must not fill its disk with that news.

    Args:
        period_s: how long to be silent after it was told, in seconds.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def left_out(self, what: str) -> int | None:
        """How often it was not told since it was told last; None if it is not to be told now either.

        Args:
            what: one of few things.
        """
        now_s = self._clock()
        then_s, count = self._told.get(what, (-self._period_s, 0))
        if now_s - then_s < self._period_s:
            self._told[what] = (then_s, count + 1)
            return None
        self._told[what] = (now_s, 0)
        return count


def configure_logging(level: LogLevel, log_format: LogFormat, *, access_log: bool = False) -> None:
    """Send all log messages to standard error.

    Args:
        level: least important messages.
        log_format: for people, or for machines.
        access_log: with each request, whatever the level.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of its own coming and going, which we do ourselves.
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO if access_log else logging.NOTSET)
