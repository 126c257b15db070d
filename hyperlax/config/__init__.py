"""The user's input: options, studies as YAML files, search spaces, samples. Imports neither jax nor optuna."""
