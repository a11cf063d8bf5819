"""HTTP on top of the engine."""
