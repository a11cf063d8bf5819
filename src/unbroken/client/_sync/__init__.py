"""The client that waits: generated from ``_async`` by ``tools/unasync.py``."""
