"""`unbroken.js` as a file: its types, and what it does without a page of ours around it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.pages.lab import Lab, request
from tests.peers import PEERS, ReferenceServer, need_package, need_reference, node
from unbroken.testing import Address

MODULE = Path(str(files("unbroken.server"))) / "static" / "unbroken.js"

USE = """
import {{ append, follow, producer }} from {module}

const reading = follow("http://x/a", {{ onMessage: async (message, at) => message.n + at.length, live: false }})
const position: string = reading.position
reading.done.then(() => reading.stop())
const {{ offset, closed }}: {{ offset: string, closed: boolean }} = await append("/a", 1, {{ close: true }})
const token = async ({{ refresh }}: {{ refresh: boolean }}) => (refresh ? "a" : undefined)
const sent: Promise<void> = producer(new URL("http://x/a"), {{ epoch: 1, token }}).send([1])
// @ts-expect-error
follow("/a", {{ live: "never" }})
// @ts-expect-error
append("/a", 1, {{ closed: true }})
// @ts-expect-error
producer("/a", {{ epoch: "1" }})
"""


def run(*command: str) -> str:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_types_are_sound_inside_and_out(tmp_path: Path, report_fact: Callable[[str], None]) -> None:
    need_package("typescript")
    (tmp_path / "use.mts").write_text(USE.format(module=json.dumps(str(MODULE))))
    compiler = str(PEERS / "node_modules" / "typescript" / "bin" / "tsc")
    flags = ["--noEmit", "--strict", "--checkJs", "--noUnusedLocals", "--noUnusedParameters", "--target", "es2024"]
    flags += ["--module", "nodenext", "--lib", "es2024,dom,dom.iterable,dom.asynciterable", "--types", ""]
    run(node(), compiler, *flags, str(MODULE))
    flags.remove("--noUnusedLocals")
    run(node(), compiler, *flags, str(tmp_path / "use.mts"))
    lines = MODULE.read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith(("*", "/*", "//"))]
    report_fact(f"unbroken.js: {len(lines)} lines, {len(code)} of them code, {MODULE.stat().st_size} bytes")
    assert max(map(len, lines)) <= 120


def test_node_needs_no_page(unbroken_server: Address) -> None:
    need_package("typescript")
    url = f"{unbroken_server.url}/a"
    request("PUT", url, "application/json", b"[1]")
    found = run(
        *(node(), "--input-type=module", "--eval"),
        f"""
        import {{ append, follow, producer }} from {json.dumps(MODULE.as_uri())}
        const found = []
        const reading = follow("{url}", {{ onMessage: (message) => found.push(message) }})
        await append("{url}", 2)
        await producer("{url}").close([3])
        await reading.done
        console.log(JSON.stringify(found))
        """,
    )
    assert json.loads(found) == [1, 2, [3]]


@pytest.fixture
def reference_url(tmp_path: Path) -> Any:
    need_reference()
    with ReferenceServer(wait_s=0.5) as server:
        yield server.url


@pytest.mark.parametrize("mode", ["sse", "long-poll"])
def test_the_reference_server_serves_it_too(page: Page, lab: Lab, reference_url: str, mode: str) -> None:
    lab.open(page)
    found = page.evaluate(
        """async ([url, live]) => {
            const all = {}
            for (const [contentType, first, ...rest] of [
                ["application/json", { n: 1 }, [2, 3], "four"],
                ["text/plain", "one €\\n", "two", "\\n\\nthree"],
                ["application/octet-stream", new Uint8Array([0, 255]), new Uint8Array([1]), new Uint8Array([])],
            ]) {
                const path = `${url}/${live}/${contentType}`
                await fetch(path, { method: "PUT", headers: { "Content-Type": contentType } })
                await append(path, first, { contentType })
                const found = []
                const isJson = contentType === "application/json"
                const onMessage = (message) => (isJson ? found.push(message) : found.push(...message))
                const reading = follow(path, { live, onMessage })
                const writer = producer(path, { contentType })
                for (const data of rest) if (data.length !== 0) await writer.send(data)
                await writer.close()
                await reading.done
                all[contentType] = found
            }
            return all
        }""",
        [reference_url, mode],
    )
    assert found == {
        "application/json": [{"n": 1}, [2, 3], "four"],
        "text/plain": list("one €\ntwo\n\nthree"),
        "application/octet-stream": [0, 255, 1],
    }
