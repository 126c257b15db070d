"""Studies from Python: the same arguments, the same results, figures of plotly."""

from __future__ import annotations

import html
import inspect
import json
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas
import plotly.graph_objects as go
import pytest

import hyperlax
from hyperlax import cli, training
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import dotted
from hyperlax.hyperparams import SAC
from hyperlax.space import LogUniform, UniformContinuous
from hyperlax.study import search as runs
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES
from tests.desk import python
from tests.fake_backend import FakeBackend, train_with_fakes
from tests.study_cases import TWO, Case


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """12 trials, of which trial 5 has failed."""
    case = Case(tmp_path_factory.mktemp("studies"), n_trials=12)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    return case


def test_a_search_is_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_with_fakes(monkeypatch)
    given: dict[str, Any] = {
        "n_trials": np.int64(4),
        "timeout": np.float32(2000),
        "objective_names": "peak_performance",
        "num_seeds": 2,
        "total_timesteps": 5000,
        "num_evaluations": 5,
        "optuna_study_batch_size": 4,
    }
    study = hyperlax.search("sac_mlp", "gymnax.pendulum", output_root=tmp_path / "x", **given)
    assert study.directory == tmp_path / "x" / "sac_mlp" / "gymnax_pendulum"
    assert study.state == "finished" and len(study.trials) == 4
    assert study.best.number == study.trials["objective.peak_performance"].idxmax()
    again = hyperlax.search(resume_from=study.directory, n_trials=8)
    assert len(again.trials) == 8 and len(study.trials) == 4
    study.refresh()
    assert len(study.trials) == 8


@pytest.mark.parametrize(("status", "error"), [(1, HyperlaxError), (130, KeyboardInterrupt), (143, KeyboardInterrupt)])
def test_a_search_that_does_not_end_well_raises(tmp_path, monkeypatch, status, error):
    monkeypatch.setattr(runs, "run_study", lambda *given, **more: status)
    with pytest.raises(error):
        hyperlax.search("sac_mlp", "gymnax.pendulum", output_root=tmp_path)


