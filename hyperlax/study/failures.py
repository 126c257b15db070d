"""The reasons for trials' failures, and checks of the results of a backend.

A reason is one line: the cause, then in a parenthesis where it was and with which hyperparameters.

>>> failure_reason("returns are not finite", lane=2, step=4000, searched={"algorithm.hyperparam.gamma": 0.99})
'returns are not finite (lane 2, step 4000; algorithm.hyperparam.gamma=0.99)'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hyperlax.agent import Policy
from hyperlax.backends.base import LostError
from hyperlax.errors import in_one_line, type_and_message
from hyperlax.files import cell, escaped, json_text
from hyperlax.trial import MEASURED, Curve, LaneInterval, SegmentResult

_LONGEST_CAUSE = 500
"""Number of characters of a cause that are kept: exceptions can be pages long."""


def failure_reason(cause: str, *, lane: int | None, step: int | None, searched: Mapping[str, Any]) -> str:
    """Return the line. lane, step: None if unknown. searched: dotted name -> value, of the study's search space."""
    places = [f"{name} {number}" for name, number in (("lane", lane), ("step", step)) if number is not None]
    values = [f"{name}={cell(value)}" for name, value in searched.items()]
    where = "; ".join(", ".join(part) for part in (places, values) if part)
    line = in_one_line(escaped(cause))[:_LONGEST_CAUSE].removesuffix(".")
    return f"{line} ({where})" if where else line


def cause_of_error(error: BaseException) -> str:
    """Return an exception as a cause: its type and its message in one line.

    An exception in a callback of a compiled program arrives as a text with a traceback, whose last line names it. If str() of
    the exception raises, the message is left out.
    """
    if "Traceback (most recent call last):" in in_one_line(error):
        return escaped(str(error)).strip().splitlines()[-1]
    return escaped(in_one_line(error) if isinstance(error, LostError) else type_and_message(error))


def problem_of(result: SegmentResult, seeds: int) -> str | None:
    """Return the problem of a result and what is needed instead, None for a sound one. One that cannot be read is not sound."""
    try:
        return next(_problems(result, seeds), None)
    except Exception as error:  # it may be of a user's backend
        return f"a result that cannot be read: {cause_of_error(error)}"


def problem_of_timing(timing: Any) -> str | None:
    """Return the problem of a batch's timing, None if it can be written as JSON."""
    if not isinstance(timing, dict):
        return f"the timing {_shown(timing)}; a dictionary is needed"
    for name, value in timing.items():
        try:
            json_text({name: value}).encode()
        except (TypeError, ValueError):
            return f"the timing {_shown(name)}: {_shown(value)}, which JSON has no form for"
    return None


def _problems(result: SegmentResult, seeds: int) -> Iterator[str]:
    for name, is_sound, words in _FIELDS:
        if not is_sound(value := getattr(result, name)):
            yield f"the {name} {_shown(value)}; {words} is needed"
    if isinstance(result.curve, Curve):
        yield from _problems_of_curve(result.curve, seeds)
    else:
        yield f"the curve {_shown(result.curve)}; a Curve is needed"


def _is_whole(value: Any) -> bool:
    """Return whether a value is an integer that int64 holds. True and False are not."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        return False
    return -(2**63) <= int(value) < 2**63


def _is_whole_or_none(value: Any) -> bool:
    return value is None or _is_whole(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or _is_whole(value)


def _are_intervals(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, LaneInterval) for one in value)


_WHOLE = "an integer of at most 64 bits"
_FIELDS = (
    ("repetition", _is_whole, _WHOLE),
    ("segments", _is_whole, _WHOLE),
    ("is_done", lambda value: isinstance(value, bool), "True or False"),
    ("fault", lambda value: isinstance(value, str) and bool(value.strip()), "a text"),
    ("num_parameters", _is_whole, _WHOLE),
    ("train_seconds", _is_number, "a number of at most 64 bits"),
    ("lane", _is_whole_or_none, f"{_WHOLE} or None"),
    ("fault_step", _is_whole_or_none, f"{_WHOLE} or None"),
    ("policy", lambda value: value is None or isinstance(value, Policy), "a Policy or None"),
    ("intervals", _are_intervals, "a tuple of LaneIntervals"),
)


def _problems_of_curve(curve: Curve, seeds: int) -> Iterator[str]:
    if _kind(curve.steps) != "iu1":
        yield f"curve.steps {_shown(curve.steps)}; int64[points] is needed"
        return
    for name in MEASURED:
        column = getattr(curve, name)
        if _kind(column) not in ("f2", "iu2") or column.shape != (len(curve.steps), seeds):
            yield f"curve.{name} {_shown(column)}; float64[{len(curve.steps)}, {seeds}] is needed, points and seeds"
    for name, column in curve.others.items():
        if _kind(column) != "f2" or column.shape != (len(curve.steps), seeds):
            yield f"curve.others[{name!r}] {_shown(column)}; float64[{len(curve.steps)}, {seeds}] is needed, points and seeds"
    for name in ("episodes", "budget"):
        if not _is_whole(value := getattr(curve, name)):
            yield f"curve.{name} {_shown(value)}; {_WHOLE} is needed"


def _kind(value: Any) -> str:
    """Return an array's kind of numbers and its dimensions, e.g. "f2"; "" for anything else."""
    if not isinstance(value, np.ndarray):
        return ""
    return f"{'iu' if value.dtype.kind in 'iu' else value.dtype.kind}{value.ndim}"


def _shown(value: Any) -> str:
    """Return a value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    try:
        text = in_one_line(escaped(repr(value)))
    except Exception as error:  # a user's object may raise anything
        return f"an object of type {type(value).__name__} whose repr raises {cause_of_error(error)}"
    return text if len(text) <= 60 else f"{text[:60]}..."
