"""A sensitivity study: its trials vary one hyperparameter each, and its pages say what that changed, and what is chance."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import hyperlax
from hyperlax import cli
from hyperlax.config.configurations import read_samples
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import apply, dotted
from hyperlax.files import read_csv
from hyperlax.hyperparams import SAC
from hyperlax.metrics import aggregated
from hyperlax.recipe import load
from hyperlax.samplers.fixed import presampled, sensitivity_rows
from hyperlax.space import Categorical, LogUniform, LogUniformDiscrete, QUniform, UniformContinuous, UniformDiscrete
from hyperlax.trial import Curve, Trial
from tests.fake_backend import train_with_fakes
from tests.study_cases import MIXED, Case, recipe_of
from tests.test_sweeps import SWEEP, trained

SENSITIVE = [*SWEEP, "--sampling-method", "sensitivity"]
HYPERPARAM = "algorithm.hyperparam."
GAMMA, TAU, AUTOTUNE = (HYPERPARAM + name for name in ("gamma", "tau", "autotune"))
DIRECTORY = Path("my_sweeps/small/gymnax_pendulum")
RECIPE = """
from hyperlax.recipe import load
from hyperlax.space import Categorical, LogUniform, UniformContinuous

def get_base_config():
    return load({base!r}).config

def get_base_hyperparam_distributions():
    return {{{entries}}}
"""
ENTRIES = (
    f'"{GAMMA}": UniformContinuous(domain=(0.9, 0.999)), "{TAU}": LogUniform(domain=(0.001, 0.1)), '
    f'"{AUTOTUNE}": Categorical(values=[True, False])'
)


def write_recipe(entries: str = ENTRIES, base: str = "sac_mlp", name: str = "small") -> None:
    shipped = Path(__file__).parent.parent / "recipes" / f"{base}.py"
    Path("recipes").mkdir(exist_ok=True)
    Path(f"recipes/{name}.py").write_text(RECIPE.format(base=str(shipped), entries=entries))


def curve_of(trial: Trial, num_seeds: int, points: int = 5, steps_per_point: int = 100) -> Curve:
    """Rise from -1200 to 0 with a gamma of 0.999, to about -200 with 0.9; nothing else matters. Seeds have a deviation of 20."""
    values = dotted(trial.config)
    seeds = np.random.default_rng(zlib.crc32(json.dumps(values, sort_keys=True).encode())).normal(0, 20, num_seeds)
    steps = np.arange(points + 1, dtype=np.int64) * steps_per_point
    mean = -1200 + np.linspace(0, 1, points + 1)[:, None] * (1200 - 2000 * abs(values[GAMMA] - 0.999) + seeds)
    return Curve(steps, mean, mean * 0, mean, mean, mean * 0 + 200, 4, int(steps[-1]))


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A working directory with a recipe, where commands train with fakes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.fake_backend.curve_of", curve_of)
    write_recipe()
    return train_with_fakes(monkeypatch)


def words(*more: str, seeds: int = 5, recipe: str = "small") -> list[str]:
    return [*(word.replace("sac_mlp", recipe) for word in SENSITIVE), "--num-seeds", str(seeds), *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A working directory with a finished study of two objectives on 5 seeds, which no test changes."""
    desk = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setattr("tests.fake_backend.curve_of", curve_of)
        write_recipe()
        train_with_fakes(patch)
        assert cli.main(words("--objective-names", "final_performance", "steps_to_threshold")) == 0
    return desk


