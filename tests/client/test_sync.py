"""The synchronous client, on a real server in another thread: the same, generated from the other one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unbroken import Client, errors
from unbroken.client import Retry, Stream
from unbroken.server.settings import Settings
from unbroken.testing import threaded_server
from unbroken.testing.proxy import Answer, Buffer, Cut, Fault, ProxiedRequest, Script, Stall, Twice, threaded_proxy

JSON = "application/json"
QUICK = Retry(base_s=0.001, cap_s=0.01)


def test_it_is_what_the_asynchronous_one_becomes() -> None:
    script = Path(__file__).parents[2] / "tools" / "unasync.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def a_stream(content_type: str = JSON, settings: Settings | None = None, **options: Any) -> Iterator[Stream]:
    """A stream on a server of its own. No thread is left but those of before."""
    before = set(threading.enumerate())
    with threaded_server(settings=settings) as address, Client(address.url, **options) as client:
        stream = client.stream("/stream")
        stream.create(content_type=content_type)
        yield stream
    assert set(threading.enumerate()) <= before


@contextmanager
def behind(*faults: Fault, only: Callable[[ProxiedRequest], bool] = lambda _: True) -> Iterator[Stream]:
    """A stream of three messages, and a proxy before it."""
    with threaded_server() as address, threaded_proxy(address.url, Script(*faults, only=only)) as proxy:
        with Client(address.url) as client:
            direct = client.stream("/stream")
            direct.create(content_type=JSON)
            direct.append_json(1, 2, 3)
        with Client(proxy.url, retry=QUICK) as client:
            yield client.stream("/stream")


@contextmanager
def meanwhile(*actions: Callable[[], object]) -> Iterator[None]:
    """Something that another thread does."""

    def run() -> None:
        for action in actions:
            action()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_a_stream_from_its_creation_to_its_deletion() -> None:
    with a_stream("text/plain") as stream:
        stream.append("hello")
        stream.append(["h", b"i"])
        stream.close()
        assert stream.read_text() == "hellohi"
        assert [page.data for page in stream.pages()] == [b"hellohi"]
        copy = stream.fork("/copy")
        assert copy.read() == b"hellohi"
        copy.delete()
        assert stream.head().closed
        stream.delete()
        with pytest.raises(errors.StreamNotFound):
            stream.head()


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_following_from_another_thread(live: Any) -> None:
    with a_stream() as stream:
        stream.append_json(1, 2)
        with stream.follow(live=live) as messages, meanwhile(lambda: stream.append_json(3), stream.close):
            assert [message.value for message in messages] == [1, 2, 3]


def test_leaving_early() -> None:
    with a_stream() as stream:
        stream.append_json(*range(10))
        with stream.follow() as messages:
            position = next(message.position for message in messages if message.value == 6)
        with stream.follow(position) as messages:
            assert next(iter(messages)).value == 7


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_time_limits(live: Any) -> None:
    with a_stream() as stream:
        stream.append_json(1)
        with stream.follow(live=live, item_timeout_s=0.5) as messages:
            assert next(iter(messages)).value == 1
            with pytest.raises(errors.TimedOut):
                next(iter(messages))
            stream.append_json(2)
            assert next(iter(messages)).value == 2
        with stream.follow(live=live, total_timeout_s=0.05) as messages, pytest.raises(errors.TimedOut):
            list(messages)


def is_sse(request: ProxiedRequest) -> bool:
    return request.is_sse


@pytest.mark.parametrize("fault", [Stall(), Stall(at_bytes=30), Buffer(), Buffer(head=True), Cut(), Cut(at_bytes=30)])
def test_an_event_stream_that_does_not_come_through(fault: Fault) -> None:
    with behind(fault, only=is_sse) as stream, stream.follow(silence_s=0.5) as messages:
        assert [next(iter(messages)).value for _ in range(3)] == [1, 2, 3]
        with meanwhile(lambda: stream.append_json(4), stream.close):
            assert [message.value for message in messages] == [4]


def test_a_producer_passes_what_passes() -> None:
    faults: list[Fault] = [Answer(503), Answer(500, after=True), Cut("response", "head"), Cut("request"), Twice()]
    with behind(*faults, only=lambda request: request.method == "POST") as stream:
        with stream.producer("writer", max_batch_bytes=5, linger_s=0) as producer:
            for number in range(4, 200):
                producer.send(number)
            producer.flush()
            producer.close_stream("end")
        assert stream.read_json() == [*range(1, 200), "end"]


def test_a_producer_waits_while_its_buffer_is_full() -> None:
    with a_stream("text/plain") as stream:
        with stream.producer("writer", buffer_bytes=1000, max_batch_bytes=400, linger_s=60) as producer:
            for _ in range(200):
                producer.send("x" * 99)
                assert producer.pending <= 11
        assert len(stream.read()) == 19800


def test_a_producer_hides_nothing() -> None:
    with a_stream() as stream:
        producer = stream.producer("writer")
        producer.start()
        stream.close()
        producer.send(1)
        with pytest.raises(errors.StreamClosed):
            producer.flush()
        with pytest.raises(errors.StreamClosed):
            producer.send(2)
        with pytest.raises(errors.StreamClosed):
            producer.__exit__(None, None, None)


def test_a_token_from_a_function() -> None:
    with a_stream(token=lambda: "secret") as stream:
        stream.append_json(1)

    async def token() -> str:
        return "secret"

    with Client("http://127.0.0.1:1", token=token) as client, pytest.raises(TypeError, match="AsyncClient"):
        client.stream("/a").head()


def test_a_client_of_ones_own() -> None:
    with threaded_server() as address, httpx2.Client(base_url=address.url, headers={"x-mine": "1"}) as http:
        with Client(http=http) as client:
            stream = client.stream("/a")
            stream.create()
        assert not http.is_closed
        with pytest.raises(ValueError, match="either"):
            Client(http=http, transport=httpx2.HTTPTransport())


def test_nobody_listens() -> None:
    with Client("http://127.0.0.1:1", retry=Retry(give_up_after_s=0)) as client:
        with pytest.raises(errors.NotConnected) as caught:
            client.stream("/a").append(b"x")
        assert caught.value.request is not None
        assert not caught.value.request.sent
        began = time.monotonic()
        with client.stream("/a").follow(give_up_after_s=0) as messages, pytest.raises(errors.NotConnected):
            list(messages)
        assert time.monotonic() - began < 5
