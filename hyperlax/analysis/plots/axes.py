"""A searched hyperparameter as a plot axis: positions of values, and ticks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from hyperlax.analysis.labels import format_value
from hyperlax.analysis.plots.base import plain


@dataclass(frozen=True)
class Coordinate:
    """An axis. name: dotted. label: short. logarithmic: positions are log10. choices: JSON text of each category, in order."""

    name: str
    label: str
    logarithmic: bool
    domain: tuple[float, float]
    choices: tuple[str, ...]
    choice_labels: tuple[str, ...]

    def position(self, value: Any) -> float:
        """Return the position of a value on the axis. Raise ValueError for a choice that the axis does not have."""
        if self.choices:
            text = json.dumps(value)
            if text not in self.choices:
                raise ValueError(f"{self.name}: {text} is not one of its choices {', '.join(self.choices)}.")
            return float(self.choices.index(text))
        return math.log10(value) if self.logarithmic else float(value)

    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Return tick positions and texts for categories and log axes; None leaves them to plotly."""
        if self.choices:
            return list(map(float, range(len(self.choices)))), list(self.choice_labels)
        if not self.logarithmic:
            return None
        values = _log_ticks(*self.domain)
        return [math.log10(value) for value in values], [_short(value) for value in values]

    def range(self) -> list[float]:
        """Return both ends of the axis; categories get half a place of margin."""
        if self.choices:
            return [-0.5, len(self.choices) - 0.5]
        return [self.position(self.domain[0]), self.position(self.domain[1])]


def coordinate(name: str, label: str, distribution: dict[str, Any]) -> Coordinate:
    """Return the axis of one entry of the search space."""
    if distribution["type"] == "Categorical":
        choices = tuple(json.dumps(value) for value in distribution["values"])
        labels = tuple(plain(format_value(value)) for value in distribution["values"])
        return Coordinate(name, plain(label), False, (0.0, float(len(choices) - 1)), choices, labels)
    low, high = distribution["domain"]
    return Coordinate(name, plain(label), distribution["type"].startswith("Log"), (low, high), (), ())


def _short(value: float) -> str:
    """Write at most three digits, in the shorter of `0.001` and `1e-5`."""
    plain_form, mantissa = f"{value:.3g}", f"{value:.2e}".split("e")
    power_form = f"{float(mantissa[0]):g}e{int(mantissa[1])}"
    return power_form if len(power_form) < len(plain_form) else plain_form


def _log_ticks(low: float, high: float) -> list[float]:
    """Return both ends and about seven powers of ten between them at most, none within a tenth of the axis of an end."""
    start, end = math.log10(low), math.log10(high)
    margin = (end - start) / 10
    decades = [power for power in range(math.ceil(start), math.floor(end) + 1) if start + margin < power < end - margin]
    every = max(1, math.ceil(len(decades) / 5))
    return [low, *(10.0**power for power in decades[::every]), high]
