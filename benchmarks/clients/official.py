"""The official Python client, as released on PyPI.

The release has no producer. What comes nearest is many appends at once: it joins those that come while a request is
under way to the next one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from durable_streams import AsyncDurableStream, astream  # type: ignore[import-not-found]

JSON = "application/json"
AT_ONCE = 5000
"""Of 100, 1,000, 5,000 and 20,000 the quickest."""


def message(number: int) -> dict[str, Any]:
    return {"n": number, "text": "." * 40}


async def append(task: dict[str, Any]) -> int:
    count = 0
    async with AsyncDurableStream(task["url"], content_type=JSON) as stream:
        end_s = time.perf_counter() + task["seconds"]
        while time.perf_counter() < end_s:
            await stream.append(message(count))
            count += 1
    return count


async def produce(task: dict[str, Any]) -> int:
    count = 0
    async with AsyncDurableStream(task["url"], content_type=JSON) as stream:
        end_s = time.perf_counter() + task["seconds"]
        while time.perf_counter() < end_s:
            await asyncio.gather(*(stream.append(message(count + number)) for number in range(AT_ONCE)))
            count += AT_ONCE
    return count


async def read(task: dict[str, Any]) -> int:
    async with astream(task["url"], offset="-1", live="auto") as response:  # without live it reads one page only
        values = await response.read_json()
    assert values[-1]["n"] == len(values) - 1 == task["messages"] - 1
    return len(values)


async def follow(task: dict[str, Any]) -> int:
    count = 0
    async with astream(task["url"], offset="-1", live=task["live"]) as response:
        async for value in response.iter_json():
            assert value["n"] == count
            count += 1
            if count == task["messages"]:
                break
    return count


if __name__ == "__main__":
    given = json.load(sys.stdin)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    messages = asyncio.run({"append": append, "produce": produce, "read": read, "follow": follow}[given["name"]](given))
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    json.dump({"messages": messages, "seconds": seconds, "cpu_s": cpu_s}, sys.stdout)
