"""A task says what is wrong with it when it is made, and a report when it is called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.errors import UsageError
from hyperlax.fields import dotted
from hyperlax.recipe import load
from hyperlax.report import Report, TrialEnded
from hyperlax.tasks import Function, Measure

ACCURACY = Measure("accuracy", "maximize", low=0.5, high=1.0)


def train(params, report, seed):
    """Do nothing."""


def function(**changes: Any) -> Function:
    return Function(**{"train": train, "measure": ACCURACY, "budget": 10, "evaluations": 5, **changes})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Measure("", "maximize"), "the name must be a text without spaces"),
        (lambda: Measure("my loss", "minimize"), "Measure('my loss'): the name must be a text without spaces"),
        (lambda: Measure(3, "minimize"), "Measure(3): the name must be a text"),  # pyright: ignore[reportArgumentType]
        (lambda: Measure("step", "minimize"), "Choose another, e.g. my_step."),
        (
            lambda: Measure("loss", "min"),  # pyright: ignore[reportArgumentType]
            "direction is 'min'. Did you mean `minimize`? Use maximize or minimize.",
        ),
        (lambda: Measure("loss", "minimize", low=float("nan")), "low is nan. Give a finite number, or leave it out."),
        (lambda: Measure("loss", "minimize", high="1"), "high is '1'. Give a finite"),  # pyright: ignore[reportArgumentType]
        (lambda: Measure("loss", "minimize", 1, 0.5), "low must be less than high, got low=1 and high=0.5."),
        (lambda: function(train=None), "Function needs a function, got None."),
        (lambda: function(train=lambda params: 1), "calls <lambda>(params, report, seed), but it takes (params)."),
        (lambda: function(budget=0), "budget to be a whole number of at least 1, got 0."),
        (lambda: function(evaluations=2.5), "evaluations to be a whole number of at least 1, got 2.5."),
        (lambda: function(cores=True), "cores to be a whole number of at least 1, got True."),
        (lambda: function(budget=3), "got budget=3 and evaluations=5. Raise the first or lower the second."),
        (lambda: function(measure="accuracy"), "Function needs a Measure, got 'accuracy'."),
        (lambda: function(measures=ACCURACY), "measures to be a list of Measure(...), got Measure("),
        (lambda: function(measures=[ACCURACY]), "has the measure accuracy twice. Remove one of the two."),
        (lambda: function(resources=["gpu"]), """resources by their names, as {"gpu": 1}, got ['gpu']."""),
        (lambda: function(resources={"gpu": 0}), "resources above 0, got 'gpu': 0."),
    ],
)
def test_a_wrong_task_is_refused_by_name(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert words in str(error.value)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("step", "values", "fault"),
    [
        (1, {"accuracy": None}, "accuracy is None; report a finite number"),
        (1, {"accuracy": float("nan")}, "accuracy is nan; report a finite number"),
        (1, {"accuracy": np.float32("inf")}, "accuracy is inf; report a finite number"),
        (1, {"accuracy": 10**400}, f"accuracy is 1{'0' * 59}...; report a finite number"),
        (1, {"accuracy": "0.9"}, "accuracy is '0.9'; report a finite number"),
        (1, {"accuracy": True}, "accuracy is True; report a finite number"),
        (1, {"accuracy": np.bool_(True)}, "accuracy is True; report a finite number"),
        (1, {"accuracy": [0.9]}, "accuracy is [0.9]; report a finite number"),
        (1, {"accuracy": np.ones((3, 1))}, "accuracy is an array of shape (3, 1); report a finite number"),
        (1, {"accuracy": Unshowable()}, "accuracy is an object of type Unshowable; report a finite number"),
        (1, {"accuracy": 0.5, "loss": None}, "loss is None; report a finite number"),
        (1, {"acuracy": 0.5}, "no measure named `acuracy`. Did you mean `accuracy`? The task declares accuracy, loss"),
        (1, {"loss": 0.5}, "a report without accuracy, the leading measure"),
        (1, {}, "a report without accuracy, the leading measure"),
        ("1", {"accuracy": 0.5}, "the step '1' is not a whole number of at least 0"),
        (1.5, {"accuracy": 0.5}, "the step 1.5 is not a whole number of at least 0"),
        (float("nan"), {"accuracy": 0.5}, "the step nan is not a whole number of at least 0"),
        (True, {"accuracy": 0.5}, "the step True is not a whole number of at least 0"),
        (-1, {"accuracy": 0.5}, "the step -1 is not a whole number of at least 0"),
        (11, {"accuracy": 0.5}, "step 11 was reported, and the task's budget is 10; raise the budget"),
    ],
)
def test_a_wrong_report_ends_the_trial_with_its_words(step: Any, values: Any, fault: str, tmp_path: Path) -> None:
    report = Report(("accuracy", "loss"), 10, 5, tmp_path)
    with pytest.raises(TrialEnded):
        report(step, **values)
    assert report.fault == fault
    with pytest.raises(TrialEnded):  # also if the function has caught everything
        report(1, accuracy=0.5)
    assert report.fault == fault


def test_steps_increase_and_are_at_most_as_many_as_declared(tmp_path: Path) -> None:
    report = Report(("accuracy",), 10, 3, tmp_path)
    report(1, accuracy=0.5)
    with pytest.raises(TrialEnded):
        report(1, accuracy=0.5)
    assert report.fault == "step 1 was reported after step 1; steps must increase"
    report = Report(("accuracy",), 10, 3, tmp_path)
    for step in range(3):
        report(step, accuracy=0.5)
    with pytest.raises(TrialEnded):
        report(3, accuracy=0.5)
    assert report.fault == "more reports than the task's 3 evaluations; raise evaluations, or report less often"


def test_numbers_of_other_libraries_are_pythons(tmp_path: Path) -> None:
    got = []
    report = Report(("accuracy", "loss"), 10, 5, tmp_path, lambda step, values: got.append((step, values)))
    report(np.int64(2), accuracy=np.float32(0.5), loss=np.array(3))
    report(3.0, accuracy=1)
    assert got == [(2, {"accuracy": 0.5, "loss": 3.0}), (3, {"accuracy": 1.0})]
    assert [type(value) for _, values in got for value in values.values()] == [float] * 3


def test_the_directory_is_there_once_it_is_asked_for(tmp_path: Path) -> None:
    report = Report(("accuracy",), 10, 5, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert report.directory == tmp_path / "a" / "b" and report.directory.is_dir()


def test_shipped_recipes_need_scikit_learn_only_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from hyperlax.recipe import load; load('forest'); assert not {'sklearn', 'jax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name, needs in (("forest", "the forest needs"), ("digits", "the digits need")):
        recipe = load(name)
        values = dotted(recipe.config.algorithm)
        assert all(distribution.contains(values[name]) for name, distribution in recipe.space.items())
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda name: None)
            with pytest.raises(
                UsageError, match=rf'{name}.py:\d+: {needs} scikit-learn: pip install "hyperlax\[sklearn\]"$'
            ):
                load(name)
