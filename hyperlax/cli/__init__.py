"""The `hyperlax` command."""

from hyperlax.cli.edge import main

__all__ = ["main"]
