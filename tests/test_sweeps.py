"""A sweep trains the rows it was given and nothing else, and is a study in everything besides."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from hyperlax import cli
from hyperlax.config.configurations import read_samples, write_samples
from hyperlax.config.options import SweepOptions
from hyperlax.config.settling import settled
from hyperlax.envs import slug
from hyperlax.fields import dotted
from hyperlax.files import read_csv
from hyperlax.recipe import load
from hyperlax.samplers.fixed import draw, stored
from tests.fake_backend import FakeBackend, train_with_fakes
from tests.study_cases import MIXED, Case, Killed, recipe_of

LENGTH = "--num-seeds 2 --total-timesteps 5000 --num-evaluations 5 --num-eval-episodes 4"
SWEEP = ["sweep-hp-samples", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum", *LENGTH.split()]
DIRECTORY = Path("my_sweeps/sac_mlp/gymnax_pendulum")
RESUME = ["sweep-hp-samples", "--resume-from", str(DIRECTORY)]
GAMMA, ENVS = "algorithm.hyperparam.gamma", "algorithm.hyperparam.total_num_envs"


@pytest.fixture
def fakes(elsewhere, monkeypatch):
    """What the commands train with, in a working directory of their own; pages are left out."""
    return train_with_fakes(monkeypatch, pages=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A working directory with a finished sweep of 3 configurations, which no test changes."""
    desk = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        train_with_fakes(patch, pages=False)
        assert cli.main([*SWEEP, "--num-samples", "3", "--sampling-method", "random"]) == 0
    return desk


def trained(directory: Path = DIRECTORY) -> list[dict[str, str]]:
    """The rows of every batch's hyperparams.csv, by trial."""
    found = [row for path in directory.glob("*/samples/*/hyperparams.csv") for row in read_csv(path)]
    return sorted(found, key=lambda row: int(row["trial"]))


def case_of(root: Path) -> Case:
    """A sweep of 12 configurations, in super-batches of 8."""
    recipe = recipe_of(MIXED)
    configurations = draw(recipe, "random", 12, seed=5)
    directory = root / recipe.name / slug("gymnax.pendulum")
    write_samples(directory / "samples.csv", configurations)
    return Case(root, recipe=stored(recipe, directory / "samples.csv"), sampler="presampled", sampling_method="random")


def test_a_sweep_trains_what_generate_draws_with_the_same_arguments(fakes):
    drawn = ["--num-samples", "5", "--seed", "2"]
    assert cli.main([*SWEEP, *drawn, "--hparam-batch-size", "4"]) == 0
    assert cli.main(["generate-hp-samples", *SWEEP[1:3], *drawn]) == 0
    assert trained() == read_csv(Path("sac_mlp_samples.csv")) == read_csv(DIRECTORY / "samples.csv")


@pytest.mark.parametrize(
    ("samples", "lanes", "together"), [(9, "auto", 9), (200, "auto", 64), (200, 8, 64), (200, 32, 128), (200, 64, 200)]
)
def test_the_analysis_follows_64_trials_or_four_hparam_batches(samples, lanes, together):
    given = {"env_config": "gymnax.pendulum", "n_trials": samples, "runner_hparam_batch_size": lanes}
    assert settled(SweepOptions, [given], recipe_of(MIXED)).optuna_study_batch_size == together


def test_a_sweep_trains_every_row_of_its_file_whatever_the_recipe_searches(fakes):
    Path("mine.csv").write_text(f"trial,{GAMMA},{ENVS}\n7,0.2,3\n8,0.2,3\n3,0.99,5\n")
    assert cli.main([*SWEEP, "--load-hyperparams", "mine.csv"]) == 0
    rows = trained()
    assert [(row["trial"], row[GAMMA], row[ENVS]) for row in rows] == [
        ("0", "0.2", "3"), ("1", "0.2", "3"), ("2", "0.99", "5"),
    ]  # fmt: skip
    Path("mine.csv").unlink()
    assert cli.main(RESUME) == 0


def test_an_interrupted_sweep_ends_as_an_uninterrupted_one(tmp_path):
    def kill(batches: int) -> None:
        if batches == 2:
            raise Killed

    whole, parts = case_of(tmp_path / "whole"), case_of(tmp_path / "parts")
    assert whole.start() == 0
    with pytest.raises(Killed):
        parts.start(FakeBackend(after_batch=kill))
    assert "COMPLETE" in parts.states() and "RUNNING" in parts.states()
    runner = FakeBackend(lanes=2)
    assert parts.resume(runner) == 0
    assert parts.told() == whole.told() and len(runner.trained) < 12
    rows = [dotted(row) for row in stored(recipe_of(MIXED), whole.directory / "samples.csv").samples]
    assert [trial.params for trial in whole.pages[-1][0].trials] == [
        {name: row[name] for name in MIXED} for row in rows
    ]
    assert [len(record.trials) for record, _ in whole.pages] == [8, 12]


