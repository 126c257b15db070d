"""What a point says when the mouse is on it."""

from __future__ import annotations

from hyperlax.analysis.labels import number, short_names, value_text
from hyperlax.analysis.plots.style import plain
from hyperlax.study.record import StudyRecord, TrialRecord


def hover_texts(record: StudyRecord, trials: list[TrialRecord]) -> list[str]:
    """For each trial its number, objectives and searched hyperparameters."""
    short = short_names(record.space)
    return [_text(record, trial, short) for trial in trials]


def _text(record: StudyRecord, trial: TrialRecord, short: dict[str, str]) -> str:
    lines = [f"<b>trial {trial.number}</b>"]
    lines += [f"{plain(name)}: <b>{number(trial.values[name])}</b>" for name in record.objectives]
    lines += [f"{plain(short.get(name, name))}: {plain(value_text(value))}" for name, value in trial.params.items()]
    return "<br>".join(lines)
