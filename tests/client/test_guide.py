"""The guide says what is: its programs run, and its tables have every option."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from unbroken import AsyncClient, Client
from unbroken.client import AsyncStream, Retry
from unbroken.testing import threaded_server

GUIDE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


async def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """What a snippet defines."""
    exec(f"async def snippet():\n{textwrap.indent(code, '    ')}\n    return locals()", names)
    return dict(await names["snippet"]())


async def test_its_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with threaded_server() as address:
        first, synchronous, *others = (text.replace("http://127.0.0.1:9999", address.url) for text in SNIPPETS)
        names: dict[str, Any] = {}
        exec(first, names)
        await names["main"]()
        exec(synchronous, {})
        out = capsys.readouterr().out
        assert out.startswith("hello ")
        assert out.endswith("{'role': 'user', 'text': 'hello'}\n{'role': 'assistant', 'text': 'hi'}\n")
        async with AsyncClient(address.url) as client:
            names = {"AsyncClient": AsyncClient, "client": client, "stream": client.stream("/chats/7")}
            found: dict[str, Any] = {}
            for text in others:
                found |= await run(text, names)
            assert found["rest"] == [{"role": "assistant", "text": "hi"}]
            assert len(await client.stream("/log").read_json()) == 10_001
        lines = found["offsets"]._db.execute("SELECT * FROM lines").fetchall()
        found["offsets"].close()
    assert lines == [("hello",), ("hi",)]
    assert names_in(tmp_path) == ["app.db", "offsets.json"]
    assert "404 stream-not-found GET http://127.0.0.1:" in capsys.readouterr().out


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def options(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {
        "self",
        "producer_id",
        "offset",
        "type",
        "base_s",
        "cap_s",
        "chance",
    }


@pytest.mark.parametrize("function", [AsyncClient, Client, AsyncStream.producer, AsyncStream.follow, Retry])
def test_it_names_every_option(function: Any) -> None:
    for name in options(function):
        assert re.search(rf"`{name}[`=(]|\({name}=|`{name}`", GUIDE), name
