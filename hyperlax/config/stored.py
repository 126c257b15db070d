"""The options and the recipe of a study on disk, which a command needs before it reads the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperlax.config.option import from_json
from hyperlax.config.options import PbtOptions, SearchOptions, SweepOptions
from hyperlax.config.speech import command_to
from hyperlax.config.trusted import check_source, is_own, recipe_file
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import PUT_BACK, decode, is_too_long
from hyperlax.functions import Placed, stored_place
from hyperlax.recipe import Changes, Recipe, check_no_flow, from_source, load, searching
from hyperlax.space import from_json as distribution_from_json

MANIFEST = "study.json"
SEARCH, SWEEP, PBT = "optuna-hp-search", "sweep-hp-samples", "pbt"
"""The commands that start studies, each resuming its own."""
TUNE = "tune"
"""The command that starts a search of a command's hyperparameters, and resumes it as `SEARCH` does."""
_KINDS: dict[str, type[SearchOptions] | type[PbtOptions]] = {
    SEARCH: SearchOptions,
    SWEEP: SweepOptions,
    PBT: PbtOptions,
}
RESUMED = "{resume_from}"
"""Name in messages of the flag that resumes a study."""


def command_of(arguments: Mapping[str, Any]) -> str:
    """Return the command that started a study. arguments: those of its `study.json`."""
    if "population_size" in arguments:
        return PBT
    return SEARCH if arguments.get("sampling_method") is None else SWEEP


def kind_of(arguments: Mapping[str, Any]) -> type[SearchOptions] | type[PbtOptions]:
    """Return the class of the options with which a study started. arguments: those of its `study.json`."""
    return _KINDS[command_of(arguments)]


def check_command(directory: Path, command: str) -> None:
    """Raise OptionError, with the command line that continues it, for a study that another command started."""
    started = command_of(read_arguments(directory, RESUMED))
    check_no_flow(_kept_recipe(directory).get("source") or {}, str(directory / MANIFEST))
    if command != started:
        resume = command_to(started, resume_from=directory)
        problem = "{resume_from} {0}: {1} started this study. To continue it:\n  {2}"
        raise OptionError("resume_from", problem, directory, started, resume)


def named_directory(given: str, asked_by: str) -> Path:
    """Return the directory of a study, as typed. Raises UsageError for an empty name, for `Path` the working directory."""
    if not given.strip():
        raise _no_study(asked_by, repr(given), "is not a directory")
    return Path(given)


def read_stored(directory: Path, asked_by: str) -> SearchOptions | PbtOptions:
    """Return the options in the `study.json` of a directory. Raises UsageError, beginning with `asked_by`, if it is missing."""
    stored = read_arguments(directory, asked_by)
    return from_json(kind_of(stored), stored, str(directory / MANIFEST))


def read_arguments(directory: Path, asked_by: str) -> dict[str, Any]:
    """Return the entry `arguments` of a `study.json`. Raises UsageError, beginning with `asked_by`, if it is missing."""
    path = directory / MANIFEST
    if is_too_long(path):
        raise _no_study(asked_by, directory, "is longer than the system allows")
    _refuse_hidden(path)
    if not path.is_file():
        found = "holds no study.json" if directory.is_dir() else "is not a directory"
        raise _no_study(asked_by, directory, found)
    stored = decode(path, object)
    if not isinstance(stored, dict) or not isinstance(stored.get("arguments"), dict):
        raise UsageError(f"{path}: has no `arguments`. It was not written by Hyperlax.")
    return stored["arguments"]


def read_study(
    directory: Path, asked_by: str, named: str | None = None, recipe: Recipe | None = None
) -> tuple[SearchOptions | PbtOptions, Recipe]:
    """Return the options and the recipe with which a study started, with its search space. Raises UsageError.

    The recipe is made from its source, or loaded from the same file as at the start, from any working directory. If that is gone,
    its name is looked up.
    named: the recipe that the user names for it. It is loaded if no run of the user's recorded the study's own, else it must be
    that; a resume compares it with the other options. recipe: the study's, if it is loaded already.
    """
    options, kept = read_stored(directory, asked_by), _kept_recipe(directory)
    if named is not None and is_own(kept):
        if asked_by != RESUMED:
            _check_named(directory, options.algo_and_network_config, kept, named)
        named = None
    if named is not None:
        own = str(Path(named).resolve()) if named.endswith(".py") else named
        options = replace(options, algo_and_network_config=own)
    return options, recipe or _load(directory, options, kept, named)


