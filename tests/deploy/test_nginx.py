"""Behind nginx, with the configuration in ``deploy/``: what readers share, and what nobody may share or delay."""

from __future__ import annotations

import asyncio
import json
import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from tests.deploy.proxies import Nginx, nginx
from tests.engine.helpers import until
from tests.server.site import JSON, TEXT, begin, closed, offset, problem_code
from tests.server.sse import EventStream
from unbroken.protocol.scopes import grant
from unbroken.testing import (
    RawConnection,
    RawResponse,
    ServerProcess,
    connect,
    encode_chunk,
    encode_request,
    live_server,
)
from unbroken.tokens import TokenFile

READERS = 1000
PAGES = 8
PAGE_BYTES = 16 * 1024


@contextmanager
def deployed(tmp_path: Path, *flags: str) -> Iterator[tuple[ServerProcess, Nginx]]:
    """A server that tells of each request, behind nginx."""
    with (
        ServerProcess(tmp_path / "data", "--access-log", "--log-format=json", *flags) as server,
        nginx(tmp_path / "nginx", server.address) as proxy,
    ):
        yield server, proxy


async def requests_at_origin(server: ServerProcess, method: str = "GET") -> list[str]:
    """The targets of all requests that have reached the server, besides one that is made to see where its log ends."""
    end = f"/{uuid.uuid4()}"
    async with connect(*server.address) as connection:
        await connection.request("OPTIONS", end)
    lines: list[dict[str, str]] = []

    def ended() -> bool:
        lines[:] = [json.loads(line) for line in server.log.splitlines()]
        return lines[-1].get("path") == end

    await until(ended)
    asked = [line for line in lines if line.get("method") == method]
    return [line["path"] + ("?" + line["query"] if line.get("query") else "") for line in asked]


