"""The options and the recipe of a study on disk, which a command needs before it reads the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hyperlax.config.option import from_json
from hyperlax.config.options import PbtOptions, SearchOptions, SweepOptions
from hyperlax.config.speech import command_to
from hyperlax.config.trusted import check_source, is_own, recipe_file
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import PUT_BACK, decode, is_too_long
from hyperlax.functions import Placed, stored_place
from hyperlax.recipe import Recipe, check_no_flow, from_source, load, searching
from hyperlax.space import from_json as distribution_from_json

_Options = TypeVar("_Options", bound="SearchOptions | PbtOptions")

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
    source = (decode(directory / MANIFEST, dict[str, Any]).get("recipe") or {}).get("source")
    check_no_flow(source or {}, str(directory / MANIFEST))
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


def load_recipe_of(
    directory: Path,
    stored: SearchOptions | PbtOptions,
    named: str | None = None,
    code: Placed | Sequence[str] | None = None,
) -> Recipe:
    """Return the recipe with which a study started, with the study's search space. Raises UsageError if it cannot be loaded.

    It is made from its source, or loaded from the same file as at the start, from any working directory. If that is gone, its name
    is looked up.
    named: the recipe that the user names for it, in place of one that no run of the user's recorded. code: the function that the
    user gives, or the words of a command, which then runs in the working directory; in place of that of the source.
    """
    path = directory / MANIFEST
    stored_study: Any = decode(path, object)
    kept = stored_study.get("recipe")
    kept = kept if isinstance(kept, dict) else {}
    found = kept.get("changes", {})
    if not isinstance(found, dict) or not all(text is None or isinstance(text, dict) for text in found.values()):
        raise UsageError(f"{path}: `changes` is not what Hyperlax writes there. {PUT_BACK}")
    try:
        changes = {name: None if text is None else distribution_from_json(text) for name, text in found.items()}
    except UsageError as error:
        raise UsageError(f"{path}: {error} {PUT_BACK}") from error
    source = kept.get("source")
    if code is not None:
        function, words = (code, ()) if isinstance(code, Placed) else (None, code)
        kind = "function" if function else "command"
        if not isinstance(source, dict) or kind not in source:
            again = command_to(command_of(stored.to_json()), resume_from=directory)
            problem = "{resume_from} {0}: this study did not begin with a {1}. To continue it:\n  {2}"
            raise OptionError("resume_from", problem, directory, kind, again)
        own = (
            {"function": stored_place(function.place)}
            if function
            else {"command": list(words), "directory": os.getcwd()}
        )
        return searching(from_source({**source, **own}, str(path), function), changes, str(path))
    if source and not named:
        check_source(kept, str(path), directory, command_of(stored.to_json()) == SWEEP)
        return searching(from_source(source, str(path)), changes, str(path))
    there = named or recipe_file(kept, stored.algo_and_network_config, directory, str(path))
    return searching(load(there), changes, str(path))


def check_named(directory: Path, stored: SearchOptions | PbtOptions, named: str | None) -> None:
    """Raise OptionError if the user names another recipe than that of a study of the user's own."""
    kept = decode(directory / MANIFEST, dict[str, Any]).get("recipe")
    if named is None or not (isinstance(kept, dict) and is_own(kept)):
        return
    own = stored.algo_and_network_config
    if named != own and load(named).path.resolve() != Path(kept.get("path", "")):
        problem = "{algo_and_network_config} {0}: the study in {1} trains {2}. Leave the option out."
        raise OptionError("algo_and_network_config", problem, named, directory, own)


def with_recipe(directory: Path, stored: _Options, named: str | None) -> _Options:
    """Return the stored options with the recipe that the user names, if no run of the user's recorded the study's own."""
    kept = decode(directory / MANIFEST, dict[str, Any]).get("recipe")
    if named is None or (isinstance(kept, dict) and is_own(kept)):
        return stored
    return replace(stored, algo_and_network_config=str(Path(named).resolve()) if named.endswith(".py") else named)


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
