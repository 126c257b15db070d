"""Samplers suggest trials. A sampler is a row of `hyperlax.samplers.registry`."""
