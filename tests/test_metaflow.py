"""Searches whose trials are tasks of Metaflow. The flows of whole runs are `tuning_flow.py` and those in `studies/`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import hyperlax
from hyperlax.cli import main
from hyperlax.errors import HyperlaxError, UsageError

pytest.importorskip("metaflow", reason='needs Metaflow: pip install "hyperlax[metaflow]"')
pytest.importorskip("grpc", reason='needs gRPC: pip install "hyperlax[metaflow]"')

from hyperlax.metaflow import (
    coordinator,
    create_study_inputs,
    decorators,
    hyperparam,
    optuna_coordinator,
    rebuild_study,
    render_study_html,
    rendezvous,
)
from hyperlax.metaflow.coordinator import Coordinator
from hyperlax.metaflow.directory import write_data, write_study
from hyperlax.metaflow.rendezvous import ABOUT, BEAT, StudyOverError, add_trial, await_coordinator, live_trial
from hyperlax.metaflow.results import TrialResult, written
from tests.test_docs import python_of
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_rendezvous(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HYPERLAX_RENDEZVOUS", str(tmp_path / "rendezvous"))
    monkeypatch.chdir(tmp_path)


class Flow:
    """A flow in Metaflow's own process: its words, exit status, and the directories of its studies."""

    def __init__(self, file: Path, where: Path):
        self.file, self.where = file, where

    def __call__(self, *words: str, **variables: str) -> tuple[int, str]:
        own = {
            "METAFLOW_USER": "tester",
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.where),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(self.file), *words]
        done = subprocess.run(
            command, cwd=self.where, env={**os.environ, **own, **variables}, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    def studies(self) -> list[hyperlax.Study]:
        found = sorted((self.where / "my_optuna_studies").iterdir(), key=lambda path: path.stat().st_mtime)
        return [hyperlax.open_study(path) for path in found]


def states_of(study: hyperlax.Study) -> list[str]:
    return [trial.state for trial in study.record.trials]


def test_a_flow_with_a_coordinator_runs_and_leaves_a_study(tmp_path):
    status, text = Flow(ROOT / "tests" / "tuning_flow.py", tmp_path)("run")
    assert status == 0, text
    assert "states ['complete', 'complete', 'failed'] left []" in text
    (study,) = Flow(Path(), tmp_path).studies()
    assert study.state == "finished" and sorted(states_of(study)) == ["COMPLETE", "COMPLETE", "FAIL"]
    (reason,) = (trial.reason for trial in study.record.trials if trial.state == "FAIL")
    assert reason.startswith("ArithmeticError: too steep (tuning_flow.py:")
    assert study.record.space["rate"]["type"] == "LogUniform" and (study.directory / "report.html").exists()
    assert len({trial.params["rate"] for trial in study.record.trials}) == 3


@pytest.mark.slow
def test_the_run_of_a_killed_task_leaves_a_partial_study_and_a_resume_continues(tmp_path):
    flow = Flow(ROOT / "tests" / "tuning_flow.py", tmp_path)
    status, text = flow("run", "--n_trials", "4", LOST="1")
    assert status == 1 and "Task failed" in text
    (partial,) = flow.studies()
    assert partial.state == "stopped" and sorted(states_of(partial)) == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    before = {trial.number: trial.params for trial in partial.record.trials if trial.state == "COMPLETE"}
    (tmp_path / "again").touch()
    status, text = flow("resume", LOST="1")
    assert status == 0 and "3 trials of the run ended before" in text, text
    whole = flow.studies()[-1]
    assert whole.state == "finished" and sorted(states_of(whole)) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    assert {trial.number: trial.params for trial in whole.record.trials}.items() >= before.items()


@pytest.mark.slow
def test_a_killed_task_that_the_flow_catches_is_given_up(tmp_path):
    flow = Flow(ROOT / "tests" / "tuning_flow.py", tmp_path)
    status, text = flow("run", "--n_trials", "4", LOST="1", CAUGHT="yes")
    assert status == 0, text
    (study,) = flow.studies()
    assert study.state == "finished" and sorted(states_of(study)) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert any(trial.reason.startswith("lost: its task gave no sign of life for 40 s") for trial in study.record.trials)


@pytest.mark.slow
def test_a_killed_task_that_is_tried_again_is_another_trial(tmp_path):
    flow = Flow(ROOT / "tests" / "tuning_flow.py", tmp_path)
    status, text = flow("run", "--with", "retry:times=1,minutes_between_retries=0", LOST="1")
    assert status == 0 and "states ['complete', 'complete', 'failed']" in text, text
    (study,) = flow.studies()
    assert study.state == "finished" and sorted(states_of(study)) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert any(trial.reason.startswith("lost: its task ended without it") for trial in study.record.trials)


def test_the_flow_in_the_documentation_is_the_example():
    (block,) = (text for text in python_of(ROOT / "docs" / "metaflow.md") if "class ForestFlow" in text)
    assert (ROOT / "studies" / "forest_flow.py").read_text(encoding="utf-8").endswith(block)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forest_flow", "forest_batch_flow"])
def test_the_example_runs(name, tmp_path):
    pytest.importorskip("sklearn")
    flow = Flow(ROOT / "studies" / f"{name}.py", tmp_path)
    status, text = flow("run", "--n_trials", "3")
    assert status == 0 and "Best accuracy: 0.9" in text, text
    (study,) = flow.studies()
    assert states_of(study) == ["COMPLETE"] * 3 and study.best.values["accuracy"] > 0.9
    (card,) = tmp_path.rglob("mf.cards/**/*.html")
    assert card.stat().st_size > 100_000


def coordinating(total: int, direction: str = "minimize", timeout: float = 500) -> tuple[threading.Thread, list]:
    """A coordinator of run "7" in a thread, and the list that its study will be in."""
    flow, found = SimpleNamespace(coordinator_id="7", n_trials_int=total), []
    leader = Coordinator(flow, {"train": ("loss", "minimize")}, direction, "tpe", seed=1)  # pyright: ignore
    thread = threading.Thread(target=lambda: found.append(leader.run("localhost", None, timeout, "studies")))
    thread.start()
    return thread, found


def beats(study: Any, number: int) -> int:
    """How many signs of life a trial has given."""
    return study.get_trials(deepcopy=False)[number].system_attrs.get(BEAT, 0)


def test_trials_ask_the_coordinator_and_what_is_lost_fails(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("hyperlax.leases.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(rendezvous, "_BEAT_SECONDS", 0.05)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing is sent through it
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    thread, found = coordinating(total=3)
    assert await_coordinator("7", timeout=240).startswith("localhost:")
    with live_trial("7", None, 0, task="a") as (study, trial):
        loss = trial.suggest_float("x", 0.0, 1.0)
        for _ in range(3):  # longer than the lease, with signs of life
            known = beats(study, 0)
            eventually(lambda known=known: beats(study, 0) > known)
            now[0] += 0.4 * coordinator.LEASE_SECONDS
        study.tell(trial, loss)
    with live_trial(None, await_coordinator("7"), 1, task="b") as (study, trial):
        other = trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, other)
    monkeypatch.setattr(rendezvous, "_BEAT_SECONDS", 1e6)
    with live_trial("7", None, 2, task="c") as (study, trial):
        trial.suggest_float("x", 0.0, 1.0)
        while thread.is_alive():  # it gives no sign of life
            now[0] += 2 * coordinator.LEASE_SECONDS
            thread.join(0.1)
    assert loss != other
    first, second, third = found[0].trials
    assert (first.value, second.value, third.state) == (loss, other, TrialState.FAIL)
    assert "hyperlax-beat" not in {one.name for one in threading.enumerate()}
    study = hyperlax.open_study(tmp_path / "studies" / "flow")
    assert [trial.state for trial in study.record.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert study.record.trials[2].reason.startswith("lost: its task gave no sign of life for 40 s")
    with pytest.raises(StudyOverError), live_trial("7", None, 3, task="d"):
        pass


def test_a_trial_is_added_once_to_a_coordinator_that_was_started_again(tmp_path):
    thread, found = coordinating(total=1)
    await_coordinator("7", timeout=240)
    rate = optuna.trial.FixedTrial({"rate": 0.5}, number=3)
    rate.suggest_float("rate", 0.0, 1.0)
    ended = TrialResult.of(rate, datetime.now(), TrialState.COMPLETE, 2.0, "").frozen("a")
    assert add_trial("7", None, ended) == 0
    ended.number = 0
    with suppress(StudyOverError):  # the coordinator has got all that it waits for
        assert add_trial("7", None, ended) == 0
    thread.join(timeout=240)
    assert [(trial.value, trial.params) for trial in found[0].trials] == [(2.0, {"rate": 0.5})]


def test_what_an_earlier_attempt_was_told_is_added_when_metaflow_says_so(monkeypatch):
    monkeypatch.setattr(coordinator, "_LOOK_SECONDS", 0.0)
    ended = {}
    for number, task in ((1, "b"), (0, "a")):
        rate = optuna.trial.FixedTrial({"rate": 0.5}, number=number)
        rate.suggest_float("rate", 0.0, 1.0)
        ended[task] = TrialResult.of(rate, datetime.now(), TrialState.COMPLETE, 2.0 + number, "")
    known = iter([{"b": ended["b"]}])
    monkeypatch.setattr(Coordinator, "_results", lambda self: next(known, ended))
    monkeypatch.setattr(coordinator, "current", SimpleNamespace(origin_run_id=None, retry_count=1))
    thread, found = coordinating(total=2)
    thread.join(timeout=240)
    assert [(trial.value, trial.params) for trial in found[0].trials] == [(2.0, {"rate": 0.5}), (3.0, {"rate": 0.5})]


def test_a_coordinator_gives_up_after_its_timeout_and_its_direction_counts(capsys):
    thread, found = coordinating(total=2, direction="maximize", timeout=1)
    thread.join(timeout=240)
    assert found[0].direction.name == "MAXIMIZE" and found[0].trials == []
    assert "the study will maximize loss" in capsys.readouterr().out


def test_what_metaflow_cannot_say_is_told(monkeypatch, capsys):
    monkeypatch.setattr(coordinator, "_LOOK_SECONDS", 0.0)
    thread, _ = coordinating(total=1, timeout=1)
    thread.join(timeout=240)
    assert "The tasks of the run cannot be seen now: " in capsys.readouterr().out


def test_every_kind_of_trial_is_in_the_study_that_is_written(tmp_path, capsys):
    study = optuna.create_study(direction="maximize", study_name="made-up")
    study.set_user_attr(ABOUT, {"objective": "score"})

    for number in range(6):
        trial = study.ask()
        if number == 4:
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.suggest_categorical("kind", ["tree", "svm", None])
        trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        trial.suggest_float("share", 0.0, 1.0, step=0.25)
        trial.suggest_int("width", 16, 64, step=16)
        if number in (0, 2):
            trial.suggest_float("c", 0.1, 10.0)
        if number == 1:
            trial.report(0.5, 1)
            study.tell(trial, state=TrialState.PRUNED)
        elif number != 5:
            trial.report(0.25, 10)
            study.tell(trial, 0.5 + number)
    root = write_study(study, str(tmp_path))
    found = hyperlax.open_study(root)
    assert states_of(found) == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert found.state == "stopped" and found.best.number == 3 and found.best.values == {"score": 3.5}
    for ours, theirs in zip(found.record.trials[:4], study.trials, strict=False):
        assert ours.params["rate"] == theirs.params["rate"] and ours.params["kind"] == str(theirs.params["kind"])
        assert ours.params["share"] == theirs.params["share"] and ours.params["width"] == theirs.params["width"]
        assert ours.params["c"] == str(theirs.params.get("c", "not used"))
    reason = found.record.trials[4].reason
    assert "It had not chosen kind, rate, share, width: the middle of the range stands there" in reason
    assert found.curve(0).returns[:, 0].tolist() == [0.25, 0.5] and found.curve(0).steps.tolist() == [10, 11]
    assert found.report().exists() and "made-up" in found.html()
    assert main(["list", str(tmp_path)]) == 0 and "stopped" in capsys.readouterr().out
    (root / "notes.txt").touch()
    (tmp_path / ".flow.new").mkdir()  # of a process that was killed
    assert write_study(study, str(tmp_path)) == root and (root / "notes.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"flow"}
    assert json.loads((root / "best_optuna_params.json").read_text())["command"] == "python flow.py run"
    page = render_study_html(study)
    assert "made-up" in page and "/hyperlax-" not in page  # of the directory where it was drawn
    assert main(["train", "--from", str(root), "--trial", "0"]) == 2
    assert "Run or resume that flow" in capsys.readouterr().err
    assert main(["optuna-hp-search", "--resume-from", str(root)]) == 2
    said = capsys.readouterr().err
    assert "Run or resume that flow" in said and "sweep-hp-samples" not in said


@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_names_and_values_that_optuna_allows_are_written_as_a_study_can_have_them(tmp_path):
    study = optuna.create_study()
    study.set_user_attr(ABOUT, {"objective": "mean"})
    study.enqueue_trial({"rate": 5.0, "kind": "\ud800"})
    for _ in range(2):
        trial = study.ask()
        for name in ("learning rate", "learning_rate", "ü", "1x", "trial", "", "my_mean"):
            trial.suggest_float(name, 0.0, 1.0)
        trial.suggest_float("rate", 0.0, 1.0)
        trial.suggest_categorical("kind", ["\ud800", "b"])
        trial.suggest_categorical("bound", [1.0, float("inf")])
        trial.report(1.0, 10**30)
        study.tell(trial, 0.5)
    found = hyperlax.open_study(write_data(study, str(tmp_path))).record
    names = ["learning_rate", "my_learning_rate", "my_ü", "my_1x", "my_trial", "my_", "my_my_mean"]
    assert list(found.space) == [*names, "rate", "kind", "bound"] and list(found.objectives) == ["my_mean"]
    assert found.trials[0].params["rate"] == 5.0 and found.trials[0].params["kind"] == "\\ud800"
    assert [found.trials[1].params[name] for name in names] == list(study.trials[1].params.values())[:7]


def test_trials_that_have_chosen_nothing_are_a_study_too(tmp_path):
    study = optuna.create_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    found = hyperlax.open_study(write_data(study, str(tmp_path))).record
    assert [(one.state, one.params) for one in found.trials] == [("FAIL", {"hyperparameter": "not used"})]


def test_a_study_without_trials_and_one_with_a_value_too_large_to_keep_have_a_page(tmp_path):
    study = optuna.create_study()
    assert "No trial is COMPLETE" in render_study_html(study)
    with pytest.raises(UsageError, match="the study has no trials yet"):
        write_study(study, str(tmp_path))
    study.tell(study.ask(), 1e308)
    assert "value is 1e+308; a study keeps numbers below 1e300" in render_study_html(study)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlax.metaflow.directory.write_samples", lambda path, samples: int("x"))
    study = optuna.create_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    assert written(study, str(tmp_path / "studies")).startswith("The study's directory is not written: ValueError: ")
    assert list((tmp_path / "studies").iterdir()) == []


def test_a_trial_fails_also_if_its_step_exits(monkeypatch):
    def step(flow) -> None:
        sys.exit(4)

    state, _, reason = decorators._train(SimpleNamespace(), step, "loss", None)  # pyright: ignore
    assert state == TrialState.FAIL and reason.startswith("SystemExit: 4 (test_metaflow.py:")


def test_tasks_of_other_steps_and_of_nested_loops_have_other_seeds():
    tasks = [("train", [(0, 2, "a"), (1, 2, "b")]), ("train", [(1, 2, "a"), (1, 2, "b")]), ("other", [(1, 2, "a")])]
    assert len({decorators._place(*task) for task in tasks}) == 3  # pyright: ignore
    assert decorators._place("train", None) == decorators._place("train", [])  # pyright: ignore


def test_the_batch_mode_suggests_beforehand_and_makes_the_study_again():
    configs = create_study_inputs(lambda trial: trial.suggest_float("x", 0, 1), 4)
    assert [config.trial_number for config in configs] == [0, 1, 2, 3]
    assert len({config.params["x"] for config in configs}) == 4
    assert configs == create_study_inputs(lambda trial: trial.suggest_float("x", 0, 1), 4)
    tasks = []
    for config in configs[:2]:
        trial = optuna.trial.FixedTrial(config.params, config.trial_number)
        value = trial.suggest_float("x", 0, 1)
        result = TrialResult.of(trial, datetime.now(), TrialState.COMPLETE, value, "")
        tasks.append(SimpleNamespace(trial_result=result))
    study = rebuild_study([*tasks, SimpleNamespace(), SimpleNamespace()], objective="x")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert study.best_value == min(config.params["x"] for config in configs[:2])
    with pytest.raises(HyperlaxError, match="no complete one among 1 trial"):
        rebuild_study([SimpleNamespace()], objective="x")


def test_wrong_words_are_refused_where_they_stand(monkeypatch):
    with pytest.raises(UsageError, match="no sampler 'tpee'. Did you mean `tpe`"):
        optuna_coordinator(sampler="tpee")
    with pytest.raises(UsageError, match="direction is 'up'. Use minimize or maximize"):
        hyperparam("loss", direction="up")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="Use adaptive or batch"):
        hyperparam("loss", mode="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(HyperlaxError, match=re.escape("The coordinator of run 9 was not there after 0 s.")):
        await_coordinator("9", timeout=0)


def test_without_the_extra_one_line_says_what_to_install():
    code = "import sys; sys.modules['metaflow'] = None\nimport hyperlax.metaflow"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1].endswith("Install them: pip install 'hyperlax[metaflow]'")
