"""The public conformance suite of the protocol, run by Node.js against a server of ours, once per store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).parents[2] / "conformance"
VITEST = SUITE / "node_modules" / "vitest" / "vitest.mjs"
TESTS = 332
"""How many tests the pinned version of the suite runs against a server without subscriptions."""
SUBSCRIPTIONS = "Reserved subscription APIs"
START_TIMEOUT_S = 30.0
SUITE_TIMEOUT_S = 240.0


@contextmanager
def serving(store: str, folder: Path) -> Iterator[str]:
    """A server in a process of its own, ended by its own process id.

    Yields:
        its URL.
    """
    log = folder / "server.log"
    command = [sys.executable, "-m", "unbroken", "serve", "--port", "0", "--store", store]
    command += ["--data-dir", str(folder / "data"), "--long-poll-timeout", "0.5", "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNBROKEN_")}
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield address(server, log)
    finally:
        server.terminate()
        try:
            code = server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise
    assert code == 0, log.read_text()


def address(server: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server says it listens."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if match := re.search(r"listening on (http://\S+)", log.read_text()):
            return match[1]
        assert server.poll() is None, f"the server ended with {server.returncode}:\n{log.read_text()}"
        time.sleep(0.02)
    pytest.fail(f"the server did not say where it listens:\n{log.read_text()}")


def run_suite(url: str, folder: Path) -> list[dict[str, Any]]:
    """Run the suite against a server.

    Returns:
        the result of each test.
    """
    results = folder / "results.json"
    node = shutil.which("node")
    assert node is not None
    run = subprocess.run(
        [node, str(VITEST), "run", "--reporter=json", f"--outputFile={results}"],
        cwd=SUITE,
        env={**os.environ, "UNBROKEN_URL": url, "NODE_DISABLE_COMPILE_CACHE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SUITE_TIMEOUT_S,
        check=False,
    )
    assert results.exists(), run.stdout + run.stderr
    report = json.loads(results.read_text())
    return [test for file in report["testResults"] for test in file["assertionResults"]]


@pytest.fixture
def suite_is_installed() -> None:
    """Skip without the suite, but not in CI."""
    if VITEST.exists() and shutil.which("node"):
        return
    reason = "the public conformance suite is not installed: run make test with Node.js 20.19 or newer"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.usefixtures("suite_is_installed")
@pytest.mark.timeout(SUITE_TIMEOUT_S + START_TIMEOUT_S + 30)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_every_test_passes(store: str, tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    with serving(store, tmp_path) as url:
        tests = run_suite(url, tmp_path)
    counts = Counter(test["status"] for test in tests)
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    report_fact(f"public conformance suite on the {store} store: {summary}")
    failures = ["\n".join([test["fullName"], *test["failureMessages"]]) for test in tests if is_failure(test)]
    assert not failures, f"{summary}\n\n" + "\n\n".join(failures)
    assert counts["passed"] == TESTS, summary


def is_failure(test: dict[str, Any]) -> bool:
    """Whether a test did not pass, though it is not about subscriptions, which Unbroken does not offer."""
    return test["status"] != "passed" and not (
        test["status"] == "skipped" and test["ancestorTitles"][:1] == [SUBSCRIPTIONS]
    )
