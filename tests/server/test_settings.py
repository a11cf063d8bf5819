"""Settings of limits: the same from a flag, a variable and a file; a bad one is one line that says what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unbroken.engine.quotas import PathQuota
from unbroken.server.settings import Settings, SettingsError, load_settings

NONE: tuple[str, ...] = (
    "max_stream_size",
    "max_producers",
    "max_streams",
    "max_total_size",
    "append_rate",
    "append_bandwidth",
    "principal_append_rate",
)
NONE = (*NONE, "principal_append_bandwidth", "principal_live_reads", "address_connections", "address_wrong_tokens")
GOOD: list[tuple[str, str, Any]] = [
    ("max_body", "1MiB", 2**20),
    ("max_body", " 1 mib ", 2**20),
    ("max_stream_size", "2TiB", 2**41),
    ("max_stream_size", "1TB", 10**12),
    ("max_streams", "0", 0),
    ("max_total_size", "5GB", 5 * 10**9),
    ("quota", "/users/* streams=1000 size=10GiB", (PathQuota("/users/*", 1000, 10 * 2**30),)),
    ("quota", "/a size=0, /*/b%2Cc  streams=0,", (PathQuota("/a", None, 0), PathQuota("/*/b,c", 0))),
    ("disk_reserve", "1GiB", 2**30),
    ("max_bodies_size", "1MiB", 2**20),
    ("max_answers_size", "1MiB", 2**20),
    ("append_rate", "100", 100),
    ("append_bandwidth", "10KiB", 10_240),
    ("max_live_reads", "0", 0),
    ("max_connections", "1", 1),
    ("head_timeout", "0.5", 0.5),
    ("idle_timeout", "3600", 3600.0),
    ("body_timeout", "1", 1.0),
    ("upload_timeout", "86400", 86_400.0),
    ("access_log", "yes", True),
    *((name, "none", None) for name in NONE),
    *((name, "None", None) for name in NONE),
]
BAD = [
    ("max_body", "0"),
    ("max_body", "2GiB"),
    ("max_body", "none"),
    ("max_body", "1XiB"),
    ("max_body", "1.5MiB"),
    ("max_body", "-1"),
    ("max_stream_size", "nothing"),
    ("max_producers", "1000001"),
    ("max_streams", "1e6"),
    ("max_streams", "1,000"),
    ("max_streams", "٣"),
    ("disk_reserve", "1MiB"),
    ("append_rate", "0"),
    ("max_connections", "0"),
    ("max_connections", "none"),
    ("head_timeout", "0"),
    ("head_timeout", "nan"),
    ("head_timeout", "inf"),
    ("access_log", "maybe"),
    ("quota", "/users/*"),
    ("quota", "/users/* streams=1 streams=2"),
    ("quota", "/users/* bytes=1"),
    ("quota", "/users/* 1000"),
    ("quota", "/a size=1, /b size=1, /%61 streams=2"),
    ("quota", ",".join(f"/{number} size=1" for number in range(33))),
]


@pytest.mark.parametrize(("name", "value", "parsed"), GOOD)
def test_good_values(tmp_path: Path, name: str, value: str, parsed: Any) -> None:
    file = tmp_path / "unbroken.toml"
    file.write_text(f'{name} = "{value}"\n')
    for settings in (
        load_settings({name: value}, environ={}),
        load_settings(environ={f"UNBROKEN_{name.upper()}": value}),
        load_settings(config=file, environ={}),
    ):
        assert getattr(settings, name) == parsed


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({name: value}, environ={})
    message = str(refused.value)
    assert message.startswith(f"--{name.replace('_', '-')}: must be ")
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("quota", "said"),
    [
        ("users/* size=1", "it must begin with /"),
        ("/users/** size=1", "leave it out"),
        ("/user-* size=1", "* stands for a whole segment"),
        ("/users/* size=1XiB", "size of /users/* must be a size"),
        ("/users/* streams=-1", "streams of /users/* must be a whole number"),
        ("/-/x size=1", "there are no streams"),
    ],
)
def test_what_is_wrong_with_a_quota_is_told(quota: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ={"UNBROKEN_QUOTA": f"/ok size=1,{quota}"})
    message = str(refused.value)
    assert message.startswith("UNBROKEN_QUOTA: ")
    assert said in message
    assert "\n" not in message


def test_quotas_from_everywhere(tmp_path: Path) -> None:
    """A flag that is repeated, a list in a file, values of the application."""
    file = tmp_path / "unbroken.toml"
    file.write_text('quota = ["/users/* streams=5", "/orgs/*/users/* size=1KiB"]\n')
    quotas = (PathQuota("/users/*", 5), PathQuota("/orgs/*/users/*", None, 1024))
    for settings in (
        load_settings(config=file, environ={}),
        load_settings({"quota": ["/users/* streams=5", "/orgs/*/users/* size=1KiB"]}, environ={}),
        load_settings({"quota": ["/users/* streams=5,/orgs/*/users/* size=1024"]}, environ={}),
        load_settings({"quota": quotas}, environ={}),
    ):
        assert settings.quota == quotas


def test_numbers_of_a_file_need_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "unbroken.toml"
    file.write_text("max_streams = 5\nmax_body = 1000\nhead_timeout = 2\naccess_log = true\n")
    settings = load_settings(config=file, environ={})
    assert (settings.max_streams, settings.max_body, settings.head_timeout, settings.access_log) == (5, 1000, 2.0, True)


def test_limits_are_on_by_default() -> None:
    settings = Settings()
    assert {name for name in NONE if getattr(settings, name) is None} == {
        *("max_total_size", "append_rate", "append_bandwidth")
    }, "the disk's reserve and what the machine can do are the limits of these"
