"""``follow`` of `unbroken.js` in pages that are loaded again and again."""

from __future__ import annotations

import random

from playwright.sync_api import Page

from tests.pages.lab import JSON, TEXT, Lab, follow, live, text, told

KEEPING = """addEventListener("DOMContentLoaded", async () => {
    const { follow } = await import("/-/unbroken.js")
    // What has come is kept beside the position, and outlives the page as that does.
    const kept = JSON.parse(sessionStorage.getItem("kept") ?? "[]")
    follow("/a", {
        storageKey: "position",
        onMessage: (message) => {
            kept.push(message)
            sessionStorage.setItem("kept", JSON.stringify(kept))
        },
    })
})"""


def test_each_message_comes_once_however_often_the_page_is_loaded(page: Page, lab: Lab) -> None:
    """At any moment: also while a batch is on its way."""
    chance = random.Random(1)
    lab.create("/a")
    page.add_init_script(KEEPING)
    page.goto(f"{lab.url}/-/health")
    sent = 0
    for _ in range(12):
        for _ in range(chance.randrange(4)):
            count = chance.choice((1, 7, 400))
            lab.append("/a", str([*range(sent, sent + count)]).encode())
            sent += count
        page.wait_for_timeout(chance.randrange(40))
        page.reload()
    page.wait_for_function("(sent) => JSON.parse(sessionStorage.getItem('kept'))?.at(-1) === sent - 1", arg=sent)
    assert page.evaluate("JSON.parse(sessionStorage.getItem('kept'))") == list(range(sent))


def test_a_new_page_goes_on_within_a_batch(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b"[0,1,2,3,4,5]")
    stopping = "{ onMessage: (message) => { told.messages.push(message); if (message === 3) reading.stop() } }"
    follow(lab.open(page), "/a", {"storageKey": "key"}, stopping)
    page.evaluate("reading.done")
    assert told(page, "messages", 4) == [0, 1, 2, 3]
    follow(lab.open(page), "/a", {"storageKey": "key", "offset": "now"})
    assert told(page, "messages", 2) == [4, 5]
    live(page)
    lab.append("/a", b"[6]")
    assert told(page, "messages", 3) == [4, 5, 6]


def test_the_position_of_a_callback_that_takes_time_is_kept_when_it_is_done(page: Page, lab: Lab) -> None:
    lab.create("/a", JSON, b"[0,1,2]")
    waiting = (
        "{ onMessage: (message) => { told.messages.push(message); return message === 1 ? new Promise(() => 0) : 0 } }"
    )
    follow(lab.open(page), "/a", {"storageKey": "key"}, waiting)
    assert told(page, "messages", 2) == [0, 1]
    assert page.evaluate("sessionStorage.getItem('key')") == "-1,1"
    follow(lab.open(page), "/a", {"storageKey": "key"})
    assert told(page, "messages", 2) == [1, 2]


def test_another_storage(page: Page, lab: Lab) -> None:
    lab.create("/a", TEXT, "€uro".encode())
    follow(lab.open(page), "/a", {"storageKey": "key"}, "{ storage: localStorage }")
    text(page, "€uro")
    live(page)
    assert page.evaluate("[sessionStorage.length, localStorage.getItem('key')]") == [
        0,
        page.evaluate("reading.position"),
    ]
    page.evaluate("reading.stop()")
    lab.append("/a", b" more", TEXT)
    follow(lab.open(page), "/a", {"storageKey": "key"}, "{ storage: localStorage }")
    text(page, " more")
