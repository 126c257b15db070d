"""A study from nothing: what is on disk, in the database, printed and drawn."""

import json
import subprocess
import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import optuna
import pytest

from hyperlax.analysis import plots
from hyperlax.analysis.pages import write_study_pages
from hyperlax.envs.catalog import CATALOG
from hyperlax.files import read_csv
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES
from tests.desk import python
from tests.fake_backend import FakeBackend
from tests.made_up_studies import study
from tests.study_cases import TWO, Case, arguments_of

BATCH_FILES = {
    *("hyperparams.csv", "curves.csv", "intermediate.csv", "summary.csv", "timing.json", "timeline.csv", "success.txt")
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A finished study that no test changes."""
    case = Case(tmp_path_factory.mktemp("study"))
    assert case.start() == 0
    return case


def test_a_study_leaves_every_file_of_every_batch(case):
    names = [str(path.relative_to(case.directory)) for path in case.batches()]
    assert names == [
        "optuna_exec_batch_0000/samples/batch_00000",
        "optuna_exec_batch_0000/samples/batch_00001",
        "optuna_exec_batch_0000/samples/batch_00002",
        "optuna_exec_batch_0001/samples/batch_00000",
        "optuna_exec_batch_0001/samples/batch_00001",
    ]
    for path in case.batches():
        assert {file.name for file in path.iterdir()} == BATCH_FILES
    assert [page[1].relative_to(case.directory).as_posix() for page in case.pages] == [
        "optuna_exec_batch_0000/analysis",
        "optuna_exec_batch_0001/analysis",
    ]
    assert [len(page[0].trials) for page in case.pages] == [8, 12]


def test_plain_optuna_opens_the_database(case):
    study = case.study()
    assert study.metric_names == ["peak_performance"]
    assert study.user_attrs["recipe"] == "sac_test" and study.user_attrs["environment"] == "gymnax.pendulum"
    assert study.user_attrs["search_space"]["algorithm.hyperparam.gamma"]["domain"] == [0.9, 0.999]
    assert study.best_trial.value == max(trial.values[0] for trial in study.trials)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}


def test_study_json_says_what_was_run(case):
    manifest = case.stored()
    assert manifest["arguments"] == arguments_of(case.root).to_json()
    assert "--n-trials 12 --objective-names peak_performance" in manifest["command"]
    assert "--no-compilation-cache" in manifest["command"]
    assert manifest["recipe"]["config"]["algorithm.hyperparam.tau"] == 0.005
    assert manifest["versions"]["optuna"] == optuna.__version__
    assert (manifest["device"], manifest["lanes"]) == ("fake", 3)
    assert manifest["reference"]["hi"] == CATALOG["gymnax.pendulum"].reference.hi


def git(*words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_study_json_says_when_and_at_which_commit_a_study_began_and_was_resumed(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    case, before = Case(tmp_path), time.time()
    case.start(n_trials=4)
    git("init")
    (work / "notes.txt").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    case.resume(n_trials=6)
    (work / "notes.txt").write_text("two")
    case.resume(n_trials=8)
    runs = case.stored()["runs"]
    began = [datetime.fromisoformat(run["began"]).timestamp() for run in runs]
    assert before - 1 <= began[0] and began == sorted(began) and began[-1] <= time.time()
    head = git("rev-parse", "HEAD")
    assert [run["commit"] for run in runs] == ["", head, f"{head}-dirty"]
    record = case.pages[-1][0]
    assert list(record.runs) == runs
    write_study_pages(record)
    page = (case.directory / "report.html").read_text()
    assert (
        f"resumed 2 times, last {runs[-1]['began'][:10]}" in page and f"commit {head} with uncommitted changes" in page
    )


def test_a_resume_that_trains_nothing_does_not_count(tmp_path):
    case = Case(tmp_path, n_trials=4)
    case.start()
    case.resume()
    assert len(case.stored()["runs"]) == 1
    case.resume(confirm_top=1, confirm_seeds=2)
    assert len(case.stored()["runs"]) == 2


def test_a_batch_that_raises_is_halved_until_the_trial_at_fault_is_alone(tmp_path, caplog):
    case, sound = Case(tmp_path / "faulty"), Case(tmp_path / "sound")
    assert sound.start() == 0
    runner = FakeBackend(raises={4: RuntimeError("division by zero\nin step")})
    assert case.start(runner) == 0
    assert [number for number, state in enumerate(case.states()) if state == "FAIL"] == [4]
    assert sorted(runner.trained) == [number for number in range(12) if number != 4]
    cause, reason = "RuntimeError: division by zero in step", case.study().trials[4].user_attrs["reason"]
    assert reason.startswith(f"{cause} (lane 0; algorithm.")
    assert f"Batch of trials 3, 4, 5 failed ({cause}); retrying it as two smaller batches." in caplog.text
    assert f"trial 4: {reason}. Marked FAIL; the study continues." in caplog.text
    (timing,) = [
        timing for path in case.batches() if "error" in (timing := json.loads((path / "timing.json").read_text()))
    ]
    assert timing["steps"] is None and timing["error"] == cause
    mates = [number for number in range(8) if number != 4]
    assert [case.told()[number] for number in mates] == [sound.told()[number] for number in mates]


def test_lanes_that_a_program_comes_to_have_are_in_study_json_as_soon_as_its_batch_ends(tmp_path):
    case, runner, seen = Case(tmp_path), FakeBackend(packing={"shrunk": {}}), []

    def after_batch(count: int) -> None:
        seen.append(case.stored()["packing"])
        runner.packing = {"shrunk": {"program": count}}

    runner.after_batch = after_batch
    assert case.start(runner) == 0
    assert seen[0] == {"shrunk": {}} and {"shrunk": {"program": 1}} in seen[1:]
    assert case.stored()["packing"] == runner.packing


def test_a_study_whose_every_trial_failed_exits_with_1(tmp_path, capsys):
    case = Case(tmp_path, n_trials=4)
    assert case.start(FakeBackend(fail=dict.fromkeys(range(4), "diverged"))) == 1
    assert "Every trial failed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["q?x", "50%20", "#1 & so=on"])
def test_a_directory_may_have_any_name(tmp_path, name):
    case = Case(tmp_path / name)
    assert case.start() == 0
    assert case.resume(n_trials=14) == 0
    assert (case.directory / "optuna_study.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("objectives", [{}, TWO])
def test_every_evaluation_is_an_intermediate_value_also_without_a_pruner(tmp_path, objectives):
    case = Case(tmp_path, n_trials=6, sampler="tpe", **objectives)
    assert case.start(FakeBackend(fail={2: "nan"}, raises={4: ValueError("four")}), max_failure_rate=1.0) == 0
    for trial in case.study().trials:
        rows = read_csv(case.directory / trial.user_attrs["batch"] / "curves.csv")
        returns: dict[int, list[float]] = {}
        for row in rows:
            if int(row["trial"]) == trial.number and row["step"] != "0":
                returns.setdefault(int(row["step"]), []).append(float(row["mean"]))
        means = [sum(seeds) / len(seeds) for seeds in returns.values()]
        peaks = {step: max(means[: count + 1]) for count, step in enumerate(returns)}
        assert trial.intermediate_values == peaks
        assert list(peaks) == ([100, 200, 300, 400, 500] if trial.state.name == "COMPLETE" else list(peaks))
    before = [trial.intermediate_values for trial in case.study().trials]
    (case.directory / "optuna_study.db").unlink()
    assert case.repair() == 0
    assert [trial.intermediate_values for trial in case.study().trials] == before


NOT_NEEDED = ("sklearn", "scipy", "pandas", "matplotlib", "seaborn", "mlflow", "optuna.importance", "plotly.graph_objs")


def test_a_super_batch_is_analysed_once_however_slow_its_pages_are(tmp_path):
    written = []
    case = Case(tmp_path, write_pages=lambda record, directory, is_latest: written.append(directory))
    assert case.start(optuna_study_batch_size=2) == 0
    assert written == [case.directory / f"optuna_exec_batch_{number:04d}" / "analysis" for number in range(6)]
    written.clear()
    assert case.resume(n_trials=14) == 0
    names = [int(directory.parent.name.removeprefix("optuna_exec_batch_")) for directory in written]
    assert names == [*range(6), 6]


def test_a_plot_is_drawn_once_for_all_of_its_pages(tmp_path, monkeypatch):
    drawn = []
    counting = [
        replace(plot, figure=lambda data, plot=plot: drawn.append(plot.name) or plot.figure(data))
        for plot in plots.PLOTS
    ]
    monkeypatch.setattr(plots, "PLOTS", counting)
    record = study(tmp_path, np.arange(9.0))
    write_study_pages(record, tmp_path / "optuna_exec_batch_0000" / "analysis")
    assert drawn == [plot.name for plot in counting if plot.applies(record)]


def test_a_study_imports_nothing_that_it_does_not_need_to_the_end(tmp_path):
    script = f"""
import sys
from pathlib import Path
import hyperlax.studies
from hyperlax.analysis.pages import write_pages
from tests.study_cases import Case
case = Case(Path({str(tmp_path)!r}), write_pages=write_pages, n_trials={FEWEST_FOR_IMPORTANCES}, optuna_study_batch_size=50)
assert case.start() == 0
print("imported:", [name for name in {NOT_NEEDED} if name in sys.modules])
"""
    run = python("-c", script)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("imported: []\n")
    (importances,) = tmp_path.rglob("analysis_plots/param_importances.html")
    assert '"type":"bar"' in importances.read_text().replace(" ", "")
