"""A study as a YAML file: the options of `optuna-hp-search` by their names, or of a command, `preset`, `params` and `space`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import yaml

from hyperlax.config.command_options import CommandOptions
from hyperlax.config.configurations import as_text
from hyperlax.config.kinds import BudgetError, left_out
from hyperlax.config.option import HIDDEN, THIS_RUN, Given, flags_of, keys_of, options_of, parted, shown
from hyperlax.config.options import PRESETS, RunStudyOptions, SearchOptions
from hyperlax.config.own_recipes import command_entries
from hyperlax.config.search_spaces import EXPERIMENTS, SPACES, choose
from hyperlax.config.space_entries import ENTRY_PARTS, entry_of
from hyperlax.config.sweep_file import KEYS as SWEEP_KEYS
from hyperlax.config.sweep_file import NAMES, is_sweep, read_sweep
from hyperlax.config.yaml_file import Entry, plain_value, read_entries, read_value
from hyperlax.errors import HyperlaxError, OptionError, OptionFailure, UsageError, did_you_mean
from hyperlax.recipe import Recipe

_MAPPINGS = ("params", "space")
_OF_MAPPINGS = ("enqueue",)
"""Options whose value may be a mapping, or a list of them, and not only a text."""
_OPTIONS = options_of(SearchOptions)
_OF_COMMAND = options_of(CommandOptions)
KEYS = {o.key: o for o in _OPTIONS.values() if not o.has(THIS_RUN) and not o.has(HIDDEN)} | dict(_OF_COMMAND)
"""Name in a file -> the option."""
_WRITTEN_BY_US = "# This study in full, for `hyperlax run-study`: every argument, and all that is searched.\n"


@dataclass(frozen=True)
class StudyFile:
    """The content of a file.

    given: its options. command: its `CommandOptions`, which replace the recipe; `params` then are values. places: name ->
    `path:line`, or the flag that replaced its value.
    has_spaces: whether its space is one of several, with names of other tools. has_preset: whether the given preset is its own.
    is_sweep: whether it is a sweep file.
    """

    path: str
    given: Given
    command: Given
    params: Mapping[str, Entry]
    space: Mapping[str, Entry]
    places: Mapping[str, str]
    has_spaces: bool = False
    has_preset: bool = False
    is_sweep: bool = False

    def refusal(self, error: HyperlaxError, on_command_line: Collection[str], about: str) -> HyperlaxError:
        """Return an error about the study with its line in the file, or unchanged if it is about the command line.

        on_command_line: options that were given there. about: an option, if the error does not name one.
        """
        options = error.mentioned if isinstance(error, OptionFailure) else [about]
        told = error.told(self._key) if isinstance(error, OptionFailure) else str(error)
        if told.startswith(f"{self.path}:"):
            return error
        if isinstance(error, BudgetError) and "total_timesteps" not in {*self.given, *on_command_line}:
            for short, entry in self.space.items():
                name = self.params[short].value if short in self.params else short
                if any(f".{one}".endswith(f".{name}") for one in error.names):
                    return entry.refusal(told)
        for name in (*options, about):
            if name in on_command_line:
                return error
            if place := self._place(name):
                return UsageError(f"{place}: {told}")
        return UsageError(f"{self.path}: {told}")

    def _place(self, name: str) -> str | None:
        """Return the line that gives an option, or the line of the preset that does."""
        if name not in self.given and name in PRESETS.get(self.given.get("preset", ""), {}):
            return self.places.get("preset")
        return self.places.get(self._key(name))

    def _key(self, name: str) -> str:
        return (self.is_sweep and NAMES.get(name)) or keys_of(SearchOptions)(name)


def read_study_file(path: str, given: Given = MappingProxyType({})) -> StudyFile:
    """Return the study of a file, with checked values. Raises UsageError, naming file and line, if it cannot be read.

    given: the options of the command line, of which `assignments` replace values of the file, and `space` and `preset` choose in a
    file that has several. Errors about an assignment name its flag.
    """
    written = read_entries(path, lambda name: name.replace("-", "_"), _OF_MAPPINGS)
    own, more = read_sweep(written, path) if is_sweep(written) else (written, {})
    entries, has_preset = choose(own, path, given)
    for text in given.get("assignments", ()):
        _assign(text, entries)
    for name, entry in entries.items():
        _check_name(name, entry)
    found = {KEYS[key].name: _value(key, entry) for key, entry in entries.items() if key in KEYS}
    command = {name: value for name, value in found.items() if name in _OF_COMMAND}
    _check_command(command, entries)
    params, space = (_mapping(name, entries.get(name)) for name in _MAPPINGS)
    places = {name: entry.where for name, entry in (entries | written).items()}
    options = {**{name: value for name, value in found.items() if name not in command}, **more}
    return StudyFile(path, options, command, params, space, places, SPACES in written, has_preset, is_sweep(written))


def in_full(options: SearchOptions, recipe: Recipe) -> str:
    """Return a search as the text of a file that does not depend on presets, defaults, or the recipe's search space."""
    said: dict[str, Any] = {}
    foreign = left_out(options, recipe)
    for name, value in options.to_json().items():
        option = _OPTIONS[name]
        if option.has(HIDDEN) or name in foreign or value is None or value == []:
            continue
        if option.type is not bool:
            said[option.key] = value
        elif value != option.default:
            said[option.key] = True
    if recipe.source:
        del said["algo_and_network_config"]
        said = command_entries(recipe) | said
    unsearched = {name: None for name, change in recipe.changes.items() if change is None}
    said["space"] = {name: entry_of(distribution) for name, distribution in recipe.space.items()} | unsearched
    return _WRITTEN_BY_US + yaml.safe_dump(
        said, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )


def _check_name(name: str, entry: Entry) -> None:
    if name in (*KEYS, *_MAPPINGS):
        return
    known = (*KEYS, *_MAPPINGS, SPACES, EXPERIMENTS, *SWEEP_KEYS)
    if name in _OPTIONS and _OPTIONS[name].has(THIS_RUN):
        raise entry.refusal(f"{name} belongs to one run. Give it on the command line and drop the line.")
    hint = did_you_mean(name, known).strip() or f"There are {', '.join(known)}."
    raise entry.refusal(f"nothing named `{name}`. {hint}")


def _check_command(command: Given, entries: Mapping[str, Entry]) -> None:
    """Raise UsageError for the options of a command without one, and for a file with a command and a recipe."""
    if "command" in command and "algo_and_network_config" in entries:
        raise entries["command"].refusal(
            "a study trains a command or a recipe. Remove this line or algo_and_network_config."
        )
    if command and "command" not in command:
        name = next(iter(command))
        raise entries[name].refusal(f"{name} is about a command. Give `command` as well, or drop the line.")


def _assign(text: str, entries: dict[str, Entry]) -> None:
    """Replace a value of a file: an option's, that of an entry of `params` or `space`, or one value of such an entry."""
    name, value = parted(text, "space.gamma.low=0.95")
    where = f"{flags_of(RunStudyOptions)('assignments')} {text}"
    key, dot, rest = name.partition(".")
    key = key.replace("-", "_")
    new = Entry(where, read_value(value, where, key in _OF_MAPPINGS))
    if not dot:
        entries[key] = new
        return
    if key not in _MAPPINGS:
        hint = did_you_mean(key, _MAPPINGS)
        raise UsageError(f"{where}: only {' and '.join(_MAPPINGS)} have entries with a dot. {hint}".rstrip())
    mapping = dict(_mapping(key, entries.get(key)))
    full = {short: entry.value for short, entry in _mapping("params", entries.get("params")).items()}
    full = {} if "command" in entries else full
    owner, _, part = rest.rpartition(".")
    if _same_name(rest, mapping, full) is None and (found := _same_name(owner, mapping, full)):
        whole = mapping[found]
        if not isinstance(whole.value, dict):
            raise UsageError(
                f"{where}: {owner} has no `{part}` in the file. Replace it as a whole: {key}.{owner}=VALUE."
            )
        mapping[found] = Entry(f"{whole.where} with {where}", {**whole.value, part: new})
    elif key == "space" and part in ENTRY_PARTS and owner:
        mapping[owner] = Entry(where, {part: new})
    else:
        mapping[_same_name(rest, mapping, full) or rest] = new
    entries[key] = Entry(entries[key].where if key in entries else where, mapping)


def _same_name(name: str, mapping: Mapping[str, Entry], full: Mapping[str, Any]) -> str | None:
    """Return the entry of a name, which may be short or in full in either place; None if there is none.

    full: the dotted names of the names that `params` makes.
    """
    given = str(full.get(name, name))
    found = [one for one in mapping if _is_end(given, str(full.get(one, one)))]
    return name if name in found else found[0] if len(found) == 1 else None


def _is_end(one: str, other: str) -> bool:
    """Return whether one of two dotted names is the end of the other."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def _value(key: str, entry: Entry) -> Any:
    """Return an option's value. Raises UsageError, naming file and line, if the option does not accept it."""
    try:
        if entry.value is None:
            raise KEYS[key].refusal(None)
        value = entry.value
        if key in _OF_MAPPINGS and isinstance(value, (dict, list)):
            value = as_text(plain_value(value))
        value = KEYS[key].read_given(value)
        return value != KEYS[key].is_switched_off if KEYS[key].type is bool else value
    except OptionError as error:
        raise entry.refusal(error.told(keys_of(SearchOptions))) from error


def _mapping(name: str, entry: Entry | None) -> Mapping[str, Entry]:
    if entry is None:
        return {}
    if not isinstance(entry.value, dict):
        raise entry.refusal(f"{name} needs a mapping, got {shown(entry.value)}. Write one entry a line below it.")
    return entry.value
