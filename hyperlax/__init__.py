"""Hyperlax trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."""
