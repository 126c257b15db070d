"""What a training leaves behind acts as what was evaluated, and files keep it for those trials that the user asked for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hyperlax
from hyperlax.agent import Agent, Policy, act, joined, load_agent, save_agent
from hyperlax.algorithms.evaluation import evaluate
from hyperlax.analysis.pages import write_pages
from hyperlax.cli import main
from hyperlax.cli.playing import evaluate_agent
from hyperlax.engine.keys import evaluation_keys
from hyperlax.errors import UsageError, format_number
from hyperlax.networks.masked import ACTIVATION_FUNCTIONS
from hyperlax.study.agents import keep_only_the_best
from hyperlax.study.view import load_study
from hyperlax.trial import SegmentResult
from tests import small
from tests.fake_backend import FakeBackend, Lane
from tests.made_up_studies import policy
from tests.small import CASES, RUN_LENGTH, SEED, SEEDS, train, workload
from tests.study_cases import TWO, Case, Killed
from tests.test_lane_laws import mixed


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "ppo_continuous" else ()) for case in CASES]
)
def test_a_policy_at_its_own_size_earns_what_its_lane_was_evaluated_at(case):
    load, trials = workload(case, small.WIDEST), mixed(case)
    shape = load.program(trials[0])
    for number, (state, scores) in train(case, trials).items():
        trial = next(trial for trial in trials if trial.number == number)
        own = load.policy(trial, shape.policy_params(state))
        earned = _evaluation(own, load.environment)
        widths = [array.shape[2] for name, array in own.arrays.items() if re.fullmatch(r"dense_\d.kernel", name)]
        assert tuple(widths) == tuple(_acting(trial).layer_sizes)
        for seed in range(SEEDS):
            agent = Agent(own.description, own.arrays, seed)
            found = earned(agent.arrays, evaluation_keys(SEED, SEEDS)[seed])
            assert float(found.mean) == pytest.approx(float(scores[-1].mean[seed]), rel=1e-4)
            assert float(found.length) == pytest.approx(float(scores[-1].length[seed]))


def _evaluation(own: Policy, environment: Any) -> Any:
    """The evaluation of a policy's agents, by their arrays: compiled once."""

    @jax.jit
    def earned(arrays: Any, key: jax.Array) -> Any:
        def acting(seen: jax.Array, _: jax.Array) -> jax.Array:
            return act(own.description, arrays, seen, jnp)

        return evaluate(environment, acting, key, RUN_LENGTH.num_eval_episodes, arrays)

    return earned


def _acting(trial: Any) -> Any:
    network = trial.config.network
    return (network.actor_network if hasattr(network, "actor_network") else network.critic_network).pre_torso


def test_numpy_and_jax_act_alike_and_normalize():
    own = policy(normalized=True)
    arrays = {name: array[0] for name, array in own.arrays.items()}
    seen = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 100
    ours, theirs = act(own.description, arrays, seen), act(own.description, arrays, jnp.asarray(seen), jnp)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = {name: array for name, array in arrays.items() if not name.startswith("observation.")}
    clipped = np.clip((seen - 1.0) / np.sqrt(4.0 + 1e-8), -10, 10)
    np.testing.assert_allclose(ours, act(own.description, plain, clipped), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATION_FUNCTIONS))
def test_activations_are_flaxs(activation):
    x = np.linspace(-6, 6, 101, dtype=np.float32)[:, None]
    one = np.ones((1, 1), np.float32)
    arrays = {"dense_0.kernel": one, "dense_0.bias": 0 * one[0], "head.kernel": one, "head.bias": 0 * one[0]}
    description = {"activation": activation, "output": "clip", "action": {"low": [-100.0], "high": [100.0]}}
    expected = 100 * np.clip(np.asarray(ACTIVATION_FUNCTIONS[activation](jnp.asarray(x))), -1, 1)
    np.testing.assert_allclose(act(description, arrays, x), expected, rtol=1e-5, atol=1e-3)


def test_a_file_gives_back_what_was_saved(tmp_path):
    own = policy()
    save_agent(tmp_path / "one", own, {"trial": 3, "seed": 1})
    for path in (tmp_path / "one", tmp_path / "one.safetensors", tmp_path / "one.json"):
        agent = load_agent(path)
        assert agent.seed == 1 and agent.about["trial"] == 3
        assert all(np.array_equal(agent.arrays[name], array[1]) for name, array in own.arrays.items())
    assert repr(load_agent(tmp_path / "one", seed=0)) == "Agent(gymnax.pendulum, trial 3, seed 0)"


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": ...},
        {"observation_clip": ...},
        {"layer_norm_epsilon": ...},
        {"observation_size": 7},
        {"action": 3},
        {"action": {"n": 5}},
        {"action": {"low": [0.0]}},
        {"environment": ["gymnax.pendulum"]},
    ],
    ids=str,
)
def test_a_description_that_was_changed_is_refused(tmp_path, changes):
    save_agent(tmp_path / "one", policy(normalized=True, layer_norm=True), {"trial": 3, "seed": 1})
    path = tmp_path / "one.json"
    about = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in about.items() if value is not ...}))
    with pytest.raises(UsageError, match="describe"):
        load_agent(tmp_path / "one")


