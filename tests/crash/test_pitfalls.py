"""Pitfalls that other servers fell into, each with a crash of its own."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from tests.crash.payloads import parse_payloads
from tests.crash.serving import TEXT, Lost, dialled, kill, read_all, send, served
from unbroken.store.sqlite.check import check
from unbroken.testing import Address, encode_chunk, encode_request

LARGE = 700_000


async def test_an_acked_delete_does_not_come_back_after_a_crash(tmp_path: Path) -> None:
    bodies = {"/small": b"s", "/large": b"L" * LARGE, "/grown": b"g", "/replaced": b"old", "/source": b"source"}
    async with served(tmp_path) as server, dialled(server.address) as connection:
        for path, body in bodies.items():
            assert (await send(connection, "PUT", path, TEXT, body)).status == 201
        assert (await send(connection, "PUT", "/fork", {"stream-forked-from": "/source"})).status == 201
        for body in (b"more", b"M" * LARGE):
            assert (await send(connection, "POST", "/grown", TEXT, body)).status == 204
        for path in (*bodies, "/fork"):
            assert (await send(connection, "DELETE", path)).status == 204
        assert (await send(connection, "PUT", "/replaced", TEXT, b"new")).status == 201
        await kill(server)
    assert check(tmp_path / "data") == []
    async with served(tmp_path) as server, dialled(server.address) as connection:
        assert await read_all(connection, "/replaced") == b"new"
        for path in ("/small", "/large", "/grown", "/fork"):
            assert (await send(connection, "GET", path)).status == 404
            assert (await send(connection, "PUT", path, TEXT, b"again")).status == 201
            assert await read_all(connection, path) == b"again"
        async with asyncio.timeout(10):
            while (await send(connection, "HEAD", "/source")).status != 404:  # noqa: ASYNC110 (nothing tells us)
                await asyncio.sleep(0.01)
        await kill(server)
    assert check(tmp_path / "data") == []


async def test_producer_state_is_not_lost_between_data_and_state_writes(tmp_path: Path) -> None:
    """Whatever was on its way when the server died: sent once more, it is neither a false gap nor there twice."""
    sent = dict.fromkeys(range(12), 0)

    def fields(producer: int) -> dict[str, str]:
        stamp = {"producer-id": f"p{producer}", "producer-epoch": "0", "producer-seq": str(sent[producer])}
        return {**TEXT, **stamp}

    def body(producer: int) -> bytes:
        return b"<p%d %d 0 00000000|>" % (producer, sent[producer])

    async def produce(address: Address, producer: int, enough: asyncio.Event) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                while True:
                    response = await send(connection, "POST", "/a", fields(producer), body(producer))
                    assert response.status == 200, response
                    sent[producer] += 1
                    if sum(sent.values()) > 150:
                        enough.set()

    async with served(tmp_path) as server:
        async with dialled(server.address) as connection:
            assert (await send(connection, "PUT", "/a", TEXT)).status == 201
        enough = asyncio.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as producing:
            for producer in sent:
                producing.create_task(produce(server.address, producer, enough))
            await enough.wait()
            await kill(server)
    assert check(tmp_path / "data") == []
    async with served(tmp_path) as server, dialled(server.address) as connection:
        for producer in sent:
            response = await send(connection, "POST", "/a", fields(producer), body(producer))
            assert response.status in (200, 204), response
            if sent[producer]:
                sent[producer] -= 1  # acknowledged long ago
                assert (await send(connection, "POST", "/a", fields(producer), body(producer))).status == 204
                sent[producer] += 1
        found = [(payload.writer, payload.serial) for payload in parse_payloads(await read_all(connection, "/a"))]
        for producer, count in sent.items():
            assert [serial for name, serial in found if name == f"p{producer}"] == list(range(count + 1))
        await kill(server)


async def test_no_torn_tail_is_kept_after_a_crash(tmp_path: Path) -> None:
    """Bodies of every size are on their way, and partly there, when the server dies: each is whole or not there."""
    sizes = [1, 1000, 300_000, 2_000_000, 5_000_000]
    acknowledged: dict[int, int] = dict.fromkeys(sizes, 0)

    async def append(address: Address, size_bytes: int, enough: asyncio.Event) -> None:
        with contextlib.suppress(Lost):
            async with dialled(address) as connection:
                while True:
                    response = await send(connection, "POST", f"/{size_bytes}", TEXT, b"x" * size_bytes)
                    assert response.status == 204, response
                    acknowledged[size_bytes] += 1
                    if acknowledged[300_000] > 3:
                        enough.set()

    async with served(tmp_path) as server:
        async with dialled(server.address) as connection:
            for size_bytes in sizes:
                assert (await send(connection, "PUT", f"/{size_bytes}", TEXT)).status == 201
        enough = asyncio.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as appending:
            for size_bytes in sizes:
                appending.create_task(append(server.address, size_bytes, enough))
            await enough.wait()
            await kill(server)
    assert check(tmp_path / "data") == []
    async with served(tmp_path) as server, dialled(server.address) as connection:
        for size_bytes, count in acknowledged.items():
            size_found = len(await read_all(connection, f"/{size_bytes}"))
            assert size_found in (count * size_bytes, (count + 1) * size_bytes)
            assert (await send(connection, "POST", f"/{size_bytes}", TEXT, b"y")).status == 204
            assert (await read_all(connection, f"/{size_bytes}")).endswith(b"y")
        await kill(server)


async def test_a_client_gone_mid_append_does_not_leave_the_tail_stuck(tmp_path: Path) -> None:
    """Nothing of a body that did not come whole is kept, not even after a crash, and the next append goes through."""
    head = encode_request("POST", "/a", {**TEXT, "content-length": "100000"})
    chunked = encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"})
    whole = encode_request("POST", "/a", TEXT, b"whole;")
    async with served(tmp_path) as server, dialled(server.address) as connection:
        assert (await send(connection, "PUT", "/a", TEXT, b"begin;")).status == 201
        for turn in range(4):
            for half in (head, head + b"h" * 50_000, chunked + encode_chunk(b"h" * 500), whole[:-1]):
                async with dialled(server.address) as leaving:
                    await leaving.send(half)
                    leaving.abort()
            async with dialled(server.address) as leaving:
                await leaving.send(whole)  # and does not wait for the answer
                leaving.abort()
            assert (await send(connection, "POST", "/a", TEXT, b"%d;" % turn)).status == 204
        # These are still on their way when the server dies.
        async with dialled(server.address) as late:
            await late.send(head + b"h" * 99_999)
            data = await read_all(connection, "/a")
            await kill(server)
    assert check(tmp_path / "data") == []
    assert [part for part in data.split(b";") if part != b"whole"] == [b"begin", b"0", b"1", b"2", b"3", b""]
    async with served(tmp_path) as server, dialled(server.address) as connection:
        found = await read_all(connection, "/a")
        assert found.removeprefix(data) in (b"", b"whole;")
        assert (await send(connection, "POST", "/a", TEXT, b"end")).status == 204
        assert await read_all(connection, "/a") == found + b"end"
        await kill(server)


async def test_a_refused_fork_leaks_no_reference_count(tmp_path: Path) -> None:
    """A source that was only ever asked for forks it refused is gone for good when it is deleted, crash or not."""
    refusals = [
        ({"stream-fork-offset": "9999999999999999_9999999999999999"}, 400),
        ({"stream-fork-offset": "nonsense"}, 400),
        ({"stream-fork-offset": "-1", "stream-fork-sub-offset": "7"}, 400),
        ({"content-type": "application/json"}, 409),
    ]
    async with served(tmp_path) as server, dialled(server.address) as connection:
        assert (await send(connection, "PUT", "/source", TEXT, b"source")).status == 201
        assert (await send(connection, "PUT", "/taken", TEXT, b"taken")).status == 201
        for fields, status in refusals:
            response = await send(connection, "PUT", "/fork", {"stream-forked-from": "/source", **fields})
            assert response.status == status, (fields, response)
        assert (await send(connection, "PUT", "/taken", {"stream-forked-from": "/source"})).status == 409
        assert (await send(connection, "PUT", "/fork", {"stream-forked-from": "/nothing"})).status == 404
        await kill(server)
    assert check(tmp_path / "data") == []
    async with served(tmp_path) as server, dialled(server.address) as connection:
        assert await read_all(connection, "/source") == b"source"
        assert (await send(connection, "DELETE", "/source")).status == 204
        assert (await send(connection, "GET", "/source")).status == 404
        assert (await send(connection, "PUT", "/source", TEXT, b"new")).status == 201
        await kill(server)
    assert check(tmp_path / "data") == []
