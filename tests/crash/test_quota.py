"""Quotas are exact again after the server was killed in the middle of its tenants' writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.serving import TEXT, Lost, dialled, kill, send
from tests.server.process import server_process
from unbroken.store.sqlite.check import check
from unbroken.testing import Address, RawConnection

STREAMS, SIZE_BYTES = 30, 400_000
FLAGS = ("--quota", f"/users/* streams={STREAMS} size={SIZE_BYTES}")
TENANTS = ("ann", "ben")


async def _write(address: Address, tenant: str, seed: int, enough: asyncio.Event) -> None:
    """Create, append (300 kB now and then, which goes past the journal) and delete until the server is gone."""
    chance = Random(seed)
    refused = 0
    with contextlib.suppress(Lost):
        async with dialled(address) as connection:
            while True:
                path = f"/users/{tenant}/{chance.randrange(2 * STREAMS)}"
                method = chance.choice(["PUT", "PUT", "POST", "POST", "POST", "DELETE"])
                body = b"x" * chance.choice([1, 100, 3000, 300_000]) if method != "DELETE" else None
                refused += (await send(connection, method, path, TEXT, body)).status == 507
                if refused == 20:
                    enough.set()


async def _held(connection: RawConnection, tenant: str) -> tuple[list[str], int]:
    """A tenant's streams and what they come to, which is what the server counts."""
    while True:
        listing: dict[str, Any] = json.loads(
            (await send(connection, "GET", f"/-/streams?prefix=/users/{tenant}/")).body
        )
        if "quotas" in listing:  # what was there at the start is counted
            break
    (quota,) = listing["quotas"]
    sizes = [int(stream["nextOffset"].split("_")[1]) for stream in listing["streams"]]
    assert (quota["streams"], quota["totalBytes"]) == (len(sizes), sum(sizes))
    return [stream["path"] for stream in listing["streams"]], sum(sizes)


async def test_quotas_are_exact_again_after_a_crash(tmp_path: Path) -> None:
    for life in range(2):
        async with server_process(tmp_path, *FLAGS) as server:
            enough = asyncio.Event()
            async with asyncio.timeout(60), asyncio.TaskGroup() as writing:
                for tenant in TENANTS:
                    for writer in range(4):
                        writing.create_task(_write(server.address, tenant, 10 * life + writer, enough))
                await enough.wait()
                await kill(server)
        assert check(tmp_path / "data") == []
    async with server_process(tmp_path, *FLAGS) as server, dialled(server.address) as connection:
        for tenant in TENANTS:
            streams, size_bytes = await _held(connection, tenant)
            assert len(streams) <= STREAMS
            assert size_bytes <= SIZE_BYTES
            for number in range(STREAMS - len(streams)):
                assert (await send(connection, "PUT", f"/users/{tenant}/more/{number}", TEXT)).status == 201
            assert (await send(connection, "PUT", f"/users/{tenant}/last", TEXT)).status == 507
        for tenant in TENANTS:
            streams, _ = await _held(connection, tenant)
            last = f"/users/{tenant}/last"
            assert (await send(connection, "DELETE", streams[0])).status == 204
            assert (await send(connection, "PUT", last, TEXT)).status == 201
            streams, size_bytes = await _held(connection, tenant)
            if left := b"x" * (SIZE_BYTES - size_bytes):
                assert (await send(connection, "POST", last, TEXT, left + b"x")).status == 507
                assert (await send(connection, "POST", last, TEXT, left)).status == 204
            assert (await send(connection, "POST", last, TEXT, b"x")).status == 507
            assert await _held(connection, tenant) == (streams, SIZE_BYTES)
        await kill(server)
    assert check(tmp_path / "data") == []