@pytest.mark.parametrize(
    ("distribution", "count", "levels"),
    [
        (UniformContinuous(domain=(0.1, 0.5)), 5, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (UniformContinuous(domain=(0.1, 0.5)), 2, [0.1, 0.5]),
        (LogUniform(domain=(1e-4, 1e-2)), 3, [1e-4, 1e-3, 1e-2]),
    ],
)
def test_levels_of_a_continuous_number_are_quantiles_with_both_ends(distribution, count, levels):
    assert tried({TAU: distribution}, count) == levels


@pytest.mark.parametrize(
    ("name", "distribution", "levels"),
    [
        ("epochs", UniformDiscrete(domain=(2, 4)), [2, 3, 4]),
        ("epochs", UniformDiscrete(domain=(10, 90)), [10, 30, 50, 70, 90]),
        ("warmup_rollout_length", LogUniformDiscrete(domain=(2, 512)), [2, 8, 32, 128, 512]),
        ("warmup_rollout_length", LogUniformDiscrete(domain=(2, 7)), [2, 3, 4, 5, 7]),
        ("target_entropy_scale", QUniform(domain=(0.1, 0.3), q=0.1), [0.1, 0.2, 0.3]),
        ("target_entropy_scale", QUniform(domain=(0.1, 0.9), q=0.1), [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("epochs", Categorical(values=[2, 3, 5, 7, 9, 11, 13]), [2, 3, 5, 7, 9, 11, 13]),
    ],
)
def test_levels_of_what_can_be_counted(name, distribution, levels):
    assert tried({HYPERPARAM + name: distribution}, None) == levels


def tried(space: dict[str, Any], count: int | None) -> list[Any]:
    """The values that a study of one hyperparameter tries besides SAC's default, which none of them is."""
    ((name, _),) = space.items()
    first, *others = sensitivity_rows(recipe_of(space), {} if count is None else {"num_levels": count})
    assert first == SAC()
    return [dotted(row)[name] for row in others]


def test_each_trial_varies_one_hyperparameter_and_the_default_is_trained_once():
    rows = [dotted(row) for row in sensitivity_rows(recipe_of(MIXED), {})]
    assert rows[0] == dotted(SAC())
    changed = [[name for name in row if row[name] != rows[0][name]] for row in rows[1:]]
    assert all(len(names) == 1 for names in changed) and {names[0] for names in changed} == set(MIXED)
    assert len(rows) == len({str(row) for row in rows})
    levels = {name: {str(row[name]) for row in rows} for name in MIXED}
    assert len(rows) == 1 + sum(len(own) - 1 for own in levels.values())


@pytest.mark.parametrize("space", [LogUniform(domain=(1e-4, 1e-1)), UniformContinuous(domain=(1 / 3, 1.0))])
def test_a_default_in_the_middle_of_its_range_is_not_trained_again_as_a_rounded_level(space):
    recipe = recipe_of({TAU: space})
    base = apply(recipe.config.algorithm, {TAU: space.middle()}, "recipe")
    rows = sensitivity_rows(replace(recipe, config=replace(recipe.config, algorithm=base)), {})
    assert len(rows) == 5 and rows[0] == base


@pytest.mark.parametrize("name", ["ppo_mlp", "sac_mlp", "dqn_mlp"])
def test_every_recipe_has_a_study_whose_programs_hold_all_trials(name):
    recipe = load(name)
    rows = sensitivity_rows(recipe, {})
    assert set(presampled(recipe, rows, "rows").space) == set(recipe.space)


def test_a_study_is_written_down_and_runs_again_from_its_command(finished, fakes, capsys):
    written = json.loads((finished / DIRECTORY / "study.json").read_text())
    assert [written["arguments"][name] for name in ("sampling_method", "num_levels", "n_trials")] == [
        "sensitivity",
        5,
        12,
    ]
    assert cli.main(re.sub("^hyperlax ", "", written["command"]).split()) == 0
    assert trained(DIRECTORY) == trained(finished / DIRECTORY)
    rows = read_samples(DIRECTORY / "samples.csv", load("small").config.algorithm)
    assert cli.main(["generate-hp-samples", "--algo-and-network-config", "small", *words()[-4:-2]]) == 0
    assert read_samples(Path("small_samples.csv"), load("small").config.algorithm) == rows
    assert len(rows) == 12 and "12 configurations of small (sensitivity)" in capsys.readouterr().out


def test_the_table_separates_what_moves_the_objective_from_chance(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    rows = {(row["objective"], row["hyperparameter"]): row for row in read_csv(DIRECTORY / "sensitivity.csv")}
    assert next(iter(rows)) == ("final_performance", GAMMA)
    gamma, tau = rows["final_performance", GAMMA], rows["final_performance", TAU]
    assert (gamma["beyond_chance"], tau["beyond_chance"]) == ("yes", "no")
    assert (gamma["best"], gamma["worst"], gamma["levels"], gamma["without_result"]) == ("0.999", "0.9", "6", "0")
    assert float(gamma["range"]) == pytest.approx(198, abs=40)
    assert float(tau["range"]) <= float(tau["range_by_chance"]) < 80
    assert 5 < float(tau["spread_over_seeds"]) < 40
    assert cli.main(["show", str(DIRECTORY)]) == 0
    said = capsys.readouterr().out
    assert "Sensitivity of final_performance:" in said and "Sensitivity of steps_to_threshold:" in said
    assert "gamma moves final performance most: 0.999 (" in said
    assert re.search("The spread over seeds hides any effect of .*tau", said)


def test_values_are_those_of_the_trials(finished, monkeypatch):
    monkeypatch.chdir(finished)
    study = hyperlax.open_study(DIRECTORY)
    best = study.sensitivity.set_index(["objective", "hyperparameter"]).loc[("final_performance", GAMMA)]
    trial = next(trial for trial in study.record.trials if trial.params[GAMMA] == best["best"])
    assert best["best_value"] == pytest.approx(trial.values["final_performance"])
    assert best["best_value"] == pytest.approx(aggregated(study.curve(trial.number).returns, "mean")[-1])


def test_a_minimized_objective_has_its_best_level_at_the_lowest_value(finished):
    first = read_csv(finished / DIRECTORY / "sensitivity.csv")[3]
    assert [first[name] for name in ("objective", "hyperparameter", "best")] == ["steps_to_threshold", GAMMA, "0.999"]
    assert float(first["best_value"]) < float(first["worst_value"]) and first["beyond_chance"] == "yes"


def test_the_worst_seed_of_a_minimized_objective_has_the_highest_value(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fake_backend.curve_of", curve_of)
    recipe = recipe_of({GAMMA: UniformContinuous(domain=(0.9, 0.999))})
    rows = presampled(recipe, sensitivity_rows(recipe, {}), "rows")
    least: dict[str, Any] = {"objective_names": ("steps_to_threshold",), "objective_directions": ("minimize",)}
    case = Case(tmp_path, recipe=rows, sampler="presampled", sampling_method="sensitivity", aggregate="worst", **least)
    assert case.start() == 0
    study = hyperlax.open_study(case.directory)
    best = study.sensitivity.iloc[0]
    assert best["best_value"] == pytest.approx(study.best.values["steps_to_threshold"])


def test_the_report_and_python_have_the_plot_and_the_table(finished, monkeypatch):
    monkeypatch.chdir(finished)
    page = (DIRECTORY / "report.html").read_text()
    section = page.partition("<h2>Sensitivity</h2>")[2].partition("</section>")[0]
    assert section.count("<table") == 2 and "gamma moves final performance most" in section
    assert page.count("<h2>Sensitivity</h2>") == 1 and 'class="error"' not in page
    assert (DIRECTORY / "analysis_plots" / "sensitivity.html").exists()
    figure = hyperlax.open_study(DIRECTORY).plot.sensitivity()
    assert isinstance(figure, go.Figure)
    drawn: Any = figure.data
    lines = [trace for trace in drawn if trace.name == "default configuration" and trace.line.dash == "dash"]
    assert len(lines) == 6 and {trace.y[0] for trace in lines[:3]} == {
        lines[0].y[1]
    }  # a panel per hyperparameter and objective
    results = [trace for trace in drawn if trace.name == "the seeds together"]
    assert sum(len(trace.y) for trace in results[:3]) == 6 + 6 + 2
    assert [trace.name for trace in drawn if trace.showlegend] == [
        "default configuration", "a seed", "the seeds together",
    ]  # fmt: skip


def test_one_seed_cannot_tell(fakes, capsys):
    assert cli.main(words(seeds=1)) == 0
    assert cli.main(["show", str(DIRECTORY)]) == 0
    said = capsys.readouterr().out
    assert "peak performance differs most along gamma" in said.replace("Peak", "peak")
    assert "How much of that is chance is not known: each level has one seed." in said
    assert {row["beyond_chance"] for row in read_csv(DIRECTORY / "sensitivity.csv")} == {"not known"}


def test_two_levels_need_four_seeds(fakes, capsys):
    assert cli.main(words(seeds=3)) == 0
    rows = {row["hyperparameter"]: row["beyond_chance"] for row in read_csv(DIRECTORY / "sensitivity.csv")}
    assert rows == {GAMMA: "yes", TAU: "no", AUTOTUNE: "too few seeds"}
    assert cli.main(["show", str(DIRECTORY)]) == 0
    assert "Telling an effect of autotune from chance takes at least 4 seeds." in capsys.readouterr().out


def test_an_effect_that_is_not_there_is_rarely_beyond_chance(fakes):
    entries = ", ".join(
        f'"{HYPERPARAM}{name}": LogUniform(domain=(0.001, 0.1))' for name in ("tau", "actor_lr", "q_lr", "alpha_lr")
    )
    found = []
    for number in range(5):
        write_recipe(entries.replace("0.1)", f"0.1{number})"), name=f"none_{number}")
        assert cli.main(words("--num-levels", "4", recipe=f"none_{number}")) == 0
        found += read_csv(Path(f"my_sweeps/none_{number}/gymnax_pendulum/sensitivity.csv"))
    assert len(found) == 20 and sum(row["beyond_chance"] == "yes" for row in found) <= 3


def test_a_failed_level_and_a_failed_default_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.fake_backend.curve_of", curve_of)
    write_recipe()
    train_with_fakes(monkeypatch, fail={0: "loss is nan", 1: "loss is nan"})
    assert cli.main(words()) == 0
    rows = {row["hyperparameter"]: row for row in read_csv(DIRECTORY / "sensitivity.csv")}
    assert (rows[GAMMA]["levels"], rows[GAMMA]["without_result"], rows[GAMMA]["worst"]) == ("4", "2", "0.92475")
    assert (rows[AUTOTUNE]["levels"], rows[AUTOTUNE]["range"]) == ("1", "")
    study = hyperlax.open_study(DIRECTORY)
    figure: Any = study.plot.sensitivity()
    assert not any(trace.name == "default configuration" for trace in figure.data)
    assert "4 of 6" in (DIRECTORY / "report.html").read_text()
    shutil.rmtree(DIRECTORY / "optuna_exec_batch_0000" / "samples")
    assert study.sensitivity["levels"].tolist() == [0, 0, 0] and study.report().exists()


def test_a_sweep_from_python_is_the_commands(fakes):
    length: dict[str, Any] = {"total_timesteps": 5000, "num_evaluations": 5, "num_eval_episodes": 4}
    study = hyperlax.sweep(
        "small", "gymnax.pendulum", sampling_method="sensitivity", num_levels=3, num_seeds=3, **length
    )
    assert study.state == "finished" and len(study.trials) == 1 + 3 + 3 + 1
    assert study.sensitivity["hyperparameter"].iloc[0] == GAMMA
    assert len(hyperlax.sweep(resume_from=study.directory).trials) == len(study.trials)


def test_a_study_of_another_kind_has_no_sensitivity(tmp_path):
    case = Case(tmp_path, n_trials=4)
    assert case.start() == 0
    study = hyperlax.open_study(case.directory)
    for asked in (lambda: study.sensitivity, study.plot.sensitivity):
        with pytest.raises(HyperlaxError, match="is not a sensitivity study"):
            asked()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"space": {}}, TypeError, r"sweep\(\) has no argument 'space'"),
        ({"num_level": 3}, TypeError, r"sweep\(\) has no argument 'num_level'. Did you mean `num_levels`\?"),
        ({"num_levels": "3"}, UsageError, r'^sweep\(\): num_levels needs a whole number from 2 to 100, got "3"\.$'),
        (
            {"sampling_method": "sensitivity", "n_trials": 64},
            UsageError,
            r"n_trials 64: sampling_method sensitivity of this space trains 12 configurations: .* Give 12, or leave",
        ),
    ],
)
def test_wrong_arguments_of_a_sweep_are_refused(fakes, arguments, error, said):
    with pytest.raises(error, match=said):
        hyperlax.sweep("small", "gymnax.pendulum", **arguments)
    assert not Path("my_sweeps").exists()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            f'"{AUTOTUNE}": Categorical(values=[True])',
            "recipes/small.py: no hyperparameter of the search space has a value besides the default one. Give one of them a "
            "range or more choices.",
        ),
        ("", "recipes/small.py: get_base_hyperparam_distributions() is empty, there is nothing to search."),
    ],
)
def test_a_space_that_cannot_be_varied_is_refused(fakes, capsys, entries, said):
    write_recipe(entries)
    for command in (words(), ["generate-hp-samples", "--algo-and-network-config", "small", *words()[-4:-2]]):
        assert cli.main(command) == 2
        assert said in capsys.readouterr().err
    assert not Path("my_sweeps").exists()


def test_a_level_that_does_not_go_with_the_defaults_is_refused_by_name(fakes, capsys):
    envs, chunks = f"{HYPERPARAM}total_num_envs", f"{HYPERPARAM}num_minibatches"
    write_recipe(f'"{envs}": Categorical(values=[3, 6]), "{chunks}": Categorical(values=[48])', base="ppo_mlp")
    wanted = [word.replace("pendulum", "cartpole") for word in words()]
    assert cli.main(wanted) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "num_minibatches" in said and "recipes/small.py" in said


def test_a_resume_with_other_levels_is_refused(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert cli.main(["sweep-hp-samples", "--resume-from", str(DIRECTORY), "--num-levels", "7"]) == 2
    assert "--num-levels: study has 5, given 7" in capsys.readouterr().err
