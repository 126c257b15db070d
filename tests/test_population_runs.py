"""Runs of population-based training from start to end, without jax: what is kept, what is shown, what survives a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hyperlax.analysis.pages import write_study_pages
from hyperlax.config.checks import checked
from hyperlax.config.options import PbtOptions
from hyperlax.config.stored import SEARCH, read_stored
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import dotted
from hyperlax.hyperparams import SAC
from hyperlax.schedulers.pbt import explored
from hyperlax.space import Categorical, LogUniform
from hyperlax.studies import planned_study
from hyperlax.study import agents
from hyperlax.study import trials as study_trials
from hyperlax.study.agents import find_agent
from hyperlax.study.lineage import changing, configurations, read_schedule
from hyperlax.study.maintenance import invalidate, repair
from hyperlax.study.observer import Pages
from hyperlax.study.population import run_population
from hyperlax.study.record import StudyRecord
from hyperlax.study.state import StudyState
from hyperlax.study.view import load_study
from tests.fake_backend import STEPS_PER_INTERVAL, FakeBackend
from tests.study_cases import MIXED, Case, Killed, killing, recipe_of

MEMBERS, INTERVALS = 8, 4
ACTOR_LR = "algorithm.hyperparam.actor_lr"


class Run(Case):
    """A population from start to end. records: what the analysis got. members: the fake that the last start trained with."""

    def __init__(self, root: Path, **changes: Any):
        super().__init__(root)
        self.changes, self.records, self.members = changes, list[StudyRecord](), FakeBackend()

    @property
    def options(self) -> PbtOptions:
        arguments = PbtOptions(
            algo_and_network_config="sac_test",
            env_config="gymnax.pendulum",
            study_name="test_study",
            population_size=MEMBERS,
            num_intervals=INTERVALS,
            output_root=str(self.root),
            seed=3,
            num_seeds=2,
            total_timesteps=INTERVALS * STEPS_PER_INTERVAL,
            num_eval_episodes=4,
            compilation_cache=False,
        )
        return replace(arguments, **self.changes)

    def start(self, **fake: Any) -> int:
        return self._train(None, fake)

    def resume(self, **fake: Any) -> int:
        return self._train(self.directory, fake)

    def _train(self, resume_from: Path | None, fake: dict[str, Any]) -> int:
        self.members = FakeBackend(**fake)
        pages = Pages(lambda record, directory, is_latest: self.records.append(record))
        make = self.members.bind
        return run_population(self.options, self.recipe, resume_from, make_backend=make, observers=[pages])

    def files(self) -> dict[str, str]:
        """Every table, the schedule and the agent: all that must be equal in two runs."""
        kinds = ("**/*.csv", "**/*.txt", "pbt_*.json", "agents/*")
        found = {path for kind in kinds for path in self.directory.glob(kind)}
        return {str(path.relative_to(self.directory)): path.read_bytes().decode("latin-1") for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole"))
    assert run.start() == 0
    return run


def test_a_trial_is_a_member_over_an_interval(whole):
    trials = whole.study().trials
    assert len(trials) == MEMBERS * INTERVALS
    for trial in trials:
        interval, member, parent = (trial.user_attrs[name] for name in ("interval", "member", "parent"))
        assert trial.number == interval * MEMBERS + member
        assert (parent is None) == (interval == 0)
        if parent is not None:
            assert parent // MEMBERS == interval - 1
            if parent % MEMBERS == member:
                assert trial.params == trials[parent].params
        assert not set(trial.params) - set(MIXED)
    values = np.array([trial.values[0] for trial in trials]).reshape(INTERVALS, MEMBERS)
    for interval in range(1, INTERVALS):
        now = trials[interval * MEMBERS : (interval + 1) * MEMBERS]
        copies = [trial for trial in now if trial.user_attrs["parent"] % MEMBERS != trial.user_attrs["member"]]
        ranks = np.argsort(-values[interval - 1])
        assert {trial.user_attrs["member"] for trial in copies} == set(ranks[-2:])
        assert {trial.user_attrs["parent"] % MEMBERS for trial in copies} <= set(ranks[:2])


def test_a_trials_curve_goes_from_what_its_parent_showed_to_its_value(whole):
    trials = whole.study().trials
    for interval in range(INTERVALS):
        path = whole.directory / f"optuna_exec_batch_{interval:04d}" / "samples" / "batch_00000"
        assert (path / "success.txt").exists() and (path / "timing.json").exists()
        with (path / "curves.csv").open() as file:
            rows = list(csv.DictReader(file))
        for trial in trials[interval * MEMBERS : (interval + 1) * MEMBERS]:
            own = [row for row in rows if int(row["trial"]) == trial.number]
            start, end = (
                np.mean([float(r["mean"]) for r in own if int(r["step"]) == step])
                for step in (interval * STEPS_PER_INTERVAL, (interval + 1) * STEPS_PER_INTERVAL)
            )
            assert end == pytest.approx(trial.values[0])
            if interval:
                assert start == pytest.approx(trials[trial.user_attrs["parent"]].values[0])


def test_the_schedule_is_the_way_to_the_best_member_at_the_end(whole):
    schedule, trials = read_schedule(whole.directory / "pbt_schedule.json"), whole.study().trials
    last = trials[-MEMBERS:]
    best = max(last, key=lambda trial: trial.values[0])
    assert (schedule.trial, schedule.final_return) == (best.number, best.values[0])
    number = best.number
    for interval in reversed(range(INTERVALS)):
        entry = schedule.schedule[interval]
        steps = (interval * STEPS_PER_INTERVAL, (interval + 1) * STEPS_PER_INTERVAL)
        assert (entry["interval"], entry["from_step"], entry["to_step"]) == (interval, *steps)
        assert entry["hyperparams"][ACTOR_LR] == trials[number].params[ACTOR_LR]
        number = trials[number].user_attrs["parent"]
    configs = configurations(schedule, SAC(), "here")
    assert [dotted(config)[ACTOR_LR] for config in configs] == [e["hyperparams"][ACTOR_LR] for e in schedule.schedule]
    assert set(changing(configs)) <= set(MIXED)


def test_the_agent_that_is_kept_is_the_best_members_at_the_end(whole):
    schedule = read_schedule(whole.directory / "pbt_schedule.json")
    path = whole.directory / "agents" / f"trial_{schedule.trial:05d}"
    assert find_agent(whole.directory, None, "play") == find_agent(whole.directory, schedule.trial, "play") == path
    assert {found.name for found in path.parent.iterdir()} == {f"{path.name}.json", f"{path.name}.safetensors"}
    about = json.loads(path.with_suffix(".json").read_text())
    assert np.mean(about["returns"]) == pytest.approx(schedule.final_return)
    assert about["params"][ACTOR_LR] == schedule.schedule[-1]["hyperparams"][ACTOR_LR]
    scores = load_file(path.with_suffix(".safetensors"))["score"]
    np.testing.assert_allclose(scores, about["returns"])
    with pytest.raises(UsageError, match="A population keeps that of its best member at the end"):
        find_agent(whole.directory, 0, "play")


@pytest.mark.parametrize(
    ("function", "at"),
    [("advance", 2), ("save", 0), ("write_batch", 2), ("tell", 1), ("record", 1), ("save_agent", 0), ("tell", 3)],
)
def test_a_run_that_is_killed_and_goes_on_equals_one_that_was_not(whole, tmp_path, monkeypatch, function, at):
    owner = {
        "advance": (FakeBackend, "advance"),
        "save": (FakeBackend, "save"),
        "write_batch": (study_trials, "write_batch"),
        "tell": (StudyState, "record"),
        "save_agent": (agents, "save_agent"),
        "record": (StudyState, "append"),
    }[function]
    run = Run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*owner, killing(getattr(*owner), at))
        with pytest.raises(Killed):
            run.start()
    assert run.resume() == 0
    assert run.told() == whole.told()
    assert run.files().keys() == whole.files().keys()
    different = {name for name, text in run.files().items() if whole.files()[name] != text}
    assert different <= {"pbt_schedule.json"}
    assert read_schedule(run.directory / "pbt_schedule.json") == read_schedule(whole.directory / "pbt_schedule.json")


@pytest.mark.parametrize(("is_saved", "trained"), [(True, [2, 3]), (False, [0, 1, 2, 3])])
def test_a_run_continues_from_its_saved_state_or_trains_again_to_the_same(whole, tmp_path, is_saved, trained):
    run = Run(tmp_path)
    with pytest.raises(Killed):
        run.start(after_interval=lambda interval: kill() if interval == 2 else None)
    if not is_saved:
        shutil.rmtree(run.directory / "checkpoints")
    assert run.resume() == 0
    assert run.members.trained == trained
    assert run.told() == whole.told()
    assert run.resume() == 0  # nothing is left: the pages are made again
    assert run.members.trained == []


def kill() -> None:
    raise Killed


def test_ctrl_c_ends_the_interval_saves_and_names_the_command(whole, tmp_path, capsys):
    run = Run(tmp_path)
    assert (
        run.start(after_interval=lambda interval: os.kill(os.getpid(), signal.SIGINT) if interval == 1 else None) == 130
    )
    assert f"hyperlax pbt --resume-from {run.directory}" in capsys.readouterr().out
    assert len(run.records[-1].trials) == 2 * MEMBERS
    assert run.resume() == 0
    assert run.told() == whole.told()


def test_another_machine_whose_results_differ_is_refused(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Killed):
        run.start(after_interval=lambda interval: kill() if interval == 2 else None)
    with pytest.raises(HyperlaxError, match="interval 0 differs from what was recorded"):
        run.resume(machine="another", fail=frozenset({(0, 0)}))


def test_a_member_that_is_not_finite_is_replaced_and_is_nobodys_parent(tmp_path):
    run = Run(tmp_path)
    bad = [1, 4, 5]
    assert run.start(fail=frozenset((1, member) for member in bad)) == 0
    trials = run.study().trials
    assert [t.number for t in trials if t.state.name == "FAIL"] == [MEMBERS + member for member in bad]
    assert trials[MEMBERS + 1].user_attrs["reason"].startswith("parameters or returns are not finite")
    parents = [t.user_attrs["parent"] % MEMBERS for t in trials[2 * MEMBERS : 3 * MEMBERS]]
    assert not set(parents) & set(bad)
    assert all(parents[member] != member for member in bad)


def test_a_population_that_fails_altogether_is_a_failed_run(tmp_path, capsys):
    run = Run(tmp_path)
    assert run.start(fail=frozenset((1, member) for member in range(MEMBERS))) == 1
    assert "Every member failed in interval 1" in capsys.readouterr().out
    assert not (run.directory / "pbt_schedule.json").exists()
    assert run.members.trained == [0, 1]
    assert run.resume() == 1


def test_the_lineage_is_a_plot_with_the_winners_way(whole, tmp_path):
    record = replace(whole.records[-1], directory=tmp_path)
    write_study_pages(record)
    assert (tmp_path / "analysis_plots" / "plotly.min.js").exists()
    text = (tmp_path / "analysis_plots" / "pbt_lineage.html").read_text()
    data = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    way = next(trace for trace in data["data"] if trace["name"] == "way to the best at the end")
    trials, lineage = whole.study().trials, whole.records[-1].lineage
    path = [lineage.final]
    while (parent := trials[path[0]].user_attrs["parent"]) is not None:
        path.insert(0, parent)
    assert len(path) == INTERVALS
    assert [y for x, y in zip(way["x"], way["y"], strict=True) if x is not None][1::2] == [
        n % MEMBERS for n in path[1:]
    ]
    copies = next(trace for trace in data["data"] if trace["name"] == "copies")
    assert len(copies["x"]) == 3 * 2 * (INTERVALS - 1)
    assert "actor_lr" in text
    winner = (tmp_path / "analysis_plots" / "pbt_winner.html").read_text()
    assert "could not be drawn" not in winner + text
    page = (tmp_path / "report.html").read_text()
    assert f"pbt-replay {whole.directory / 'pbt_schedule.json'}" in page
    assert "The best interval of a member: trial " in page and "The winner" not in page


def test_only_what_can_change_while_weights_are_kept_is_explored(tmp_path):
    space, kept = explored(recipe_of(MIXED))
    assert set(kept) == {
        "algorithm.network.actor_network.pre_torso.layer_sizes",
        "algorithm.hyperparam.warmup_rollout_length",
    }
    assert list(space) == [name for name in MIXED if name not in kept]
    seen = "algorithm.hyperparam.normalize_observations"
    assert explored(recipe_of({**MIXED, seen: Categorical(values=[True, False])}))[1] == [*kept, seen]
    fixed = {"algorithm.hyperparam.init_alpha": LogUniform(domain=(0.1, 1.0))}
    with pytest.raises(UsageError, match="no entry of the search space can change during training"):
        explored(recipe_of(dict(fixed)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population_size": 1}, "--population-size needs a whole number of at least 2, got 1"),
        ({"num_intervals": 1}, "--num-intervals needs a whole number from 2 to 2147483647, got 1"),
        ({"quantile": 0.6}, "--quantile needs a share above 0 and at most 0.5, got 0.6"),
        ({"explore": "walk"}, '--explore needs one of perturb, resample, pb2, got "walk".'),
        ({"total_timesteps": 3}, "--total-timesteps 3 is less than one step for each of --num-intervals 4"),
        ({"seed": -1}, "--seed needs a whole number from 0 to 2147483647, got -1"),
    ],
)
def test_arguments_that_cannot_run_are_refused(tmp_path, changes, words):
    with pytest.raises(UsageError) as refusal:
        checked(Run(tmp_path, **changes).options)
    assert words in str(refusal.value)


def test_without_scikit_learn_pb2_is_refused_with_the_line_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "hyperlax\[pb2\]"'):
        checked(Run(tmp_path, explore="pb2").options)


@pytest.mark.parametrize("finished", [1, INTERVALS])
def test_a_lost_database_is_repaired(whole, tmp_path, monkeypatch, finished, capsys):
    lost = Run(tmp_path)
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(StudyState, "record", killing(StudyState.record, finished))
        lost.start()
    (lost.directory / "optuna_study.db").unlink()
    for look in (lost.resume, lambda: load_study(lost.directory, "show")):
        with pytest.raises(UsageError, match=r"is missing\. `hyperlax repair .+` rebuilds it"):
            look()
    assert repair(lost.options, lost.recipe, lost.directory) == 0
    on_disk = min(finished + 1, INTERVALS) * MEMBERS  # a batch is written before it is recorded
    assert f"{on_disk} from the batches; to be run: 0." in capsys.readouterr().out
    assert lost.resume() == 0
    assert lost.told() == whole.told() and lost.files() == whole.files()
    assert repair(lost.options, lost.recipe, lost.directory) == 0 and "is sound" in capsys.readouterr().out


def test_a_second_run_in_the_same_place_is_refused_with_the_command_that_goes_on(whole):
    with pytest.raises(UsageError, match="(?s)hyperlax pbt --resume-from .* another --study-name or --output-root"):
        whole.start()


def test_a_second_run_of_another_name_has_a_directory_of_its_own(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "runs")
    second = Run(tmp_path / "runs", study_name="second", num_intervals=2)
    second.directory = second.directory.with_name("gymnax_pendulum@second")
    assert second.start() == 0 and second.resume() == 0
    assert read_stored(second.directory, "a test") == second.options
    with pytest.raises(UsageError, match="'a/b' has a /"):
        checked(replace(second.options, study_name="a/b"))


def test_a_search_and_a_population_do_not_go_on_with_each_other(whole):
    with pytest.raises(UsageError, match="pbt started this study. To continue it:\n  hyperlax pbt --resume-from "):
        planned_study(SEARCH, {"resume_from": str(whole.directory)})
    with pytest.raises(UsageError, match="start again under another name:\n  hyperlax pbt .*--study-name test_study_2"):
        invalidate(whole.options, whole.recipe, whole.directory, [0], None, lambda record, directory: None)
    assert read_stored(whole.directory, "a test") == whole.options


def test_a_file_that_is_no_schedule_is_refused(whole, tmp_path):
    path = tmp_path / "pbt_schedule.json"
    stored = json.loads((whole.directory / "pbt_schedule.json").read_text())
    path.write_text(json.dumps({**stored, "schedule": []}))
    with pytest.raises(UsageError, match=r"`array` of length >= 1"):
        read_schedule(path)
    stored["schedule"][1]["hyperparams"][ACTOR_LR] = -1
    path.write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="interval 1: algorithm.hyperparam.actor_lr needs"):
        configurations(read_schedule(path), SAC(), str(path))
    path.write_text("{}")
    with pytest.raises(UsageError, match="missing required field `algo_and_network_config`"):
        read_schedule(path)
