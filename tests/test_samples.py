"""Configurations drawn beforehand, and the file that holds them: what is drawn, read back, and refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.config.configurations import read_samples, write_samples
from hyperlax.errors import UsageError
from hyperlax.fields import apply, dotted
from hyperlax.hyperparams import PPO, SAC
from hyperlax.samplers.fixed import draw, presampled, spread
from hyperlax.space import Categorical, LogUniform, QUniform, UniformContinuous, UniformDiscrete
from tests.study_cases import FINITE, MIXED, Case, recipe_of

HYPERPARAM = "algorithm.hyperparam."
GAMMA, EPOCHS, ACTOR_LR = (HYPERPARAM + name for name in ("gamma", "epochs", "actor_lr"))
GENERATE = ["generate-hp-samples", "--algo-and-network-config", "sac_mlp"]


def read_text(tmp_path: Path, text: str, base: SAC | PPO | None = None) -> tuple[Any, ...]:
    path = tmp_path / "some.csv"
    path.write_text(text, encoding="utf-8")
    return read_samples(path, base or SAC())


@pytest.mark.parametrize("method", ["qmc", "random"])
def test_a_draw_follows_from_its_seed_and_a_smaller_one_is_its_beginning(method):
    recipe = recipe_of(MIXED)
    many = draw(recipe, method, 40, seed=3)
    assert draw(recipe, method, 15, seed=3) == many[:15]
    assert draw(recipe, method, 15, seed=4) != many[:15]
    assert len(set(many)) == 40
    assert all(MIXED[name].contains(dotted(one)[name]) for one in many for name in MIXED)


def test_qmc_draws_what_a_search_by_qmc_tries(tmp_path):
    case = Case(tmp_path, sampler="qmc")
    assert case.start() == 0
    drawn = presampled(case.recipe, draw(case.recipe, "qmc", 12, seed=3), "drawn")
    rows = [{name: dotted(one)[name] for name in MIXED} for one in drawn.samples]
    assert rows == [case.pages[-1][0].trials[number].params for number in range(12)]


def test_a_grid_is_every_combination_once():
    drawn = draw(recipe_of(FINITE), "grid", 100, seed=0)
    assert len(set(drawn)) == len(drawn) == 15
    scales = {dotted(one)[f"{HYPERPARAM}target_entropy_scale"] for one in drawn}
    assert scales == {0.1, 0.2, 0.3, 0.4, 0.5}


def test_a_part_of_a_grid_has_every_value_about_as_often_and_needs_no_seed():
    space = {
        f"{HYPERPARAM}init_alpha": QUniform(domain=(0.1, 1.0), q=0.1),
        f"{HYPERPARAM}gamma": Categorical(values=[0.9, 0.95, 0.99]),
        f"{HYPERPARAM}epochs": UniformDiscrete(domain=(1, 4)),
    }
    drawn = draw(recipe_of(space), "grid", 30, seed=0)
    assert drawn == draw(recipe_of(space), "grid", 30, seed=1)
    assert len(set(drawn)) == 30
    for name, distribution in space.items():
        size = distribution.size() or 0
        counts = Counter(dotted(one)[name] for one in drawn)
        assert len(counts) == size and max(counts.values()) <= 2 * 30 / size


@pytest.mark.parametrize(("size", "count"), [(100, 10), (1000, 37), (17, 17), (3, 2), (1, 1), (10**20, 7)])
def test_a_spread_takes_one_place_of_every_stretch(size, count):
    places = spread(size, count)
    starts = [place * size // count for place in range(count + 1)]
    assert len(places) == count
    assert all(low <= place < high for place, low, high in zip(places, starts, starts[1:], strict=False))


def test_a_grid_of_what_cannot_be_counted_is_refused_with_what_would_work():
    with pytest.raises(UsageError, match="gamma") as refused:
        draw(recipe_of(MIXED), "grid", 4, seed=0)
    assert ACTOR_LR in str(refused.value) and EPOCHS not in str(refused.value)
    assert "Give them choices, whole numbers or a step" in str(refused.value)


def test_more_than_a_finite_space_has_are_refused():
    assert len(draw(recipe_of(FINITE), "random", 15, seed=0)) == 15
    with pytest.raises(UsageError, match="Give at most 15"):
        draw(recipe_of(FINITE), "qmc", 16, seed=0)


def test_what_is_written_is_read_back(tmp_path):
    drawn = draw(recipe_of(MIXED), "random", 20, seed=1)
    write_samples(tmp_path / "drawn.csv", drawn)
    assert read_samples(tmp_path / "drawn.csv", SAC()) == drawn


def test_what_has_no_column_is_the_recipes_and_spreadsheets_are_read(tmp_path):
    found = read_text(
        tmp_path, "\ufeffalgorithm.hyperparam.gamma,algorithm.hyperparam.autotune\r\n0.9,TRUE\r\n 1 ,false\r\n\r\n"
    )
    expected = [{GAMMA: 0.9, f"{HYPERPARAM}autotune": True}, {GAMMA: 1.0, f"{HYPERPARAM}autotune": False}]
    assert found == tuple(apply(SAC(), values, "") for values in expected)
    (one,) = read_text(
        tmp_path, f"trial,state,objective.peak_performance,peak_performance,{EPOCHS}\n0,FAIL,,,2\n,,,,\n \n"
    )
    assert one == apply(SAC(), {EPOCHS: 2}, "")
    for index in (f",{EPOCHS}\n17,2\n3,2.0\n", f"Unnamed: 0,{EPOCHS}\n0,2\n1,2\n"):
        assert read_text(tmp_path, index) == (apply(SAC(), {EPOCHS: 2}, ""),) * 2
    for written in ("2", "2.0", "1e4", "10_000"):
        (one,) = read_text(tmp_path, f"{EPOCHS}\n{written}\n")
        assert one == apply(SAC(), {EPOCHS: int(float(written))}, "")


OF_RESULTS = "some.csv: holds results, but no hyperparameters. Give the hyperparams.csv of a batch"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "some.csv: is empty"),
        ("trial\n", "some.csv: has no rows"),
        ("\n\n\n", "some.csv: has no rows"),
        ("trial,state,peak_performance\n0,FAIL,\n", OF_RESULTS),
        ("trial,seed,step,mean,std,min,max,length,episodes\n0,0,0,0,0,0,0,0,0\n", OF_RESULTS),
        ("trial,seed,final,peak,normalized_auc\n0,0,0,0,0\n", OF_RESULTS),
        (f"{GAMMA},\n0.9,0\n", "some.csv: no hyperparameter named ``"),
        (f"{GAMMA}\n0.9,1\n", "some.csv: line 2: 2 cells"),
        (f"{GAMMA},{GAMMA}\n0.9,0.8\n", f"two columns are named `{GAMMA}`"),
        ("trial,gama\n0,0.9\n", f"some.csv: no hyperparameter named `gama`. Did you mean `{GAMMA}`?"),
        (f"trial,{GAMMA}\n0,0.9\n1,1.5\n", f"some.csv, line 3: {GAMMA} needs a finite number from 0 to 1, got 1.5"),
        (f"trial,{GAMMA}\n0,nan\n", f"some.csv, line 2: {GAMMA} needs a finite number from 0 to 1, got nan"),
        (f"trial,{GAMMA}\n0,0.9\n1,\n", f"some.csv, line 3: {GAMMA} is empty"),
        (f"{EPOCHS}\n1.5\n", f"some.csv, line 2: {EPOCHS} needs a whole number from 1 to 2147483647, got 1.5"),
        (f"{HYPERPARAM}autotune\n1\n", "autotune needs true or false, got 1"),
        (f"{GAMMA};{EPOCHS}\n0.9;2\n", "some.csv: its columns are separated by ';'. Separate them by commas."),
        (f"{GAMMA}\t{EPOCHS}\n0.9\t2\n", "some.csv: its columns are separated by '\\t'."),
        ("algorithm.network.actor_network.pre_torso.layer_sizes\n64\n", "layer_sizes needs a non-empty list"),
        ("algorithm.network.actor_network.pre_torso.activation\nsine\n", "activation needs one of tanh"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_column(tmp_path, text, words):
    with pytest.raises(UsageError) as refused:
        read_text(tmp_path, text)
    assert words in str(refused.value)


def test_a_row_whose_values_do_not_go_together_is_refused(tmp_path):
    header = ",".join(HYPERPARAM + name for name in ("total_num_envs", "rollout_length", "num_minibatches"))
    with pytest.raises(UsageError, match="line 3: total_num_envs . rollout_length must be a multiple"):
        read_text(tmp_path, f"{header}\n8,16,4\n8,16,5\n", PPO())


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "some.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_samples(tmp_path / "some.csv", SAC())
    with pytest.raises(UsageError, match="cannot be read"):
        read_samples(tmp_path / "none.csv", SAC())


def test_the_space_of_a_file_holds_its_rows_and_is_the_recipes_where_that_does(tmp_path):
    names = [ACTOR_LR, GAMMA, EPOCHS, HYPERPARAM + "tau", HYPERPARAM + "q_lr", HYPERPARAM + "total_buffer_size"]
    rows = [[1e-3, 0.5, 9, 0.1, 3e-4, 300 + n] for n in range(17)] + [[1e-4, 0.95, 2, 0.001, 3e-4, 1000]]
    text = "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)])
    space = presampled(recipe_of(MIXED), read_text(tmp_path, text), "file").space
    assert space == {
        ACTOR_LR: MIXED[ACTOR_LR],
        GAMMA: UniformContinuous(domain=(0.5, 0.95)),
        EPOCHS: Categorical(values=[2, 9]),
        f"{HYPERPARAM}tau": LogUniform(domain=(0.001, 0.1)),
        f"{HYPERPARAM}total_buffer_size": UniformDiscrete(domain=(300, 1000)),
    }


def test_generate_writes_a_file_and_replaces_none_unless_told_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*GENERATE, "--num-samples", "5"]) == 0
    written = Path("sac_mlp_samples.csv").read_text()
    assert written.startswith(f"trial,{ACTOR_LR},") and len(written.splitlines()) == 6
    assert json.loads('"' + written.splitlines()[1].split(",")[0] + '"') == "0"
    for words in ([*GENERATE, "--seed", "1"], [*GENERATE, "--output", "."]):
        assert cli.main(words) == 2
    assert "sac_mlp_samples.csv: exists already" in capsys.readouterr().err
    assert Path("sac_mlp_samples.csv").read_text() == written
    assert cli.main([*GENERATE, "--seed", "1", "--force"]) == 0
    assert Path("sac_mlp_samples.csv").read_text() != written