def load_again(directory: Path, code: Placed | Sequence[str]) -> Recipe:
    """Return the recipe with which a study started, with code that the user gives in place of that of its source.

    code: a function, or the words of a command, which then runs in the working directory. Raises UsageError.
    """
    stored, kept, where = read_stored(directory, RESUMED), _kept_recipe(directory), str(directory / MANIFEST)
    function = code if isinstance(code, Placed) else None
    changes, source, kind = _changes(kept, where), kept.get("source"), "function" if function else "command"
    if not isinstance(source, dict) or kind not in source:
        again = command_to(command_of(stored.to_json()), resume_from=directory)
        problem = "{resume_from} {0}: this study did not begin with a {1}. To continue it:\n  {2}"
        raise OptionError("resume_from", problem, directory, kind, again)
    if isinstance(code, Placed):
        own = {"function": stored_place(code.place)}
    else:
        own = {"command": list(code), "directory": os.getcwd()}
    return searching(from_source({**source, **own}, where, function), changes, where)


def _kept_recipe(directory: Path) -> dict[str, Any]:
    """Return the entry `recipe` of a `study.json`, empty if it is not what Hyperlax writes."""
    kept = decode(directory / MANIFEST, dict[str, Any]).get("recipe")
    return kept if isinstance(kept, dict) else {}


def _changes(kept: Mapping[str, Any], where: str) -> Changes:
    """Return the changes to the search space of a stored recipe."""
    found = kept.get("changes", {})
    if not isinstance(found, dict) or not all(text is None or isinstance(text, dict) for text in found.values()):
        raise UsageError(f"{where}: `changes` is not what Hyperlax writes there. {PUT_BACK}")
    try:
        return {name: None if text is None else distribution_from_json(text) for name, text in found.items()}
    except UsageError as error:
        raise UsageError(f"{where}: {error} {PUT_BACK}") from error


def _load(directory: Path, stored: SearchOptions | PbtOptions, kept: Mapping[str, Any], named: str | None) -> Recipe:
    """Return the recipe of a study. kept: its entry. named: the one to load instead."""
    where = str(directory / MANIFEST)
    changes, source = _changes(kept, where), kept.get("source")
    if source and not named:
        check_source(kept, where, directory, isinstance(stored, SweepOptions))
        return searching(from_source(source, where), changes, where)
    there = named or recipe_file(kept, stored.algo_and_network_config, directory, where)
    return searching(load(there), changes, where)


def _check_named(directory: Path, own: str, kept: Mapping[str, Any], named: str) -> None:
    """Raise OptionError if the user names another recipe than that of a study of the user's own."""
    if named != own and load(named).path.resolve() != Path(kept.get("path", "")):
        problem = "{algo_and_network_config} {0}: the study in {1} trains {2}. Leave the option out."
        raise OptionError("algo_and_network_config", problem, named, directory, own)


def _no_study(asked_by: str, given: object, found: str) -> OptionError:
    below = _studies_below(given) if isinstance(given, Path) else []
    if len(below) == 1:
        return OptionError("resume_from", f"{asked_by} {{0}}: {found}. Give the study below it: {{1}}", given, below[0])
    such = below[0] if below else "my_optuna_studies/sac_mlp/gymnax_pendulum"
    advice = "Give the directory of a study, such as {1}."
    return OptionError("resume_from", f"{asked_by} {{0}}: {found}. {advice}", given, such)


def _studies_below(directory: Path) -> list[Path]:
    """Return the studies that lie one or two levels below a directory."""
    with suppress(OSError, ValueError):
        return sorted(path.parent for levels in ("*", "*/*") for path in directory.glob(f"{levels}/{MANIFEST}"))
    return []


def _refuse_hidden(path: Path) -> None:
    """Raise UsageError if this process has no permission to see whether a file exists."""
    try:
        path.stat()
    except PermissionError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (OSError, ValueError):
        return
