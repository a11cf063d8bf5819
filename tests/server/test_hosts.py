"""A server that asks nobody who they are: where it answers, and to which names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.site import TEXT, problem_code
from tests.server.tokens import bearer, key_file, mint
from unbroken.asgi import AccessRequest, Principal, create_app, grant
from unbroken.server.guard import check_exposure
from unbroken.server.hosts import is_loopback_host
from unbroken.server.settings import Settings, SettingsError, load_settings

OWN = ["localhost", "LOCALHOST:9999", "127.0.0.1", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:9999", "a.localhost:80"]
FOREIGN = [
    *("evil.example", "evil.example:9999", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.1.evil.example:80"),
    *("0.0.0.0", "[::]", "192.168.1.5", "169.254.169.254", "10.0.0.1:9999", "[fe80::1]", "[::ffff:192.168.1.5]"),
    *("evil.example@localhost", "localhost@evil.example", "localhost/evil", "localhost#x", "localhost, evil.example"),
    *("localhost evil.example", "localhost:evil", "loc\u0430lhost", "[::1", "::1", "127.1", "2130706433", "0x7f.1", ""),
]


@pytest.mark.parametrize("host", OWN)
async def test_names_of_this_machine(serve_memory: Serve, host: str) -> None:
    async with serve_memory() as site:
        assert (await site.put("/a", {**TEXT, "host": host}, b"x")).status == 201
        assert (await site.post("/a", {**TEXT, "host": host}, b"x")).status == 204
        assert (await site.get("/a", {"host": host})).body == b"xx"


@pytest.mark.parametrize("host", FOREIGN)
async def test_names_of_others(serve_memory: Serve, host: str) -> None:
    """DNS rebinding: to the browser the page is of the same site, so it sends no Origin, or one with that name."""
    host = host.encode().decode("latin-1")
    async with serve_memory() as site:
        await site.create("/a", TEXT, b"secret")
        for fields in ({"host": host}, {"host": host, "origin": f"http://{host}"}):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                response = await site.request(method, "/a", {**TEXT, **fields}, b"x" if method[0] == "P" else None)
                assert response.status == 421
                assert b"secret" not in response.body
            assert problem_code(await site.get("/-/streams", fields)) == (421, "host-not-allowed")
            assert (await site.get("/-/health", fields)).status == 200, "which a load balancer asks by any name"
        assert (await site.get("/a")).body == b"secret"


async def test_several_hosts_are_none(serve_memory: Serve) -> None:
    async with serve_memory() as site, site.connect() as connection:
        for hosts in (("localhost", "evil.example"), ("evil.example", "localhost"), ("localhost", "localhost")):
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            await connection.send(f"GET /a HTTP/1.1\r\n{lines}\r\n".encode())
            assert (await connection.read_response()).status == 421


async def test_without_a_host(serve_memory: Serve) -> None:
    """No browser leaves it out."""
    async with serve_memory() as site, site.connect() as connection:
        await connection.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert (await connection.read_response()).status == 404


async def test_names_that_are_allowed(serve_memory: Serve) -> None:
    allowed = ("streams.example", "*.internal.example")
    async with serve_memory(allowed_hosts=allowed, public_url="https://public.example:444/base") as site:
        for host, status in (
            *(("streams.example", 404), ("STREAMS.example:8080", 404), ("a.internal.example", 404), ("localhost", 404)),
            *(("a.b.internal.example", 404), ("streams.example.", 404), ("public.example", 404)),
            *(("internal.example", 421), ("a.streams.example", 421), ("xinternal.example", 421), ("evil.example", 421)),
        ):
            assert (await site.get("/a", {"host": host})).status == status, host
    async with serve_memory(allowed_hosts=("*",)) as site:
        assert (await site.get("/a", {"host": "anything.example"})).status == 404


async def test_with_tokens_the_name_does_not_matter(serve_memory: Serve, tmp_path: Path) -> None:
    """A page that came by rebinding has no token. Names that are set are kept to all the same."""
    keys = (key_file(tmp_path),)
    async with serve_memory(jwt_keys=keys) as site:
        fields = bearer(mint(site, admin="/**"), host="streams.example")
        assert (await site.put("/a", fields, b"x")).status == 201
    async with serve_memory(jwt_keys=keys, allowed_hosts=("streams.example",)) as site:
        assert (await site.get("/a", bearer(mint(site, admin="/**"), host="streams.example"))).status == 200
        assert (await site.get("/a", bearer(mint(site, admin="/**"), host="evil.example"))).status == 421


async def test_insecure_means_everybody(serve_memory: Serve) -> None:
    async with serve_memory(insecure=True) as site:
        assert (await site.put("/a", {**TEXT, "host": "anything.example"}, b"x")).status == 201


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *(
            (name, True)
            for name in ("localhost", "x.localhost", "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1")
        ),
        *((name, False) for name in ("", "localhost.x", "xlocalhost", "0.0.0.0", "::", "::ffff:10.0.0.1", "1.2.3.4")),
    ],
)
def test_what_is_of_this_machine(name: str, own: bool) -> None:
    assert is_loopback_host(name) is own


# --- an application that is mounted in another, or run by another server ----------------------------------------------


async def call(app: object, server: object, host: bytes) -> int:
    """One request, as an ASGI server hands it over."""
    sent = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"",
        "headers": [(b"host", host)],
        "server": server,
    }
    await app(scope, receive, send)  # type: ignore[operator]
    status = sent[0]["status"]
    assert isinstance(status, int)
    return status


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        pytest.param(("127.0.0.1", 8000), b"localhost:8000", 404, id="this-machine"),
        pytest.param(("::1", 8000), b"[::1]:8000", 404, id="this-machine-v6"),
        pytest.param(("127.0.0.1", 8000), b"evil.example", 421, id="rebinding"),
        pytest.param(("192.168.1.5", 8000), b"192.168.1.5:8000", 403, id="network"),
        pytest.param(("192.168.1.5", 8000), b"localhost", 403, id="network-by-another-name"),
        pytest.param(("172.17.0.2", 8000), b"127.0.0.1:8000", 403, id="container"),
        pytest.param(("2001:db8::1", 8000), b"localhost", 403, id="network-v6"),
        pytest.param(("::ffff:192.168.1.5", 8000), b"localhost", 403, id="mapped"),
        pytest.param(("test", None), b"test", 404, id="within-the-process"),
        pytest.param(("testserver", 80), b"testserver", 404, id="a-test-client"),
        pytest.param(("/run/app.sock", None), b"app.example", 404, id="unix-socket"),
        pytest.param(None, b"app.example", 404, id="unknown"),
    ],
)
async def test_an_open_application_is_not_served_to_a_network(server: object, host: bytes, status: int) -> None:
    app = create_app(Settings(store="memory"), watch_signals=False)
    async with app.lifespan():
        assert await call(app, server, host) == status
        assert await call(app, server, host) == status, "remembered or not"


async def test_an_application_that_is_told_to_be_open_is(tmp_path: Path) -> None:
    network = ("192.168.1.5", 8000), b"app.example"
    app = create_app(Settings(store="memory", insecure=True), watch_signals=False)
    async with app.lifespan():
        assert await call(app, *network) == 404

    def authorize(request: AccessRequest) -> Principal:
        return Principal("x", grant(read="/a"))

    app = create_app(Settings(store="memory"), authorize=authorize, watch_signals=False)
    async with app.lifespan():
        assert await call(app, *network) == 404
    app = create_app(Settings(store="memory", jwt_keys=(key_file(tmp_path),)), watch_signals=False)
    async with app.lifespan():
        assert await call(app, *network) == 401


# --- where the server listens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "10.1.2.3", "169.254.1.1", "2001:db8::1"])
def test_where_a_server_that_asks_nobody_does_not_listen(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(Settings(host=host))
    for way in ("unbroken token create", "--jwt-keys", "127.0.0.1", "--insecure"):
        assert way in str(caught.value)
    check_exposure(Settings(host=host, insecure=True))
    check_exposure(Settings(host=host, jwt_keys=("env:KEY",)))
    check_exposure(Settings(host=host, tokens_file=tmp_path / "tokens.json"))


def test_a_server_that_asks_nobody_is_not_public(tmp_path: Path) -> None:
    """Not by a proxy before it either, of which its public URL tells."""
    public = Settings(public_url="https://streams.example.com")
    with pytest.raises(SettingsError, match=r"https://streams\.example\.com.*--public-url.*--insecure"):
        check_exposure(public)
    check_exposure(replace(public, insecure=True))
    check_exposure(replace(public, jwt_keys=("env:KEY",)))
    check_exposure(replace(public, tokens_file=tmp_path / "tokens.json"))
    for url in ("http://localhost:8080/streams", "http://127.0.0.1", "http://[::1]:9999"):
        check_exposure(Settings(public_url=url))


def test_tokens_that_are_not_there_yet(tmp_path: Path) -> None:
    """A link to a place that is not mounted, say. Whoever made it wants no open server."""
    (tmp_path / "tokens.json").symlink_to(tmp_path / "secrets" / "tokens.json")
    assert create_app(data_dir=str(tmp_path), store="memory").app.access is not None
    (tmp_path / "tokens.json").unlink()
    assert create_app(data_dir=str(tmp_path), store="memory").app.access is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_where_it_does(host: str) -> None:
    check_exposure(Settings(host=host))


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("allowed_hosts", "A.example, *.B.example", ("a.example", "*.b.example")),
        ("allowed_hosts", ["[::1]", "*"], ("::1", "*")),
        ("trusted_proxies", "10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
        ("trusted_proxies", "", ()),
        ("jwt_keys", "env:A,/b,https://c.example/jwks", ("env:A", "/b", "https://c.example/jwks")),
    ],
)
def test_settings_with_several_values(name: str, value: object, parsed: tuple[str, ...]) -> None:
    assert getattr(load_settings({name: value}, environ={}), name) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("allowed_hosts", value) for value in ("a.example:80", "https://a", "a b", "a*.example", "*.*", "é", 7)),
        *(("trusted_proxies", value) for value in ("proxy.example", "10.0.0.1/8", "*", "10.0.0.256")),
        *(("jwt_audience", value) for value in (7, [7])),
    ],
)
def test_settings_that_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError):
        load_settings({name: value}, environ={})
