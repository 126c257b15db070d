"""Rows of a study's database that other programs wrote: shown as foreign, run if they wait and fit, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hyperlax.analysis.pages import write_pages
from hyperlax.api import open_study
from hyperlax.cli import main
from hyperlax.files import read_csv
from hyperlax.hyperparams import of_algorithm
from tests.fake_backend import FakeBackend
from tests.study_cases import FINITE, Case, Finished, Killed, killing
from tests.test_pooled_studies import ASHA
from tests.test_population_runs import Run, kill

GAMMA, SIZES = "algorithm.hyperparam.gamma", "algorithm.network.actor_network.pre_torso.layer_sizes"


def add_everything(study: optuna.Study) -> None:
    """Add a row of every kind that cannot be run, a perfect copy of the best among them."""
    study.ask()
    study.add_trial(create_trial(value=1e9))
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(study.best_trial)
    other: dict[str, optuna.distributions.BaseDistribution] = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study.add_trial(create_trial(params={"x": 1.0}, distributions=other, value=1e9))
    for params in ({}, {"x": 1}, {GAMMA: 7.0}, {GAMMA: "much"}, {GAMMA: None}, {SIZES: {"a": 1}}, {SIZES: [1]}):
        study.enqueue_trial(params)


@pytest.fixture
def whole(finished: Finished, tmp_path: Path) -> Case:
    return finished(tmp_path / "whole", write_pages=write_pages, n_trials=24)


@pytest.fixture
def case(finished: Finished, tmp_path: Path) -> Case:
    return finished(tmp_path / "case", write_pages=write_pages, n_trials=12)


def own(case: Case) -> list[tuple]:
    return [told for told in case.told() if "exec_batch" in told[-1]]


def test_foreign_rows_are_shown_and_change_no_result(
    whole: Case, case: Case, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    best = open_study(case.directory).best.number
    add_everything(case.study())
    where, foreign = str(case.directory), len(case.told()) - 12
    for words in (
        ["show", where],
        ["show", where, "13"],
        ["list", str(case.root)],
        ["watch", where],
        ["report", where],
    ):
        assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"12/12 trials ({foreign} foreign)" in shown
    assert "Trial 13 of test_study: FOREIGN (COMPLETE, added by another program)" in shown
    for form in ("csv", "json", "parquet", "optuna-journal"):
        assert main(["export", where, "--format", form, "--output", form]) == 0
    rows = read_csv(case.directory / "trials.csv")
    assert rows == read_csv(Path("csv"))
    assert [row["state"] for row in rows] == ["COMPLETE"] * 12 + ["FOREIGN"] * foreign
    assert "FOREIGN" in (case.directory / "report.html").read_text()
    assert main(["compare", where, str(whole.directory)]) == 0
    assert open_study(case.directory).best.number == best
    assert case.repair() == case.invalidate(best) == 0
    assert case.resume(n_trials=16) == 0
    add_everything(case.study())
    assert case.resume(n_trials=24) == 0
    assert "foreign" not in capsys.readouterr().err
    states = [trial.number for trial in case.study().trials]
    assert states == list(range(24 + 2 * foreign - 1))  # the second ask() took a waiting one
    assert [told[:1] + told[2:3] for told in own(case)[:16]] == [told[:1] + told[2:3] for told in own(whole)[:16]]
    assert json.loads((case.directory / "best_optuna_params.json").read_text())["trial"] < 24


def test_a_waiting_trial_that_fits_is_run_by_the_next_resume(case: Case, capsys, caplog) -> None:
    caplog.set_level("INFO", "hyperlax")
    case.study().add_trial(create_trial(state=TrialState.FAIL))
    case.study().enqueue_trial({GAMMA: 0.95}, user_attrs={"why": "a guess"})
    case.study().enqueue_trial({GAMMA: 0.96, SIZES: "[128]"})
    case.study().enqueue_trial({GAMMA: 0.97, SIZES: [64, 64]})
    assert case.resume() == 0
    assert "3 waiting trials of other programs can be run: resume with --n-trials 15." in caplog.text
    assert case.resume(n_trials=15) == 0
    trials = case.study().trials
    assert [trial.params[GAMMA] for trial in trials[12:15]] == [0.95, 0.96, 0.97]
    assert [trial.params[SIZES] for trial in trials[12:15]] == ["[64, 64]", "[128]", "[64, 64]"]
    assert (
        trials[12].params["algorithm.hyperparam.epochs"] == of_algorithm(case.recipe.config.algorithm).hyperparam.epochs
    )
    assert trials[12].user_attrs["why"] == "a guess" and len(trials) == 16
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 15 + ["FAIL"]
    told = case.told()
    assert case.resume(n_trials=20) == 0 and case.told()[:15] == told[:15]
    assert "other parameters" not in caplog.text
    before = own(case)
    case.lose_database()
    assert case.repair() == case.resume(n_trials=20) == 0
    assert [one[:4] for one in own(case)] == [one[:4] for one in before]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "qmc"])
def test_the_sampler_learns_of_what_it_was_given(tmp_path: Path, sampler: str) -> None:
    def study(name: str, *stops: int) -> Case:
        case = Case(tmp_path / name, sampler=sampler)
        assert case.start(n_trials=10) == 0
        case.study().enqueue_trial({GAMMA: 0.95})
        for stop in stops:
            assert case.resume(n_trials=stop) == 0
        return case

    assert study("a", 30).told() == study("b", 11, 16, 23, 30).told()


@pytest.mark.parametrize("moment", range(2))
def test_a_waiting_trial_is_run_once_after_a_kill(case: Case, monkeypatch, moment: int) -> None:
    case.study().enqueue_trial({GAMMA: 0.95})
    from hyperlax.study.database import StudyDatabase
    from hyperlax.study.journal import Journal

    kind, name = ((Journal, "append"), (StudyDatabase, "insert"))[moment]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kind, name, killing(getattr(kind, name), 0))
        case.resume(n_trials=16)
    case.study().enqueue_trial({GAMMA: 0.96})
    assert case.resume(n_trials=17) == 0
    gammas = [trial.params[GAMMA] for trial in case.study().trials]
    assert gammas[12] == 0.95 and gammas.count(0.95) == gammas.count(0.96) == 1 and len(gammas) == 17
    assert sum(len(event["trials"]) for event in case.events()) == 17


def test_another_program_that_ends_a_waiting_trial_ends_nothing(whole: Case, tmp_path: Path) -> None:

    case = Case(tmp_path / "told", write_pages=write_pages)

    def die(done: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        case.start(FakeBackend(after_batch=die))
    study = case.study()
    waiting = [trial.number for trial in study.trials if trial.state == TrialState.WAITING]
    study.tell(study.ask(), 1e9)
    assert waiting and main(["show", str(case.directory)]) == 0
    assert case.resume() == 0
    assert case.told() == own(whole)[:12]


def test_a_finite_space_and_a_sweep_take_no_harm(tmp_path: Path) -> None:
    case = Case(tmp_path, space=FINITE, sampler="grid")
    assert case.start(n_trials=9) == 0
    case.study().enqueue_trial({"algorithm.hyperparam.epochs": 2})
    add_everything(case.study())
    assert case.resume(n_trials=15) == 0
    assert len({json.dumps(told[2]) for told in own(case)}) >= 14


@pytest.mark.parametrize("arguments", [{}, ASHA], ids=["all to their end", "pruned"])
def test_a_trial_added_while_the_study_runs_takes_no_number_of_it(tmp_path: Path, arguments: dict[str, Any]) -> None:
    case = Case(tmp_path, **{**arguments, "n_trials": 12})
    add = lambda done: case.study().add_trial(create_trial(value=1e9))  # noqa: E731
    assert case.start(FakeBackend(after_batch=add, after_segment=add)) == 0
    assert [told[0] for told in own(case)] == list(range(12)) and len(case.told()) > 12
    case.study().enqueue_trial({GAMMA: 0.95})
    assert case.resume(n_trials=20) == 0
    assert [told[0] for told in own(case)] == list(range(20))
    assert case.study().trials[12].params[GAMMA] == 0.95


def test_a_population_leaves_them_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(Killed):
        run.start(after_interval=lambda interval: kill() if interval == 2 else None)
    before = len(run.told())
    run.study().enqueue_trial({GAMMA: 0.95})
    run.study().add_trial(create_trial(value=1e9))
    assert main(["show", str(run.directory)]) == 0
    assert run.resume() == 0
    left_alone = Run(tmp_path / "whole")
    assert left_alone.start() == 0
    assert [one[:4] for one in run.told()[:-2]] == [one[:4] for one in left_alone.told()] and before < len(run.told())
