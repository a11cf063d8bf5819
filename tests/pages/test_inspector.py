"""The Inspector, as somebody uses it who looks at streams: with mouse, keyboard and thumb, with and without rights."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.error import HTTPError

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.browser import Chromium
from tests.pages.lab import BYTES, JSON, TEXT, request
from tests.peers import PEERS, need_package, node
from tests.server.tokens import SECRET
from unbroken import tokens
from unbroken.asgi import create_app
from unbroken.server.settings import Settings
from unbroken.testing import Address, ServerProcess, serve_asgi

UI = Path(str(files("unbroken.server"))) / "static" / "ui"
LISTED = 200


def inspect(page: Page, url: str, path: str = "") -> Page:
    """Open the Inspector, at a stream if one is named."""
    page.goto(f"{url}/-/ui" + (f"#{path}" if path else ""))
    return page


def rows(page: Page) -> Locator:
    """The messages that are shown."""
    return page.locator(".row summary")


def listed(page: Page) -> Locator:
    """The paths in the list."""
    return page.locator("#list .path")


def live(page: Page) -> None:
    """Wait until what is appended would be shown."""
    expect(page.locator(".follow")).to_have_attribute("data-state", "live")


@pytest.fixture
def url(unbroken_server: Address) -> str:
    return unbroken_server.url


# --- the list --------------------------------------------------------------------------------------------------------


def test_streams_are_listed_searched_and_paged_through(page: Page, url: str) -> None:
    for number in range(LISTED + 5):
        request("PUT", f"{url}/chats/{number:03d}", JSON)
    request("PUT", f"{url}/done", TEXT, b"x" * 1234, stream_closed="true")
    inspect(page, url, "/chats/150")
    expect(page.locator("#list [aria-current]")).to_be_in_viewport()
    expect(listed(page)).to_have_count(LISTED)
    expect(page.locator("#count")).to_have_text(f"{LISTED}+ streams")
    page.click("#more")
    expect(listed(page)).to_have_count(LISTED + 6)
    expect(page.locator("#list a").last).to_have_text("/donetext, closed1.2 kB")
    expect(page.locator("#more")).to_be_hidden()
    page.fill("#prefix", "chats/20")
    expect(listed(page)).to_have_text([f"/chats/{number}" for number in range(200, 205)])
    page.fill("#prefix", "/x")
    expect(page.locator("#count")).to_have_text("None begin so.")
    request("PUT", f"{url}/x/1", JSON)
    page.click("#refresh")
    expect(listed(page)).to_have_text(["/x/1"])


def test_by_keyboard_alone(page: Page, url: str) -> None:
    for path in ("/a", "/b", "/c"):
        request("PUT", url + path, JSON, b'["here"]')
    inspect(page, url)
    expect(listed(page)).to_have_count(3)
    for key in ("ArrowDown", "ArrowDown", "j", "k", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("h1")).to_have_text("/b")
    expect(page.locator("#list a[aria-current] .path")).to_have_text("/b")
    live(page)
    page.keyboard.press("f")
    expect(page.locator(".follow")).to_have_text("Follow")
    page.keyboard.press("v")
    expect(page.locator(".views [aria-pressed=true]")).to_have_text("Text")
    page.keyboard.press("f")
    live(page)
    page.keyboard.press("a")
    page.keyboard.type('"there"')
    page.keyboard.press("Control+Enter")
    expect(page.locator(".flow")).to_have_text('"here"\n"there"\n')
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("n")
    expect(page.locator("#create [name=path]")).to_be_focused()
    page.keyboard.type("d")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("/d")
    page.keyboard.press("Escape")
    expect(page.locator(".welcome")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#prefix")).to_be_focused()


# --- what is in a stream ---------------------------------------------------------------------------------------------


def test_messages_are_shown_as_they_are_and_as_they_come(page: Page, url: str) -> None:
    """JSON.parse would round the number and drop a key."""
    request("PUT", f"{url}/a", JSON, b'[12345678901234567890123, {"b":1,"b":[{},[]]}, "a\\u0000\\"b,]"]')
    inspect(page, url, "/a")
    expect(rows(page)).to_have_text(["12345678901234567890123", '{"b": 1, "b": [{}, []]}', '"a\\u0000\\"b,]"'])
    live(page)
    request("POST", f"{url}/a", JSON, b"[null, 1.50]")
    expect(rows(page)).to_have_count(5)
    expect(rows(page).last).to_have_text("1.50")
    rows(page).nth(1).click()
    expect(page.locator(".whole pre")).to_have_text('{\n  "b": 1,\n  "b": [\n    {},\n    []\n  ]\n}')
    page.get_by_role("button", name="Text").click()
    expect(page.locator(".flow")).to_contain_text('{"b":1,"b":[{},[]]}')
    page.get_by_role("button", name="Hex").click()
    expect(page.locator(".flow")).to_contain_text("5b 6e 75 6c 6c 2c 31 2e  35 30 5d                 [null,1.50]")
    request("POST", f"{url}/a", stream_closed="true")
    expect(page.locator(".ended")).to_be_visible()
    expect(page.locator(".composer, .follow, .head .close")).to_have_count(3)
    for hidden in page.locator(".composer, .follow, .head .close").all():
        expect(hidden).to_be_hidden()


def test_text_is_not_cut_inside_a_character(page: Page, url: str) -> None:
    """Neither where appends were nor where pieces are."""
    request("PUT", f"{url}/a", TEXT, b"a" + "€".encode() * 50_000)
    inspect(page, url, "/a")
    live(page)
    for part in ("ö".encode()[:1], "ö".encode()[1:], b" end\n"):
        request("POST", f"{url}/a", TEXT, part)
    expect(page.locator(".content")).to_contain_text("€ö end")
    while page.locator(".earlier").is_enabled():
        before = page.locator(".block").count()
        page.click(".earlier")
        expect(page.locator(".block")).to_have_count(before + 1)
    text = page.locator(".flow").text_content() or ""
    assert text == f"a{50_000 * '€'}ö end\n"


def test_bytes_are_dumped_at_their_positions(page: Page, url: str) -> None:
    request("PUT", f"{url}/a", BYTES, bytes(range(40)))
    inspect(page, url, "/a")
    live(page)
    request("POST", f"{url}/a", BYTES, b"\xff\x00zz")
    expect(page.locator(".block")).to_have_count(2)
    dump = page.locator(".flow").text_content() or ""
    assert "00000020  20 21 22 23 24 25 26 27" in dump
    assert "00000028  ff 00 7a 7a" in dump
    assert dump.endswith("··zz\n")


def test_paging_back_and_going_to_places(page: Page, url: str, chromium: Chromium) -> None:
    chromium.expect_errors("status of 400")
    count = 3000
    messages = [f'"{number:98d}"' for number in range(count)]
    request("PUT", f"{url}/a", JSON, f"[{','.join(messages)}]".encode())
    inspect(page, url, "/a")
    expect(rows(page).last).to_have_text(messages[-1])
    live(page)
    shown = rows(page).count()
    assert 0 < shown < count / 3
    page.click(".earlier")
    expect(rows(page)).not_to_have_count(shown)
    assert rows(page).all_text_contents() == messages[-rows(page).count() :]
    expect(page.locator(".where")).to_contain_text("303 kB of 303 kB")
    page.select_option(".jump", "beginning")
    expect(rows(page).first).to_have_text(messages[0])
    expect(page.locator(".earlier")).to_be_disabled()
    expect(page.locator(".follow")).to_have_text("Follow")
    shown = rows(page).count()
    page.click(".later")
    expect(rows(page)).not_to_have_count(shown)
    assert rows(page).all_text_contents() == messages[: rows(page).count()]
    page.click(".follow")
    expect(rows(page)).to_have_count(count)
    page.select_option(".jump", "time")
    page.fill("#jump [name=time]", "2027-01-01T00:00:00")
    page.click("#jump .primary")
    expect(page.locator(".empty")).to_be_visible()
    page.select_option(".jump", "offset")
    page.fill("#jump [name=offset]", "0000000000000001_0000000000000101")
    page.click("#jump .primary")
    expect(rows(page).first).to_have_text(messages[1])
    page.click(".earlier")
    expect(rows(page).first).to_have_text(messages[0])
    page.select_option(".jump", "offset")
    page.fill("#jump [name=offset]", "0000000000000001_0000000000000102")
    page.click("#jump .primary")
    expect(page.locator("#jump .problem")).to_have_text("The offset is inside a message.")
    page.click("#jump .cancel")
    page.select_option(".jump", "latest")
    expect(rows(page).last).to_have_text(messages[-1])
    live(page)


def test_a_burst_of_messages_does_not_stall_the_page(page: Page, url: str) -> None:
    request("PUT", f"{url}/a", JSON)
    inspect(page, url, "/a")
    live(page)
    for start in range(0, 100_000, 50_000):
        request("POST", f"{url}/a", JSON, json.dumps(list(range(start, start + 50_000))).encode())
    # Not by `expect`: it describes the page to itself again and again, which with so many rows takes minutes.
    last = "(text) => [...document.querySelectorAll('.row summary')].at(-1)?.textContent === text"
    page.wait_for_function(last, arg="99999")
    assert rows(page).count() < 40_000
    request("POST", f"{url}/a", JSON, b'"and on"')
    page.wait_for_function(last, arg='"and on"')


# --- what can be done ------------------------------------------------------------------------------------------------


def test_appending(page: Page, url: str, chromium: Chromium) -> None:
    chromium.expect_errors("status of 400")
    for path, content_type in (("/json", JSON), ("/text", TEXT), ("/bytes", BYTES)):
        request("PUT", url + path, content_type)
    inspect(page, url, "/json")
    live(page)
    page.fill(".composer textarea", '{"n": 1')
    page.click(".composer button")
    expect(page.locator(".toast.bad")).to_contain_text("JSON")
    expect(page.locator(".composer textarea")).to_have_value('{"n": 1')
    page.fill(".composer textarea", '[{"n": 1}, {"n": 2}]')
    page.click(".composer button")
    expect(rows(page)).to_have_text(['{"n": 1}', '{"n": 2}'])
    expect(page.locator(".composer textarea")).to_have_value("")
    inspect(page, url, "/text")
    live(page)
    page.set_input_files(".composer [type=file]", FilePayload(name="a.txt", mimeType="x/y", buffer="käse\n".encode()))
    expect(page.locator(".content")).to_contain_text("käse")
    inspect(page, url, "/bytes")
    live(page)
    page.fill(".composer textarea", "00 0")
    page.click(".composer button")
    expect(page.locator(".toast.bad").last).to_contain_text("hexadecimal")
    page.fill(".composer textarea", "00 FF 7a")
    page.click(".composer button")
    expect(page.locator(".content")).to_contain_text("00 ff 7a")
    assert request("GET", f"{url}/bytes") == b"\x00\xffz"


def test_creating_forking_closing_and_deleting(page: Page, url: str, chromium: Chromium) -> None:
    chromium.expect_errors("status of 400", "status of 404", "status of 409")
    inspect(page, url)
    page.click("#to-create")
    page.fill("#create [name=path]", "/a//b")
    page.click("#create .primary")
    expect(page.locator("#create .problem")).to_be_visible()
    page.fill("#create [name=path]", "/a b/ü?#%")
    page.fill("#create [name=text]", "[1,2,3]")
    page.fill("#create [name=ttl]", "600")
    page.click("#create .primary")
    expect(page.locator("h1")).to_have_text("/a b/ü?#%")
    expect(page.locator(".facts .lifetime")).to_have_text("600 s after each use")
    expect(listed(page)).to_have_text(["/a b/ü?#%"])
    page.click(".head .fork")
    page.fill("#fork [name=path]", "/fork")
    page.fill("#fork [name=offset]", "-1")
    page.fill("#fork [name=past]", "2")
    page.click("#fork .primary")
    expect(page.locator("h1")).to_have_text("/fork")
    expect(rows(page)).to_have_text(["1", "2"])
    page.click(".head .close")
    page.click("#confirm .cancel")
    expect(page.locator(".ended")).to_be_hidden()
    page.click(".head .close")
    page.click("#confirm .confirm")
    expect(page.locator(".ended")).to_be_visible()
    page.click(".head .delete")
    expect(page.locator("#confirm .subject")).to_have_text("/fork")
    page.keyboard.press("Escape")
    assert request("GET", f"{url}/fork") == b"[1,2]"
    page.click(".head .delete")
    page.click("#confirm .confirm")
    expect(listed(page)).to_have_text(["/a b/ü?#%"])
    with pytest.raises(HTTPError, match="404"):
        request("GET", f"{url}/fork")


def test_a_stream_that_is_not_there_or_goes_away(page: Page, url: str, chromium: Chromium) -> None:
    chromium.expect_errors("status of 404")
    inspect(page, url, "/a")
    expect(page.locator(".refusal")).to_contain_text("No stream at this path.")
    page.click(".refusal button")
    page.click("#create .primary")
    live(page)
    request("DELETE", f"{url}/a")
    expect(page.locator(".refusal")).to_contain_text("No stream at this path.")


def test_a_restart_of_the_server(page: Page, unbroken_process: ServerProcess, chromium: Chromium) -> None:
    chromium.expect_errors(
        "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RESET"
    )
    request("PUT", f"{unbroken_process.url}/a", JSON, b"[1]")
    inspect(page, unbroken_process.url, "/a")
    live(page)
    unbroken_process.kill()
    expect(page.locator(".follow")).to_have_text("Connecting…")
    unbroken_process.start()
    request("POST", f"{unbroken_process.url}/a", JSON, b"2")
    expect(rows(page)).to_have_text(["1", "2"])
    live(page)


def test_metrics(page: Page, url: str) -> None:
    request("PUT", f"{url}/a", TEXT, b"x" * 1234)
    inspect(page, url)
    page.click("#to-metrics")
    expect(page.locator(".card").filter(has_text="Stored").locator(".figure")).to_have_text("1.2 kB")
    requests = page.locator("#metric-unbroken_http_requests_total")
    requests.locator("summary").click()
    expect(requests).to_contain_text("method=PUT status=201")
    # Drawn anew, it is still open, and the keyboard where it was.
    request("POST", f"{url}/a", TEXT, b"y")
    expect(requests).to_contain_text("method=POST status=204")
    expect(requests.locator("summary")).to_be_focused()
    expect(page.locator(".card").filter(has_text="Requests").locator(".figure")).to_contain_text("/s")


# --- who may what ----------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a server is that asks for tokens."""
    monkeypatch.setenv("TESTED_SECRET", SECRET)
    with ServerProcess(tmp_path / "data", "--jwt-keys=env:TESTED_SECRET") as server:
        yield server.url


