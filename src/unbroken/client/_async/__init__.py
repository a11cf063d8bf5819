"""The client as it is written: asynchronous. ``_sync`` is generated from it by ``tools/unasync.py``."""
