"""Names and numbers as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hyperlax.errors import format_number
from hyperlax.scale import Scale
from hyperlax.study.record import StudyRecord

_AGGREGATES = {"mean": "mean", "median": "median", "iqm": "interquartile mean"}


def aggregate_in_words(record: StudyRecord) -> str:
    """Return how the seeds of a study's trials are combined, in words."""
    return _AGGREGATES.get(record.arguments["aggregate"]) or ("lowest" if record.scale.sign > 0 else "highest")


def with_unit(metric: str, scale: Scale) -> str:
    """Return `peak_performance` as `peak performance (mean return)`."""
    row = scale.table.rows.get(metric)
    words = metric.replace("_", " ")
    return f"{words} ({row.unit})" if row and row.unit else words


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return dotted name -> its last word, after the words that tell it from others with the same last word.

    >>> short_names(["algorithm.hyperparam.gamma"])
    {'algorithm.hyperparam.gamma': 'gamma'}
    >>> list(short_names(["network.actor.torso.width", "network.critic.torso.width"]).values())
    ['actor.width', 'critic.width']
    """
    names = list(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    short = {name: _distinct(name, groups[name.rsplit(".", 1)[-1]]) for name in names}
    taken = list(short.values())
    return {name: label if taken.count(label) == 1 else name for name, label in short.items()}


def _distinct(name: str, group: list[str]) -> str:
    shared = set.intersection(*(set(other.split(".")) for other in group))
    *words, last = name.split(".")
    return ".".join([word for word in words if word not in shared] + [last])


def format_value(value: Any) -> str:
    """Write a hyperparameter's value: text as it is, numbers by `format_number`, lists as JSON.

    >>> format_value([64, 64]), format_value("tanh"), format_value(True), format_value(0.5)
    ('[64, 64]', 'tanh', 'True', '0.5')
    """
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, (int, float)):
        return format_number(value)
    return json.dumps(value)


def format_distribution(distribution: dict[str, Any]) -> str:
    """Write a searched range in words, e.g. `1e-6 to 0.01, log`."""
    if distribution["type"] == "Categorical":
        return " | ".join(format_value(value) for value in distribution["values"])
    low, high = distribution["domain"]
    notes = [f"{format_value(low)} to {format_value(high)}"]
    if distribution["type"].startswith("Log"):
        notes.append("log")
    if distribution["type"].endswith("Discrete"):
        notes.append("whole numbers")
    if step := distribution.get("q", distribution.get("step")):
        notes.append(f"in steps of {format_value(step)}")
    return ", ".join(notes)
