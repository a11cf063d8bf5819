"""``follow`` of `unbroken.js` over bad networks: it goes on, and everything comes once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser import Chromium
from tests.pages.lab import JSON, TEXT, Lab, Recorder, follow, live, text, told
from unbroken.server.settings import Settings
from unbroken.testing.proxy import (
    Answer,
    Buffer,
    Cut,
    Fault,
    FaultyProxy,
    ProxiedRequest,
    Script,
    Stall,
    Trickle,
    Truncate,
    Weather,
)

FAILED = "Failed to load resource"
STALL = Stall("response", "body", 200)
"""The first control event comes, and what follows it does not come whole."""


def is_read(request: ProxiedRequest) -> bool:
    return "offset=" in request.target


def is_sse(request: ProxiedRequest) -> bool:
    return request.is_sse


@pytest.mark.parametrize(
    ("mode", "faults"),
    [
        ("sse", (Answer(502), Answer(503, retry_after="0"), Answer(429, retry_after="0"))),
        ("long-poll", (Answer(500), Answer(504), Answer(503))),
    ],
)
def test_errors_of_proxies_pass(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy, mode: str, faults: tuple[Fault, ...]
) -> None:
    """At the first request, and when it connects again, where a browser's own EventSource gives up."""
    chromium.expect_errors(FAILED)
    lab.create("/a", JSON, b"[0]")
    lab.open(page)
    script = Script(*faults, only=is_read)
    unbroken_proxy.plan = script
    follow(page, "/a", {"live": mode})
    live(page)
    assert script.left == 0
    script = Script(*faults, only=is_read)
    unbroken_proxy.plan = script
    unbroken_proxy.cut_all()
    lab.append("/a", b"[1, 2]")
    assert told(page, "messages", 3) == [0, 1, 2]
    assert script.left == 0
    live(page)
    statuses = told(page, "statuses", 0)
    assert statuses[:8] == ["connecting", *["waiting", "connecting"] * 3, "live"]
    assert set(statuses[8:]) == {"waiting", "connecting", "live"}


