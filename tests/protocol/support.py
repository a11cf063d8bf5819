"""What the tests of the rules share."""

from __future__ import annotations

from hypothesis import settings

from unbroken.errors import UnbrokenError
from unbroken.protocol.commands import Outcome
from unbroken.protocol.headers import Fields

# The same examples each time: a rule that breaks today is still broken tomorrow.
deterministic = settings(derandomize=True, deadline=None, database=None)


def fields(**values: str | bytes) -> Fields:
    """Request headers as an adapter passes them on: ``fields(stream_ttl="5")``."""
    return {
        name.replace("_", "-").encode(): value if isinstance(value, bytes) else value.encode("latin-1")
        for name, value in values.items()
    }


def told(outcome: Outcome | int) -> object:
    """An outcome as a client can tell it from others: errors by class, words and headers."""
    if isinstance(outcome, UnbrokenError):
        return type(outcome), outcome.status, outcome.detail, outcome.headers()
    return outcome