def test_wrong_arguments_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(TypeError, match=r"^search\(\) has no argument 'n_trial'. Did you mean `n_trials`\?$"):
        hyperlax.search("sac_mlp", "gymnax.pendulum", n_trial=4)  # pyright: ignore[reportCallIssue]
    with pytest.raises(UsageError, match="sampler needs one of .* Did you mean `tpe`"):
        hyperlax.search("sac_mlp", "gymnax.pendulum", sampler="tpee", output_root=tmp_path)  # pyright: ignore
    with pytest.raises(UsageError, match="holds no study.json"):
        hyperlax.open_study(tmp_path)
    with pytest.raises(UsageError, match="holds a null character"):
        hyperlax.open_study("a\0b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_trials": "8"}, 'search(): n_trials needs a whole number of at least 1, got "8".'),
        ({"n_trials": 4.5}, "search(): n_trials needs a whole number of at least 1, got 4.5."),
        ({"n_trials": True}, "search(): n_trials needs a whole number of at least 1, got true."),
        ({"objective_names": 3}, "search(): objective_names needs a text or a list of texts, got 3. Put it in quotes."),
        ({"quiet": 1}, "search(): quiet needs true or false, got 1."),
        (
            {"resume_from": " "},
            "search(): resume_from ' ': is not a directory. Give the directory of a study, such as EXAMPLE.",
        ),
        (
            {"tracking_uri": "x"},
            "search(): tracking_uri says where track mlflow writes. Give that as well, or leave tracking_uri out.",
        ),
        ({"n_trials": [4]}, "search(): n_trials needs a whole number of at least 1, got [4]."),
        ({"n_trials": np.array([4, 4])}, "search(): n_trials needs a whole number of at least 1, got [4, 4]."),
        (
            {"num_seeds": -(10**400)},
            f"search(): num_seeds needs a whole number from 1 to 2147483647, got -1{'0' * 400}.",
        ),
        (
            {"resume_from": "a\0b"},
            'search(): resume_from needs a text, got "a\\u0000b". It holds a null character, or half of a character. '
            "Leave that out.",
        ),
        ({"environment": 3}, "search(): environment needs a text, got 3. Put it in quotes."),
        (
            {"recipe": lambda: 1},
            "search(): recipe needs the name of a recipe or the path of a .py file, got a function. Give that to "
            "hyperlax.tune.",
        ),
        (
            {"preset": "quick"},
            'search(): preset needs one of quick_test, standard, extensive, production, got "quick". '
            "Did you mean `quick_test`?",
        ),
        (
            {"space": {"actr_lr": [0.1]}},
            "search(): space['actr_lr']: no hyperparameter named `actr_lr`. Did you mean `algorithm.hyperparam.actor_lr`?",
        ),
        ({"space": [1]}, 'search(): space needs a dictionary, e.g. {"gamma": [0.98, 0.99]}, got [1].'),
        (
            {"space": {"gamma": UniformContinuous(domain=(0, 2))}},
            "search(): space['gamma']: algorithm.hyperparam.gamma needs a finite number from 0 to 1, got 2.0 from "
            "UniformContinuous(domain=[0.0, 2.0]).",
        ),
        (
            {"resume_from": "here", "space": {}},
            "search(): a study keeps its search space. Leave `space` out to continue the study.",
        ),
        (
            {"enqueue": [{"gama": 0.9}]},
            "search(): enqueue: entry 0: no hyperparameter named `gama`. Did you mean `algorithm.hyperparam.gamma`?",
        ),
        ({"enqueue": [{"gamma": 1j}]}, "search(): enqueue: cannot be kept as JSON: complex has no form in JSON: 1j."),
        ({"enqueue": "[{"}, "search(): enqueue: cannot be read as JSON: SAID."),
        (
            {"enqueue": pandas.DataFrame({"gamma": [0.96]})},
            'search(): enqueue needs a dictionary or a list of them, e.g. [{"gamma": 0.98}], or the path of a JSON file, got '
            "gamma 0 0.96.",
        ),
        ({"enqueue": []}, "search(): enqueue: holds no configuration. Write a list of {name: value}."),
        (
            {"output_root": "$NOT_SET/x"},
            "search(): output_root $NOT_SET/x: the variable NOT_SET is not set. Set it, or write the path in full.",
        ),
        (
            {"space": {"epochs": {"type": "randint", "low": 1, "high": 10**30}}},
            "search(): space['epochs']: algorithm.hyperparam.epochs needs a whole number from 1 to 2147483647, got "
            f"1{'0' * 30} from randint(low=1, high=1{'0' * 30}).",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, arguments, said):
    with pytest.raises(UsageError) as refused:
        hyperlax.search(**{"recipe": "sac_mlp", "environment": "gymnax.pendulum", "output_root": tmp_path, **arguments})
    found = re.sub("(read as JSON: ).*", r"\1SAID.", str(refused.value))
    assert found == said.replace("EXAMPLE", "my_optuna_studies/sac_mlp/gymnax_pendulum")
    assert list(tmp_path.iterdir()) == []


