"""Where bytes and records are kept; no protocol rules."""
