"""A study is looked at and its winner trained as it was, also where its recipe was edited or removed since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import hyperlax
from hyperlax.analysis.pages import write_pages
from hyperlax.cli import main
from hyperlax.config.options import SingleOptions
from hyperlax.envs import registry
from hyperlax.fields import dotted
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import Recipe, load
from tests.desk import ROOT, forget_environments
from tests.study_cases import Case
from tests.test_confirmation import SEEDS, Confirmer

CONFIRMED = ("confirmation.csv", "analysis_plots/confirmation.html")
GAMMA, TAU = "algorithm.hyperparam.gamma", "algorithm.hyperparam.tau"


@dataclass(frozen=True)
class Study:
    """A confirmed study and its recipe. base: the base values; best: those of its best trial."""

    directory: Path
    recipe: Path
    base: dict[str, Any]
    best: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of the shipped SAC under a name of the user's."""
    root = tmp_path_factory.mktemp("made")
    path = root / "mine.py"
    shipped = (ROOT / "recipes" / "sac_mlp.py").read_text()
    path.write_text(shipped.replace("warmup_rollout_length=250", "warmup_rollout_length=16"))
    config, space = load(str(path)).config, load(str(path)).space
    recipe = Recipe("mine", path, config, {name: space[name] for name in list(space)[:3]})
    given: dict[str, Any] = {"algo_and_network_config": "mine.py", "confirm_top": 2, "confirm_seeds": SEEDS}
    case = Case(root / "studies", recipe=recipe, write_pages=write_pages, confirmer=Confirmer(), n_trials=6, **given)
    assert case.start() == 0
    return Study(case.directory, path, dotted(config.algorithm), case.study().best_trial.params)


