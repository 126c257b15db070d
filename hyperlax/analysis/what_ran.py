"""The report's account of the run: options that differ from their defaults, the others, time, commit and machine."""

from __future__ import annotations

import shlex
from typing import Any

from hyperlax.analysis.labels import aggregate_in_words, format_value
from hyperlax.config.option import Option, options_of
from hyperlax.config.stored import kind_of
from hyperlax.errors import counted, format_time
from hyperlax.study.record import StudyRecord

_Rows = list[list[Any]]
_DEFAULTS_OF_TASKS = {"objective_names": "the leading measure", "study_name": "<recipe>"}
_SHORT = 10
"""Digits of a commit in a sentence."""


def when(record: StudyRecord) -> str:
    """Return in a sentence when the study began and was last resumed, and at which commit; "" if that is not known."""
    if not record.runs:
        return ""
    first, *more = record.runs
    began = f"Began {format_time(first['began'])}{_at_commit(first['commit'], _SHORT)}"
    if not more:
        return f"{began}."
    last = more[-1]
    other = _at_commit(last["commit"], _SHORT) if last["commit"] != first["commit"] else ""
    times = "once" if len(more) == 1 else counted(len(more), "time")
    return f"{began}; resumed {times}, last {format_time(last['began'])}{other}."


def chosen_options(record: StudyRecord) -> _Rows:
    """Return name, value and default of the options that differ from their defaults, then of those that have no fixed one."""
    known = _options(record)
    differ = [option for option in known if option.has_fixed_default and not _is_default(record, option)]
    settled = [option for option in known if not option.has_fixed_default]
    own = {} if record.environment else _DEFAULTS_OF_TASKS
    return [
        [o.key, _words(_setting(record, o)), own.get(o.name) or o.default_text().removeprefix("default: ")]
        for o in (*differ, *settled)
    ]


def default_options(record: StudyRecord) -> _Rows:
    """Return name and value of the options at their defaults."""
    known = [option for option in _options(record) if option.has_fixed_default and _is_default(record, option)]
    return [[option.key, _words(_setting(record, option))] for option in known]


def _setting(record: StudyRecord, option: Option) -> Any:
    """Return the value of an option under its key, which says the opposite of one that is switched off."""
    value = record.arguments[option.name]
    return not value if option.is_switched_off else value


def facts(record: StudyRecord) -> _Rows:
    """Return what else decides a study's results: when it ran, at which commit, its environment, device and versions."""
    rows: _Rows = [
        ["resumed" if place else "began", format_time(run["began"]) + _at_commit(run["commit"])]
        for place, run in enumerate(record.runs)
    ]
    rows += [
        *([["command of a trial", shlex.join(record.program)]] if record.program else []),
        *record.scale.facts(),
        [f"{record.scale.name} of several seeds", f"their {aggregate_in_words(record)}"],
        *([["device", record.device]] if record.device else []),
    ]
    return [*rows, *([f"version of {name}", version] for name, version in record.versions.items())]


def _at_commit(commit: str, digits: int | None = None) -> str:
    """Return the commit of a run in words; "" if there is none."""
    name, dirty, _ = commit.partition("-dirty")
    return f" at commit {name[:digits]}{' with uncommitted changes' if dirty else ''}" if name else ""


def _options(record: StudyRecord) -> list[Option]:
    """Return the options of the command that made the study, as far as the study has them and its kind of task means them."""
    known, kind = options_of(kind_of(record.arguments)), (bool(record.environment), record.scale.words.has_programs)
    return [o for name, o in known.items() if o.is_offered and not o.is_foreign(*kind) and name in record.arguments]


def _is_default(record: StudyRecord, option: Option) -> bool:
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    return record.arguments[option.name] == default


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else format_value(value)
