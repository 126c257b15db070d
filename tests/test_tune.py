"""Functions from Python: `hyperlax.tune`, in worker processes that get the function from its file or by value."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperlax
from hyperlax import cli
from hyperlax.engine.machine import cores
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.files import decode
from hyperlax.space import LogUniform, UniformDiscrete

pytestmark = pytest.mark.usefixtures("elsewhere")
RATE = LogUniform(domain=(1e-4, 1e-1))
SCRIPT = """
import hyperlax
from helper import score
from hyperlax.space import LogUniform

class Model:
    @staticmethod
    def train(params):
        return {"accuracy": score(params["lr"]), "size": 1}

GUARDhyperlax.tune(
    Model.train, space={"lr": LogUniform(domain=(1e-4, 1e-1)), "depth": (2, 4), "kind": "a"}, n_trials=2, slots=1,
    metric=["accuracy", "size"], mode=["max", "min"], resources={"cpu": 1},
)
"""


def train(params: dict[str, Any]) -> np.float64:
    return np.float64(params["lr"])


def steps(params: dict[str, Any], report: Any, seed: int) -> None:
    for step in (2, 4):
        report(step, loss=params["lr"] / step)


def script(folder: Path, guard: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "helper.py").write_text("def score(lr): return 1 - lr\n")
    (folder / "model.py").write_text(SCRIPT.replace("GUARD", guard))
    words = [sys.executable, folder / "model.py"]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_function_of_a_script_is_tuned_and_continues_from_anywhere(elsewhere, monkeypatch):
    done = script(elsewhere / "there", 'if __name__ == "__main__":\n    ')
    assert done.returncode == 0, done.stderr
    study = hyperlax.open_study(elsewhere / "my_optuna_studies" / "train")
    assert [trial.state for trial in study.record.trials] == ["COMPLETE"] * 2 and study.record.objectives == {
        "accuracy": "maximize"
    }
    assert study.best.config["kind"] == "a" and study.best.metrics["accuracy"] == 1 - study.best.config["lr"]
    assert study.record.command.startswith(
        "hyperlax.tune(Model.train, space={'lr': {'type': 'loguniform', 'low': 0.0001"
    )
    assert not (study.directory / "study.yaml").exists()
    (elsewhere / "another").mkdir()
    monkeypatch.chdir(elsewhere / "another")
    assert cli.main(["optuna-hp-search", "--resume-from", str(study.directory), "--n-trials", "3"]) == 0
    again = hyperlax.search(resume_from=study.directory, n_trials=4)
    assert [trial.state for trial in again.record.trials] == ["COMPLETE"] * 4
    (elsewhere / "there" / "model.py").unlink()
    with pytest.raises(UsageError, match=r"model.py: no such file, and Model.train\(\) is in it"):
        hyperlax.search(resume_from=study.directory, n_trials=5)


def test_a_script_that_would_start_itself_again_is_refused(elsewhere):
    done = script(elsewhere / "there", "")
    assert done.returncode == 1 and not (elsewhere / "my_optuna_studies").exists()
    assert "model.py:12 makes this call" in done.stderr or "model.py:11 makes this call" in done.stderr


def test_a_function_reports_and_is_continued_with_the_same_words(capfd):
    given: dict[str, Any] = {
        "space": {"lr": RATE, "width": UniformDiscrete(domain=(2, 8))},
        "metric": "loss", "mode": "min", "budget": 4, "evaluations": 2,
    }  # fmt: skip
    study = hyperlax.tune(steps, **given, n_trials=2, study_name="mine", enqueue=[{"lr": np.float32(0.05)}])
    assert study.directory.name == "mine" and study.trials["width"].tolist() == [5, 5]
    assert study.trials["loss"].tolist() == pytest.approx([np.sqrt(1e-5) / 4, 0.05 / 4])
    assert study.curve(0).steps.tolist() == [2, 4] and "best loss" in capfd.readouterr().err
    again = f"hyperlax.search(resume_from='{Path('my_optuna_studies', 'mine')}')"
    with pytest.raises(UsageError, match=f"To continue it:\n  {re.escape(again)}"):
        hyperlax.tune(steps, **given, study_name="mine")
    assert len(hyperlax.tune(steps, **given, n_trials=3, resume_from=study.directory).trials) == 3
    last = hyperlax.tune(steps, space={"lr": RATE}, metric="loss", mode="min", n_trials=1)
    losses = hyperlax.search(resume_from=last.directory, n_trials=2).trials["loss"].tolist()
    assert losses[0] == pytest.approx(np.sqrt(1e-5) / 4)
    with pytest.raises(UsageError, match=r"searches lr = .* now it is"):
        hyperlax.tune(steps, **{**given, "space": {"lr": [0.1, 0.2], "width": 2}}, resume_from=study.directory)


def test_a_function_given_again_is_the_one_that_the_study_has(monkeypatch, elsewhere):
    study = hyperlax.tune(train, space={"lr": RATE}, metric="a", n_trials=1)
    monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere / "other"))
    with pytest.raises(UsageError, match=re.escape(f"hyperlax.tune(function, resume_from='{study.directory}')")):
        hyperlax.search(resume_from=study.directory)
    file = study.directory / "study.json"
    file.write_text(file.read_text().replace(f"{Path(__file__).name}:train", "theirs.py:evil"))
    hyperlax.tune(train, resume_from=study.directory)
    assert len(hyperlax.search(resume_from=study.directory, n_trials=2).trials) == 2


def test_a_function_without_a_file_travels_by_value_and_is_given_again(elsewhere, capfd):
    pytest.importorskip("cloudpickle")
    factor = 3
    study = hyperlax.tune(lambda params: params["lr"] * factor, space={"lr": RATE}, metric="a", n_trials=2)
    assert study.trials["a"].tolist() == pytest.approx((study.trials["lr"] * factor).tolist())
    assert decode(study.directory / "study.json", dict[str, Any])["recipe"]["source"]["function"] is None
    again = "hyperlax.tune(function, resume_from='my_optuna_studies/lambda')"
    with pytest.raises(UsageError, match=re.escape(again)):
        hyperlax.tune(lambda params: 1, space={"lr": RATE}, metric="a")
    assert cli.main(["optuna-hp-search", "--resume-from", str(study.directory), "--n-trials", "3"]) == 2
    assert "its function is in no file, so it cannot be loaded. Give it again in Python" in capfd.readouterr().err
    more = hyperlax.tune(lambda params: None, resume_from=study.directory, n_trials=3)
    assert more.record.trials[2].reason.startswith(
        "returned None. Return the a, or take (params, report, seed) and call report (lr="
    )


def test_a_function_without_a_file_has_no_agents(elsewhere):
    pytest.importorskip("cloudpickle")
    with pytest.raises(
        UsageError, match="The function is in no file, so agents cannot load it. Move it to the top level"
    ):
        hyperlax.tune(lambda params: 1, space={"lr": RATE}, metric="a", n_trials=2, agents=1)
    assert not (elsewhere / "my_optuna_studies").exists()


def test_without_cloudpickle_a_sentence_says_what_would_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(UsageError, match=r"tune\(\): lambda is not at the top level of a file.*hyperlax\[notebook\]"):
        hyperlax.tune(lambda params: 1, space={"lr": RATE}, metric="a")


@pytest.mark.parametrize(
    ("function", "changes", "said"),
    [
        (3, {}, "needs a function, got 3. Write def train(params): ..., or def train(params, report, seed): ..."),
        (lambda a, b: 1, {}, "lambda takes (a, b). Write def train(params): ..., or def train(params, report, seed): ..."),
        (train, {"space": None}, 'space needs a dictionary, e.g. {"lr": LogUniform(domain=(1e-4, 1e-1))}, got nothing.'),
        (
            train,
            {"space": {1: [2]}},
            'space needs names that are texts, e.g. {"lr": LogUniform(domain=(1e-4, 1e-1))}, got the name 1.',
        ),
        (train, {"space": {"lr": 0.1}}, "space has nothing to search. Give a hyperparameter a distribution, or a list of choices."),
        (
            train,
            {"space": {"lr": RATE, "x": {1, 2}}},
            "space['x'] needs a distribution of hyperlax.space, a list of choices, or a number, a text, True or False that is "
            "fixed, got {1, 2}.",
        ),
        (train, {"metric": None}, 'metric needs the name of what is optimized, e.g. "accuracy".'),
        (train, {"metric": "loss"}, "mode is required for a metric named loss: say whether max or min is better."),
        (train, {"metric": "lr"}, "the hyperparameter lr has the name of a metric. Choose another for one of them."),
        (train, {"mode": "up"}, "mode needs max or min, got 'up'."),
        (train, {"metric": ["a", "b"], "mode": "max"}, "mode needs max or min for each metric, got max for a b."),
        (train, {"metric": "a b"}, "Measure('a b'): the name must be a text without spaces, commas, quotes and =, as in accuracy."),
        (train, {"budget": 3}, "train(params) returns its only result, so it has no budget and evaluations. Leave them out."),
        (steps, {"evaluations": 2}, "evaluations is given without budget, the last step that is reported. Give both."),
        (train, {"resources": {"cpu": 0.5}}, "resources needs a whole number of cpu of at least 1, got 0.5."),
        (train, {"sampler": "tpee"}, "sampler needs one of SAMPLERS, got \"tpee\". Did you mean `tpe`?"),
        (train, {"params": 1}, 'params needs a dictionary, e.g. {"lr": 0.01}, got 1.'),
        (train, {"study_name": ".x"}, "study_name '.x' cannot name a directory. Choose another."),
        (
            train,
            {"resume_from": "nowhere", "space": None, "metric": None},
            "resume_from nowhere: is not a directory. Give the directory of a study, such as "
            "my_optuna_studies/sac_mlp/gymnax_pendulum.",
        ),
        (
            train,
            {"resume_from": "nowhere", "space": None},
            "metric is given without space. To continue a study, give both again, or neither.",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_before_anything_runs(elsewhere, function, changes, said):
    with pytest.raises(UsageError) as refused:
        hyperlax.tune(function, **{"space": {"lr": RATE}, "metric": "a", **changes})
    found = re.sub(r"one of tpe, [a-z, ]+, got", "one of SAMPLERS, got", str(refused.value))
    assert found == f"tune(): {said}" and list(elsewhere.iterdir()) == []


def test_more_cores_than_the_machine_has_are_refused(elsewhere):
    with pytest.raises(UsageError, match=f"a trial needs 1000 cores, and this process may use {cores()}. Lower"):
        hyperlax.tune(train, space={"lr": RATE}, metric="a", resources={"cpu": 1000})
    assert list(elsewhere.iterdir()) == []


def test_options_of_other_trainings_are_not_arguments():
    parameters = inspect.signature(hyperlax.tune).parameters
    assert {"recipe", "environment", "total_timesteps", "cores", "assignments", "packing"}.isdisjoint(parameters)
    with pytest.raises(TypeError, match="no argument 'num_samples'. Did you mean `n_trials`"):
        hyperlax.tune(train, space={"lr": RATE}, num_samples=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(HyperlaxError, match="this study did not begin with a function"):
        _of_a_recipe()


def _of_a_recipe() -> None:
    Path("made.py").write_text(
        "from hyperlax.tasks import Function, Measure\nfrom hyperlax.space import Categorical\n"
        "def train(params, report, seed): report(1, a=params['x'])\n"
        "def get_task(): return Function(train, Measure('a', 'maximize'), budget=1, evaluations=1)\n"
        "def get_base_params(): return {'x': 1}\n"
        "def get_base_hyperparam_distributions(): return {'x': Categorical(values=[1, 2])}\n"
    )
    study = hyperlax.search("made.py", n_trials=1)
    hyperlax.tune(train, resume_from=study.directory)
