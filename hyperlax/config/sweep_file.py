"""A sweep file: a command and its parameters, with the keys of sweep tools, in place of a study's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperlax.config.option import Given, exponent, shown
from hyperlax.config.options import SENSITIVITY
from hyperlax.config.search_spaces import entry_in_our_words
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.files import expanded
from hyperlax.samplers.registry import SAMPLERS

KEYS = (
    "experiment", "sweep_name", "algorithm", "parameters", "optuna_storage", "mlflow_storage", "output_dir", "spec",
)  # fmt: skip
_SPEC = ("direction", "metric")
_DIRECTIONS = ("maximize", "max", "minimize", "min")
_INSTEAD = {
    "study_name": "sweep_name",
    "sampler": "algorithm",
    "params": "parameters",
    "space": "parameters",
    "metric": "spec",
    "mode": "spec",
    "objective_directions": "spec",
    "output_root": "output_dir",
    "algo_and_network_config": "command",
}
"""Key of a study's file -> the one that says it in a sweep file."""
NAMES = {
    "study_name": "sweep_name", "sampler": "algorithm", "sampling_method": "algorithm", "mirror": "optuna_storage",
    "track": "mlflow_storage", "tracking_uri": "mlflow_storage", "tracking_experiment": "experiment",
    "output_root": "output_dir", "objective_names": "spec", "objective_directions": "spec",
}  # fmt: skip
"""Option -> the key of a sweep file that gives it."""


def is_sweep(entries: Mapping[str, Entry]) -> bool:
    """Return whether a file is a sweep."""
    return any(name in KEYS for name in entries)


def read_sweep(entries: Mapping[str, Entry], path: str) -> tuple[dict[str, Entry], Given]:
    """Return a sweep file as the entries of a study's file, and the options that such a file cannot have.

    Raises UsageError, naming file and line.
    """
    for name, instead in _INSTEAD.items():
        if name in entries:
            raise entries[name].refusal(f"{name} is for a study's file; this is a sweep file. Write {instead}.")
    for name in ("command", "parameters", "spec"):
        if name not in entries:
            first = next(name for name in entries if name in KEYS)
            raise entries[first].refusal(f"{first} makes this a sweep file, which needs `{name}` as well.")
    found = {name: entry for name, entry in entries.items() if name not in KEYS}
    found |= _measures(entries["spec"]) | _parameters(entries["parameters"])
    found["study_name"] = _study_name(entries, path)
    given: dict[str, Any] = {}
    if "output_dir" in entries:
        found["output_root"] = entries["output_dir"]
    if "algorithm" in entries:
        algorithm = _algorithm(entries["algorithm"])
        if algorithm == SENSITIVITY:
            given["sampling_method"] = algorithm
        else:
            found["sampler"] = Entry(entries["algorithm"].where, algorithm)
    if "optuna_storage" in entries:
        given["mirror"] = _address(entries["optuna_storage"], "optuna_storage")
    if "mlflow_storage" in entries:
        given |= {"track": "mlflow", "tracking_uri": _address(entries["mlflow_storage"], "mlflow_storage")}
        if "experiment" in entries:
            given["tracking_experiment"] = entries["experiment"].value
    return found, given


def _study_name(entries: Mapping[str, Entry], path: str) -> Entry:
    """Return experiment and name of the sweep, joined. A sweep without a name is called like its file."""
    last = entries.get("sweep_name", Entry(path, Path(path).stem))
    parts = [_part(key, entries[key]) for key in ("experiment", "sweep_name") if key in entries]
    return Entry(last.where, "/".join(parts if "sweep_name" in entries else [*parts, last.value]))


def _part(key: str, entry: Entry) -> str:
    """Return a part of a study's name, which is also a directory."""
    value = entry.value
    if not isinstance(value, str) or not value.strip():
        advice = " Put it in quotes." if isinstance(value, (int, float)) else ""
        raise entry.refusal(f"{key} needs a name, got {shown(value)}.{advice}")
    if "/" in value or value.startswith(".") or not value.isprintable():
        raise entry.refusal(f"{key} {shown(value)} cannot name a directory. Leave out `/` and a `.` at the beginning.")
    return value


def _algorithm(entry: Entry) -> str:
    known = (*SAMPLERS, SENSITIVITY)
    if isinstance(entry.value, str) and entry.value.lower() in known:
        return entry.value.lower()
    hint = did_you_mean(str(entry.value), known)
    raise entry.refusal(f"no algorithm {shown(entry.value)}. {hint}There are {', '.join(known)}.")


def _measures(spec: Entry) -> dict[str, Entry]:
    """Return the entries of what the command reports."""
    example = "{direction: maximize, metric: accuracy}"
    if not isinstance(spec.value, dict):
        raise spec.refusal(f"spec needs a mapping such as {example}, got {shown(spec.value)}.")
    for name, entry in spec.value.items():
        if name not in _SPEC:
            hint = did_you_mean(name, _SPEC)
            raise entry.refusal(f"spec has nothing named `{name}`. {hint}There are {', '.join(_SPEC)}.")
    for name in _SPEC:
        if name not in spec.value:
            raise spec.refusal(f"spec needs `{name}`, as in {example}.")
    given = spec.value["direction"]
    several = given.value if isinstance(given.value, list) else [given.value]
    for one in several:
        if one not in _DIRECTIONS:
            raise given.refusal(f"direction needs maximize or minimize, got {shown(one)}.")
    return {"metric": spec.value["metric"], "mode": Entry(given.where, [one[:3] for one in several])}


def _parameters(entry: Entry) -> dict[str, Entry]:
    """Return the fixed values and the search space: a list is choices, a mapping an entry of the space, a value alone fixed."""
    example = "{lr: [0.001, 0.01], batch_size: 32}"
    if not isinstance(entry.value, dict):
        raise entry.refusal(f"parameters need a mapping such as {example}, got {shown(entry.value)}.")
    params, space = dict[str, Entry](), dict[str, Entry]()
    for name, one in entry.value.items():
        if one.value is None or one.value == [] or one.value == {}:
            raise one.refusal(f"{name} needs a value, a list of choices, or a range, got {shown(one.value)}.")
        if isinstance(one.value, list):
            space[name] = Entry(one.where, [exponent(value) for value in one.value])
        elif isinstance(one.value, dict):
            space[name] = entry_in_our_words(one)
        else:
            params[name] = one
    if not space:
        raise entry.refusal(
            "no parameter has choices or a range, so nothing is searched. Write a list, as lr: [0.001, 0.01]."
        )
    return {
        "params": Entry(entry.where, params),
        "space": Entry(entry.where, space),
    }


def _address(entry: Entry, key: str) -> str:
    """Return an address, with values for `$NAME`."""
    if not isinstance(entry.value, str):
        raise entry.refusal(f"{key} needs an address such as sqlite:///FILE, got {shown(entry.value)}.")
    try:
        return expanded(entry.value)
    except UsageError as error:
        raise entry.refusal(f"{key}: {error}") from error
