"""``follow`` of `unbroken.js`: what a page is told of a stream, and when."""

from __future__ import annotations

import itertools

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import BYTES, JSON, TEXT, Lab, ended, follow, live, text, told
from unbroken.server.settings import Settings
from unbroken.testing.proxy import Answer, FaultyProxy, ProxiedRequest, Script

MODES = ["auto", "sse", "long-poll"]
COUNT = 1000
NUMBERS = f"[{','.join(map(str, range(COUNT)))}]".encode()


def is_read(request: ProxiedRequest) -> bool:
    return "offset=" in request.target


def is_live(request: ProxiedRequest) -> bool:
    return "live=" in request.target


@pytest.mark.parametrize("mode", MODES)
def test_messages_come_one_by_one(page: Page, lab: Lab, mode: str) -> None:
    lab.create("/a", JSON, b'[{"n":1}, [2, 3], "four\\r\\n", null]')
    follow(lab.open(page), "/a", {"live": mode})
    assert told(page, "messages", 4) == [{"n": 1}, [2, 3], "four\r\n", None]
    live(page)
    lab.append("/a", b"[5, [], 6]")
    assert told(page, "messages", 7)[4:] == [5, [], 6]
    lab.close("/a")
    page.evaluate("reading.done")
    assert told(page, "statuses", 3) == ["connecting", "live", "ended"]
    assert page.evaluate("[reading.closed, reading.contentType]") == [True, JSON]
    assert told(page, "errors", 0) == []
    last = told(page, "controls", 1)[-1]
    assert last == {"offset": page.evaluate("reading.position"), "upToDate": True, "closed": True}


@pytest.mark.parametrize("mode", MODES)
def test_text_comes_as_strings_and_the_rest_as_bytes(page: Page, lab: Lab, mode: str) -> None:
    lab.create("/text", "text/markdown; charset=utf-8", b"one ")
    lab.create("/bytes", BYTES, bytes(range(256)))
    lab.open(page)
    for path, content_type, before, more, after in (
        ("/text", "text/markdown", "one ", "zwei €".encode(), "zwei €"),
        ("/bytes", BYTES, list(range(256)), b"\x00\xff\n", [0, 255, 10]),
    ):
        follow(page, path, {"live": mode})
        live(page)
        lab.append(path, more, content_type)
        assert told(page, "messages", 2) == [before, after]
        lab.close(path)
        page.evaluate("reading.done")


@pytest.mark.parametrize("mode", MODES)
def test_text_is_not_cut_inside_a_character(page: Page, lab: Lab, mode: str) -> None:
    """However the bytes of one were appended, and wherever reading begins again."""
    euro, smile = "€".encode(), "😀".encode()
    lab.create("/a", TEXT, b"a" + euro[:1])
    follow(lab.open(page), "/a", {"live": mode, "storageKey": "a"})
    assert told(page, "messages", 1) == ["a"]
    live(page)
    lab.append("/a", euro[1:2], TEXT)
    told(page, "controls", 2)
    follow(lab.open(page), "/a", {"live": mode, "storageKey": "a"})
    live(page)
    lab.append("/a", euro[2:] + smile[:3], TEXT)
    assert told(page, "messages", 1) == ["€"]
    lab.open(page)  # again
    follow(page, "/a", {"live": mode, "storageKey": "a"})
    lab.append("/a", smile[3:] + b"b", TEXT)
    text(page, "😀b")
    lab.append("/a", euro[:2], TEXT)
    lab.close("/a")
    page.evaluate("reading.done")
    text(page, "😀b\ufffd")