def test_a_sweeps_database_is_repaired_and_its_trials_are_invalidated(finished, fakes, capsys):
    shutil.copytree(finished / DIRECTORY, DIRECTORY)
    for name in ("optuna_study.db", "optuna_study.db.backup"):
        (DIRECTORY / name).unlink()
    assert cli.main(["repair", str(DIRECTORY)]) == 0
    assert "Restored 0 finished trials from no backup and 3 from the batches; to be run: 0." in capsys.readouterr().out
    assert cli.main(["invalidate", str(DIRECTORY), "1"]) == 0
    assert cli.main(RESUME) == 0
    assert "3 trials finished: 2 COMPLETE, 1 FAIL" in capsys.readouterr().out and not any(
        fake.trained for fake in fakes
    )


def test_study_json_says_how_to_have_the_sweep_again(finished, fakes):
    written = json.loads((finished / DIRECTORY / "study.json").read_text())
    assert written["arguments"]["sampling_method"] == "random"
    words = shlex.split(written["command"])
    assert words[:2] == ["hyperlax", "sweep-hp-samples"] and "--sampler" not in words
    assert cli.main(words[1:]) == 0
    assert trained() == trained(finished / DIRECTORY)


def test_each_command_says_which_one_goes_on(finished, fakes, monkeypatch, capsys):
    search = ["optuna-hp-search", *SWEEP[1:], "--n-trials", "1", "--output-root", "studies"]
    assert cli.main(search) == 0
    assert cli.main(["sweep-hp-samples", "--resume-from", "studies/sac_mlp/gymnax_pendulum"]) == 2
    assert "optuna-hp-search --resume-from studies/sac_mlp/gymnax_pendulum" in capsys.readouterr().err
    monkeypatch.chdir(finished)
    for words in (["optuna-hp-search", *RESUME[1:]], [*SWEEP, "--num-samples", "3"]):
        assert cli.main(words) == 2
        assert f"sweep-hp-samples --resume-from {DIRECTORY}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--num-samples", "4"], "--num-samples: study has 3, given 4"),
        (["--load-hyperparams", "other.csv"], "--load-hyperparams: study has None"),
        (
            ["--hparam-batch-size", "9"],
            "--hparam-batch-size 9 is more than the 3 trials that this sweep asks together. Use 1 to 3",
        ),
        (
            ["--seed", "5"],
            "--max-failure-rate, --checkpoint-seconds may change.",
        ),
    ],
)
def test_a_resume_that_contradicts_the_sweep_is_refused(finished, monkeypatch, capsys, more, words):
    monkeypatch.chdir(finished)
    assert cli.main([*RESUME, *more]) == 2
    assert words in capsys.readouterr().err


def test_other_samples_than_the_sweep_began_with_are_refused(finished, fakes, capsys):
    shutil.copytree(finished / DIRECTORY, DIRECTORY)
    configurations = read_samples(DIRECTORY / "samples.csv", load("sac_mlp").config.algorithm)
    write_samples(DIRECTORY / "samples.csv", configurations[::-1])
    for command in (RESUME, ["repair", str(DIRECTORY)], ["invalidate", str(DIRECTORY), "0"]):
        assert cli.main(command) == 2
        assert "samples.csv: holds other samples" in capsys.readouterr().err
    (DIRECTORY / "samples.csv").unlink()
    assert cli.main(RESUME) == 2
    assert "samples.csv: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--load-hyperparams", "mine.csv", "--num-samples", "3"], "--num-samples draws others"),
        (["--load-hyperparams", "mine.csv", "--sampling-method", "qmc"], "--sampling-method draws others"),
        (["--load-hyperparams", "mine.csv"], "mine.csv, line 3: algorithm.hyperparam.gamma needs"),
        (["--load-hyperparams", "none.csv"], "none.csv: cannot be read"),
        (["--num-samples", "0"], "--num-samples needs a whole number of at least 1, got 0"),
        (["--num-samples", "8", "--hparam-batch-size", "9"], "--hparam-batch-size 9 is more than the 8 trials"),
        (["--sampling-method", "grid"], "grid needs a finite space"),
        (["--retry-failed"], "--retry-failed continues a study: give --resume-from DIR"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(fakes, capsys, more, words):
    Path("mine.csv").write_text(f"{GAMMA}\n0.9\n2\n")
    assert cli.main([*SWEEP, *more]) == 2
    assert words in capsys.readouterr().err
    assert not DIRECTORY.exists() and not any(fake.trained for fake in fakes)


def test_a_row_that_is_the_recipes_own_configuration_trains(fakes):
    Path("mine.csv").write_text("trial\n0\n")
    assert cli.main([*SWEEP, "--load-hyperparams", "mine.csv"]) == 0
    assert [fake.trained for fake in fakes] == [[0]]


def test_rows_that_no_program_can_hold_together_are_refused(fakes, capsys):
    names = [f"algorithm.hyperparam.{name}" for name in ("total_num_envs", "rollout_length", "num_minibatches")]
    Path("mine.csv").write_text(f"{','.join(names)}\n3,2,3\n4,2,2\n")
    words = [word.replace("sac_mlp", "ppo_mlp").replace("pendulum", "cartpole") for word in SWEEP]
    assert cli.main([*words, "--load-hyperparams", "mine.csv"]) == 2
    assert "every combination divides" in capsys.readouterr().err
