"""Our Python client."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec

from benchmarks.clients import TEXT, Done, Task
from unbroken import AsyncClient

__all__ = ["main"]

_BETWEEN_LOOKS = 1000


def _message(number: int) -> dict[str, Any]:
    return {"n": number, "text": TEXT}


async def append(task: Task) -> int:
    count = 0
    async with AsyncClient() as client:
        stream = client.stream(task.url)
        end_s = time.perf_counter() + task.seconds
        while time.perf_counter() < end_s:
            await stream.append_json(_message(count))
            count += 1
    return count


async def produce(task: Task) -> int:
    count = 0
    async with AsyncClient() as client, client.stream(task.url).producer("bench") as producer:
        end_s = time.perf_counter() + task.seconds
        while time.perf_counter() < end_s:
            for _ in range(_BETWEEN_LOOKS):
                await producer.send(_message(count))
                count += 1
        await producer.flush()
    return count


async def read(task: Task) -> int:
    async with AsyncClient() as client:
        values = await client.stream(task.url).read_json()
    assert values[-1]["n"] == len(values) - 1 == task.messages - 1
    return len(values)


async def follow(task: Task) -> int:
    count = 0
    async with AsyncClient() as client, client.stream(task.url).follow(live=task.live) as messages:
        async for message in messages:
            assert message.value["n"] == count
            count += 1
            if count == task.messages:
                break
    return count


def main() -> None:
    """Do what standard input asks for."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    do = {"append": append, "produce": produce, "read": read, "follow": follow}[task.name]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    messages = asyncio.run(do(task))
    done = Done(messages, time.perf_counter() - start_s, time.process_time() - start_cpu_s)
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main()
