"""A confirmation as a user runs it: real training on new seeds after a finished search, and once only."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.desk import BUDGET, TRIALS, curves, finished_study, hyperlax, rows

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
RECIPE, TOP, NEW_SEEDS = "ppo_mlp", 2, 3


def test_a_finished_search_is_confirmed_on_new_seeds_and_only_once(desk):
    searched, directory = finished_study(desk, RECIPE), desk / "confirmed"
    shutil.copytree(searched, directory)
    words = ["optuna-hp-search", "--resume-from", "confirmed", "--confirm-top", str(TOP)]
    words += ["--confirm-seeds", str(NEW_SEEDS)]
    run = hyperlax(desk, *words)
    assert run.returncode == 0, run.stderr
    assert f"and the default configuration on {NEW_SEEDS} new seeds." in run.stderr
    assert f"On {NEW_SEEDS} new seeds, trial" in run.stdout and "the interval of the difference is [" in run.stdout
    assert f"{TRIALS} trials finished: {TRIALS} COMPLETE." in run.stdout

    table = rows(directory / "confirmation.csv")
    assert len(table) == (TOP + 1) * NEW_SEEDS and {row["trial"] for row in table[-NEW_SEEDS:]} == {"default"}
    batches = sorted((directory / "confirmation").glob("batch_*"))
    found = [row for batch in batches for row in rows(batch / "curves.csv")]
    timings = [json.loads((batch / "timing.json").read_text()) for batch in batches]
    assert sum(timing["steps"] for timing in timings) >= (TOP + 1) * NEW_SEEDS * BUDGET
    old = curves(searched)
    untrained = []
    for row in table[: TOP * NEW_SEEDS]:
        own = [seen for seen in found if (seen["trial"], seen["seed"]) == (row["trial"], row["seed"])]
        steps, returns = ([float(seen[name]) for seen in own[1:]] for name in ("step", "mean"))
        assert float(row["peak"]) == max(returns)
        assert float(row["final"]) == returns[-1]
        assert len(steps) == 2 and steps[-1] >= BUDGET
        known = [",".join(seen.values()) in old[row["trial"]] for seen in own]
        assert not all(known), "a curve of the search"
        untrained.append(known[0])
    assert not all(untrained), "before any training, the episodes are other ones"
    assert "Confirmation on new seeds" in (directory / "report.html").read_text()

    files = {path: path.stat().st_mtime_ns for path in (directory / "confirmation").rglob("*")}
    again = hyperlax(desk, *words)
    assert again.returncode == 0 and again.stdout == run.stdout and "Confirming" not in again.stderr
    assert files == {path: path.stat().st_mtime_ns for path in (directory / "confirmation").rglob("*")}
