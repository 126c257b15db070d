"""What a user writes: options, studies as YAML files, search spaces, samples. Imports neither jax nor optuna."""
