"""A study as a YAML file: the options of `optuna-hp-search` by their names, `preset`, `params` and `space`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hyperlax.config.option import HIDDEN, THIS_RUN, Given, keys_of, options_of, shown
from hyperlax.config.options import SearchOptions
from hyperlax.config.space_entries import entry_of
from hyperlax.config.yaml_file import Entry, read_entries
from hyperlax.errors import HyperlaxError, OptionError, OptionFailure, UsageError, did_you_mean
from hyperlax.recipe import Recipe

_MAPPINGS = ("params", "space")
_OPTIONS = options_of(SearchOptions)
KEYS = {o.key: o for o in _OPTIONS.values() if not o.has(THIS_RUN) and not o.has(HIDDEN)}
"""Name in a file -> the option."""
_WRITTEN_BY_US = "# This study in full, for `hyperlax run-study`: every argument, and all that is searched.\n"

_PRESETS: dict[str, dict[str, Any]] = {
    "quick_test": {"n_trials": 5, "num_seeds": 1, "pruner": "none", "run_length_modifier": "quick"},
    "standard": {"n_trials": 50, "num_seeds": 1, "pruner": "asha", "run_length_modifier": "default"},
    "extensive": {"n_trials": 200, "num_seeds": 3, "pruner": "hyperband", "run_length_modifier": "default"},
    "production": {
        "n_trials": 100,
        "num_seeds": 5,
        "pruner": "asha",
        "run_length_modifier": "long",
        "confirm_top": 3,
        "confirm_seeds": 10,
    },
}
"""The presets of a study. Its file and the command line win over them."""


@dataclass(frozen=True)
class StudyFile:
    """The content of a file. given: its options. preset: the options of its preset. places: name -> `path:line`."""

    path: str
    given: Given
    preset: Given
    params: Mapping[str, Entry]
    space: Mapping[str, Entry]
    places: Mapping[str, str]

    def refusal(self, error: HyperlaxError, on_command_line: Collection[str], about: str) -> HyperlaxError:
        """Return an error about the study with its line in the file, or unchanged if it is about the command line.

        on_command_line: options that were given there. about: an option, if the error does not name one.
        """
        options = error.mentioned if isinstance(error, OptionFailure) else [about]
        told = error.told(keys_of(SearchOptions)) if isinstance(error, OptionFailure) else str(error)
        for name in (*options, about):
            if name in on_command_line:
                return error
            if place := self._place(name):
                return UsageError(f"{place}: {told}")
        return UsageError(f"{self.path}: {told}")

    def _place(self, name: str) -> str | None:
        """Return the line that gives an option, or the line of the preset that does."""
        if name in self.preset and name not in self.given:
            return self.places.get("preset")
        return self.places.get(keys_of(SearchOptions)(name))


def read_study_file(path: str) -> StudyFile:
    """Return the study of a file, with checked values. Raises UsageError, naming file and line, if it cannot be read."""
    entries = read_entries(path, lambda name: name.replace("-", "_"))
    for name, entry in entries.items():
        _check_name(name, entry)
    given = {KEYS[key].name: _value(key, entry) for key, entry in entries.items() if key in KEYS}
    params, space = (_mapping(name, entries.get(name)) for name in _MAPPINGS)
    places = {name: entry.where for name, entry in entries.items()}
    return StudyFile(path, given, _preset(entries.get("preset")), params, space, places)


def in_full(options: SearchOptions, recipe: Recipe) -> str:
    """Return a search as the text of a file that does not depend on presets, defaults, or the recipe's search space."""
    said: dict[str, Any] = {}
    for name, value in options.to_json().items():
        option = _OPTIONS[name]
        if option.has(HIDDEN) or value is None or value == []:
            continue
        if option.type is not bool:
            said[option.key] = value
        elif value != option.default:
            said[option.key] = True
    left_out = {name: None for name, change in recipe.changes.items() if change is None}
    said["space"] = {name: entry_of(distribution) for name, distribution in recipe.space.items()} | left_out
    return _WRITTEN_BY_US + yaml.safe_dump(
        said, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )


def _check_name(name: str, entry: Entry) -> None:
    known = (*KEYS, "preset", *_MAPPINGS)
    if name in known:
        return
    if name in _OPTIONS and _OPTIONS[name].has(THIS_RUN):
        raise UsageError(f"{entry.where}: {name} belongs to one run. Give it on the command line and drop the line.")
    hint = did_you_mean(name, known).strip() or f"There are {', '.join(known)}."
    raise UsageError(f"{entry.where}: nothing named `{name}`. {hint}")


def _value(key: str, entry: Entry) -> Any:
    """Return an option's value. Raises UsageError, naming file and line, if the option does not accept it."""
    try:
        if entry.value is None:
            raise KEYS[key].refusal(None)
        value = KEYS[key].read(entry.value)
        return value != KEYS[key].is_switched_off if KEYS[key].type is bool else value
    except OptionError as error:
        raise UsageError(f"{entry.where}: {error.told(keys_of(SearchOptions))}") from error


def _preset(entry: Entry | None) -> Given:
    if entry is None:
        return {}
    if not isinstance(entry.value, str) or entry.value not in _PRESETS:
        hint = did_you_mean(str(entry.value), _PRESETS)
        raise UsageError(f"{entry.where}: no preset {shown(entry.value)}. {hint}There are {', '.join(_PRESETS)}.")
    return _PRESETS[entry.value]


def _mapping(name: str, entry: Entry | None) -> Mapping[str, Entry]:
    if entry is None:
        return {}
    if not isinstance(entry.value, dict):
        raise UsageError(
            f"{entry.where}: {name} needs a mapping, got {shown(entry.value)}. Write one entry a line below it."
        )
    return entry.value