@pytest.fixture
def study(made: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """A copy of it, in a working directory of its own; the recipe is put back in the end."""
    monkeypatch.chdir(tmp_path)
    text = made.recipe.read_text()
    yield replace(made, directory=Path(shutil.copytree(made.directory, tmp_path / "study")))
    made.recipe.write_text(text)


def gone(path: Path) -> None:
    path.unlink()


def another_value(path: Path) -> None:
    text = path.read_text()
    assert "tau=0.02" in text and "gamma=0.98" in text
    path.write_text(text.replace("tau=0.02", "tau=0.5").replace("gamma=0.98", "gamma=0.5"))


def another_algorithm(path: Path) -> None:
    path.write_text((ROOT / "recipes" / "ppo_mlp.py").read_text())


def another_of_that_name(path: Path) -> None:
    Path("recipes").mkdir()
    another_algorithm(Path("recipes") / path.name)
    another_algorithm(Path(path.name))
    path.unlink()


CHANGES = [gone, another_value, another_algorithm, another_of_that_name]


@pytest.mark.parametrize("change", CHANGES)
def test_a_report_keeps_the_confirmation(study, change):
    before = {name: (study.directory / name).read_text() for name in CONFIRMED}
    change(study.recipe)
    assert main(["report", str(study.directory)]) == 0
    assert {name: (study.directory / name).read_text() for name in CONFIRMED} == before
    assert "Confirmation on new seeds" in (study.directory / "report.html").read_text()
    confirmation = hyperlax.open_study(study.directory).record.confirmation
    assert confirmation is not None and len(confirmation.configurations) in (2, 3)


@pytest.mark.parametrize("config", [{}, {GAMMA: 0.9}, "changed"], ids=["empty", "one field", "no table"])
def test_a_study_that_does_not_say_its_base_values_keeps_its_confirmation_and_is_refused(study, capsys, config):
    before = {name: (study.directory / name).read_text() for name in CONFIRMED}
    damage(study, config)
    assert main(["report", str(study.directory)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hyperlax: {study.directory / 'study.json'}: `recipe") and "config" in line
    assert {name: (study.directory / name).read_text() for name in CONFIRMED} == before


def damage(study: Study, config: Any) -> None:
    """Another base configuration in study.json."""
    stored = json.loads((study.directory / "study.json").read_text())
    stored["recipe"]["config"] = config
    (study.directory / "study.json").write_text(json.dumps(stored))


def test_a_base_value_that_its_field_does_not_accept_is_refused_by_name(study, capsys):
    damage(study, {**study.base, TAU: 7})
    assert main(["report", str(study.directory)]) == 2
    assert f"`recipe.config`: {TAU} needs a finite number above 0 and at most 1, got 7" in capsys.readouterr().err


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SingleOptions, Recipe, AlgorithmConfig]]:
    """What is handed to the training, instead of training it."""
    calls: list[tuple[SingleOptions, Recipe, AlgorithmConfig]] = []

    def note(*given: Any, source: str) -> int:
        calls.append(given[:3])  # type: ignore[arg-type]
        return 0

    monkeypatch.setattr("hyperlax.study.single.run_single", note)
    return calls


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_the_winner_is_trained_as_it_was(study, trained, change):
    if change:
        change(study.recipe)
    assert main(["train", "--from", str(study.directory)]) == 0
    ((arguments, recipe, algorithm, *_),) = trained
    assert dotted(algorithm) == {**study.base, **study.best}
    assert (recipe.name, arguments.env_config, arguments.total_timesteps) == ("mine", "gymnax.pendulum", 500)
    assert (arguments.num_evaluations, arguments.num_seeds, arguments.seed) == (5, 2, 3)


def test_flags_say_what_is_otherwise(study, trained):
    words = ["--trial", "4", "--total-timesteps", "9000", "--num-seeds", "7", "--env-config", "gymnax.point_robot"]
    assert main(["train", "--from", str(study.directory), *words]) == 0
    ((arguments, _, algorithm),) = trained
    params = hyperlax.open_study(study.directory).record.trials[4].params
    assert {name: dotted(algorithm)[name] for name in params} == params
    found = (arguments.total_timesteps, arguments.num_evaluations, arguments.num_seeds, arguments.seed)
    assert found == (9000, 5, 7, 3) and arguments.env_config == "gymnax.point_robot"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "--trial", "99"], "has no such trial. Its trials are 0 to 5"),
        (["nowhere"], "is not a directory"),
        (["study", "--num-seeds", "0"], "--num-seeds"),
    ],
)
@pytest.mark.usefixtures("study")
def test_what_cannot_be_trained_is_refused(trained, capsys, words, message):
    assert main(["train", "--from", *words]) == 2
    assert message in capsys.readouterr().err and not trained


def test_what_cannot_be_trained_as_it_was_is_refused(study, trained, capsys):
    damage(study, {GAMMA: 0.9})
    assert main(["train", "--from", str(study.directory)]) == 2
    refusal = "study.json: `recipe.config` does not hold the fields of an algorithm"
    assert refusal in capsys.readouterr().err and not trained


def test_a_study_of_ones_own_environment_is_trained_again_where_its_recipe_registers_it(
    tmp_path, monkeypatch, trained, capsys
):
    forget_environments(monkeypatch)
    path = Path(shutil.copy(ROOT / "tests" / "bad_input" / "tanks.py", tmp_path / "tanks.py"))
    case = Case(tmp_path, recipe=load(str(path)), env_config="lab.tanks", n_trials=4, total_timesteps=20_000)
    assert case.start() == 0
    forget_environments(monkeypatch)
    assert main(["train", "--from", str(case.directory)]) == 0
    assert trained[0][0].env_config == "lab.tanks" and "lab.tanks" in registry._factories
    forget_environments(monkeypatch)
    path.unlink()
    assert main(["train", "--from", str(case.directory)]) == 2
    assert f"{path}, which registered it, is gone" in capsys.readouterr().err
    assert main(["train", "--from", str(case.directory), "--env-config", "gymnax.pendulum"]) == 0
    assert main(["train", "--from", str(case.directory), "--env-config", "lab.tank"]) == 2
    assert "no environment named `lab.tank`" in capsys.readouterr().err
