"""Hyperlax trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."""

from typing import TYPE_CHECKING, Any

from hyperlax.xla import set_safe_scheduler

if TYPE_CHECKING:
    from hyperlax.api import Study, load_agent, open_study, search

__version__ = "0.1.0"
__all__ = ["Study", "load_agent", "open_study", "search"]

set_safe_scheduler()


def __getattr__(name: str) -> Any:
    """What `hyperlax.api` offers, imported when it is first asked for: the command line answers sooner."""
    if name not in __all__:
        raise AttributeError(f"module 'hyperlax' has no attribute {name!r}")
    from hyperlax import api

    return getattr(api, name)
