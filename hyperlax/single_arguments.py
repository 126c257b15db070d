"""What `run-single-hp` trains: its arguments, and the configuration from recipe, params file and --set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlax.argument_checks import check_run, required
from hyperlax.config.options import RUN_LENGTH, SingleOptions
from hyperlax.errors import UsageError
from hyperlax.reading import read_json

if TYPE_CHECKING:
    from hyperlax.hyperparams import AlgorithmConfig
    from hyperlax.recipe import Recipe
    from hyperlax.single_flags import SingleFlags


def resolve_single(flags: SingleFlags, recipe: Recipe) -> SingleOptions:
    """The arguments of one training. UsageError for what cannot run."""
    length = asdict(recipe.config.run_lengths[flags.run_length_modifier or "default"])
    length |= {name: value for name in RUN_LENGTH if (value := getattr(flags, name)) is not None}
    arguments = SingleOptions(
        algo_and_network_config=flags.algo_and_network_config or recipe.name,
        env_config=required(flags.env_config, "--env-config", "an environment such as gymnax.pendulum"),
        params=flags.params,
        trial=flags.trial,
        assignments=flags.assignments,
        output_root=flags.output_root or "my_single_runs",
        log_level=(flags.log_level or "INFO").upper(),
        seed=0 if flags.seed is None else flags.seed,
        num_seeds=1 if flags.num_seeds is None else flags.num_seeds,
        aggregate=flags.aggregate or "mean",
        **length,
        compilation_cache=not flags.no_compilation_cache,
    )
    check_run(arguments)
    return arguments


def configured(arguments: SingleOptions, recipe: Recipe) -> AlgorithmConfig:
    """The recipe's configuration with the values of the params file, and then of --set, in their place."""
    from hyperlax.recipe import apply

    algorithm = recipe.config.algorithm
    if arguments.params is not None:
        algorithm = apply(algorithm, read_params(Path(arguments.params), arguments.trial), arguments.params)
    elif arguments.trial is not None:
        raise UsageError(f"--trial {arguments.trial} chooses from a file. Name the file with --params.")
    return apply(algorithm, parse_assignments(arguments.assignments), "--set")


def read_params(path: Path, trial: int | None) -> dict[str, Any]:
    """Dotted name -> value, of a trial in best_optuna_params.json (one) or pareto_front_params.json (a list)."""
    found = read_json(path)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("params"), dict) or "trial" not in entry:
            raise UsageError(
                f"{path}: holds no trial with its params. Give a study's best_optuna_params.json "
                "or pareto_front_params.json."
            )
    numbers = ", ".join(str(entry["trial"]) for entry in entries) or "none"
    chosen = [entry for entry in entries if trial is None or entry["trial"] == trial]
    if len(chosen) == 1:
        return chosen[0]["params"]
    if trial is None:
        raise UsageError(f"{path}: holds {len(entries)} trials ({numbers}). Choose one with --trial.")
    raise UsageError(f"{path}: holds no trial {trial}. It holds {numbers}.")


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Dotted name -> value of `NAME=VALUE` texts; a value that is no JSON is a string."""
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError(f"--set needs NAME=VALUE, got {text!r}. Write --set algorithm.hyperparam.gamma=0.98.")
        if name in values:
            raise UsageError(f"--set: {name} is given more than once. Give each name once.")
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # no JSON, or a whole number of thousands of digits
        return text