def test_what_line_ends_become(page: Page, lab: Lab) -> None:
    """Event streams know but one line end; everything else is exact."""
    forged = b"a\rb\r\nc\n\nevent: control\ndata:{}\r\r\n\n"
    lab.create("/a", TEXT, b"x")
    lab.open(page)
    for mode, expected in (("sse", forged.replace(b"\r\n", b"\n").replace(b"\r", b"\n")), ("long-poll", forged)):
        follow(page, "/a", {"live": mode, "offset": "now"})
        told(page, "controls", 2 if mode == "sse" else 1)
        lab.append("/a", forged, TEXT)
        text(page, expected.decode())
        page.evaluate("reading.stop()")


class TestSmallPages:
    """Catching up takes several answers."""

    @pytest.fixture
    def unbroken_settings(self) -> Settings:
        return Settings(page_size=512)

    @pytest.mark.parametrize(("mode", "offset"), [(False, "-1"), (False, "now"), ("auto", "-1")])
    def test_all_that_is_there_is_read(self, page: Page, lab: Lab, mode: object, offset: str) -> None:
        lab.create("/a", JSON, NUMBERS)
        follow(lab.open(page), "/a", {"live": mode, "offset": offset})
        if mode:
            lab.close("/a")
        page.evaluate("reading.done")
        assert told(page, "messages", 0) == (list(range(COUNT)) if offset == "-1" else [])
        ended(page)

    @pytest.mark.parametrize("content_type", [JSON, TEXT, BYTES])
    def test_every_position_goes_on_exactly_there(self, page: Page, lab: Lab, content_type: str) -> None:
        content = "aé€😀" * (300 if content_type != JSON else 12)
        body = "[" + ",".join(f'"{character}"' for character in content) + "]" if content_type == JSON else content
        lab.create("/a", content_type, body.encode())
        follow(lab.open(page), "/a", {"live": False})
        page.evaluate("reading.done")
        messages, positions = told(page, "messages", 1), told(page, "positions", 1)
        assert len(messages) > 4
        assert len(set(positions)) == len(positions)
        for index in range(0, len(positions), max(1, len(positions) // 8)):
            follow(page, "/a", {"live": False, "offset": positions[index]})
            page.evaluate("reading.done")
            assert told(page, "messages", 0) == messages[index + 1 :]

    def test_positions_hold_when_pages_become_smaller(self, page: Page, lab: Lab) -> None:
        lab.open(page)
        for path, content_type, expected in (
            ("/a", JSON, list(range(600, COUNT))),
            ("/text", TEXT, list(NUMBERS[600:].decode())),
            ("/bytes", BYTES, list(NUMBERS[600:])),
        ):
            lab.create(path, content_type, NUMBERS)
            follow(page, path, {"live": False, "offset": "-1,600"})
            page.evaluate("reading.done")
            found = told(page, "messages", 0)
            assert (found if content_type == JSON else [item for chunk in found for item in chunk]) == expected


def test_a_position_beyond_the_end_is_refused(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b"[1,2,3]")
    follow(lab.open(page), "/a", {"offset": "-1,4"})
    page.evaluate("reading.done.catch(() => 0)")
    assert [error["code"] for error in told(page, "errors", 1)] == ["invalid-offset"]
    assert told(page, "messages", 0) == []


def test_what_is_refused_is_told_once(page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    """At the first request, and later on; where it is the position that is refused, that is given up."""
    lab.create("/a", JSON, b"[1]")
    lab.open(page)
    for status in (400, 401, 403, 404, 405, 410):
        chromium.expect_errors(f"{status}")
        for mode, at_once in itertools.product(MODES, (True, False)):
            unbroken_proxy.plan = Script(only=is_read if at_once else is_live, then=Answer(status))
            unbroken_proxy.counts.clear()
            page.evaluate("sessionStorage.setItem('key', '-1,0')")
            follow(page, "/a", {"live": mode, "storageKey": "key"})
            page.evaluate("reading.done.catch(() => 0)")
            ended(page)
            (error,) = told(page, "errors", 1)
            assert (error["name"], error["status"]) == ("StreamError", status)
            assert told(page, "messages", 0) == ([] if at_once else [1])
            assert unbroken_proxy.counts[f"answer-{status}"] == 1
            kept = page.evaluate("sessionStorage.getItem('key')")
            assert (kept is None) == (status in (400, 404, 410))


def test_the_servers_own_words_are_told(page: Page, chromium: Chromium, lab: Lab) -> None:
    chromium.expect_errors("404", "410")
    follow(lab.open(page), "/missing")
    (error,) = told(page, "errors", 1)
    assert (error["status"], error["code"]) == (404, "stream-not-found")
    assert error["message"]
    lab.create("/a", JSON, b"[1]")
    follow(page, "/a")
    told(page, "controls", 2)
    lab.delete("/a")
    lab.create("/a", JSON, b"[2]")
    (error,) = told(page, "errors", 1)
    assert (error["status"], error["code"]) == (410, "offset-gone")
    assert told(page, "messages", 1) == [1]


def test_a_url_that_is_no_stream_is_told(page: Page, lab: Lab) -> None:
    follow(lab.open(page), "/-/health")
    (error,) = told(page, "errors", 1)
    assert (error["status"], error["code"]) == (200, "not-a-stream")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["reading.stop()", "stopping.abort()"])
def test_stopping_leaves_no_request(page: Page, lab: Lab, unbroken_proxy: FaultyProxy, mode: str, how: str) -> None:
    lab.create("/a", JSON, b"[1]")
    script = "{ signal: (window.stopping = new AbortController()).signal }"
    follow(lab.open(page), "/a", {"live": mode}, script)
    told(page, "controls", 1 if mode == "long-poll" else 2)
    page.evaluate(f"{how}; reading.done")
    ended(page)
    assert told(page, "errors", 0) == []
    for _ in range(1000):
        if unbroken_proxy.counts["left"]:
            break
        page.wait_for_timeout(5)
    assert unbroken_proxy.counts["left"] == 1
    lab.append("/a", b"[2]")
    follow(page, "/a", {"live": False})
    page.evaluate("reading.done")
    assert told(page, "messages", 2) == [1, 2]


def test_a_signal_that_is_over_already(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    lab.create("/a", JSON, b"[1]")
    lab.open(page)
    before = unbroken_proxy.requests
    follow(page, "/a", script="{ signal: AbortSignal.abort() }")
    page.evaluate("reading.done")
    assert told(page, "statuses", 1) == ["ended"]
    assert unbroken_proxy.requests == before


def test_stopping_within_a_batch(page: Page, lab: Lab) -> None:
    """The position is right after the message at which it was stopped."""
    lab.create("/a", JSON, b"[0,1,2,3,4,5]")
    lab.open(page)
    script = "{ onMessage: (message) => { told.messages.push(message); if (message % 2) reading.stop() } }"
    follow(page, "/a", script=script)
    page.evaluate("reading.done")
    assert page.evaluate("reading.position") == "-1,2"
    follow(page, "/a", {"offset": page.evaluate("reading.position")}, script)
    page.evaluate("reading.done")
    assert (page.evaluate("told.messages"), page.evaluate("reading.position")) == ([2, 3], "-1,4")


@pytest.mark.parametrize("promise", ["", "async "])
def test_an_error_of_the_page_ends_reading(page: Page, lab: Lab, promise: str) -> None:
    """It is not swallowed, and the message that it came from is not counted as read."""
    lab.create("/a", JSON, b"[1,2,3]")
    lab.open(page)
    script = f"{{ onMessage: {promise}(message) => {{ if (message === 3) throw new Error('mine') }} }}"
    follow(page, "/a", {"storageKey": "key"}, script)
    assert page.evaluate("reading.done.catch((error) => error.message)") == "mine"
    assert [error["message"] for error in told(page, "errors", 1)] == ["mine"]
    assert page.evaluate("[reading.position, sessionStorage.getItem('key')]") == ["-1,2", "-1,2"]


def test_an_error_that_nobody_asked_for_is_heard(page: Page, chromium: Chromium, lab: Lab) -> None:
    chromium.expect_errors("404", "no stream at this path")
    lab.open(page)
    page.evaluate("follow('/missing'); 0")
    page.wait_for_event("console")
    while not any("no stream at this path" in error for error in chromium.errors):
        page.wait_for_timeout(5)


def test_a_promise_is_waited_for(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b"[1,2,3]")
    script = """{ onMessage: async (message) => {
        told.messages.push(`begin ${message}`)
        await new Promise((resolve) => (window.next = resolve))
        told.messages.push(`end ${message}`)
    } }"""
    follow(lab.open(page), "/a", script=script)
    for number in (1, 2, 3):
        assert told(page, "messages", 2 * number - 1)[-1] == f"begin {number}"
        page.evaluate("next()")
    assert told(page, "messages", 6) == [f"{word} {number}" for number in (1, 2, 3) for word in ("begin", "end")]


def test_batches_come_at_once_for_who_wants_them(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b"[1,2]")
    follow(lab.open(page), "/a", script="{ onData: (data) => told.messages.push(data), onMessage: undefined }")
    told(page, "controls", 2)
    lab.append("/a", b"[3,4,[5]]")
    assert told(page, "messages", 2) == [[1, 2], [3, 4, [5]]]


def test_a_worker_follows_too(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b'["in", "a", "worker"]')
    lab.open(page)
    code = """
        const { follow } = await import(`${location.origin}/-/unbroken.js`)
        const found = []
        await follow(`${location.origin}/a`, { live: false, onMessage: (message) => found.push(message) }).done
        postMessage(found)
    """
    found = page.evaluate(
        """(code) => new Promise((resolve, reject) => {
            const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }))
            const worker = new Worker(url, { type: "module" })
            worker.onmessage = ({ data }) => resolve(data)
            worker.onerror = ({ message }) => reject(new Error(message))
        })""",
        code,
    )
    assert found == ["in", "a", "worker"]


EVENTS = """\ufeff: a comment
retry: 1
unknown

event:data
data: [1,
data:2]
id: x

event: data
data:[3]

event: other
data: {}

event: control
data: {"streamNextOffset": "b", "streamCursor": "7"}

event: data
data: [4]

event: control
data:{"streamNextOffset":"c","streamClosed":true}

event: data
data:[5]
"""
ANSWERED = """([events, pieceBytes]) => new Promise((resolve) => {
    const bytes = new TextEncoder().encode(events)
    const pieces = Array.from({ length: Math.ceil(bytes.length / pieceBytes) }, (_, index) =>
        bytes.subarray(index * pieceBytes, (index + 1) * pieceBytes))
    const headers = { "Content-Type": "application/json", "Stream-Next-Offset": "a", "Stream-Up-To-Date": "true" }
    const answers = [new Response("[0]", { headers }), new Response(
        new ReadableStream({ pull: (sink) => (pieces.length ? sink.enqueue(pieces.shift()) : sink.close()) }),
        { headers: { "Content-Type": "text/event-stream; charset=utf-8" } },
    )]
    const asked = []
    const found = []
    follow("/a", {
        fetch: async (url) => (asked.push(url.search), answers.shift()),
        onMessage: (message, position) => found.push([message, position]),
    }).done.then(() => resolve({ asked, found }))
})"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_events_as_other_servers_write_them(page: Page, lab: Lab, line_end: str) -> None:
    """Cut anywhere. What comes before a control event is one batch, and what comes after the end is nothing."""
    lab.open(page)
    for piece_bytes in (1, 2, 3, 7, 1000):
        answered = page.evaluate(ANSWERED, [EVENTS.replace("\n", line_end), piece_bytes])
        assert answered["found"] == [[0, "a"], [1, "a,1"], [2, "a,2"], [3, "b"], [4, "c"]]
        assert answered["asked"] == ["?offset=-1", "?offset=a&live=sse"]
