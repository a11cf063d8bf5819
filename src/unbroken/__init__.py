"""Durable, append-only byte streams over plain HTTP."""