def test_a_search_takes_objects(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIES", str(tmp_path))
    train_with_fakes(monkeypatch, pages=False)
    space = {"actor_lr": LogUniform(domain=(1e-4, 1e-2)), "gamma": [np.float64(0.9), 0.98], "only": True}
    first = ({"actor_lr": np.float64(0.003), "algorithm.hyperparam.gamma": 0.9},)
    study = hyperlax.search(
        "sac_mlp", "gymnax.pendulum", space=space, enqueue=first, preset="quick_test", output_root="$STUDIES/x"
    )
    assert study.directory.is_relative_to(tmp_path / "x") and len(study.trials) == 5
    params = study.record.trials[1].params
    assert params == {"algorithm.hyperparam.actor_lr": 0.003, "algorithm.hyperparam.gamma": 0.9}
    assert len(hyperlax.search(resume_from=study.directory, n_trials=6).trials) == 6
    assert hyperlax.open_study("$STUDIES/x/sac_mlp/gymnax_pendulum").state == "finished"


def test_messages_speak_of_calls(tmp_path, monkeypatch, capsys):
    train_with_fakes(monkeypatch, pages=False, fail=dict.fromkeys(range(9), "bad"))
    again = f"hyperlax.search(resume_from='{tmp_path / 'sac_mlp' / 'gymnax_pendulum'}'"
    with pytest.raises(HyperlaxError, match="search.. failed"):
        hyperlax.search("sac_mlp", "gymnax.pendulum", n_trials=12, output_root=tmp_path)
    said = capsys.readouterr().out
    assert "more than max_failure_rate 0.5 allows" in said and f"\n  {again}, max_failure_rate=1)\n" in said
    with pytest.raises(
        UsageError, match=f"To continue it:\n  {re.escape(again)}\\)\nFor a new one, choose another study_name"
    ):
        hyperlax.search("sac_mlp", "gymnax.pendulum", output_root=tmp_path)
    with pytest.raises(UsageError, match=f"{re.escape(again)}\\)$"):
        hyperlax.sweep(resume_from=tmp_path / "sac_mlp" / "gymnax_pendulum")


def test_a_notebook_shows_a_study_as_the_command_line_does(case, capsys):
    shown = hyperlax.open_study(case.directory)._repr_html_()
    assert cli.main(["show", str(case.directory)]) == 0
    assert html.unescape(shown) == f"<pre>{capsys.readouterr().out.rstrip()}</pre>"


def test_the_signature_is_written_out():
    parameters = inspect.signature(hyperlax.search).parameters
    assert list(parameters)[:2] == ["recipe", "environment"]
    assert (parameters["n_trials"].default, parameters["sampler"].default) == (100, "tpe")
    assert parameters["no_default_trial"].default is False
    said = inspect.getdoc(hyperlax.search) or ""
    assert "n_trials: Total number of finished trials. (default: 100)" in said
    assert "total_timesteps: Environment steps that each seed trains. (default: by run_length_modifier)" in said
    assert "--" not in said + (inspect.getdoc(hyperlax.sweep) or "")


STUB = Path(training.__file__).with_suffix(".pyi")


def stub() -> str:
    """What `training.pyi` must be: `python -c 'from tests.test_api import *; STUB.write_text(stub())'` writes it."""
    head = """\
# Written from the options of the commands, see tests/test_api.py.

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hyperlax.api import Study
from hyperlax.tasks import Measure

"""
    functions = [getattr(training, name) for name in hyperlax.__all__ if hasattr(training, name)]
    return head + "".join(_written_out(function) for function in functions if function.__module__ == training.__name__)


def _written_out(function: Any) -> str:
    lines, parameters = [], inspect.signature(function).parameters.values()
    for one in parameters:
        lines += ["*"] if one.kind is one.KEYWORD_ONLY and "*" not in lines else []
        default = "" if one.default is one.empty else f" = {one.default!r}".replace("'", '"')
        lines.append(f"{one.name}: {_kind(one.annotation)}{default}")
    return f"def {function.__name__}(\n" + "".join(f"    {line},\n" for line in lines) + ") -> Study: ...\n"


def _kind(annotation: Any) -> str:
    """A type as one writes it; `inspect` writes some unions as Union[...]."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, parts))
    if origin is Literal:
        return f"Literal[{', '.join(map(json.dumps, parts))}]"
    if annotation in (Ellipsis, NoneType):
        return "..." if annotation is Ellipsis else "None"
    name = (origin or annotation).__name__
    return f"{name}[{', '.join(map(_kind, parts))}]" if parts else name


def test_editors_see_the_same_signatures():
    assert STUB.read_text(encoding="utf-8") == stub(), stub.__doc__


def test_trials_are_a_table(case):
    study, told = hyperlax.open_study(case.directory), case.study().trials
    assert list(study.trials["state"]) == [trial.state.name for trial in told]
    assert study.trials.loc[3, "algorithm.hyperparam.gamma"] == told[3].params["algorithm.hyperparam.gamma"]
    assert study.trials.loc[3, "algorithm.network.actor_network.pre_torso.layer_sizes"] in ([64, 64], [128])


def test_figures_are_plotlys(case):
    study = hyperlax.open_study(case.directory)
    plots = (
        study.plot.history,
        study.plot.param_distributions,
        study.plot.learning_curves,
        study.plot.parallel_coordinate,
    )
    assert all(isinstance(plot(), go.Figure) for plot in (*plots, study.plot.slice))
    with pytest.raises(HyperlaxError, match=f"Importances need at least {FEWEST_FOR_IMPORTANCES} COMPLETE trials"):
        study.plot.importances()
    with pytest.raises(HyperlaxError, match="one objective, so no Pareto front"):
        study.plot.pareto_front()
    with pytest.raises(HyperlaxError, match="nothing is confirmed"):
        study.plot.confirmation()


def test_several_objectives_have_a_front_and_no_best(tmp_path):
    case = Case(tmp_path, **TWO, n_trials=8)
    case.start()
    study = hyperlax.open_study(case.directory)
    assert [trial.number for trial in study.pareto] == sorted(trial.number for trial in case.study().best_trials)
    assert study.top(2) == study.pareto[:2]
    assert isinstance(study.plot.pareto_front(), go.Figure)
    with pytest.raises(HyperlaxError, match=r"study\.pareto"):
        _ = study.best


def test_the_top_are_the_best_in_order(case):
    study = hyperlax.open_study(case.directory)
    values = [trial.values["peak_performance"] for trial in study.top(5)]
    assert len(values) == 5 and values == sorted(values, reverse=True) and study.top(1) == [study.best]
    assert len(study.top(100)) == 11  # of 12, one has failed


def test_a_configuration_is_whole(case):
    best = hyperlax.open_study(case.directory).best
    assert best.config.keys() == dotted(SAC()).keys()
    assert {name: best.config[name] for name in best.params} == best.params
    assert best.config["algorithm.hyperparam.tau"] == SAC().hyperparam.tau


def test_importances_are_the_plots(case, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlax.study.importances.FEWEST_FOR_IMPORTANCES", 8)
    study = hyperlax.open_study(case.directory)
    shares = study.importances()
    assert shares == study.record.importances["peak_performance"] == study.importances("peak_performance")
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    with pytest.raises(HyperlaxError, match="no objective 'peak_performence'. Did you mean `peak_performance`"):
        study.importances("peak_performence")
    short = Case(tmp_path, n_trials=4)
    short.start()
    with pytest.raises(HyperlaxError, match="Importances need at least"):
        hyperlax.open_study(short.directory).importances()


def test_a_study_outlives_a_change_of_the_working_directory(case, tmp_path, monkeypatch):
    monkeypatch.chdir(case.directory.parent)
    study = hyperlax.open_study(case.directory.name)
    monkeypatch.chdir(tmp_path)
    assert study.directory == case.directory
    assert len(study.curve(study.best.number).returns) and study.plot.learning_curves().data
    assert study.report() == case.directory / "report.html"
    study.refresh()
    assert study.state == "finished"


def test_a_curve_is_that_of_the_files(case):
    study = hyperlax.open_study(case.directory)
    curve = study.curve(2)
    assert curve.returns[1:].mean(axis=1).max() == pytest.approx(study.trials.loc[2, "peak_performance"])
    with pytest.raises(HyperlaxError, match="^trial 99: .* has no such trial. Its trials are 0 to "):
        study.curve(99)


def test_pages_are_strings_that_need_no_network(case):
    study = hyperlax.open_study(case.directory)
    path = study.report()
    report = path.read_text(encoding="utf-8")
    assert path == case.directory / "report.html"
    assert study.html() == report.rpartition("<!-- ")[0]  # the file has a mark of who wrote it
    page = study.plot.html("slice")
    assert page.startswith("<!DOCTYPE html>") and "<script src=" not in page and len(page) > 1_000_000
    with pytest.raises(HyperlaxError, match="no plot 'slices'. Did you mean `slice`"):
        study.plot.html("slices")


def test_importing_hyperlax_imports_none_of_it():
    script = "import sys, hyperlax; print([m for m in ('hyperlax.api', 'optuna', 'jax', 'pandas') if m in sys.modules])"
    assert python("-c", script).stdout == "[]\n"
    assert {"search", "open_study", "load_agent", "Study"} <= set(dir(hyperlax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hyperlax.nothing  # type: ignore[attr-defined]
