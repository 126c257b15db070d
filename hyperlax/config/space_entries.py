"""A search space as a study's file writes it: `actor_lr: {type: loguniform, low: 1.0e-5, high: 1.0e-2}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperlax.config.option import exponent, shown
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.fields import Field, TogetherError, check_name, fields_of, fitted, full_name
from hyperlax.recipe import Recipe, searching
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
"""Name in a file -> its class and its arguments; randint may have `log` or `step` as well."""
ARGUMENTS = {word: arguments for word, (_, arguments) in _TYPES.items()}
_OPTIONAL = ("log", "step")
ENTRY_PARTS = ("type", "low", "high", "q", "values", *_OPTIONAL)
_ONLY = "only"
"""The name in a space that, if true, leaves out everything that the space does not list."""

_IN_FILE = {"fixed": "write it alone", "booleans": "{type: choice, values: [false, true]}"}


def searched(space: Mapping[str, Entry], params: Mapping[str, Entry], recipe: Recipe, where: str) -> Recipe:
    """Return the recipe with the changes that entries make to its search space. params: short names of a file.

    Raises UsageError, naming file and line, or beginning with `where` if it is about no entry.
    """
    entries = _by_full_name(space, params, recipe)
    known = fields_of(recipe.config.algorithm)
    changes: dict[str, Distribution | None] = {
        name: None if entry.value is None else _distribution_of(entry, name, known[name], recipe)
        for name, entry in entries.items()
    }
    if _is_only(space):
        changes |= {name: None for name in recipe.space if name not in changes}
    try:
        changed = searching(recipe, changes, where)
    except TogetherError as error:
        place = next((entry.where for name, entry in entries.items() if name in error.names), where)
        raise UsageError(f"{place}: {error.problem}") from error
    if not changed.space:
        raise UsageError(
            f"{where}: nothing is left to search. Give a hyperparameter a range, or train with run-single-hp."
        )
    return changed


def entries_of(space: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return a search space of Python as entries: distributions, values, None, or dictionaries as a file has them."""
    return {
        name: Entry(f"{where}[{name!r}]", _in_entries(value, f"{where}[{name!r}]")) for name, value in space.items()
    }