def test_an_agent_takes_one_observation_or_many(tmp_path):
    save_agent(tmp_path / "one", policy(), {"trial": 3, "seed": 0})
    agent = load_agent(tmp_path / "one")
    batch = np.random.default_rng(0).normal(size=(5, 3))
    assert agent(batch).shape == (5, 1) and agent(batch[0]).shape == (1,)
    np.testing.assert_allclose(agent(batch)[0], agent(batch[0]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"has 3 numbers, got an array of shape \(4,\)"):
        agent([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("one.json", Path.unlink, "one.json: cannot be read"),
        ("one.json", lambda path: path.write_text("{}"), "one.json: does not describe an agent"),
        ("one.safetensors", Path.unlink, "one.safetensors: cannot be read"),
        ("one.safetensors", lambda path: path.write_bytes(path.read_bytes()[:50]), "is not a safetensors file"),
        ("one.json", Path.exists, "has the seeds 0 to 1, not 2"),
    ],
)
def test_what_is_no_agent_is_refused(tmp_path, file, damage, message):
    save_agent(tmp_path / "one", policy(), {"trial": 3, "seed": 0})
    damage(tmp_path / file)
    with pytest.raises(UsageError, match=re.escape(message)):
        load_agent(tmp_path / "one", seed=2 if "seeds" in message else None)


def test_seeds_that_trained_one_after_another_are_put_together():
    one, other = policy(seeds=1), policy(seeds=2)
    both = joined([one, other])
    assert both.arrays["head.kernel"].shape == (3, 4, 1)
    assert np.array_equal(both.arrays["head.kernel"][1:], other.arrays["head.kernel"])


def kept(case: Case) -> list[int]:
    """The trials whose agents are there, each with both files."""
    names = {path.name for path in (case.directory / "agents").glob("*")}
    numbers = sorted(int(name[6:11]) for name in names if name.endswith(".json"))
    assert names == {f"trial_{number:05d}{suffix}" for number in numbers for suffix in (".json", ".safetensors")}
    return numbers


def test_the_best_trials_agent_is_kept_also_where_the_study_goes_on(tmp_path):
    case = Case(tmp_path, write_pages=write_pages, n_trials=6)
    assert case.start(FakeBackend(policy=policy(), fail={2: "loss is nan"})) == 0
    assert kept(case) == [case.study().best_trial.number]
    assert case.resume(FakeBackend(policy=policy()), n_trials=16) == 0
    best = case.study().best_trial
    assert kept(case) == [best.number]
    about = json.loads((case.directory / "agents" / f"trial_{best.number:05d}.json").read_text())
    assert about["params"]["algorithm.hyperparam.gamma"] == best.params["algorithm.hyperparam.gamma"]
    assert about["returns"][about["seed"]] == max(about["returns"]) and about["steps"] == 500


@pytest.mark.parametrize("more", [{"save_agents": "all"}, {"save_agents": "none"}, TWO], ids=["all", "none", "a front"])
def test_all_agents_are_kept_or_none_or_those_of_the_front(tmp_path, more):
    case = Case(tmp_path, write_pages=write_pages, n_trials=6, **more)
    assert case.start(FakeBackend(policy=policy(), fail={2: "loss is nan"})) == 0
    numbers = {"all": [0, 1, 3, 4, 5], "none": []}.get(more.get("save_agents", ""))
    assert kept(case) == (sorted(trial.number for trial in case.study().best_trials) if numbers is None else numbers)


def test_what_is_to_be_confirmed_keeps_its_agents(tmp_path):
    """Of several objectives that is the front, whoever is ahead in the first of them."""
    for name, objectives in (("one", {}), ("two", TWO)):
        case = Case(tmp_path / name, n_trials=8, save_agents="all", **objectives)
        assert case.start(FakeBackend(policy=policy())) == 0
        record = load_study(case.directory, "a test").record
        keep_only_the_best(replace(record, arguments={**record.arguments, "save_agents": "best", "confirm_top": 3}))
        order = [trial.number for trial in sorted(case.study().trials, key=lambda trial: -trial.values[0])]
        front = [trial.number for trial in case.study().best_trials]
        assert kept(case) == sorted(front if objectives else order[:3])


def test_a_trial_whose_metrics_are_not_finite_leaves_no_agent_and_costs_its_mates_nothing(tmp_path):
    class Broken(FakeBackend):
        """Says that trial 1 is COMPLETE, and its last return is nan."""

        def _trial_result(self, lane: Lane) -> SegmentResult:
            result = super()._trial_result(lane)
            if lane.number == 1:
                result.curve.mean[-1] = np.nan
            return result

    case = Case(tmp_path, n_trials=4, save_agents="all")
    assert case.start(Broken(policy=policy())) == 0
    assert [trial.state.name for trial in case.study().trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert kept(case) == [0, 2, 3]


def test_the_agent_of_an_invalidated_trial_is_not_kept(tmp_path):
    case = Case(tmp_path, write_pages=write_pages, n_trials=6)
    assert case.start(FakeBackend(policy=policy())) == 0
    best = case.study().best_trial.number
    assert case.invalidate(best) == 0
    assert kept(case) == []


def test_agents_are_there_before_their_batch_counts_as_complete(tmp_path, monkeypatch):
    def dying(*given: Any) -> None:
        raise Killed

    monkeypatch.setattr("hyperlax.study.batch_files.mark_complete", dying)
    case = Case(tmp_path, n_trials=3)
    with pytest.raises(Killed):
        case.start(FakeBackend(policy=policy()))
    assert kept(case)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("agents"), write_pages=write_pages, n_trials=6)
    assert case.start(FakeBackend(policy=policy())) == 0
    return case


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{study}", "--trial", "99"], "has no such trial. Its trials are 0 to 5"),
        (["{study}", "--trial", "{beaten}"], "which is COMPLETE, is not kept"),
        (["{agent}", "--trial", "3"], "holds one agent"),
        (["{nowhere}"], "is not a directory"),
        (["{study}", "--episodes", "0"], "--episodes needs a whole number from 1 to 2147483647, got 0."),
        (["{study}", "--training-seed", "7"], "has the seeds 0 to 1, not 7"),
        (["{study}", "--gif", "{agent}"], "exists already"),
        (["{study}", "--gif", ""], "--gif '': names no file. Name one, or leave --gif out."),
        (["{study}", "--gif", "x" * 300], "x: is longer than the system allows. Choose a shorter name with --gif."),
        (["{study}", "--gif", "x.gif", "--no-gif"], "Leave one of them out"),
    ],
)
def test_what_cannot_be_played_is_refused(study, tmp_path, capsys, words, message):
    best = study.study().best_trial.number
    names = {
        "study": study.directory,
        "beaten": (best + 1) % 6,
        "agent": study.directory / "agents" / f"trial_{best:05d}.safetensors",
        "nowhere": tmp_path / "nowhere",
    }
    assert main(["play", *(word.format(**names) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_playing_says_what_the_agent_earns(study, capsys):
    assert main(["play", str(study.directory), "--episodes", "4", "--no-gif"]) == 0
    said, agent = capsys.readouterr().out, hyperlax.load_agent(study.directory)
    assert agent.about["trial"] == study.study().best_trial.number and agent(np.zeros(3)).shape == (1,)
    found = evaluate_agent(agent, workload("sac", small.WIDEST).environment, 4, 0)
    assert f"mean return {format_number(float(found.mean))} over 4 episodes" in said and "Film" not in said


def test_a_film_shows_an_episode(study, tmp_path, capsys):
    pytest.importorskip("pygame", reason='films need pip install "hyperlax[play]"')
    from PIL import Image, ImageSequence

    path = tmp_path / "film.gif"
    assert main(["play", str(study.directory), "--episodes", "1", "--gif", str(path)]) == 0
    assert "one episode of 200 steps" in capsys.readouterr().out
    with Image.open(path) as film:
        pictures = []
        for frame in ImageSequence.Iterator(film):
            pictures.append(np.asarray(frame.convert("RGB")))
    assert len(pictures) >= 50 and len({picture.tobytes() for picture in pictures}) > 20


def test_the_example_without_hyperlax_acts_as_the_agent(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "agents.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "load_file" in block)
    stem = tmp_path / re.search(r'path = "(.*)"', example)[1]  # type: ignore[index]
    monkeypatch.chdir(tmp_path)
    seen = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    normed = [policy(layer_norm=True, activation=activation) for activation in ACTIVATION_FUNCTIONS]
    for own in (policy(), policy(normalized=True), *normed):
        save_agent(stem, own, {"trial": 0, "seed": 1})
        names: dict[str, Any] = {}
        exec(example, names)  # noqa: S102
        np.testing.assert_allclose(names["act"](seen), load_agent(stem)(seen), rtol=1e-5, atol=1e-6)
