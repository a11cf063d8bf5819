"""The reference server, as tests of our clients use it."""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.peers import ReferenceServer, need_reference


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "files"])
def test_the_reference_server_is_there(tmp_path: Path, durable: bool) -> None:
    need_reference()
    with ReferenceServer(tmp_path / "data" if durable else None) as server:
        url = server.url + "/a"
        urlopen(Request(url, b"kept", {"content-type": "text/plain"}, method="PUT")).close()
        if durable:
            server.kill()
            server.start()
        with urlopen(url) as response:
            assert response.read() == b"kept"
        assert server.stop() == 0
