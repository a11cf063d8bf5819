"""A lab before the server of a test, with a proxy in between that does what the test wants."""

from __future__ import annotations

import pytest

from tests.pages.lab import Lab
from unbroken.testing import Address
from unbroken.testing.proxy import FaultyProxy


@pytest.fixture
def lab(unbroken_server: Address, unbroken_proxy: FaultyProxy) -> Lab:
    """Pages come through ``unbroken_proxy``."""
    return Lab(unbroken_proxy.url, unbroken_server.url)
