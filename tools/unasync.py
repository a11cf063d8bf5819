"""Writes the synchronous client from the asynchronous one, or checks that it is what would be written.

    python tools/unasync.py [--check]

`_async` and `_sync` each have a module ``io`` of their own, written by hand, for what cannot be translated: waiting.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "src" / "unbroken" / "client"
BY_HAND = {"io.py"}

WORDS = {
    "async def": "def",
    "async for": "for",
    "async with": "with",
    "await ": "",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aclose": "close",
    "asynccontextmanager": "contextmanager",
    "aclosing": "closing",
    "enter_async_context": "enter_context",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "AsyncConsumer": "Consumer",
    "AsyncExitStack": "ExitStack",
    "AsyncFollow": "Follow",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "AsyncProducer": "Producer",
    "AsyncStream": "Stream",
    "_async": "_sync",
    "OffsetStore | AsyncOffsetStore": "OffsetStore",
    "AsyncOffsetStore, OffsetStore": "OffsetStore",
    "as it is written: asynchronous. ``_sync`` is generated from it by": "that waits: generated from ``_async`` by",
    "An asynchronous context manager": "A context manager",
    "A function, or coroutine function,": "A function",
    "a function, or coroutine function, that": "a function that",
}
"""What becomes of words, as a whole."""


def translate(text: str, used: set[str]) -> str:
    """The synchronous form of a module."""
    for word, other in WORDS.items():
        text, count = re.subn(
            rf"(?<!\w){re.escape(word)}(?!\w)" if word[-1].isalnum() else re.escape(word), other, text
        )
        if count:
            used.add(word)
    return text


def formatted(text: str, name: str) -> str:
    """A module with its imports sorted, and laid out as all others are."""
    file = ["--stdin-filename", str(CLIENT / "_sync" / name), "-"]
    for command in (["check", "--select=I,F401", "--fix-only", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *file], input=text, capture_output=True, text=True, check=True
        )
        text = done.stdout
    return text


def translations() -> Iterator[tuple[Path, str]]:
    """Each file of the synchronous client, and what should be in it."""
    used: set[str] = set()
    for source in sorted((CLIENT / "_async").glob("*.py")):
        if source.name not in BY_HAND:
            text = translate(source.read_text(encoding="utf-8"), used)
            yield CLIENT / "_sync" / source.name, formatted(text, source.name)
    if unused := set(WORDS) - used:
        raise SystemExit(f"nothing to translate of: {', '.join(sorted(unused))}")


def main() -> None:
    """Write, or with ``--check`` compare."""
    check = "--check" in sys.argv[1:]
    wanted = dict(translations())
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in (CLIENT / "_sync").glob("*.py") if path not in wanted and path.name not in BY_HAND]
    if check and stale:
        names = ", ".join(str(path.relative_to(CLIENT)) for path in stale)
        raise SystemExit(f"not what tools/unasync.py makes of the asynchronous client: {names}. Run it.")
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()


if __name__ == "__main__":
    main()
