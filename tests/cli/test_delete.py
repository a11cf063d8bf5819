"""``unbroken delete``, as its users call it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from unbroken.testing import LiveServer, live_server


async def run(server: LiveServer | None, *arguments: str) -> tuple[int, str, str]:
    """Run the command: exit code, output, errors."""
    url = server.url if server else "http://127.0.0.1:9"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "unbroken", "delete", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"UNBROKEN_URL": url, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_delete_one_and_all_below_a_prefix() -> None:
    async with live_server() as server:
        for path in ("/a", "/a/1", "/a/2", "/b/ü", "/c d"):
            await server.engine.create(path)
        assert await run(server, "/b/ü") == (0, "", "")
        assert await run(server, f"{server.url}/c%20d") == (0, "", "")
        assert [state.path for state in server.engine.streams()] == ["/a", "/a/1", "/a/2"]
        assert await run(server, "/a/", "--prefix") == (0, "deleted 2 streams\n", "")
        assert await run(server, f"{server.url}/a", "--prefix", "--yes") == (0, "deleted 1 stream\n", "")
        assert list(server.engine.streams()) == []


async def test_errors_are_one_line() -> None:
    async with live_server() as server:
        for arguments, code, message in [
            (["/nothing"], 1, "there is no stream at "),
            (["nonsense"], 2, "is neither a path such as"),
        ]:
            found, out, err = await run(server, *arguments)
            assert (found, out) == (code, "")
            assert message in err
            assert err.count("\n") == 1
    found, _, err = await run(None, "/a")
    assert found == 3
    assert "is the server running there?" in err


@pytest.mark.parametrize("arguments", [[], ["/a", "/b"]])
async def test_usage(arguments: list[str]) -> None:
    code, _, err = await run(None, *arguments)
    assert code == 2
    assert "Usage" in err
