"""The options of a run, new or resumed, from several layers.

Layers are default < file < command line, each with its preset below it. Some defaults are settled here: the run length by the
recipe, directions by the objectives, the study's name by recipe and environment, a sweep's super-batch by its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from hyperlax.config.kinds import kind_of, left_out
from hyperlax.config.option import MAY_CHANGE, Given, options_of
from hyperlax.config.options import (
    BATCHES_OF_ONE,
    OBJECTIVE,
    PRESETS,
    RUN_LENGTH,
    SUPER_BATCH,
    PbtOptions,
    RunOptions,
    SearchOptions,
    SweepOptions,
)
from hyperlax.envs import slug
from hyperlax.errors import OptionError
from hyperlax.recipe import Recipe

R = TypeVar("R", bound=RunOptions)


def settled(kind: type[R], layers: Sequence[Given], recipe: Recipe) -> R:
    """Return the options of a new run from several layers, of which the last one wins.

    The recipe settles the run length, the objectives settle their directions, recipe and environment the study's name.
    Raises OptionError without an environment, or with one for a task.
    """
    training = kind_of(recipe)
    given: dict[str, Any] = {}
    for layer in layers:
        own = _expanded(kind, layer, recipe)
        if "objective_names" in own:
            given.pop("objective_directions", None)
        given |= own
    known = options_of(kind)
    later = {"algo_and_network_config": recipe.name, "env_config": "", **_run_length(kind, recipe, "default")}
    environment = given.get("env_config") or ""
    training.check_environment(environment)
    if issubclass(kind, SearchOptions):
        later["objective_names"] = (training.table.leading,)
        names, metrics = given.get("objective_names", later["objective_names"]), training.table.rows
        later["objective_directions"] = tuple(
            metrics[name].direction if name in metrics else "maximize" for name in names
        )
    if issubclass(kind, PbtOptions):
        later["direction"] = training.table.rows[OBJECTIVE].direction
    parts = [recipe.name, slug(environment) if environment else "", "pbt" if issubclass(kind, PbtOptions) else ""]
    later["study_name"] = "_".join(filter(None, parts))
    if issubclass(kind, SweepOptions):
        lanes = given.get("runner_hparam_batch_size", "auto")
        widest = SUPER_BATCH if lanes == "auto" else max(SUPER_BATCH, BATCHES_OF_ONE * lanes)
        later["optuna_study_batch_size"] = min(given.get("n_trials", known["n_trials"].default), widest)
    return kind(**{**{name: value for name, value in later.items() if name in known}, **given})


def explicit(options: RunOptions, layers: Sequence[Given]) -> dict[str, Any]:
    """Return the options that layers give, with the values that `settled` gave them."""
    names = {name for layer in layers for name in (*layer, *PRESETS.get(layer.get("preset") or "", ()))}
    names |= set(RUN_LENGTH) if "run_length_modifier" in names else set()
    names |= {"objective_directions"} if "objective_names" in names else set()
    return {name: getattr(options, name) for name in options_of(type(options)) if name in names}


def resumed(stored: R, layer: Given, recipe: Recipe) -> R:
    """Return the options of a resumed run: the stored ones, changed where they may change and are given now.

    A timeout belongs to one invocation and is not remembered. Raises OptionError, listing all differences, if others differ.
    """
    known = options_of(type(stored))
    given = _expanded(type(stored), layer, recipe)
    if "env_config" in given:
        kind_of(recipe).check_environment(given["env_config"])
    free = [name for name, option in known.items() if option.has(MAY_CHANGE)]
    parts: list[str] = []
    values: list[str] = []
    first = ""
    for name, value in given.items():
        before = getattr(stored, name)
        if name in free or not known[name].is_kept or _same(name, before, value):
            continue
        parts.append(f"{{{name}}}: study has {{{len(values)}}}, given {{{len(values) + 1}}}")
        values += [known[name].in_words(before), known[name].in_words(value)]
        first = first or name
    if parts:
        shown = [name for name in free if name not in left_out(stored, recipe)]
        raise OptionError(
            first,
            "these options differ from those of the study to resume:\n  " + "\n  ".join(parts) + "\n"
            f"Leave them out to continue with the study's. Only {', '.join(f'{{{name}}}' for name in shown)} may change. "
            "For a new study, choose another {study_name} or {output_root}.",
            *values,
        )
    forgotten = {"timeout": None} if "timeout" in known else {}
    now = {name: value for name, value in given.items() if name in free or not known[name].is_kept}
    return replace(stored, **{**forgotten, **now})


def _expanded(kind: type, layer: Given, recipe: Recipe) -> dict[str, Any]:
    """Return the options of a layer, names of a preset and a run length replaced by what they stand for, files by full paths."""
    given = {**PRESETS.get(layer.get("preset") or "", {}), **layer}
    if modifier := given.get("run_length_modifier"):
        given = {**_run_length(kind, recipe, modifier), **given}
    if given.get("algo_and_network_config", "").endswith(".py"):
        given["algo_and_network_config"] = str(Path(given["algo_and_network_config"]).resolve())
    if given.get("load_hyperparams"):
        given["load_hyperparams"] = str(Path(given["load_hyperparams"]).resolve())
    return given


def _run_length(kind: type, recipe: Recipe, modifier: str) -> dict[str, int]:
    length = asdict(recipe.config.run_lengths[modifier])
    if issubclass(kind, PbtOptions):
        length["num_intervals"] = length.pop("num_evaluations")
    return length


def _same(name: str, stored: Any, given: Any) -> bool:
    if name == "env_config":
        return slug(stored) == slug(given)
    if name in ("output_root", "load_hyperparams") and stored is not None:
        return Path(stored).resolve() == Path(given).resolve()
    return stored == given
