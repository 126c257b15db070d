"""Whether what a runner returned for a batch is what `hyperlax.trial.BatchResult` promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hyperlax.agent import Policy
from hyperlax.files import escaped, json_text
from hyperlax.study.reasons import cause_of_error
from hyperlax.trial import MEASURED, STATES, BatchResult, Curve, HparamBatch, LaneInterval, Outcome


def problem_of(batch: HparamBatch, result: Any, seeds: int) -> str | None:
    """What was returned and what is needed instead; None for a sound result. What raises when it is looked at is not sound."""
    try:
        problem = next(_problems(batch, result, seeds), None)
    except Exception as error:
        problem = f"what cannot be read: {cause_of_error(error)}"
    return problem and f"the runner returned {problem}"


def _problems(batch: HparamBatch, result: Any, seeds: int) -> Iterator[str]:
    if not isinstance(result, BatchResult):
        yield f"{_shown(result)}; a BatchResult is needed"
        return
    outcomes, wanted = result.outcomes, list(batch.numbers)
    if not isinstance(outcomes, (tuple, list)) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
        yield f"the outcomes {_shown(outcomes)}; a tuple of Outcomes is needed"
        return
    numbers = [outcome.number for outcome in outcomes]
    if not all(map(_is_whole, numbers)) or numbers != wanted:
        yield f"outcomes of {_numbers(numbers)}; those of {_numbers(wanted)} are needed, in this order"
    for outcome in outcomes:
        yield from (f"for trial {outcome.number} {problem}" for problem in _problems_of_outcome(outcome, seeds))
    yield from _problems_of_timing(result.timing)


def _problems_of_outcome(outcome: Outcome, seeds: int) -> Iterator[str]:
    if not isinstance(outcome.state, str) or outcome.state not in STATES:
        yield f"the state {_shown(outcome.state)}; {', '.join(STATES[:-1])} or {STATES[-1]} is needed"
    if not isinstance(outcome.reason, str) or bool(outcome.reason.strip()) != (outcome.state != "COMPLETE"):
        needed = "none" if outcome.state == "COMPLETE" else "a text"
        yield f"the state {outcome.state} with the reason {_shown(outcome.reason)}; {needed} is needed"
    for name, is_sound, words in _NUMBERS:
        if not is_sound(value := getattr(outcome, name)):
            yield f"the {name} {_shown(value)}; {words} is needed"
    if outcome.policy is not None and not isinstance(outcome.policy, Policy):
        yield f"the policy {_shown(outcome.policy)}; a Policy or None is needed"
    if not isinstance(outcome.intervals, tuple) or not all(
        isinstance(interval, LaneInterval) for interval in outcome.intervals
    ):
        yield f"the intervals {_shown(outcome.intervals)}; a tuple of LaneIntervals is needed"
    if isinstance(outcome.curve, Curve):
        yield from _problems_of_curve(outcome.curve, seeds)
    else:
        yield f"the curve {_shown(outcome.curve)}; a Curve is needed"


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number that int64 holds; True and False are none."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        return False
    return -(2**63) <= int(value) < 2**63


def _is_whole_or_none(value: Any) -> bool:
    return value is None or _is_whole(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or _is_whole(value)


WHOLE = "a whole number of at most 64 bits"
_NUMBERS = (
    ("num_parameters", _is_whole, WHOLE),
    ("train_seconds", _is_number, "a number of at most 64 bits"),
    ("lane", _is_whole_or_none, f"{WHOLE} or None"),
    ("fault_step", _is_whole_or_none, f"{WHOLE} or None"),
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
        if not _is_whole(value := getattr(curve, name)):
            yield f"curve.{name} {_shown(value)}; {WHOLE} is needed"


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
            json_text({name: value}).encode()
        except (TypeError, ValueError):
            yield f"the timing {_shown(name)}: {_shown(value)}, which JSON has no form for"


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    try:
        text = " ".join(escaped(repr(value)).split())
    except Exception as error:
        return f"an object of type {type(value).__name__} whose repr raises {cause_of_error(error)}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _numbers(numbers: list[Any]) -> str:
    if not numbers:
        return "no trial"
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(_shown, numbers))}"
