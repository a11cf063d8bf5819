"""What all tests share: coroutine tests without a plugin, Hypothesis profiles, and facts for the closing summary."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Failing asserts of shared helpers tell as much as those of the tests.
pytest.register_assert_rewrite("unbroken.testing", *(f"tests.{path.stem}" for path in Path(__file__).parent.iterdir()))

pytest_plugins = ["tests.browser", "unbroken.testing.fixtures"]

# The machine may be busy: a slow example is not a failure. CI draws the same examples each time and keeps none.
settings.register_profile("local", deadline=None)
settings.register_profile("full", deadline=None, max_examples=1000)
if settings.get_current_profile_name() == "default":
    settings.load_profile("local")

# Whoever starts the tests in the background may have told them to ignore these, and so every program they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_FACTS = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test, and each example of a Hypothesis test that is a coroutine, in an event loop of its own."""
    if hypothesis := getattr(pyfuncitem.obj, "hypothesis", None):
        if inspect.iscoroutinefunction(hypothesis.inner_test):
            hypothesis.inner_test = _in_a_loop(hypothesis.inner_test)
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


def _in_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def report_fact(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give a line to the summary at the end of the run."""
    return request.config.stash.setdefault(_FACTS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the facts that tests reported."""
    if facts := config.stash.get(_FACTS, []):
        terminalreporter.section("facts")
        for fact in facts:
            terminalreporter.line(fact)
