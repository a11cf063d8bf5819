"""The embedded durable store: one SQLite database, written as a journal and read as chunks."""

from unbroken.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
