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


async def _held(connection: RawConnection, tenant: str) -> tuple[int, int]:
    """What the server counts for a tenant, which is what its streams come to."""
    while True:
        listing: dict[str, Any] = json.loads(
            (await send(connection, "GET", f"/-/streams?prefix=/users/{tenant}/")).body
        )
        if "quotas" in listing:  # what was there at the start is counted
            break
    (quota,) = listing["quotas"]
    sizes = [int(stream["nextOffset"].split("_")[1]) for stream in listing["streams"]]
    assert (quota["streams"], quota["totalBytes"]) == (len(sizes), sum(sizes))
    return len(sizes), sum(sizes)


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
            assert streams <= STREAMS
            assert size_bytes <= SIZE_BYTES
            for number in range(STREAMS - streams):
                assert (await send(connection, "PUT", f"/users/{tenant}/more/{number}", TEXT)).status == 201
            assert (await send(connection, "PUT", f"/users/{tenant}/more/x", TEXT)).status == 507
        for tenant in TENANTS:
            await send(connection, "DELETE", f"/users/{tenant}/more/0")
            path = f"/users/{tenant}/last"
            await send(connection, "PUT", path, TEXT)
            streams, size_bytes = await _held(connection, tenant)
            for body, status in ((b"x" * (SIZE_BYTES - size_bytes + 1), 507), (b"x" * (SIZE_BYTES - size_bytes), 204)):
                assert not body or (await send(connection, "POST", path, TEXT, body)).status == status
            assert (await send(connection, "POST", path, TEXT, b"x")).status == 507
            assert await _held(connection, tenant) == (streams, SIZE_BYTES)
        await kill(server)
    assert check(tmp_path / "data") == []
