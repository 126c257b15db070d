"""Studies and agents in an environment of a user's own, looked at by a process that has not loaded its recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hyperlax
from hyperlax.agent import ABOUT
from hyperlax.analysis.pages import write_learning_curve, write_pages
from hyperlax.cli import main
from hyperlax.envs import registry
from hyperlax.recipe import load
from hyperlax.seals import seal
from hyperlax.study.single import run_single
from tests.desk import forget_environments
from tests.fake_backend import FakeBackend
from tests.made_up_studies import policy
from tests.study_cases import Case, single_options

TANKS = Path(__file__).parent / "bad_input" / "tanks.py"
OF_TANKS = policy("lab.tanks", 2, {"low": (-1.0,), "high": (1.0,)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recipe, a study and a single run of it."""
    root = tmp_path_factory.mktemp("tanks")
    recipe = load(str(shutil.copy(TANKS, root / "tanks.py")))
    with pytest.MonkeyPatch.context() as patch:
        case = Case(root, recipe=recipe, write_pages=write_pages, env_config="lab.tanks", n_trials=4)
        assert case.start(FakeBackend(policy=OF_TANKS)) == 0
        arguments = single_options(root, algo_and_network_config=str(root / "tanks.py"), env_config="lab.tanks")
        backend = FakeBackend(policy=OF_TANKS)
        assert run_single(arguments, recipe, recipe.config.algorithm, write_learning_curve, backend.bind) == 0
        forget_environments(patch)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, of one's own, in a process that knows nothing of it."""
    forget_environments(monkeypatch)
    monkeypatch.chdir(tmp_path)
    text = str(made)
    copied = Path(shutil.copytree(made, tmp_path / "tanks"))
    for path in [*copied.rglob("study.json"), *copied.rglob("*" + ABOUT)]:
        about = json.loads(path.read_text().replace(text, str(copied)))
        mark = seal({"path": str(copied / "tanks.py")})
        about["recipe_seal"] = mark
        if path.suffix == ".json" and "arguments" in about:
            about["recipe"]["seal"] = mark
        path.write_text(json.dumps(about))
    return copied


@pytest.fixture
def study(root: Path) -> Path:
    return root / "tanks" / "lab_tanks"


@pytest.mark.parametrize("recipe", ["there", "gone"])
def test_a_study_is_looked_at_without_its_recipe(root, study, capsys, recipe):
    other = shutil.copytree(study, root / "other")
    if recipe == "gone":
        (root / "tanks.py").unlink()
    for words in (
        ["list", root],
        ["show", study],
        ["show", study, "1"],
        ["watch", study],
        ["report", study],
        ["compare", study, other, "--output", "page.html"],
        ["export", study, "--output", "trials.csv"],
    ):
        capsys.readouterr()
        assert (main(list(map(str, words))), capsys.readouterr().err) == (0, "")
    assert registry._factories == {}


def test_a_study_opens_from_python_without_its_recipe(root, study):
    (root / "tanks.py").unlink()
    opened = hyperlax.open_study(study)
    assert opened.best is not None and len(opened.trials) == 4
    assert hyperlax.load_agent(study)(np.zeros(2)).shape == (1,)


def agents(root: Path, study: Path) -> dict[str, Path]:
    (file,) = (study / "agents").glob("*.safetensors")
    return {"study": study, "file": file, "run": study / "single_0000", "alone": root / "alone.safetensors"}


@pytest.mark.parametrize("given", ["study", "file", "run", "alone"])
def test_an_agent_is_played_where_its_recipe_registers_the_environment(root, study, capsys, given):
    where = agents(root, study)
    for suffix in (".safetensors", ".json"):
        shutil.copy(where["file"].with_suffix(suffix), where["alone"].with_suffix(suffix))
    assert main(["play", str(where[given]), "--episodes", "2", "--no-gif"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("lab.tanks, trial ")


@pytest.mark.parametrize("given", ["study", "file", "run"])
def test_an_agent_whose_recipe_no_longer_registers_the_environment_is_refused_with_its_place(
    root, study, capsys, given
):
    recipe, path = root / "tanks.py", agents(root, study)[given]
    other = recipe.read_text().replace("lab.tanks", "lab.barrels")
    for change, said in (
        (lambda: recipe.write_text(other), "no longer does. Put back the file that registers it."),
        (recipe.unlink, "is gone. Put that file back."),
    ):
        change()
        assert main(["play", str(path), "--no-gif"]) == 2
        assert capsys.readouterr().err == (
            f"hyperlax: {path}: environment `lab.tanks` is one of your own, and {recipe}, which registered it, {said}\n"
        )
