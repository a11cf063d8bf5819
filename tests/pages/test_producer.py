"""``append`` and ``producer`` of `unbroken.js`: what they write is there once, or they say why not."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import BYTES, JSON, TEXT, Lab, Recorder, request
from unbroken.engine.quotas import PathQuota
from unbroken.server.settings import Settings
from unbroken.testing import Address
from unbroken.testing.proxy import Answer, Cut, Delay, Fault, FaultyProxy, ProxiedRequest, Script, Trickle, Twice

FAILED = "Failed to load resource"


def is_post(request: ProxiedRequest) -> bool:
    return request.method == "POST"


def run(page: Page, code: str) -> Any:
    """Run code that may await; an error that it throws is found as its name, status and message."""
    wrapped = f"""(async () => {{
        try {{ {code} }}
        catch ({{ name, status, code, message }}) {{ return {{ name, status, code, message }} }}
    }})()"""
    return page.evaluate(wrapped)


@pytest.fixture
def expects_refusals(chromium: Chromium) -> None:
    """Chromium reports each of them."""
    chromium.expect_errors(FAILED)


# --- append ----------------------------------------------------------------------------------------------------------


def test_a_value_is_a_message(page: Page, lab: Lab) -> None:
    """Arrays too; and strings, if it is said that they are values."""
    lab.create("/a")
    lab.open(page)
    values = [{"n": 1}, [1, 2], [], None, 0, False]
    for value in values:
        page.evaluate("(value) => append('/a', value)", value)
    page.evaluate(r"append('/a', 'cut \ud83d', { contentType: 'application/json' })")
    assert lab.read("/a") == [*values, "cut \ud83d"]


def test_strings_and_bytes(page: Page, lab: Lab, unbroken_server: Address) -> None:
    lab.open(page)
    for path, content_type in (("/text", TEXT), ("/log", "text/x-log"), ("/bytes", BYTES)):
        lab.create(path, content_type)
    page.evaluate("append('/text', '€')")
    page.evaluate("append('/log', 'line', { contentType: 'text/x-log' })")
    page.evaluate("append('/bytes', new Uint8Array([0, 255]).subarray(1))")
    page.evaluate("append('/bytes', new Uint8Array([1, 2]).buffer)")
    page.evaluate("append('/bytes', new Blob(['x']))")
    urls = (f"{unbroken_server.url}{path}" for path in ("/text", "/log", "/bytes"))
    assert [request("GET", url) for url in urls] == ["€".encode(), b"line", b"\xff\x01\x02x"]


@pytest.mark.usefixtures("expects_refusals")
def test_where_the_stream_ends_is_told(page: Page, lab: Lab) -> None:
    lab.create("/a")
    lab.open(page)
    first = page.evaluate("append('/a', 1, { seq: 'b' })")
    assert first["closed"] is False
    again = run(page, "return await append('/a', 2, { seq: 'a' })")
    assert (again["status"], again["code"]) == (409, "sequence-regression")
    last = page.evaluate("append('/a', 3, { close: true })")
    assert last["closed"] is True
    assert last["offset"] > first["offset"]
    assert page.evaluate("append('/a', undefined, { close: true })") == last
    assert run(page, "return await append('/a', 4)")["code"] == "stream-closed"
    assert lab.read("/a") == [1, 3]


@pytest.mark.usefixtures("expects_refusals")
def test_append_tries_again_only_if_nothing_was_written(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Script(Answer(429, retry_after="0"), Answer(429), only=is_post)
    page.evaluate("append('/a', 1)")
    for fault, status in ((Answer(502, after=True), 502), (Answer(503), 503), (Cut("response", "head", 1), 0)):
        unbroken_proxy.plan = Script(fault, only=is_post)
        error = run(page, "return await append('/a', 2)")
        assert (error["name"], error["status"]) == ("StreamError", status)
    unbroken_proxy.plan = Script(then=Answer(429, retry_after="0"), only=is_post)
    assert run(page, "return await append('/a', 3)")["status"] == 429
    assert unbroken_proxy.counts["answer-429-retry-after"] == 6
    assert lab.read("/a") == [1, 2, 2]


def test_an_append_can_be_stopped(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Script(Delay(3600), only=is_post)
    stopping = "const stop = new AbortController(); setTimeout(() => stop.abort());"
    assert run(page, f"{stopping} await append('/a', 1, {{ signal: stop.signal }})")["name"] == "AbortError"
    assert lab.read("/a") == []


@pytest.mark.usefixtures("expects_refusals")
def test_what_cannot_be_written_is_refused_at_once(page: Page, lab: Lab) -> None:
    lab.open(page)
    for code in (
        "await append('/a', undefined)",
        "await append('/a', () => 1)",
        "await append('/a', 1n)",
        "await append('/a', {}, { contentType: 'text/plain' })",
        "await producer('/a', { contentType: 'text/plain' }).send(5)",
        "const writer = producer('/a'); writer.send('text').catch(() => 0); await writer.send({})",
    ):
        assert run(page, code)["name"] == "TypeError", code


# --- producer --------------------------------------------------------------------------------------------------------


def test_what_is_sent_meanwhile_goes_with_the_next_request(
    page: Page, lab: Lab, unbroken_proxy: FaultyProxy, unbroken_server: Address
) -> None:
    lab.open(page)
    for path, content_type in (("/a", JSON), ("/text", TEXT), ("/bytes", BYTES)):
        lab.create(path, content_type)
    unbroken_proxy.plan = recorder = Recorder()
    page.evaluate("""async () => {
        const [values, text, bytes] = [producer('/a'), producer('/text'), producer('/bytes')]
        for (let number = 0; number < 1000; number++) values.send([number])
        for (const part of ['one ', 'two ', 'drei €']) text.send(part)
        const part = new Uint8Array([1, 2])
        bytes.send(part)
        part.fill(0)
        bytes.send(part.buffer)
        await Promise.all([values.flush(), text.flush(), bytes.flush()])
    }""")
    # One request each; which of the three comes first is the browser's business.
    assert sorted(post.target for post in recorder.requests if is_post(post)) == ["/a", "/bytes", "/text"]
    assert lab.read("/a") == [[number] for number in range(1000)]
    assert request("GET", f"{unbroken_server.url}/text").decode() == "one two drei €"
    assert request("GET", f"{unbroken_server.url}/bytes") == b"\x01\x02\x00\x00"


@pytest.mark.usefixtures("expects_refusals")
def test_a_request_without_an_answer_is_repeated_under_its_number(
    page: Page, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    lab.create("/a")
    lab.open(page)
    faults: tuple[Fault, ...] = (
        *(Answer(502, after=True), Answer(500), Answer(503, after=True, retry_after="0"), Answer(429), Twice()),
        *(Cut("request", "body", 2), Cut("response", "head", 5, reset=True), Cut("response", "head", 0), Trickle(1)),
    )
    for number, fault in enumerate(faults):
        unbroken_proxy.plan = Script(fault, only=is_post)
        page.evaluate("(number) => (window.writer ??= producer('/a')).send(number)", number)
        assert lab.read("/a") == list(range(number + 1)), fault


class TestSmallBodies:
    """The server takes but little at once."""

    @pytest.fixture
    def unbroken_settings(self) -> Settings:
        return Settings(max_body=4096)

    @pytest.mark.usefixtures("expects_refusals")
    def test_a_refused_message_is_told_and_the_others_are_written(self, page: Page, lab: Lab) -> None:
        lab.create("/a")
        lab.open(page)
        outcomes = page.evaluate("""async () => {
            const writer = producer('/a', { batchBytes: 1 })
            const results = await Promise.allSettled([1, ['x'.repeat(5000)], 2].map((data) => writer.send(data)))
            await writer.flush()
            return results.map(({ status, reason }) => reason?.status ?? status)
        }""")
        assert outcomes == ["fulfilled", 413, "fulfilled"]
        assert lab.read("/a") == [1, 2]

    def test_closing_with_too_much_can_be_tried_again(self, page: Page, chromium: Chromium, lab: Lab) -> None:
        chromium.expect_errors(FAILED)
        lab.create("/a")
        lab.open(page)
        page.evaluate("window.writer = producer('/a'); 0")
        assert run(page, "await writer.close(['x'.repeat(5000)])")["status"] == 413
        page.evaluate("writer.send(1)")
        page.evaluate("writer.close()")
        assert lab.read("/a") == [1]


class TestWithAQuota:
    """What the streams may hold is held."""

    @pytest.fixture
    def unbroken_settings(self) -> Settings:
        return Settings(quota=(PathQuota("/*", total_bytes=10),))

    @pytest.mark.usefixtures("expects_refusals")
    def test_a_message_that_finds_no_room_is_told(self, page: Page, lab: Lab) -> None:
        lab.create("/a")
        lab.open(page)
        page.evaluate("""() => {
            const writer = producer('/a', { batchBytes: 1 })
            Promise.allSettled([1, 'x'.repeat(10), 2].map((data) => writer.send(data))).then((results) => {
                window.outcomes = results.map(({ status, reason }) => reason?.code ?? status)
            })
        }""")
        outcomes = page.wait_for_function("window.outcomes").json_value()
        assert outcomes == ["fulfilled", "path-quota-exceeded", "fulfilled"]
        assert lab.read("/a") == [1, 2]


def test_who_listens_for_errors_may_leave_promises_alone(page: Page, chromium: Chromium, lab: Lab) -> None:
    """Also one who fails at it; but otherwise nothing is swallowed."""
    chromium.expect_errors(FAILED, "of the listener", "no stream at this path")
    lab.open(page)
    page.evaluate("""() => {
        window.heard = []
        const onError = (error, data) => {
            heard.push([error.code ?? error.message, data])
            throw new Error('of the listener')
        }
        window.writer = producer('/a', { onError })
        for (const data of [1, [2]]) writer.send(data)
        writer.flush().catch(() => 0)
    }""")
    page.wait_for_function("heard.length === 2")
    lab.create("/a")
    page.evaluate("writer.close(3)")
    page.evaluate("() => { writer.send(4) }")
    expected = [["stream-not-found", 1], ["stream-not-found", [2]], ["the producer is closed", 4]]
    assert page.evaluate("heard") == expected
    assert lab.read("/a") == [3]
    assert sum("of the listener" in error for error in chromium.errors) == 3
    page.evaluate("() => { producer('/b').send(1) }")
    while not any("no stream at this path" in error for error in chromium.errors):
        page.wait_for_timeout(5)


@pytest.mark.usefixtures("expects_refusals")
def test_a_refusal_after_an_answer_was_lost_costs_no_later_message(
    page: Page, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    """The refused one was written. Under its number the next would pass for a repetition, and be dropped."""
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Script(Answer(502, after=True), Answer(403), only=is_post)
    page.evaluate("window.writer = producer('/a'); 0")
    assert run(page, "await writer.send(1)")["status"] == 403
    page.evaluate("writer.send(2)")
    page.evaluate("writer.send(3)")
    assert lab.read("/a") == [1, 2, 3]
    # An id of the page's own has epochs of its own, and it is for the page to begin the next one.
    unbroken_proxy.plan = Script(Answer(403), Answer(502, after=True), Answer(403), only=is_post)
    page.evaluate("window.writer = producer('/a', { id: 'me' }); 0")
    assert run(page, "await writer.send([4])")["status"] == 403
    assert run(page, "await writer.send([5])")["status"] == 403
    assert run(page, "await writer.send([6])")["status"] == 403
    page.evaluate("producer('/a', { id: 'me', epoch: 1 }).send([7])")
    assert lab.read("/a") == [1, 2, 3, [5], [7]]


@pytest.mark.usefixtures("expects_refusals")
def test_a_fenced_producer_stays_fenced(page: Page, lab: Lab) -> None:
    lab.create("/a")
    lab.open(page)
    page.evaluate("window.old = producer('/a', { id: 'me' }); old.send(1)")
    page.evaluate("producer('/a', { id: 'me', epoch: 1 }).send(2)")
    for number in (3, 4):
        error = run(page, f"await old.send({number})")
        assert (error["status"], error["code"]) == (403, "stale-producer-epoch")
    assert lab.read("/a") == [1, 2]


@pytest.mark.usefixtures("expects_refusals")
def test_a_producer_goes_on_where_the_stream_was_made_anew(page: Page, lab: Lab) -> None:
    """What met the gap is told as not written."""
    lab.create("/a")
    lab.open(page)
    page.evaluate("window.writer = producer('/a'); writer.send(1)")
    lab.delete("/a")
    lab.create("/a")
    assert run(page, "await writer.send(2)")["code"] == "producer-sequence-gap"
    page.evaluate("writer.send(3)")
    lab.delete("/a")
    assert run(page, "await writer.send(4)")["code"] == "stream-not-found"
    lab.create("/a")
    page.evaluate("writer.send(5)")
    assert lab.read("/a") == [5]


@pytest.mark.usefixtures("expects_refusals")
def test_closing(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.open(page)
    for path, final, expected in (("/a", "3", [1, 2, 3]), ("/b", "", [1, 2])):
        lab.create(path)
        unbroken_proxy.plan = Script(Answer(502, after=True), only=is_post)
        page.evaluate(f"window.writer = producer('{path}'); writer.send(1); writer.send(2); writer.close({final})")
        assert lab.read(path) == expected
        assert page.evaluate(f"append('{path}', undefined, {{ close: true }})")["closed"]
        assert run(page, "await writer.send(4)")["message"] == "the producer is closed"


@pytest.mark.parametrize("how", ["writer.stop()", "stopping.abort()"])
def test_stopping(page: Page, lab: Lab, unbroken_proxy: FaultyProxy, how: str) -> None:
    """What has no answer fails; nothing more is sent."""
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Script(Delay(3600), only=is_post)
    page.evaluate("""() => {
        window.stopping = new AbortController()
        window.writer = producer('/a', { signal: stopping.signal, batchBytes: 1 })
        window.results = Promise.allSettled([writer.send(1), writer.send(2)])
    }""")
    page.evaluate(how)
    names = page.evaluate("results.then((results) => results.map(({ reason }) => reason?.name))")
    assert names == ["AbortError", "AbortError"]
    assert run(page, "await writer.send(3)")["name"] == "AbortError"
    assert lab.read("/a") == []


def test_what_waits_is_bounded(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Script(Delay(0.2), only=is_post)
    outcomes = page.evaluate("""async () => {
        const writer = producer('/a', { waitingBytes: 100, contentType: 'application/json' })
        const results = await Promise.allSettled(Array.from({ length: 30 }, () => writer.send('x'.repeat(8))))
        await writer.flush()
        return results.map(({ status, reason }) => reason?.message ?? status)
    }""")
    written = outcomes.count("fulfilled")
    assert 10 <= written < 15
    assert outcomes[written:] == ["too much is waiting"] * (30 - written)
    assert lab.read("/a") == ["x" * 8] * written
