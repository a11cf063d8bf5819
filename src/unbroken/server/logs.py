"""Logging of the standalone server: one line per event, for people or for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

from unbroken.server.settings import LogFormat, LogLevel

__all__ = ["configure_logging"]


_TOKEN = re.compile(r"([?&]token=)[^&\s\"'\\]*")


def _without_tokens(text: str) -> str:
    """Whatever is logged, and by whom: the token of a URL is not."""
    return _TOKEN.sub(r"\1...", text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _without_tokens(super().format(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _without_tokens(json.dumps(entry))


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Send all log messages to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of its own coming and going, which we do ourselves.
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
