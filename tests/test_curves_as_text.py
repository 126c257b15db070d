"""Learning curves as text: what `show` says of a trial's seeds, and what it draws, against what the files hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis.terminal import BLOCKS, study_text, trial_text
from hyperlax.errors import format_number
from hyperlax.files import write_csv
from hyperlax.study.record import StudyRecord
from tests.made_up_studies import ARGUMENTS, study

STEPS = np.arange(21) * 100


def study_of(directory: Path, *returns: np.ndarray, aggregate: str = "mean") -> StudyRecord:
    """A study of a trial per float64[points, seeds]; what is nan is not in the file."""
    record = study(directory, np.arange(float(len(returns))))
    rows = [
        [trial, seed, int(STEPS[point]), value]
        for trial, each in enumerate(returns)
        for (point, seed), value in np.ndenumerate(each)
        if not np.isnan(value)
    ]
    batch = record.trials[0].batch_directory
    assert batch is not None
    write_csv(batch / "curves.csv", ["trial", "seed", "step", "mean"], rows)
    return replace(record, arguments={**ARGUMENTS, "aggregate": aggregate})


def seeds_of(record: StudyRecord) -> tuple[str, list[list[str]]]:
    """The heading of the last column, and the cells of each seed of trial 0."""
    table = next(part for part in trial_text(record, record.trials[0]).split("\n\n") if part.startswith("seed"))
    header, *lines = table.splitlines()
    return re.split(r"\s{2,}", header)[-1], [re.split(r"\s{2,}", line.strip()) for line in lines]


def drawn(text: str) -> dict[int, str]:
    """Trial -> its sparkline, of the table of the best."""
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    return {int(row[0]): row[-1] for row in rows}


def falling(top: float) -> np.ndarray:
    """From 900 before training to `top`, and down to 0."""
    return np.concatenate([[900.0], np.linspace(top, 0.0, 20)])


def test_peak_and_final_of_a_seed_are_the_metrics_own(tmp_path):
    returns = np.stack([falling(100.0), falling(50.0)], axis=1)
    _, rows = seeds_of(study_of(tmp_path, returns))
    for seed, (label, untrained, peak, final, _) in enumerate(rows):
        assert (label, untrained) == (str(seed), "900")
        assert (peak, final) == (format_number(returns[1, seed]), format_number(returns[-2:, seed].mean()))


def test_the_scale_of_a_trial_is_that_of_all_its_seeds(tmp_path):
    returns = np.stack([np.linspace(0, 10, 21), np.linspace(0, 90, 21)], axis=1)
    heading, rows = seeds_of(study_of(tmp_path, returns))
    assert heading.startswith("0 to 90, ")
    assert rows[1][-1].endswith(BLOCKS[-1]) and rows[0][-1] == BLOCKS[0] * 21


def test_a_seed_that_ended_early_has_its_own_peak_and_final(tmp_path):
    returns = np.stack([np.linspace(0, 100, 21), np.linspace(0, 20, 21), np.linspace(0, 20, 21)], axis=1)
    returns[11:, 1], returns[1:, 2] = np.nan, np.nan
    heading, rows = seeds_of(study_of(tmp_path, returns))
    assert heading.startswith("0 to 100, ")
    assert rows[1][2:4] == [format_number(returns[10, 1])] * 2
    assert len(rows[1][-1]) == 11 and rows[2] == ["2", "0", BLOCKS[0]]


@pytest.mark.parametrize(
    ("aggregate", "last"), [("mean", "▄"), ("worst", "▁"), ("median", "▁")], ids=["mean", "worst", "median"]
)
def test_the_best_are_drawn_as_the_study_judges_them(tmp_path, aggregate, last):
    one = np.stack([np.zeros(21), np.zeros(21), np.linspace(0, 120, 21)], axis=1)
    other = np.tile(np.linspace(0, 90, 21)[:, None], 3)
    text = study_text(study_of(tmp_path, one, other, aggregate=aggregate), "finished", 2, 10)
    assert "learning curve, 0 to 90" in text
    assert drawn(text)[0][-1] == last and drawn(text)[1][-1] == "█"
