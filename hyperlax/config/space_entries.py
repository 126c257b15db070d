"""A search space as a study's file writes it: `actor_lr: {type: loguniform, low: 1.0e-5, high: 1.0e-2}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperlax.config.option import exponent, shown
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.fields import Field, check_distribution, check_name, fields_of
from hyperlax.recipe import Changes, Recipe
from hyperlax.space import (
    Categorical,
    Distribution,
    DistributionError,
    LogUniform,
    LogUniformDiscrete,
    Numeric,
    QUniform,
    UniformContinuous,
    UniformDiscrete,
)

_TYPES: dict[str, tuple[type[Distribution], tuple[str, ...]]] = {
    "uniform": (UniformContinuous, ("low", "high")),
    "loguniform": (LogUniform, ("low", "high")),
    "randint": (UniformDiscrete, ("low", "high")),
    "quniform": (QUniform, ("low", "high", "q")),
    "choice": (Categorical, ("values",)),
}
"""Name in a file -> its class and its arguments; randint may have `log` as well."""


_IN_FILE = {"fixed": "write it alone", "booleans": "{type: choice, values: [false, true]}"}


def changes_of(space: Mapping[str, Entry], params: Mapping[str, Entry], recipe: Recipe) -> Changes:
    """Return the changes that a file's `space` makes to the recipe's. params: its short names.

    Raises UsageError, naming file and line.
    """
    known = fields_of(recipe.config.algorithm)
    whole = {short: _whole(short, entry, known) for short, entry in params.items()}
    changes: dict[str, Distribution | None] = {}
    for short, entry in space.items():
        name = whole.get(short, short)
        if name not in known:
            if hint := did_you_mean(short, whole).strip():
                raise UsageError(f"{entry.where}: no `{short}` among params. {hint}")
            check_name(name, known, entry.where)
        if name in changes:
            raise UsageError(f"{entry.where}: {name} is given twice, also by its other name. Keep one of the two.")
        if entry.value is None and name not in recipe.space:
            raise UsageError(
                f"{entry.where}: {recipe.name} does not search {name}, so there is nothing to leave out. Drop the line."
            )
        changes[name] = None if entry.value is None else _distribution_of(entry, name, known[name])
    return changes


def _distribution_of(entry: Entry, name: str, field: Field) -> Distribution:
    """Return the distribution of an entry. A value alone is the only choice. Raises UsageError, naming file and line."""
    arguments = entry.value if isinstance(entry.value, dict) else _alone(entry)
    kind, wanted = _type(arguments, entry, name)
    given = {key: one for key, one in arguments.items() if key != "type"}
    optional = ("log",) if kind is UniformDiscrete else ()
    for key, one in given.items():
        if key not in (*wanted, *optional):
            raise UsageError(
                f"{one.where}: {name}: nothing named `{key}`. There are {', '.join((*wanted, *optional))}."
            )
    for key in wanted:
        if key not in given:
            raise UsageError(f"{entry.where}: {name} needs `{key}`; its type has {', '.join(wanted)}.")
    try:
        distribution = _made(kind, given, field)
    except DistributionError as error:
        raise UsageError(f"{entry.where}: {name}: {error.told(_spelled)}") from error
    try:
        check_distribution(name, field, distribution, entry.where, _written)
    except DistributionError as error:
        raise UsageError(error.told(_spelled)) from error
    return distribution


def entry_of(distribution: Distribution) -> dict[str, Any]:
    """Return a distribution as a file writes it."""
    if isinstance(distribution, Categorical):
        return {"type": "choice", "values": distribution.to_json()["values"]}
    assert isinstance(distribution, Numeric)
    low, high = distribution.bounds()
    if isinstance(distribution, LogUniformDiscrete):
        return {"type": "randint", "low": low, "high": high, "log": True}
    word = next(word for word, (kind, _) in _TYPES.items() if kind is type(distribution))
    rest = {"q": distribution.q} if isinstance(distribution, QUniform) else {}
    return {"type": word, "low": low, "high": high, **rest}


def _spelled(name: str) -> str:
    """Return a name in a `DistributionError` as a file spells it. `Kind()` becomes a whole entry."""
    if name in _IN_FILE:
        return _IN_FILE[name]
    kind, is_entry, _ = name.partition("()")
    log = ", log: true" if kind == "LogUniformDiscrete" else ""
    words = {of.__name__: word for word, (of, _) in _TYPES.items()} | {"LogUniformDiscrete": "randint"}
    word = words[kind]
    if not is_entry or kind == "Categorical":
        return word + (" with log" if log else "")
    return f"{{type: {word}, {', '.join(f'{key}: ...' for key in _TYPES[word][1])}{log}}}"


def _written(distribution: Distribution) -> str:
    """Return a distribution as a sentence about a file shows it."""
    entry = entry_of(distribution)
    return f"{entry.pop('type')}({', '.join(f'{key}={value}' for key, value in entry.items())})"


def _whole(short: str, entry: Entry, known: Mapping[str, Field]) -> str:
    """Return the dotted name of a short one."""
    if not isinstance(entry.value, str):
        raise UsageError(f"{entry.where}: {short} needs a hyperparameter's dotted name, e.g. {next(iter(known))}.")
    check_name(entry.value, known, entry.where)
    if "." in short:
        raise UsageError(
            f"{entry.where}: {short} contains a dot, which short names may not. Name {entry.value} another way."
        )
    return entry.value


def _alone(entry: Entry) -> dict[str, Entry]:
    return {"type": Entry(entry.where, "choice"), "values": Entry(entry.where, [entry.value])}


def _type(arguments: Mapping[str, Entry], entry: Entry, name: str) -> tuple[type[Distribution], tuple[str, ...]]:
    there_are = f"There are {', '.join(_TYPES)}."
    if "type" not in arguments:
        raise UsageError(f"{entry.where}: {name} needs a `type`. {there_are}")
    given = arguments["type"]
    if not isinstance(given.value, str) or given.value not in _TYPES:
        hint = did_you_mean(str(given.value), _TYPES)
        raise UsageError(f"{given.where}: {name}: no type {shown(given.value)}. {hint}{there_are}")
    return _TYPES[given.value]


def _made(kind: type[Distribution], given: Mapping[str, Entry], field: Field) -> Distribution:
    """Return the distribution from its entries, all of which are given."""
    if kind is Categorical:
        values = given["values"].value
        if not isinstance(values, list):
            raise DistributionError("choice needs a list as `values`, got {0}. Write values: [...].", shown(values))
        return Categorical(values=[exponent(value) for value in values] if field.type == "float" else values)
    numbers = {}
    for key in ("low", "high", "q"):
        if key in given:
            numbers[key] = exponent(given[key].value)
            if not isinstance(numbers[key], (int, float)) or isinstance(numbers[key], bool):
                raise DistributionError("`{0}` needs a number, got {1}.", key, shown(given[key].value))
    log = given["log"].value if "log" in given else False
    if not isinstance(log, bool):
        raise DistributionError("`log` needs true or false, got {0}.", shown(log))
    domain = (numbers["low"], numbers["high"])
    if issubclass(kind, QUniform):
        return kind(domain=domain, q=numbers["q"])
    assert issubclass(kind, Numeric)
    return (LogUniformDiscrete if log else kind)(domain=domain)
