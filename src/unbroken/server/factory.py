"""Putting the server together from settings."""

from __future__ import annotations

from typing import Any

from unbroken.engine.engine import Engine
from unbroken.engine.usage import Quota
from unbroken.server.access import Authorize
from unbroken.server.asgi import AsgiApp
from unbroken.server.guard import with_tokens_file
from unbroken.server.settings import Settings, load_settings
from unbroken.store.base import Store
from unbroken.store.memory import MemoryStore
from unbroken.store.sqlite import SqliteStore

__all__ = ["create_app", "create_engine", "quota_of"]


def create_engine(settings: Settings) -> Engine:
    """An engine on the store that the settings name; not started yet."""
    store: Store = MemoryStore()
    if settings.store == "sqlite":
        store = SqliteStore(settings.data_dir, litestream=settings.litestream, reserve_bytes=settings.disk_reserve)
    return Engine(store, page_bytes=settings.page_size, quota=quota_of(settings))


def quota_of(settings: Settings) -> Quota:
    """What the store may hold at most."""
    return Quota(
        settings.max_stream_size,
        settings.max_streams,
        settings.max_total_size,
        settings.quota,
        settings.max_producers,
    )


def create_app(
    settings: Settings | None = None,
    *,
    authorize: Authorize | None = None,
    watch_signals: bool = True,
    **overrides: Any,
) -> AsgiApp:
    """Make the ASGI app.

        streams = create_app(data_dir="streams")
        app = FastAPI(lifespan=streams.lifespan)
        app.mount("/streams", streams)

    One process owns a data directory: run it with one worker.

    Args:
        settings: how to behave; by default from the environment.
        authorize: says who sent a request and what they may do, by the application's own means: it is given an
            `AccessRequest` and returns a `Principal`, or None for somebody it does not know, who then needs a token. It
            may be a coroutine function.
        watch_signals: end live reads as soon as the process is asked to stop.
        overrides: single settings by name, such as ``page_size="256KiB"``; see `Settings`.

    Raises:
        SettingsError: an unknown setting or a bad value, or a key that cannot be read.
    """
    if settings is None:
        settings = load_settings(overrides)
    elif overrides:
        raise TypeError("give either settings or single overrides")
    settings = with_tokens_file(settings)
    return AsgiApp(create_engine(settings), settings, authorize=authorize, watch_signals=watch_signals)
