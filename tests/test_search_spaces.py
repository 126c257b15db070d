"""Files with `search_spaces` and `experiments`, as other tools write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.file_studies import planned_studies
from hyperlax.space import Categorical, LogUniform, UniformContinuous, UniformDiscrete
from hyperlax.studies import PlannedStudy
from tests.desk import ROOT
from tests.test_bad_input import TABLES, refused

FILE = (TABLES / "spaces.yaml").read_text()
PPO = ["run-study", "spaces.yaml", "--space", "ppo"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spaces.yaml").write_text(FILE)


def planned(**given: Any) -> PlannedStudy:
    (study,) = planned_studies(["spaces.yaml"], {"space": "ppo", **given})
    return study


def short(study: PlannedStudy) -> dict[str, Any]:
    return {name.rpartition(".")[2]: distribution for name, distribution in study.recipe.space.items()}


def test_the_chosen_space_is_all_that_is_searched_by_our_names():
    study = planned(preset="quick_test")
    rate = LogUniform(domain=(1e-4, 1e-2))
    assert short(study) == {
        "actor_lr": rate,
        "critic_lr": rate,
        "gamma": UniformContinuous(domain=(0.95, 0.999)),
        "epochs": UniformDiscrete(domain=(1, 8)),
    }
    assert (study.options.n_trials, study.options.total_timesteps) == (4, 12000)
    assert study.note == (
        "learning_rate is actor_lr and critic_lr, n_epochs is epochs. Where a name is several here, each is searched by itself."
    )
    sac = planned(space="sac", env_config="gymnax.pendulum")
    assert short(sac) == {"actor_lr": rate, "q_lr": rate} and sac.recipe.name == "sac_mlp"


def test_types_have_their_usual_spellings():
    entries = """
    clip_range: {type: categorical, choices: [0.1, 0.2]}
    vf_coef: {values: [0.5, 1]}
    ent_coef: {type: Log-Uniform, bounds: [1e-4, 1e-2], description: small}
    gae_lambda: {type: float, low: 1e-2, high: 1.0, log: true}
    num_minibatches: {type: int, low: 1, high: 2, log: true}
    n_steps: {type: int, low: 128, high: 512, step: 128}
    max_grad_norm: {type: float, low: 0.5, high: 1.0, step: 0.25}
    normalize_observations: {type: bool}
    net_arch: {type: categorical, choices: [[32], [64, 64]]}"""
    Path("spaces.yaml").write_text("env_config: gymnax.cartpole\nsearch_spaces:\n  ppo:" + entries)
    found = {name: distribution.to_json() for name, distribution in planned().recipe.space.items()}
    assert {name.rpartition(".")[2]: one["type"] for name, one in found.items()} == {
        "clip_eps": "Categorical",
        "vf_coef": "Categorical",
        "ent_coef": "LogUniform",
        "gae_lambda": "LogUniform",
        "num_minibatches": "LogUniformDiscrete",
        "rollout_length": "UniformDiscrete",
        "max_grad_norm": "QUniform",
        "normalize_observations": "Categorical",
        "layer_sizes": "Categorical",
    }
    assert sum("layer_sizes" in name for name in found) == 2
    Path("spaces.yaml").write_text(
        "env_config: gymnax.cartpole\nsearch_spaces: {ppo: {lambda: {value: 0.9}, gamma: [0.9, 0.99]}}"
    )
    assert short(planned(space=None)) == {
        "gae_lambda": Categorical(values=[0.9]),
        "gamma": Categorical(values=[0.9, 0.99]),
    }


@pytest.mark.parametrize(
    ("line", "given", "n_trials"),
    [
        ("", {"preset": "quick_test"}, 4),
        ("n_trials: 7", {"preset": "quick_test"}, 4),
        ("n_trials: 7", {"preset": "quick_test", "n_trials": 9}, 9),
        ("preset: quick_test", {}, 4),
        ("preset: quick_test\nn_trials: 7", {}, 7),
        ("preset: quick_test", {"preset": "extensive"}, 200),
        ("", {"preset": "extensive"}, 200),
        ("", {}, 100),
    ],
)
def test_a_preset_of_the_file_counts_where_it_is_given(line, given, n_trials):
    Path("spaces.yaml").write_text(f"{FILE}{line}\n")
    assert planned(**given).options.n_trials == n_trials


def test_single_values_of_the_chosen_space_can_be_set():
    assert short(planned(assignments=("space.gamma.low=0.9",)))["gamma"] == UniformContinuous(domain=(0.9, 0.999))


def test_what_is_chosen_has_to_be_there(capsys):
    assert refused(PPO[:2], capsys) == "spaces.yaml: has the search spaces ppo, sac. Choose one with --space."
    assert refused([*PPO[:3], "pppo"], capsys) == (
        "--space pppo: spaces.yaml has no such search space. Did you mean `ppo`? There are ppo, sac."
    )
    assert refused([*PPO, "--preset", "quick"], capsys) == (
        '--preset needs one of quick_test, standard, extensive, production, got "quick". Did you mean `quick_test`?'
    )
    Path("other.yaml").write_text(FILE.replace("  ppo:", "  a2c:"))
    assert refused(["run-study", "other.yaml", "--space", "a2c"], capsys) == (
        "other.yaml:3: no recipe is named a2c or a2c_mlp. Name one of digits, dqn_mlp, forest, ppo_mlp, sac_mlp as "
        "algo_and_network_config."
    )
    Path("plain.yaml").write_text("algo_and_network_config: ppo_mlp\nenv_config: gymnax.cartpole\n")
    assert refused(["run-study", "plain.yaml", "--space", "ppo"], capsys) == (
        "--space ppo: plain.yaml has no search_spaces. Leave it out."
    )
    assert cli.main(["run-study", "plain.yaml", "--preset", "no"]) == 2
    capsys.readouterr()
    Path("plain.yaml").write_text("search_spaces: {ppo: {gamma: [0.9, 0.99]}}\n")
    assert refused(["run-study", "plain.yaml"], capsys) == (
        "plain.yaml: env_config is required, as a line of the file or as --env-config gymnax.pendulum."
    )


def test_the_example_of_the_documentation_can_run():
    _, text = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    Path("spaces.yaml").write_text(text)
    assert planned(preset="production").options.num_seeds == 5
