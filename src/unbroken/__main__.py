"""``python -m unbroken``."""

from unbroken.cli.main import main

__all__: list[str] = []

main()
