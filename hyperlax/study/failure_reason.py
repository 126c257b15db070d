"""Why a trial failed, in one line: the cause, then in a parenthesis where it was and with which hyperparameters.

>>> reason = failure_reason("returns are not finite", lane=2, step=4000, searched={"algorithm.hyperparam.gamma": 0.99})
>>> reason
'returns are not finite (lane 2, step 4000; algorithm.hyperparam.gamma=0.99)'
>>> cause_of(reason)
'returns are not finite'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hyperlax.files import cell, escaped

_LONGEST_CAUSE = 500
"""Characters of a cause that are kept: exceptions can be pages long."""

_WHERE = re.compile(r" \((?:lane |step |algorithm\.)[^()]*\)$")


def failure_reason(cause: str, *, lane: int | None, step: int | None, searched: Mapping[str, Any]) -> str:
    """Return the line. lane, step: None if unknown. searched: dotted name -> value, of the study's search space."""
    places = [f"{name} {number}" for name, number in (("lane", lane), ("step", step)) if number is not None]
    values = [f"{name}={cell(value)}" for name, value in searched.items()]
    where = "; ".join(", ".join(part) for part in (places, values) if part)
    line = " ".join(escaped(cause).split())[:_LONGEST_CAUSE].removesuffix(".")
    return f"{line} ({where})" if where else line


def cause_of(reason: str) -> str:
    """Return the part of a reason that trials can have in common."""
    return _WHERE.sub("", reason)


def cause_of_error(error: BaseException) -> str:
    """Return an exception as a cause: its type and its message in one line.

    An exception in a callback of a compiled program arrives as a text with a traceback, whose last line names it. If str() of
    the exception raises, the message is left out.
    """
    try:
        text = escaped(str(error)).strip()
    except Exception:
        text = ""
    if "Traceback (most recent call last):" in text:
        return text.splitlines()[-1]
    return f"{type(error).__name__}: {' '.join(text.split())}".removesuffix(": ")
