"""Environments by name. Importing this package imports neither jax nor gymnax; `make` does."""

from hyperlax.envs.protocol import Continuous, Discrete, Environment, Step
from hyperlax.envs.registry import action_kind, canonical, is_known, is_shipped, make, names, register, slug, unaliased

__all__ = [
    "Continuous",
    "Discrete",
    "Environment",
    "Step",
    "action_kind",
    "canonical",
    "is_known",
    "is_shipped",
    "make",
    "names",
    "register",
    "slug",
    "unaliased",
]
