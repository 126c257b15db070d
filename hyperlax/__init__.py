"""Hyperlax trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."""

from typing import TYPE_CHECKING, Any

from hyperlax.xla import set_safe_scheduler, watch_forks

if TYPE_CHECKING:
    from hyperlax.api import Study, load_agent, open_study
    from hyperlax.training import search, sweep, tune

__version__ = "0.1.0"
__all__ = ["Study", "load_agent", "open_study", "search", "sweep", "tune"]

set_safe_scheduler()
watch_forks()


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface, which is imported at its first use, so that the command line starts fast."""
    if name not in __all__:
        raise AttributeError(f"module 'hyperlax' has no attribute {name!r}")
    from hyperlax import api, training

    return getattr(api if hasattr(api, name) else training, name)


def __dir__() -> list[str]:
    """Return the names that a notebook completes, those imported later included."""
    return sorted({*globals(), *__all__})
