"""The arguments of a study that is there: read from its directory, and what a resume may change of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlax.argument_checks import checked
from hyperlax.config.options import SWITCHES, SearchOptions, flag_of, given_arguments
from hyperlax.errors import UsageError
from hyperlax.files import is_too_long
from hyperlax.reading import DAMAGED, read_json
from hyperlax.recipe import load, searching
from hyperlax.space import from_json

if TYPE_CHECKING:
    from hyperlax.flags import SearchFlags
    from hyperlax.pbt_arguments import PopulationOptions
    from hyperlax.recipe import Recipe

SEARCH, SWEEP = "optuna-hp-search", "sweep-hp-samples"
"""The commands that begin studies, each going on with its own."""
MAY_CHANGE_ON_RESUME = (
    "n_trials", "timeout", "max_failure_rate", "checkpoint_seconds", "log_level", "runner_hparam_batch_size", "confirm_top",
    "confirm_seeds", "save_agents",
)  # fmt: skip


def resolve_resumed(flags: SearchFlags, stored: SearchOptions, recipe: Recipe) -> SearchOptions:
    """The arguments of a study that goes on: the stored ones, with those that may change as given now."""
    given = given_arguments(flags, recipe)
    check_agreement(stored, given)
    return checked(changed(stored, given, MAY_CHANGE_ON_RESUME))


def changed(stored: SearchOptions, given: Mapping[str, Any], may_change: Sequence[str]) -> SearchOptions:
    """The stored arguments with those of `given` that may change. A timeout is that of one invocation: none is remembered."""
    unlimited = replace(stored, timeout=None)
    return replace(unlimited, **{name: given[name] for name in may_change if name in given})


def going_on(directory: Path, command: str) -> str:
    """The command line that goes on with the study in a directory."""
    return shlex.join(["hyperlax", command, "--resume-from", str(directory)])


def check_command(directory: Path, stored: SearchOptions, command: str) -> None:
    """UsageError, with the command line that goes on with it, for a study that another command began."""
    began = SWEEP if stored.is_sweep else SEARCH
    if command != began:
        raise UsageError(
            f"--resume-from {directory}: {began} began this study. To go on with it:\n  {going_on(directory, began)}"
        )


def named_directory(given: str, asked_by: str) -> Path:
    """The directory of a study, as typed. UsageError for an empty name, which `Path` takes for the working directory."""
    if not given.strip():
        raise _no_study(f"{asked_by} {given!r}", "is not a directory")
    return Path(given)


def read_stored(directory: Path, asked_by: str) -> SearchOptions:
    """The arguments of the study in a directory, from its `study.json`. UsageError, naming who asked, if there is none."""
    stored = read_arguments(directory, asked_by)
    if "population_size" in stored:
        raise UsageError(f"{asked_by} {directory}: holds a population. Go on with it by hyperlax pbt --resume-from.")
    return SearchOptions.from_json(stored, str(directory / "study.json"))


def read_arguments(directory: Path, asked_by: str) -> dict[str, Any]:
    """What a directory's `study.json` keeps under `arguments`. UsageError, naming who asked, if there is none."""
    path = directory / "study.json"
    if is_too_long(path):
        raise _no_study(f"{asked_by} {directory}", "is longer than the system takes")
    _refuse_hidden(path)
    if not path.is_file():
        found = "holds no study.json" if directory.is_dir() else "is not a directory"
        raise _no_study(f"{asked_by} {directory}", found)
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("arguments"), dict):
        raise UsageError(f"{path}: has no `arguments`. It was not written by Hyperlax.")
    return stored["arguments"]


def _no_study(given: str, found: str) -> UsageError:
    return UsageError(
        f"{given}: {found}. Give the directory of a study, such as my_optuna_studies/sac_mlp/gymnax_pendulum."
    )


def _refuse_hidden(path: Path) -> None:
    """UsageError if the system does not let this process see whether a file is there."""
    try:
        path.stat()
    except PermissionError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (OSError, ValueError):
        return


def recipe_of_study(directory: Path, stored: SearchOptions | PopulationOptions) -> str:
    """The recipe file that a study began with, wherever it is resumed from; its name where that file is gone."""
    recipe = read_json(directory / "study.json").get("recipe")
    path = recipe.get("path") if isinstance(recipe, dict) else None
    return path if isinstance(path, str) and Path(path).is_file() else stored.algo_and_network_config


def load_recipe_of(directory: Path, stored: SearchOptions | PopulationOptions) -> Recipe:
    """The recipe that a study began with, searching what the study searches. UsageError if it cannot be loaded."""
    path = directory / "study.json"
    recipe = read_json(path).get("recipe")
    found = recipe.get("changes", {}) if isinstance(recipe, dict) else {}
    if not isinstance(found, dict) or not all(text is None or isinstance(text, dict) for text in found.values()):
        raise UsageError(f"{path}: `changes` is not what Hyperlax writes there. {DAMAGED}")
    try:
        changes = {name: None if text is None else from_json(text) for name, text in found.items()}
    except UsageError as error:
        raise UsageError(f"{path}: {error} {DAMAGED}") from error
    return searching(load(recipe_of_study(directory, stored)), changes, str(path))


def check_agreement(
    stored: SearchOptions | PopulationOptions,
    given: Mapping[str, Any],
    may_change: Collection[str] = MAY_CHANGE_ON_RESUME,
    flag: Callable[[str], str] = flag_of,
) -> None:
    """Refuse a resume whose given arguments contradict the study, listing each that differs. flag: argument name -> flag."""
    differing = [
        f"{flag(name)}: study has {_words(name, getattr(stored, name))}, given {_words(name, value)}"
        for name, value in given.items()
        if name not in may_change and not _same(name, getattr(stored, name), value)
    ]
    if differing:
        may = ", ".join(map(flag, may_change))
        raise UsageError(
            "The study that is resumed has other arguments:\n  " + "\n  ".join(differing) + "\n"
            f"Leave them out to go on with the study's; only {may} may change. "
            "For a new study, choose another --output-root."
        )


def _same(name: str, stored: Any, given: Any) -> bool:
    if stored == given:
        return True
    if name == "env_config":
        from hyperlax.envs import slug

        return slug(stored) == slug(given)
    if name in ("output_root", "load_hyperparams") and stored is not None:
        return Path(stored).resolve() == Path(given).resolve()
    return False


def _words(name: str, value: Any) -> str:
    if name in SWITCHES:
        return f"{'' if value else 'no '}{name.replace('_', ' ')}"
    return " ".join(value) if isinstance(value, tuple) else str(value)
