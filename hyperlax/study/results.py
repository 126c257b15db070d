"""Whether what a runner returned for a batch is what `hyperlax.trial.BatchResult` promises."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np

from hyperlax.files import json_text
from hyperlax.trial import STATES, BatchResult, Curve, HparamBatch, Outcome

MEASURED = ("mean", "std", "min", "max", "length")


def problem_of(batch: HparamBatch, result: Any, seeds: int) -> str | None:
    """What was returned and what is needed instead; None for a sound result."""
    problem = next(_problems(batch, result, seeds), None)
    return problem and f"the runner returned {problem}"


def _problems(batch: HparamBatch, result: Any, seeds: int) -> Iterator[str]:
    if not isinstance(result, BatchResult):
        yield f"{_shown(result)}; a BatchResult is needed"
        return
    outcomes, wanted = result.outcomes, [trial.number for trial in batch.trials]
    if not isinstance(outcomes, (tuple, list)) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
        yield f"the outcomes {_shown(outcomes)}; a tuple of Outcomes is needed"
        return
    if [outcome.number for outcome in outcomes] != wanted:
        yield f"outcomes of {_numbers([o.number for o in outcomes])}; those of {_numbers(wanted)} are needed, in this order"
    for outcome in outcomes:
        yield from (f"for trial {outcome.number} {problem}" for problem in _problems_of_outcome(outcome, seeds))
    yield from _problems_of_timing(result.timing)


def _problems_of_outcome(outcome: Outcome, seeds: int) -> Iterator[str]:
    if outcome.state not in STATES:
        yield f"the state {_shown(outcome.state)}; {', '.join(STATES[:-1])} or {STATES[-1]} is needed"
    if not isinstance(outcome.reason, str) or bool(outcome.reason.strip()) != (outcome.state != "COMPLETE"):
        needed = "none" if outcome.state == "COMPLETE" else "a text"
        yield f"the state {outcome.state} with the reason {_shown(outcome.reason)}; {needed} is needed"
    for name, kind, words in _NUMBERS:
        if not isinstance(value := getattr(outcome, name), kind) or isinstance(value, bool):
            yield f"the {name} {_shown(value)}; {words} is needed"
    if isinstance(outcome.curve, Curve):
        yield from _problems_of_curve(outcome.curve, seeds)
    else:
        yield f"the curve {_shown(outcome.curve)}; a Curve is needed"


_NUMBERS = (
    ("num_parameters", Integral, "a whole number"),
    ("train_seconds", Real, "a number"),
    ("lane", (Integral, type(None)), "a whole number or None"),
    ("fault_step", (Integral, type(None)), "a whole number or None"),
)


def _problems_of_curve(curve: Curve, seeds: int) -> Iterator[str]:
    if _kind(curve.steps) != "iu1":
        yield f"curve.steps {_shown(curve.steps)}; int64[points] is needed"
        return
    for name in MEASURED:
        column = getattr(curve, name)
        if _kind(column) not in ("f2", "iu2") or column.shape != (len(curve.steps), seeds):
            yield f"curve.{name} {_shown(column)}; float64[{len(curve.steps)}, {seeds}] is needed, points and seeds"
    for name in ("episodes", "budget"):
        if not isinstance(value := getattr(curve, name), Integral):
            yield f"curve.{name} {_shown(value)}; a whole number is needed"


def _kind(value: Any) -> str:
    """An array's kind of numbers and its dimensions: "f2"; "" for anything else."""
    if not isinstance(value, np.ndarray):
        return ""
    return f"{'iu' if value.dtype.kind in 'iu' else value.dtype.kind}{value.ndim}"


def _problems_of_timing(timing: Any) -> Iterator[str]:
    if not isinstance(timing, dict):
        yield f"the timing {_shown(timing)}; a dictionary is needed"
        return
    for name, value in timing.items():
        try:
            json_text({name: value})
        except (TypeError, ValueError):
            yield f"the timing {_shown(name)}: {_shown(value)}, which JSON has no form for"


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _numbers(numbers: list[Any]) -> str:
    if not numbers:
        return "no trial"
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
