"""Through real servers and frameworks: FastAPI, Starlette, Django, and none."""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from tests.web.helpers import Model, events, open_tasks, text_of, until
from unbroken.server.asgi import AsgiApp
from unbroken.server.factory import create_app
from unbroken.testing import Address, RawConnection, RawResponse, connect, encode_request, serve_asgi
from unbroken.web import Answers as NeutralAnswers
from unbroken.web import starlette as for_starlette
from unbroken.web.fastapi import Answers as FastAPIAnswers

OPTIONS: dict[str, Any] = {"linger_s": 0.0, "grace_s": 0.0, "watch_signals": False}


class Site:
    """An application under test.

    Args:
        streams: the app of streams under it.
        model: what answers.
    """

    def __init__(self, streams: AsgiApp, model: Model) -> None:
        self.streams = streams
        self.model = model
        self.background: list[str] = []


def fastapi_app(site: Site) -> Any:
    answers = FastAPIAnswers(site.streams, **OPTIONS)
    app = FastAPI(lifespan=answers.lifespan)

    @app.post("/answers/{key}")
    async def ask(key: str, request: Request, background: BackgroundTasks, response: Response) -> Response:
        background.add_task(site.background.append, key)
        return await answers.respond(key, site.model, request=request)

    @app.get("/answers/{key}")
    async def tail(key: str, request: Request) -> Response:
        return await answers.tail(key, request=request)

    @app.post("/answers/{key}/stop")
    async def stop(key: str) -> bool:
        return await answers.stop(key)

    return app


def starlette_app(site: Site) -> Any:
    answers = for_starlette.Answers(site.streams, **OPTIONS)

    async def ask(request: Any) -> Any:
        return await answers.respond(request.path_params["key"], site.model, request=request)

    async def tail(request: Any) -> Any:
        return await answers.tail(request.path_params["key"], request=request)

    async def stop(request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse(await answers.stop(request.path_params["key"]))

    routes = [
        Route("/answers/{key}", ask, methods=["POST"]),
        Route("/answers/{key}", tail, methods=["GET"]),
        Route("/answers/{key}/stop", stop, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=answers.lifespan)
    app.add_middleware(GZipMiddleware)
    return app


def neutral_app(site: Site) -> Any:
    answers = NeutralAnswers(site.streams, **OPTIONS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        _, _, key, *rest = scope["path"].split("/")
        if rest:
            from unbroken.web import Reply

            stopped = await answers.stop(key)
            reply = Reply(200, {"content-type": "application/json"}, str(stopped).lower().encode())
        elif scope["method"] == "POST":
            reply = await answers.respond(key, site.model, request=scope)
        else:
            reply = await answers.tail(key, request=scope)
        await reply(scope, receive, send)

    return answers.around(app)


def django_app(site: Site) -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import JsonResponse
    from django.urls import path
    from django.urls.base import clear_url_caches

    from unbroken.web.django import Answers

    if not settings.configured:
        settings.configure(SECRET_KEY="-", ROOT_URLCONF="tests_web_urls", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
    answers = Answers(site.streams, **OPTIONS)

    async def answer(request: Any, key: str) -> Any:
        if request.method == "POST":
            return await answers.respond(key, site.model, request=request)
        return await answers.tail(key, request=request)

    async def stop(request: Any, key: str) -> Any:
        return JsonResponse(await answers.stop(key), safe=False)

    urls = types.ModuleType("tests_web_urls")
    urls.urlpatterns = [path("answers/<key>", answer), path("answers/<key>/stop", stop)]  # type: ignore[attr-defined]
    sys.modules["tests_web_urls"] = urls
    clear_url_caches()
    return answers.around(get_asgi_application())


FRAMEWORKS = pytest.mark.parametrize("framework", [fastapi_app, starlette_app, neutral_app, django_app])
Framework = Callable[[Site], Any]


@asynccontextmanager
async def served(framework: Framework, model: Model, http: str = "httptools") -> AsyncIterator[tuple[Address, Site]]:
    site = Site(create_app(store="memory", watch_signals=False), model)
    async with serve_asgi(framework(site), http=http) as address:
        yield address, site
    assert open_tasks() == []


async def ask(connection: RawConnection, method: str, target: str, fields: dict[str, str] | None = None) -> RawResponse:
    """Send a request and read the head of the response."""
    await connection.send(encode_request(method, target, fields, b"" if method == "POST" else None))
    return await connection.read_head()


async def read_until(connection: RawConnection, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += await connection.read_part()
    return seen


@FRAMEWORKS
@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_an_answer_survives_its_connection(framework: Framework, http: str) -> None:
    model = Model("one")
    async with served(framework, model, http) as (address, site):
        async with connect(*address) as first:
            response = await ask(first, "POST", "/answers/k")
            assert response.status == 200
            assert response["content-type"].startswith("text/event-stream")
            await read_until(first, b'"one"')
        model.say(" two")  # after the connection is gone
        async with connect(*address) as second, connect(*address) as third:
            await ask(second, "GET", "/answers/k")
            seen = await read_until(second, b"two")
            position = events(seen)[-1].id
            await ask(third, "GET", "/answers/k", {"last-event-id": position})
            model.say(" three")
            model.done()
            seen += await second.read_rest()
            rest = await third.read_rest()
        assert text_of(seen) == "one two three"
        assert text_of(rest) == " three"
        assert events(rest)[-1].data == {"type": "end", "outcome": "done"}
        async with connect(*address) as last:
            ended = {"last-event-id": events(rest)[-1].id}
            assert (await last.request("GET", "/answers/k", ended)).status == 204
            assert (await last.request("GET", "/answers/unknown")).status == 404
            assert (await last.request("POST", "/answers/a%20b", body=b"")).json()["code"] == "invalid-path"
        assert model.begun == 1
        # Nobody reads any more.
        await until(lambda: len(site.streams.engine.waiters) == 0)


@FRAMEWORKS
async def test_readers_that_go_leave_nothing(framework: Framework) -> None:
    model = Model("one")
    async with served(framework, model) as (address, site):
        async with connect(*address) as asker:
            await ask(asker, "POST", "/answers/k")
            await read_until(asker, b'"one"')
            for _ in range(3):
                async with connect(*address) as reader:
                    await ask(reader, "GET", "/answers/k")
                    await read_until(reader, b'"one"')
            await until(lambda: len(site.streams.engine.waiters) == 1)
        await until(lambda: len(site.streams.engine.waiters) == 0)
        assert not site.streams.engine.head("/answers/k").closed


@FRAMEWORKS
async def test_a_stop_comes_over_any_connection(framework: Framework) -> None:
    model = Model("one")
    async with served(framework, model) as (address, _):
        async with connect(*address) as reader, connect(*address) as stopper:
            await ask(reader, "POST", "/answers/k")
            seen = await read_until(reader, b'"one"')
            assert (await stopper.request("POST", "/answers/k/stop", body=b"")).json() is True
            seen += await reader.read_rest()
            assert events(seen)[-1].data["outcome"] == "cancelled"
            assert (await stopper.request("POST", "/answers/k/stop", body=b"")).json() is False
        await model.ended.wait()


async def test_background_tasks_run_after_the_answer() -> None:
    model = Model("one", done=True)
    async with served(fastapi_app, model) as (address, site):
        async with connect(*address) as reader:
            await reader.request("POST", "/answers/k", body=b"")
        await until(lambda: site.background == ["k"])
