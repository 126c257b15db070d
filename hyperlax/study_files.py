"""What a YAML file says of a study: the flags of `optuna-hp-search` by their names, `preset`, `params` and `space`."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hyperlax.config.options import OF_THIS_RUN
from hyperlax.config.space_entries import number
from hyperlax.errors import UsageError
from hyperlax.flags import SearchFlags
from hyperlax.presets import PRESETS
from hyperlax.reading import fits
from hyperlax.study_yaml import key_of
from hyperlax.yaml_file import Entry, read_entries, shown

_MAPPINGS = ("params", "space")
KEYS = {key_of(f.name): f.name for f in fields(SearchFlags) if f.name not in OF_THIS_RUN}
"""Name in a file -> field of the flags."""


@dataclass(frozen=True)
class StudyFile:
    """What a file says. flags: its own; preset: those that its preset stands for; places: name -> `path:line`."""

    path: str
    flags: SearchFlags
    preset: SearchFlags
    params: Mapping[str, Entry]
    space: Mapping[str, Entry]
    places: Mapping[str, str]

    def refusal(self, error: UsageError, on_command_line: Collection[str], about: str) -> UsageError:
        """An error about the study, told of the line that it is about; as it is if that is of the command line.

        on_command_line: fields of the flags that were given there. about: a name of the file, for an error that names no flag.
        """
        words = str(error)
        named = [flag.replace("-", "_") for flag in re.findall(r"--([a-z]+(?:-[a-z]+)*)", words)]
        for key in (*(key for key in named if key in KEYS), about):
            if KEYS.get(key) in on_command_line:
                return error
            if place := self._place(key):
                return UsageError(f"{place}: {_without_dashes(words)}")
        return UsageError(f"{self.path}: {_without_dashes(words)}")

    def _place(self, key: str) -> str | None:
        """The line that says something, or the line of the preset that does."""
        name = KEYS.get(key)
        if key not in self.places and name and getattr(self.preset, name) is not None:
            return self.places.get("preset")
        return self.places.get(key)


def read_study_file(path: str) -> StudyFile:
    """The study of a file, its values of their types. UsageError, naming file and line, for what cannot be read."""
    entries = read_entries(path, lambda name: name.replace("-", "_"))
    for name, entry in entries.items():
        _check_name(name, entry)
    hints = get_type_hints(SearchFlags)
    given = {KEYS[name]: typed(name, entry, hints[KEYS[name]]) for name, entry in entries.items() if name in KEYS}
    params, space = (_mapping(name, entries.get(name)) for name in _MAPPINGS)
    places = {name: entry.where for name, entry in entries.items()}
    return StudyFile(path, SearchFlags(**given), _preset(entries.get("preset")), params, space, places)


def _check_name(name: str, entry: Entry) -> None:
    known = (*KEYS, "preset", *_MAPPINGS)
    if name in known:
        return
    if name in OF_THIS_RUN:
        raise UsageError(f"{entry.where}: {name} is of one run, so it goes on the command line. Drop the line.")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(known)}."
    raise UsageError(f"{entry.where}: nothing named `{name}`. {hint}")


def _preset(entry: Entry | None) -> SearchFlags:
    if entry is None:
        return SearchFlags()
    if not isinstance(entry.value, str) or entry.value not in PRESETS:
        near = difflib.get_close_matches(str(entry.value), PRESETS, n=1)
        hint = f"Did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"{entry.where}: no preset {shown(entry.value)}. {hint}There are {', '.join(PRESETS)}.")
    return PRESETS[entry.value]


def _mapping(name: str, entry: Entry | None) -> Mapping[str, Entry]:
    if entry is None:
        return {}
    if not isinstance(entry.value, dict):
        raise UsageError(
            f"{entry.where}: {name} needs a mapping, got {shown(entry.value)}. Write one entry a line below it."
        )
    return entry.value


def typed(name: str, entry: Entry, hint: Any) -> Any:
    """A flag's value as the command line would give it. UsageError for one of another type."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    value = entry.value
    if float in kinds:
        value = number(value)
        if fits(value, int):
            value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if any(get_origin(kind) is tuple for kind in kinds):
        value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if value is not None and any(fits(value, kind) for kind in kinds):
        return value
    wanted = " or ".join(map(_wanted, kinds))
    advice = " Put it in quotes." if str in kinds and not isinstance(value, (list, dict, NoneType)) else ""
    raise UsageError(f"{entry.where}: {name} needs {wanted}, got {shown(entry.value)}.{advice}")


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a text or a list of texts"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]


def _without_dashes(words: str) -> str:
    """What is said of flags, said of a file's names. Commands, whose flags belong to no file, stay as they are."""
    return re.sub(
        r"--([a-z]+(?:-[a-z]+)*)",
        lambda found: key if (key := found[1].replace("-", "_")) in KEYS else found[0],
        words,
    )
