"""Hyperlax trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."""

from hyperlax.xla import set_safe_scheduler

__version__ = "0.1.0"

set_safe_scheduler()