def use_token(page: Page, token: str) -> None:
    page.fill("#token [name=token]", token)
    page.click("#token .primary")
    expect(page.locator("#token")).to_be_hidden()


def test_what_a_token_may(page: Page, guarded: str, chromium: Chromium) -> None:
    chromium.expect_errors("status of 401", "status of 403")
    admin = f"Bearer {tokens.mint(SECRET, admin='/**')}"
    request("PUT", f"{guarded}/chats/7", JSON, b'["hello"]', authorization=admin)
    inspect(page, guarded, "/chats/7")
    expect(page.locator("#list .refused")).to_contain_text("This server asks for a token.")
    expect(page.locator(".refusal")).to_contain_text("asks for a token")
    page.click(".refusal button")
    reader = tokens.mint(SECRET, read="/chats/*", subject="jo")
    page.fill("#token [name=token]", reader)
    expect(page.locator("#token .claims")).to_contain_text("read:/chats/*")
    use_token(page, reader)
    expect(rows(page)).to_have_text(['"hello"'])
    expect(page.locator("#list .refused")).to_contain_text("This token may not list these streams.")
    page.fill(".composer textarea", '"mine"')
    page.click(".composer button")
    expect(page.locator(".toast.bad").last).to_contain_text("Not allowed.")
    expect(page.locator(".toast.bad").last).to_contain_text("append:/chats/7")
    page.click(".head .delete")
    page.click("#confirm .confirm")
    expect(page.locator("#confirm .problem")).to_contain_text("delete:/chats/7")
    page.click("#confirm .cancel")
    page.click("#to-metrics")
    expect(page.locator(".metrics .note")).to_contain_text("Not allowed.")
    page.go_back()
    page.click("#to-token")
    use_token(page, tokens.mint(SECRET, admin="/**"))
    expect(listed(page)).to_have_text(["/chats/7"])
    page.fill(".composer textarea", '"mine"')
    page.click(".composer button")
    expect(rows(page)).to_have_text(['"hello"', '"mine"'])