def _in_entries(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {key: Entry(where, _in_entries(one, where)) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [_in_entries(one, where) for one in value]
    if value is not None and not isinstance(value, (bool, int, float, str, Distribution)):
        problem = "needs a distribution of hyperlax.space, a list of choices, or a number, a text, True or False that is fixed"
        raise UsageError(f"{where} {problem}, got {shown(value)}.")
    return value


def _is_only(space: Mapping[str, Entry]) -> bool:
    """Return whether nothing but the entries is searched."""
    entry = space.get(_ONLY)
    if entry is not None and not isinstance(entry.value, bool):
        raise entry.refusal(f"{_ONLY} needs true or false, got {shown(entry.value)}.")
    return entry is not None and entry.value


def _by_full_name(space: Mapping[str, Entry], params: Mapping[str, Entry], recipe: Recipe) -> dict[str, Entry]:
    """Return the entries by their dotted names."""
    known = fields_of(recipe.config.algorithm)
    whole = {short: _whole(short, entry, known) for short, entry in params.items()}
    found: dict[str, Entry] = {}
    for short, entry in space.items():
        if short == _ONLY:
            continue
        is_known = short in whole or any(name == short or name.endswith(f".{short}") for name in known)
        if not is_known and (hint := did_you_mean(short, whole).strip()):
            raise entry.refusal(f"no `{short}` among params. {hint}")
        name = whole.get(short) or full_name(short, known, entry.where)
        if name in found:
            raise entry.refusal(f"{name} is given twice, also by its other name. Keep one of the two.")
        if entry.value is None and name not in recipe.space:
            raise entry.refusal(
                f"{recipe.name} does not search {name}, so there is nothing to leave out. Drop the entry."
            )
        found[name] = entry
    return found


def _distribution_of(entry: Entry, name: str, field: Field, recipe: Recipe) -> Distribution:
    """Return the distribution of an entry: a value alone is the only choice, a list of values are the choices.

    A mapping without a type changes values of the recipe's distribution. Raises UsageError, naming file and line.
    """
    if isinstance(entry.value, Distribution):
        return fitted(name, field, entry.value, entry.where)
    arguments = entry.value if isinstance(entry.value, dict) else _alone(entry, field)
    if "type" not in arguments:
        arguments = {**_of_recipe(entry, name, recipe), **arguments}
    kind, wanted = _type(arguments, name)
    given = {key: one for key, one in arguments.items() if key != "type"}
    optional = _OPTIONAL if kind is UniformDiscrete else ()
    for key, one in given.items():
        if key not in (*wanted, *optional):
            raise one.refusal(f"{name}: nothing named `{key}`. There are {', '.join((*wanted, *optional))}.")
    for key in wanted:
        if key not in given:
            raise entry.refusal(f"{name} needs `{key}`; its type has {', '.join(wanted)}.")
    try:
        distribution = _made(kind, given, field)
    except DistributionError as error:
        raise entry.refusal(f"{name}: {error.told(_spelled)}") from error
    try:
        return fitted(name, field, distribution, entry.where, _written)
    except DistributionError as error:
        raise UsageError(error.told(_spelled)) from error


def entry_of(distribution: Distribution) -> dict[str, Any]:
    """Return a distribution as a file writes it."""
    if isinstance(distribution, Categorical):
        return {"type": "choice", "values": distribution.to_json()["values"]}
    low, high = distribution.domain
    if isinstance(distribution, LogUniformDiscrete):
        return {"type": "randint", "low": low, "high": high, "log": True}
    word = next(word for word, (kind, _) in _TYPES.items() if kind is type(distribution))
    rest = {key: value for key, value in distribution.to_json().items() if key in ("q", "step")}
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
        raise entry.refusal(f"{short} needs a hyperparameter's dotted name, e.g. {next(iter(known))}.")
    check_name(entry.value, known, entry.where)
    if "." in short:
        raise entry.refusal(f"{short} contains a dot, which short names may not. Name {entry.value} another way.")
    return entry.value


def _alone(entry: Entry, field: Field) -> dict[str, Entry]:
    """Return a value alone as an entry with a type. A list is several values, unless it is one value of the field."""
    value = entry.value
    is_list = isinstance(value, list) and (field.type != "sizes" or any(isinstance(one, list) for one in value))
    return {"type": Entry(entry.where, "choice"), "values": Entry(entry.where, value if is_list else [value])}


def _of_recipe(entry: Entry, name: str, recipe: Recipe) -> dict[str, Entry]:
    """Return the recipe's distribution as an entry. Raises UsageError if the recipe does not search the name."""
    if name not in recipe.space:
        raise entry.refusal(
            f"{recipe.name} does not search {name}, so it needs a `type`. There are {', '.join(_TYPES)}."
        )
    return {key: Entry(entry.where, value) for key, value in entry_of(recipe.space[name]).items()}


def _type(arguments: Mapping[str, Entry], name: str) -> tuple[type[Distribution], tuple[str, ...]]:
    given = arguments["type"]
    if not isinstance(given.value, str) or given.value not in _TYPES:
        hint = did_you_mean(str(given.value), _TYPES)
        there_are = f"There are {', '.join(_TYPES)}."
        raise given.refusal(f"{name}: no type {shown(given.value)}. {hint}{there_are}")
    return _TYPES[given.value]


def _made(kind: type[Distribution], given: Mapping[str, Entry], field: Field) -> Distribution:
    """Return the distribution from its entries, all of which are given."""
    if kind is Categorical:
        values = given["values"].value
        if not isinstance(values, list):
            raise DistributionError("choice needs a list as `values`, got {0}. Write values: [...].", shown(values))
        return Categorical(values=[exponent(value) for value in values] if field.type in ("float", "int") else values)
    numbers = {}
    for key in ("low", "high", "q", "step"):
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
    if "step" not in numbers:
        return (LogUniformDiscrete if log else kind)(domain=domain)
    if log:
        raise DistributionError("`step` and `log` cannot be combined. Leave one of them out.")
    return UniformDiscrete(domain=domain, step=numbers["step"])
