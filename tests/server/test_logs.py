"""Logs: a line for each request where that is asked for, names for requests, and no line that a client made up."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.engine.gated_store import GatedStore
from tests.server.conftest import Serve
from tests.server.process import server_process
from tests.server.site import TEXT, problem_code, until
from unbroken.errors import StorageFull
from unbroken.protocol.scopes import Principal, grant
from unbroken.server.logs import Seldom, configure_logging
from unbroken.server.settings import LogFormat, Settings
from unbroken.testing import connect, encode_request, live_server

OWN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]+")


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["facts"] for record in caplog.records if record.name == "unbroken.access"]


async def test_each_request_has_a_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "unbroken.access")
    async with serve(access_log=True) as site, site.connect() as connection:
        for method, target, body in (
            ("PUT", "/a", b"hello"),
            ("POST", "/a", b"!"),
            ("GET", "/a?offset=-1&x=secret&token=secret", None),
            ("GET", "/missing", None),
            ("OPTIONS", "/a", None),
        ):
            await connection.request(method, target, TEXT, body)
        async with site.events("/a?offset=-1&live=sse") as events:
            await events.batch()
            await until(lambda: len(site.engine.waiters) == 1)
            assert len(entries(caplog)) == 5, "its answer has not ended"
            site.engine.drain()
            await events.rest()
        await until(lambda: len(entries(caplog)) == 6)
    logged = entries(caplog)
    assert [(entry["method"], entry["path"], entry["status"]) for entry in logged] == [
        *(("PUT", "/a", 201), ("POST", "/a", 204), ("GET", "/a", 200)),
        *(("GET", "/missing", 404), ("OPTIONS", "/a", 204), ("GET", "/a", 200)),
    ]
    assert [entry["query"] for entry in logged] == ["", "", "offset=-1", "", "", "offset=-1&live=sse"]
    assert [entry["code"] for entry in logged] == [None, None, None, "stream-not-found", None, None]
    assert logged[2]["bytes"] == 6
    assert logged[5]["bytes"] > 50
    assert {entry["client"] for entry in logged} == {"127.0.0.1"}
    assert all(0 < entry["seconds"] < 60 for entry in logged)
    assert len({entry["request_id"] for entry in logged}) == 6
    assert "secret" not in caplog.text
    assert "GET /a?offset=-1 200, 6 B in " in caplog.text


async def test_readers_of_a_deleted_stream_are_logged_together(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "unbroken.server")
    async with serve() as site, AsyncExitStack() as stack:
        for path, count in (("/a", 20), ("/b", 1)):
            await site.create(path, TEXT)
            for _ in range(count):
                await stack.enter_async_context(site.events(f"{path}?offset=-1&live=sse"))
        await until(lambda: len(site.engine.waiters) == 21)
        for path in ("/a", "/b"):
            await site.delete(path)
        await until(lambda: len(caplog.records) == 2)
    told = [vars(record)["facts"] for record in caplog.records]
    assert [(facts["path"], facts["code"], facts["readers"]) for facts in told] == [
        ("/a", "stream-not-found", 20),
        ("/b", "stream-not-found", 1),
    ]
    assert "live reads of /a that ended: 20: " in caplog.text


@pytest.mark.parametrize(("trusted", "client"), [("127.0.0.1", "203.0.113.7"), ("192.0.2.1", "127.0.0.1")])
@pytest.mark.parametrize("forwarded", [{}, {"x-forwarded-proto": "http"}], ids=["for", "for and proto"])
async def test_client_behind_a_proxy_is_logged(
    tmp_path: Path, trusted: str, client: str, forwarded: dict[str, str]
) -> None:
    """If the proxy is trusted; for every kind of request."""
    flags = ("--store", "memory", "--access-log", "--log-format", "json", "--trusted-proxies", trusted)
    fields = {**TEXT, "x-forwarded-for": "203.0.113.7", **forwarded}
    async with server_process(tmp_path, *flags) as server:
        async with connect(*server.address) as connection:
            for method, body in (("PUT", b""), ("POST", b"hello"), ("GET", None), ("HEAD", None), ("DELETE", None)):
                assert (await connection.request(method, "/a", fields, body)).status < 300
        server.send_signal(signal.SIGTERM)
        _, log = await server.wait()
    logged = [entry for entry in map(json.loads, log.splitlines()) if entry["logger"] == "unbroken.access"]
    assert [(entry["method"], entry["client"]) for entry in logged] == [
        (method, client) for method in ("PUT", "POST", "GET", "HEAD", "DELETE")
    ]


async def test_nothing_is_logged_unasked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with serve() as site:
        await site.create("/a", TEXT, b"hello")
        await site.get("/missing")
    assert entries(caplog) == []


async def test_who_asked_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "unbroken.access")
    ann = Principal("ann", grant(read="/**"))
    settings = Settings(access_log=True)
    async with (
        live_server(settings=settings, authorize=lambda _: ann) as server,
        connect(*server.address) as connection,
    ):
        assert (await connection.request("GET", "/a")).status == 404
        assert (await connection.request("PUT", "/a", TEXT)).status == 403
    assert [(entry["principal"], entry["code"]) for entry in entries(caplog)] == [
        ("ann", "stream-not-found"),
        ("ann", "insufficient-scope"),
    ]


@pytest.mark.parametrize(
    ("given", "sane"),
    [
        ("order-4711", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("two words", False),
        ('"quoted"', False),
        ("<script>", False),
        ("é", False),
        ("a, b", False),
    ],
)
async def test_sane_request_ids_come_back(serve_memory: Serve, given: str, sane: bool) -> None:
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        for response in (
            await site.get("/a", {"x-request-id": given}),
            await site.post("/a", {**TEXT, "x-request-id": given}, b"!"),
            await site.get("/missing", {"x-request-id": given}),
        ):
            assert (response["x-request-id"] == given) is sane
            assert sane or OWN_ID.fullmatch(response["x-request-id"])


async def test_refusals_have_a_name(serve_memory: Serve) -> None:
    """And other answers have one where the log knows it."""
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"hello")
        assert (await site.get("/a")).get("x-request-id") is None
        names = [(await site.get("/missing"))["x-request-id"] for _ in range(3)]
        assert len(set(names)) == 3
        assert all(OWN_ID.fullmatch(name) for name in names)
    async with serve_memory(access_log=True) as site:
        assert OWN_ID.fullmatch((await site.get("/missing"))["x-request-id"])
        assert OWN_ID.fullmatch((await site.put("/b", TEXT))["x-request-id"])
        assert OWN_ID.fullmatch((await site.post("/b", TEXT, b"x"))["x-request-id"])


async def test_faults_are_logged_with_the_name_of_the_request(
    serve_memory: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_memory() as site:
        monkeypatch.setattr(site.engine, "head", lambda _: 1 / 0)
        for name in ("first", "second"):
            response = await site.head("/a", {"x-request-id": name})
            assert (response.status, response["x-request-id"]) == (500, name)
    assert [vars(record)["facts"]["request_id"] for record in caplog.records] == ["first", "second"]
    assert "ZeroDivisionError" in caplog.text


async def test_trouble_is_not_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    store = GatedStore()
    async with live_server(store) as server, connect(*server.address) as connection:
        await connection.request("PUT", "/a", TEXT)
        store.failure = StorageFull("the disk is full")
        for _ in range(50):
            assert problem_code(await connection.request("POST", "/a", TEXT, b"x")) == (507, "storage-full")
        metrics = (await connection.request("GET", "/-/metrics")).body
    assert caplog.text.count("storage-full") == 1
    assert b'refusals_total{code="storage-full"} 50' in metrics


def test_seldom_says_how_often_it_was_silent() -> None:
    now_s = 100.0
    seldom = Seldom(10, lambda: now_s)
    assert [seldom.left_out("a"), seldom.left_out("a"), seldom.left_out("a"), seldom.left_out("b")] == [
        0,
        None,
        None,
        0,
    ]
    now_s = 110.0
    assert [seldom.left_out("a"), seldom.left_out("a")] == [2, None]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn.error", "unbroken.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_can_forge_a_line(
    logging_as_before: None, capsys: pytest.CaptureFixture[str], log_format: LogFormat
) -> None:
    configure_logging("info", log_format)
    path = "/a\r\n2026-01-01 ERROR forged\x1b[31m\x85\u2028"
    logging.getLogger("unbroken.test").warning("GET %s", path, extra={"facts": {"path": path, "none": None}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    if log_format == "json":
        entry = json.loads(line)
        assert (entry["path"], entry["level"]) == (path, "warning")
        assert "none" not in entry


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_the_access_log_of_a_server(tmp_path: Path, log_format: str) -> None:
    """Whatever the level is. Garbage on a connection is no reason for a line."""
    flags = ("--store", "memory", "--access-log", "--log-level", "error", "--log-format", log_format)
    async with server_process(tmp_path, *flags) as server, connect(*server.address) as connection:
        await connection.request("PUT", "/a", TEXT, b"x")
        await connection.request("POST", "/a", {**TEXT, "x-request-id": "my-own"}, b"x")
        async with connect(*server.address) as other:
            await other.send(b"\x00\r\n\r\n" + encode_request("GET", "/a"))
            await other.read_response()
        server.send_signal(15)  # type: ignore[arg-type]
        _, log = await server.wait()
    lines = log.splitlines()
    assert len(lines) == 2, log
    if log_format == "json":
        assert [json.loads(line)["status"] for line in lines] == [201, 204]
        assert json.loads(lines[1])["request_id"] == "my-own"
    else:
        assert " PUT /a 201, 0 B in " in lines[0]
        assert lines[1].endswith(" from 127.0.0.1, id my-own")