def test_where_a_token_is_kept(page: Page, guarded: str, chromium: Chromium) -> None:
    """In this tab, until it is closed or told to forget; never in an address."""
    chromium.expect_errors("status of 401")
    token = tokens.mint(SECRET, admin="/**")
    addresses: list[str] = []
    chromium.context.on("request", lambda request: addresses.append(request.url))
    inspect(page, guarded)
    page.click("#to-token")
    use_token(page, token)
    expect(page.locator("#count")).to_have_text("No streams yet.")
    page.reload()
    expect(page.locator("#count")).to_have_text("No streams yet.")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    other = inspect(chromium.new_page(), guarded)
    expect(other.locator("#list .refused")).to_be_visible()
    page.click("#to-token")
    page.click("#token .forget")
    expect(page.locator("#list .refused")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert addresses
    assert not [address for address in addresses if token in address or not address.startswith(guarded)]


# --- what is hostile -------------------------------------------------------------------------------------------------

ATTACKS = [
    "<img src=x onerror=hacked=1>",
    "<script>hacked=1</script>",
    '"><svg onload=hacked=1>',
    "javascript:hacked=1",
    "{{constructor.constructor('hacked=1')()}}",
    "</pre></template><iframe srcdoc='<script>parent.hacked=1</script>'>",
    "\u202egnp.exe",
]


def test_content_and_names_stay_text(page: Page, url: str, chromium: Chromium) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    name = "/<img src=x onerror=hacked=1>"
    request(
        "PUT", f"{url}/%3Cimg%20src=x%20onerror=hacked=1%3E", JSON, json.dumps(ATTACKS, ensure_ascii=False).encode()
    )
    request("PUT", f"{url}/%E2%80%AEtxt", TEXT, "\n".join(ATTACKS).encode() + b"\0\x1b[31m\x9b")
    request("PUT", f"{url}/typed", 'text/html; x="<img src=x onerror=hacked=1>"', "".join(ATTACKS).encode())
    inspect(page, url)
    expect(listed(page)).to_have_text([name, "/typed", "/⟨202E⟩txt"])
    page.get_by_text(name).click()
    expect(rows(page)).to_have_count(len(ATTACKS))
    expect(rows(page).last).to_have_text('"⟨202E⟩gnp.exe"')
    for row in rows(page).all():
        row.click()
    for view in ("Text", "Hex"):
        page.get_by_role("button", name=view).click()
    page.click(".head .delete")
    expect(page.locator("#confirm .subject")).to_have_text(name)
    page.click("#confirm .cancel")
    for path in ("typed", "⟨202E⟩txt"):
        page.get_by_text(path).click()
        expect(page.locator(".content")).to_contain_text("<script>hacked=1</script>")
    expect(page.locator(".content")).to_contain_text("⟨0⟩⟨1B⟩[31m")
    assert page.evaluate(
        "[typeof hacked, document.querySelectorAll('img, svg, iframe, script:not([src])').length]"
    ) == [
        "undefined",
        0,
    ]
    assert dialogs == []
    assert chromium.errors == []


def test_scripts_of_streams_do_not_run_in_the_page(page: Page, url: str, chromium: Chromium) -> None:
    """Even if something got into it: a stream is on the same origin, but has not got the page's nonce."""
    request("PUT", f"{url}/evil.js", "text/javascript", b"globalThis.hacked = 1")
    inspect(page, url)
    chromium.expect_errors(
        "Content Security Policy", "TrustedHTML", "Trusted", "evil.js", "ERR_BLOCKED", "Failed to fetch"
    )
    attempts = [
        "const script = document.createElement('script'); script.src = '/evil.js'; document.head.append(script)",
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=1>')",
        "document.body.innerHTML = '<svg onload=hacked=1>'",
        "document.body.setAttribute('onclick', 'hacked=1'); document.body.click()",
        "eval('hacked = 1')",
        "import('/evil.js')",
        "new Worker('/evil.js')",
        "navigator.serviceWorker.register('/evil.js')",
        "const a = document.createElement('a'); a.href = 'javascript:hacked=1'; document.body.append(a); a.click()",
        "const frame = document.createElement('iframe'); frame.src = '/evil.js'; document.body.append(frame)",
        "fetch('http://127.0.0.1:1/')",
    ]
    for attempt in attempts:
        # Later, by the page itself: what a debugger runs is exempt.
        page.evaluate(f"() => {{ setTimeout(() => {{ {attempt} }}) }}")
    assert page.evaluate("fetch('/evil.js').then(response => response.text())") == "globalThis.hacked = 1"
    page.click("#to-keys")
    expect(page.locator("#keys")).to_be_visible()
    assert page.evaluate("typeof hacked") == "undefined"
    assert len(chromium.errors) >= len(attempts)


# --- a phone ---------------------------------------------------------------------------------------------------------


def test_on_a_phone(page: Page, url: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    request("PUT", f"{url}/chats/7", JSON, b'[{"text": "' + b"long " * 100 + b'"}]')
    inspect(page, url)
    expect(page.locator("main")).to_be_hidden()
    page.get_by_text("/chats/7").click()
    expect(page.locator(".side")).to_be_hidden()
    live(page)
    rows(page).click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for control in page.locator("button:visible, a:visible, textarea:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["height"] >= 34
    page.click(".back")
    expect(page.locator("#list")).to_be_visible()


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_below_the_prefix_of_an_application(page: Page) -> None:
    with mounted("/some/streams") as origin:
        request("PUT", f"{origin}/some/streams/a", JSON, b"[1]")
        inspect(page, f"{origin}/some/streams")
        page.get_by_text("/a", exact=True).click()
        expect(rows(page)).to_have_text(["1"])
        live(page)
        page.click(".head .fork")
        page.click("#fork .primary")
        expect(page.locator("h1")).to_have_text("/a-fork")
        expect(rows(page)).to_have_text(["1"])
        page.goto("about:blank")


@contextmanager
def mounted(prefix: str) -> Iterator[str]:
    """An application in a thread of its own, with a server below a prefix; the application's origin."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        streams = create_app(Settings(store="memory"), watch_signals=False)
        application = Starlette(routes=[Mount(prefix, streams)], lifespan=streams.lifespan)
        async with serve_asgi(application, http="httptools", grace_s=0) as address:
            stop = asyncio.Event()
            started.set_result((address.url, asyncio.get_running_loop(), stop))
            await stop.wait()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asyncio.run, run())
        url, loop, stop = started.result(20)
        yield url
        loop.call_soon_threadsafe(stop.set)
        done.result(20)


def test_types_are_sound() -> None:
    need_package("typescript")
    modules = sorted(str(path) for path in UI.glob("*.js"))
    flags = ["--noEmit", "--strict", "--checkJs", "--noUnusedLocals", "--noUnusedParameters", "--target", "es2024"]
    flags += ["--module", "nodenext", "--lib", "es2024,dom,dom.iterable,dom.asynciterable", "--types", ""]
    compiler = str(PEERS / "node_modules" / "typescript" / "bin" / "tsc")
    done = subprocess.run(
        [node(), compiler, *flags, *modules], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert max(len(line) for module in modules for line in Path(module).read_text().splitlines()) <= 120
