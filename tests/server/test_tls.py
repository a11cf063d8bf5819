"""HTTPS from certificate files, and what is believed of a proxy in front."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.certificates import Certificate, make_certificate
from tests.server.process import server_process
from tests.server.site import TEXT
from tests.tokens.pairs import ED25519, private_pem
from unbroken.server.settings import Settings, SettingsError
from unbroken.server.tls import certificate
from unbroken.testing import Address, connect


@pytest.fixture
def made(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


async def ask(address: Address, trusted: Path) -> tuple[bytes, bytes]:
    """One request over TLS: what was answered, and the server's certificate."""
    context = ssl.create_default_context(cafile=str(trusted))
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return await reader.read(), shown
        finally:
            writer.close()


async def test_handshake_that_never_ends(made: Certificate, tmp_path: Path) -> None:
    """It takes as long as a head may, not a minute."""
    flags = ("--tls-cert", str(made.chain), "--tls-key", str(made.key), "--head-timeout", "0.3")
    async with server_process(tmp_path, *flags) as server, connect(*server.address) as silent:
        assert await silent.read_eof() == b""
        answered, _ = await ask(server.address, made.chain)
        assert b"201 Created" in answered


async def test_https_and_a_new_certificate(made: Certificate, tmp_path: Path) -> None:
    flags = ("--tls-cert", str(made.chain), "--tls-key", str(made.key))
    async with server_process(tmp_path, *flags) as server:
        answered, first = await ask(server.address, made.chain)
        assert b"201 Created" in answered
        assert b"location: https://localhost/a" in answered.lower()
        before = tmp_path / "before.pem"
        shutil.copy(made.chain, before)
        (tmp_path / "new").mkdir()
        new = make_certificate(tmp_path / "new")
        shutil.copy(new.chain, made.chain)
        server.send_signal(signal.SIGHUP)  # the key is still the old one's
        assert (await ask(server.address, before))[1] == first, "what does not fit changes nothing"
        shutil.copy(new.key, made.key)
        server.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while True:
                try:
                    _, second = await ask(server.address, new.chain)
                    break
                except ssl.SSLError:
                    await asyncio.sleep(0.01)
        assert second != first
        server.send_signal(signal.SIGTERM)
        code, log = await server.wait()
    assert code == 0
    assert "the certificate stays as it was" in log
    assert "was read anew" in log


async def test_a_server_without_https_and_sighup(tmp_path: Path) -> None:
    """There is nothing to read anew: it ends, as programs do that do not know the signal."""
    async with server_process(tmp_path) as server:
        server.send_signal(signal.SIGHUP)
        assert (await server.wait())[0] == -signal.SIGHUP


def test_files_that_do_not_do(made: Certificate, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(private_pem(ED25519))
    encrypted = tmp_path / "encrypted.pem"
    secret = BestAvailableEncryption(b"secret")
    encrypted.write_bytes(ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for chain, key in (
        (made.chain, tmp_path / "none.pem"),
        (tmp_path / "none.pem", made.key),
        (made.chain, other),
        (made.key, made.chain),
        (empty, made.key),
        (made.chain, empty),
        (made.chain, encrypted),
    ):
        with pytest.raises(SettingsError, match="cannot serve HTTPS"):
            certificate(Settings(tls_cert=chain, tls_key=key))
    for half in (Settings(tls_cert=made.chain), Settings(tls_key=made.key)):
        with pytest.raises(SettingsError, match="both"):
            certificate(half)
    assert certificate(Settings()) is None
    used = certificate(Settings(tls_cert=made.chain, tls_key=made.key))
    assert used is not None
    assert used.context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("trusted", "scheme"), [(None, "https"), ("127.0.0.0/8", "https"), ("10.0.0.0/8", "http"), ("", "http")]
)
async def test_what_a_proxy_says(tmp_path: Path, trusted: str | None, scheme: str) -> None:
    """By default those of this machine are believed; a client from elsewhere cannot say what it likes."""
    flags = () if trusted is None else ("--trusted-proxies", trusted)
    async with server_process(tmp_path, "--store", "memory", *flags) as server, connect(*server.address) as client:
        for method in ("PUT", "POST"):
            fields = {**TEXT, "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}
            response = await client.request(method, "/a", fields, b"x")
            if method == "PUT":
                assert response["location"] == f"{scheme}://localhost/a"
            else:
                assert response.status == 204