@asynccontextmanager
async def readers(proxy: Nginx) -> AsyncIterator[list[RawConnection]]:
    """So many readers, each with a connection that it keeps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(connect(*proxy.plain, timeout_s=60)) for _ in range(READERS)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(connection: RawConnection, target: str) -> RawResponse:
    return await connection.request("GET", target)


async def proxied(proxy: Nginx, count: int) -> None:
    """Wait until so many requests are under way."""
    async with asyncio.timeout(20):
        while await proxy.requests_under_way() < count:  # noqa: ASYNC110 (another process counts)
            await asyncio.sleep(0.01)


# --- what readers share ----------------------------------------------------------------------------------------------


async def read_all(connection: RawConnection, path: str) -> bytes:
    """Read a stream page by page."""
    data, target = b"", path
    while True:
        response = await ask(connection, target)
        assert response.status == 200
        data += response.body
        if response.get("stream-up-to-date"):
            return data
        target = f"{path}?offset={response['stream-next-offset']}"


async def test_a_thousand_readers_of_the_same_pages_cost_what_one_costs(tmp_path: Path) -> None:
    content = b"".join(b"%015d\n" % number for number in range(PAGES * PAGE_BYTES // 16))
    with deployed(tmp_path, f"--page-size={PAGE_BYTES}") as (server, proxy):
        async with readers(proxy) as connections:
            assert (await connections[0].request("PUT", "/pages", TEXT, content)).status == 201
            for data in await asyncio.gather(*(read_all(connection, "/pages") for connection in connections)):
                assert data == content
        asked = await requests_at_origin(server)
    assert len(asked) == len(set(asked)) == PAGES


async def test_a_thousand_long_polls_at_one_place_cost_what_one_costs(tmp_path: Path) -> None:
    """With news, without, and when the stream is closed."""
    with deployed(tmp_path, "--long-poll-timeout=20") as (server, proxy):
        async with connect(*server.address) as writer, readers(proxy) as connections:
            await writer.request("PUT", "/live", TEXT, b"one")

            async def all_wait(target: str) -> list[asyncio.Task[RawResponse]]:
                waiting = [asyncio.create_task(ask(connection, target)) for connection in connections]
                await proxied(proxy, READERS)
                return waiting

            waiting = await all_wait(f"/live?live=long-poll&offset={offset(1, 3)}&cursor=1")
            await writer.request("POST", "/live", TEXT, b"two")
            answers = await asyncio.gather(*waiting)
            assert {(answer.status, answer.body) for answer in answers} == {(200, b"two")}
            assert len(await requests_at_origin(server)) == 1

            (cursor,) = {answer["stream-cursor"] for answer in answers}
            waiting = await all_wait(f"/live?live=long-poll&offset={offset(1, 6)}&cursor={cursor}")
            await writer.request("POST", "/live", closed())
            answers = await asyncio.gather(*waiting)
            assert {(answer.status, answer.get("stream-closed")) for answer in answers} == {(204, "true")}
            assert len(await requests_at_origin(server)) == 2


async def test_long_polls_without_news_stay_together(tmp_path: Path) -> None:
    """Those who waited for the first share its answer, instead of waiting for one another in turn."""
    with deployed(tmp_path, "--long-poll-timeout=1") as (server, proxy):
        async with readers(proxy) as connections:
            await connections[0].request("PUT", "/quiet", TEXT)
            target = f"/quiet?live=long-poll&offset={offset(1, 0)}"
            answers = await asyncio.gather(*(ask(connection, target) for connection in connections))
            assert {answer.status for answer in answers} == {204}
            for answer in answers:
                assert answer["cache-control"] == "no-store"
                assert answer.get("x-accel-expires") is None
        # Who came late, when the answer was no longer kept, began anew.
        assert len(await requests_at_origin(server)) <= 10


# --- what a cache must not hide --------------------------------------------------------------------------------------


async def test_closure_is_not_hidden(tmp_path: Path) -> None:
    """Whatever was cached of the open stream, a reader in any mode learns that it was closed."""
    with deployed(tmp_path) as (server, proxy):
        async with connect(*server.address) as writer, connect(*proxy.plain) as reader:
            await writer.request("PUT", "/a", TEXT, b"all")
            page = await ask(reader, "/a")
            place = page["stream-next-offset"]
            before = await ask(reader, f"/a?offset={place}")
            assert (before.status, before.body, before.get("stream-closed")) == (200, b"", None)
            async with connect(*proxy.plain) as follower, connect(*proxy.plain) as poller:
                events = EventStream(follower, await begin(follower, "GET", f"/a?offset={place}&live=sse"))
                await events.batch()
                poll = asyncio.create_task(ask(poller, f"/a?offset={place}&live=long-poll"))
                await proxied(proxy, 2)
                await writer.request("POST", "/a", closed())
                assert (await events.batch())[1]["streamClosed"] is True
                answer = await poll
                assert (answer.status, answer.get("stream-closed")) == (204, "true")
            # The page is from the cache, and knows of nothing; where it leads to does.
            again = await ask(reader, "/a")
            assert (again.body, again.get("stream-closed")) == (b"all", None)
            assert again["stream-next-offset"] == place
            after = await reader.request("GET", f"/a?offset={place}", {"if-none-match": before["etag"]})
            assert (after.status, after.body, after.get("stream-closed")) == (200, b"", "true")
            assert after["etag"] != before["etag"]


async def test_what_a_reader_has_is_confirmed(tmp_path: Path) -> None:
    with deployed(tmp_path) as (server, proxy):
        async with connect(*proxy.plain) as reader:
            await reader.request("PUT", "/a", TEXT, b"all")
            tag = (await ask(reader, "/a"))["etag"]
            for _ in range(3):
                answer = await reader.request("GET", "/a", {"if-none-match": tag})
                assert (answer.status, answer["etag"], answer.body) == (304, tag, b"")
            # The cache's own copy answered.
            assert len(await requests_at_origin(server)) == 1
            # Past the cache, the server answers.
            answer = await reader.request("GET", "/a", {"if-none-match": tag, "authorization": "Bearer x"})
            assert answer.status == 304
            assert len(await requests_at_origin(server)) == 2


async def test_what_the_cache_has_is_confirmed_by_its_tag_until_it_changes(tmp_path: Path) -> None:
    """A sliding lifetime bounds how long a page is fresh. It is held up by reads that no cache answers."""
    with deployed(tmp_path) as (_, proxy):
        async with connect(*proxy.plain) as reader:
            await reader.request("PUT", "/a", {**TEXT, "stream-ttl": "2"}, b"all")

            async def read_until(said: str) -> RawResponse:
                async with asyncio.timeout(30):
                    while said not in proxy.access_log:
                        assert (await ask(reader, "/a?offset=now")).status == 200
                        page = await ask(reader, "/a")
                        assert (page.status, page.body) == (200, b"all")
                        await asyncio.sleep(0.05)
                return page

            page = await read_until("cache=REVALIDATED origin=304")
            assert page.get("stream-closed") is None
            await reader.request("POST", "/a", closed())
            page = await read_until("cache=EXPIRED origin=200")
            assert page["stream-closed"] == "true"


async def test_state_is_not_answered_with_a_page(tmp_path: Path) -> None:
    """HEAD reaches the server, although its GET is cached."""
    with deployed(tmp_path) as (server, proxy):
        async with connect(*proxy.plain) as client:
            await client.request("PUT", "/a", {**TEXT, "stream-ttl": "600"}, b"one")
            await ask(client, "/a")
            await client.request("POST", "/a", TEXT, b"two")
            state = await client.request("HEAD", "/a")
            assert (state.status, state["stream-next-offset"], state["stream-ttl"]) == (200, offset(1, 6), "600")
            assert state["cache-control"] == "no-store"
            assert await requests_at_origin(server, "HEAD") == ["/a"]
            assert (await ask(client, "/a")).body == b"one"


async def test_errors_are_not_cached(tmp_path: Path) -> None:
    refused = {
        "/nothing": 404,
        "/a?offset=": 400,
        "/a?offset=9999999999999999_9999999999999999": 400,
        f"/b?offset={offset(2, 0)}": 410,
        f"/b?live=long-poll&offset={offset(2, 0)}": 410,
        "/source": 410,
        "/-/nothing": 404,
    }
    with deployed(tmp_path) as (server, proxy):
        async with connect(*proxy.plain) as client:
            for path in ("/a", "/b", "/source"):
                await client.request("PUT", path, TEXT)
            await client.request("PUT", "/fork", {"stream-forked-from": "/source"})
            for path in ("/b", "/source"):
                await client.request("DELETE", path)
            await client.request("PUT", "/b", TEXT)
            for target in list(refused) * 2:
                answer = await ask(client, target)
                assert problem_code(answer)[0] == answer.status == refused[target]
        assert await requests_at_origin(server) == list(refused) * 2


async def test_a_stream_that_was_missing_is_there_once_it_is_created(tmp_path: Path) -> None:
    with deployed(tmp_path) as (_, proxy):
        async with connect(*proxy.plain) as client:
            assert (await ask(client, "/a")).status == 404
            await client.request("PUT", "/a", JSON, b"[1]")
            assert (await ask(client, "/a")).body == b"[1]"


async def test_the_place_where_the_stream_is_now_is_not_cached(tmp_path: Path) -> None:
    """Nor does anybody who asks for it wait for somebody else, who began earlier."""
    async with live_server() as server:
        with nginx(tmp_path / "nginx", server.address) as proxy:
            await server.engine.create("/a", content_type="text/plain")
            async with connect(*proxy.plain) as one, connect(*proxy.plain) as other, connect(*proxy.plain) as third:
                polls = [asyncio.create_task(ask(each, "/a?live=long-poll&offset=now")) for each in (one, other)]
                await until(lambda: len(server.engine.waiters) == 2)
                assert (await ask(third, "/a?offset=now"))["stream-next-offset"] == offset(1, 0)
                await server.engine.append("/a", b"news")
                assert (await ask(third, "/a?offset=now"))["stream-next-offset"] == offset(1, 4)
                assert [poll.body for poll in await asyncio.gather(*polls)] == [b"news"] * 2


# --- what belongs to one reader alone --------------------------------------------------------------------------------


async def test_readers_with_tokens_do_not_wait_for_one_another(tmp_path: Path) -> None:
    """What they get is not stored, so they would come to the server one after the other."""
    async with live_server() as server:
        with nginx(tmp_path / "nginx", server.address) as proxy:
            await server.engine.create("/a", content_type="text/plain")
            target = f"/a?live=long-poll&offset={offset(1, 0)}"
            async with connect(*proxy.plain) as one, connect(*proxy.plain) as other, connect(*proxy.plain) as third:
                polls = [
                    asyncio.create_task(one.request("GET", target, {"authorization": "Bearer one"})),
                    asyncio.create_task(other.request("GET", target, {"authorization": "Bearer other"})),
                    asyncio.create_task(ask(third, f"{target}&token=third")),
                ]
                await until(lambda: len(server.engine.waiters) == 3)
                await server.engine.append("/a", b"news")
                assert [poll.body for poll in await asyncio.gather(*polls)] == [b"news"] * 3


async def test_what_one_reader_may_see_is_not_shared(tmp_path: Path) -> None:
    """However the token comes, and whatever is beside it. Who has none, or another's rights, is told so each time."""
    file = TokenFile(tmp_path / "tokens.json")
    alice, kept = file.create("alice", grant(admin="/**"), now_s=0)
    bob, _ = file.create("bob", grant(read="/b"), now_s=0)
    with deployed(tmp_path, f"--tokens-file={file.path}") as (_, proxy):
        async with connect(*proxy.plain) as client:
            await client.request("PUT", "/a", {**TEXT, "authorization": f"Bearer {alice}"}, b"secret")
            place = f"offset={offset(1, 0)}"
            targets = ("/a", "/a?offset=-1", f"/a?{place}", f"/a?before={offset(1, 6)}", f"/a?{place}&live=long-poll")
            for target in targets:
                joined = f"{target}{'&' if '?' in target else '?'}"
                for mine in (
                    (target, {"authorization": f"Bearer {alice}"}),
                    (target, {"authorization": f"bearer {alice}", "cookie": "a=b"}),
                    (f"{joined}token={alice}", {}),
                ):
                    for _ in range(2):
                        answer = await client.request("GET", *mine)
                        assert (answer.status, answer.body) == (200, b"secret"), mine
                for others in (
                    (target, {}),
                    (target, {"authorization": "Basic Ym9i"}),
                    (target, {"authorization": f"Bearer {bob}"}),
                    (f"{joined}token={bob}", {}),
                    (f"{joined}Token={alice}", {}),
                    (f"{joined}token=", {}),
                    (f"{joined}token=&token={alice}", {}),
                    (f"{joined}x#&token={alice}", {}),
                ):
                    answer = await client.request("GET", *others)
                    assert answer.status in (400, 401, 403), others
                    assert b"secret" not in answer.body
            file.revoke(kept.id)
            async with asyncio.timeout(10):
                while (await ask(client, f"/a?offset=-1&token={alice}")).status == 200:  # noqa: ASYNC110 (it is asked)
                    await asyncio.sleep(0.05)


