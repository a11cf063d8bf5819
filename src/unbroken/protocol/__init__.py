"""The rules of streams: no I/O, no clock, no randomness. Those come in as arguments."""