def test_the_server_says_when_to_come_back(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    chromium.expect_errors(FAILED)
    lab.create("/a", JSON, b"[0]")
    lab.open(page)
    for fault, least_ms, most_ms in (
        (Answer(429, retry_after="20"), 20_000, 20_250),
        (Answer(503, retry_after="Fri, 31 Dec 9999 23:59:59 GMT"), 300_000, 300_250),
        (Answer(503, retry_after="soon"), 1, 250),
    ):
        unbroken_proxy.plan = Script(fault, only=is_read)
        script = "{ onStatus: (now, { error, delayMs }) => { if (error) told.delay = [error.status, delayMs] } }"
        follow(page, "/a", script=script)
        page.wait_for_function("told.delay")
        status, delay_ms = page.evaluate("reading.stop(), told.delay")
        assert status == fault.status
        assert least_ms <= delay_ms <= most_ms


def test_events_that_are_cut_anywhere_are_read_again(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    """Also where the end of the response pretends to be in order."""
    chromium.expect_errors(FAILED)
    ways: list[Callable[[int], Fault]] = [
        lambda at_bytes: Cut("response", "body", at_bytes, reset=True),
        lambda at_bytes: Cut("response", "body", at_bytes),
        Truncate,
    ]
    lab.create("/a", TEXT)
    follow(lab.open(page), "/a")
    expected = ""
    for number, at_bytes in enumerate(range(0, 330, 30)):
        live(page)
        script = Script(ways[number % len(ways)](at_bytes), only=is_sse)
        unbroken_proxy.plan = script
        unbroken_proxy.cut_all()
        page.wait_for_function("told.statuses.at(-1) !== 'live'")
        expected += f"{number}€\nx\n"
        lab.append("/a", f"{number}€\nx\n".encode(), TEXT)
        text(page, expected)
    assert unbroken_proxy.counts["truncate"]
    assert unbroken_proxy.counts["cut-response-body-rst"]
    assert unbroken_proxy.counts["cut-response-body-fin"]


def test_events_that_come_byte_by_byte(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    unbroken_proxy.plan = Script(only=is_sse, then=Trickle(1))
    lab.create("/a", TEXT)
    follow(lab.open(page), "/a")
    live(page)
    lab.append("/a", "😀€é\n\nx".encode(), TEXT)
    text(page, "😀€é\n\nx")


@pytest.mark.parametrize("fault", [Buffer(), Buffer(head=True)], ids=["body", "head"])
def test_long_polls_where_events_are_held_back(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy, fault: Fault
) -> None:
    unbroken_proxy.plan = recorder = Recorder(Script(only=is_sse, then=fault))
    lab.create("/a", JSON, b"[0]")
    follow(lab.open(page), "/a", {"sseTimeoutMs": 200})
    page.wait_for_function("told.statuses.includes('waiting')")
    for number in (1, 2):
        lab.append("/a", b"[%d]" % number)
        assert told(page, "messages", number + 1) == list(range(number + 1))
    targets = [request.target for request in recorder.requests]
    assert sum("live=sse" in target for target in targets) == 1
    assert sum("live=long-poll" in target for target in targets) >= 2
    # Long-polls that fail are no better: back to events.
    chromium.expect_errors(FAILED)
    unbroken_proxy.plan = lambda request: Answer(502) if "live=long-poll" in request.target else Trickle(64)
    unbroken_proxy.cut_all()
    lab.append("/a", b"[3]")
    assert told(page, "messages", 4) == [0, 1, 2, 3]


def test_a_connection_that_is_silent_too_long_is_dead(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    unbroken_proxy.plan = Script(STALL, only=is_sse)
    page.clock.install()
    lab.create("/a", JSON, b"[0]")
    follow(lab.open(page), "/a")
    told(page, "controls", 2)
    lab.append("/a", b"[1]")
    while not unbroken_proxy.counts["stall-response"]:
        page.wait_for_timeout(5)
    page.clock.fast_forward(44_000)
    assert told(page, "statuses", 0)[-1] == "live"
    page.clock.fast_forward(2_000)
    assert told(page, "messages", 2) == [0, 1]


def test_a_tab_that_wakes_up_does_not_trust_a_connection_that_was_quiet(
    page: Page, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    unbroken_proxy.plan = Script(STALL, only=is_sse)
    page.clock.install()
    lab.create("/a", JSON, b"[0]")
    follow(lab.open(page), "/a")
    told(page, "controls", 2)
    lab.append("/a", b"[1]")
    while not unbroken_proxy.counts["stall-response"]:
        page.wait_for_timeout(5)
    page.clock.pause_at(page.evaluate("Date.now() / 1000 + 21"))
    assert told(page, "statuses", 0)[-1] == "live"
    page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
    page.wait_for_function("told.statuses.at(-1) !== 'live'")
    page.clock.run_for(250)
    assert told(page, "messages", 2) == [0, 1]


def test_it_connects_at_once_when_the_network_is_back(page: Page, chromium: Chromium, lab: Lab) -> None:
    """Although, after so many failures, it would wait for seconds: the page's time stands still."""
    chromium.expect_errors("ERR_INTERNET_DISCONNECTED", "ERR_NETWORK_CHANGED")
    page.clock.install()
    lab.create("/a", JSON, b"[0]")
    script = "{ onStatus: (now, { delayMs }) => { told.statuses.push(now); told.delayMs = delayMs } }"
    follow(lab.open(page), "/a", script=script)
    told(page, "controls", 2)
    chromium.context.set_offline(True)
    lab.append("/a", b"[1]")
    page.evaluate("dispatchEvent(new Event('online'))")  # as other networks come and go
    while (page.evaluate("told.delayMs") or 0) < 15_000:
        page.clock.run_for(1_000)
    page.clock.pause_at(page.evaluate("Date.now() / 1000 + 0.1"))
    assert told(page, "statuses", 0)[-1] == "waiting"
    chromium.context.set_offline(False)
    assert told(page, "messages", 2) == [0, 1]


class TestServersThatEndEarly:
    """Event streams and long-polls that last a moment."""

    @pytest.fixture
    def unbroken_settings(self) -> Settings:
        return Settings(sse_lifetime=0.4, long_poll_timeout=0.05)

    def test_an_event_stream_that_ends_in_good_order_is_no_failure(self, page: Page, lab: Lab) -> None:
        lab.create("/a", JSON, b"[0]")
        follow(lab.open(page), "/a")
        told(page, "controls", 5)
        lab.append("/a", b"[1]")
        assert told(page, "messages", 2) == [0, 1]
        assert told(page, "statuses", 0) == ["connecting", "live"]

    def test_answers_that_did_not_wait_are_not_asked_for_in_a_hurry(self, page: Page, lab: Lab) -> None:
        lab.create("/a", JSON, b"[0]")
        follow(lab.open(page), "/a", {"live": "long-poll"})
        page.wait_for_function("told.statuses.includes('waiting')")
        lab.append("/a", b"[1]")
        assert told(page, "messages", 2) == [0, 1]


def test_answers_of_somebody_else_are_no_answers(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy
) -> None:
    """As in a hotel's network, whose page has a 200."""
    chromium.expect_errors(FAILED)
    lab.create("/a", JSON, b"[0]")
    follow(lab.open(page), "/a")
    live(page)
    script = Script(Answer(200), Answer(200), Answer(200), only=is_read)
    unbroken_proxy.plan = script
    unbroken_proxy.cut_all()
    lab.append("/a", b"[1]")
    assert told(page, "messages", 2) == [0, 1]
    assert script.left == 0


def test_what_was_made_anew_is_not_taken_from_the_cache(page: Page, lab: Lab, unbroken_proxy: FaultyProxy) -> None:
    """Though it may be used after asking."""
    lab.create("/a", JSON, b"[0]")
    lab.open(page)
    unbroken_proxy.plan = recorder = Recorder()
    for expected in ([0], [0]):
        follow(page, "/a", {"live": False})
        page.evaluate("reading.done")
        assert told(page, "messages", 0) == expected
    assert ["if-none-match" in request.fields for request in recorder.requests] == [False, True]
    lab.delete("/a")
    lab.create("/a", JSON, b"[1]")
    follow(page, "/a", {"live": False})
    page.evaluate("reading.done")
    assert told(page, "messages", 0) == [1]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)])
def test_everything_comes_once_in_any_weather(
    page: Page, chromium: Chromium, lab: Lab, unbroken_proxy: FaultyProxy, seed: int
) -> None:
    """Written and read by the page at the same time."""
    chromium.expect_errors(FAILED)
    count = 300
    lab.create("/a")
    lab.open(page)
    unbroken_proxy.plan = Weather(seed, rate=0.4)
    follow(page, "/a", {"sseTimeoutMs": 500, "silenceTimeoutMs": 1000})
    page.evaluate(
        """async (count) => {
            const writer = producer("/a", { batchBytes: 30, timeoutMs: 1000 })
            for (let number = 0; number < count; number++) writer.send({ number, text: "€\\n" })
            await writer.close()
            await reading.done
        }""",
        count,
    )
    expected = [{"number": number, "text": "€\n"} for number in range(count)]
    assert told(page, "messages", 0) == expected
    assert lab.read("/a") == expected
    assert sum(unbroken_proxy.counts.values()) - unbroken_proxy.counts["pass"] > 20