async def test_everybody_is_sent_to_tls(tmp_path: Path) -> None:
    async with live_server() as server:
        with nginx(tmp_path / "nginx", server.address) as proxy:
            async with connect(*proxy.redirecting) as client:
                answer = await client.request("POST", "/a?offset=-1")
                assert (answer.status, answer["location"]) == (308, "https://localhost/a?offset=-1")


async def test_requests_are_logged_without_their_queries(tmp_path: Path) -> None:
    with deployed(tmp_path) as (_, proxy):
        async with connect(*proxy.plain) as client:
            await client.request("PUT", "/a", TEXT, b"some")
            await ask(client, "/a?offset=-1&live=long-poll&token=secret")
        await until(lambda: ' GET "/a" live=long-poll offset=-1 200 4 ' in proxy.access_log)


async def test_an_upload_that_is_too_large_is_refused_before_it_is_there(tmp_path: Path) -> None:
    with deployed(tmp_path, "--max-body=1MiB") as (_, proxy):
        async with connect(*proxy.plain) as client:
            assert (await client.request("PUT", "/a", TEXT)).status == 201
            await client.send(encode_request("POST", "/a", {**TEXT, "content-length": str(2 * 1024 * 1024)}, b"x"))
            assert problem_code(await client.read_response()) == (413, "body-too-large")
        async with connect(*proxy.plain) as client:
            await client.send(encode_request("POST", "/a", {**TEXT, "transfer-encoding": "chunked"}))
            for _ in range(2):
                await client.send(encode_chunk(b"x" * 1024 * 1024))
            assert problem_code(await client.read_response()) == (413, "body-too-large")
