"""A Python function of a user's own, as a study: trained in worker processes, kept, resumed, looked at and refused as any other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import hyperlax
from hyperlax import cli
from hyperlax.fields import dotted
from hyperlax.files import read_csv
from hyperlax.hyperparams import PPO
from hyperlax.measures import Measures
from hyperlax.metrics import compute, of_curve
from hyperlax.recipe import load
from hyperlax.study.stopping import Limits
from hyperlax.tasks import Measure
from hyperlax.trial import Curve, Outcome, Trial
from tests.desk import ROOT
from tests.test_bad_input import TABLES, refused, table
from tests.test_docs import python_of

RECIPE = TABLES / "own_code.py"
SEARCH = f"optuna-hp-search --algo-and-network-config {RECIPE} --slots 2 --seed 3"
OF_RL = re.compile(
    r"environment|\breturns?\b|polic|steps/s|steps per|\blanes?\b|episode|random|program|compil"
    r"|agent(?!s none|s</td>|_<wbr>resources)",
    re.IGNORECASE,
)
"""Words of reinforcement learning. The options `agents` and `agent_resources` are about processes."""


def run(command: str) -> None:
    assert cli.main(shlex.split(command)) == 0


def results(directory: Path) -> list[tuple[Any, ...]]:
    """What must not differ between two runs of a study: its database and its curves."""
    (name,) = optuna.get_all_study_names(storage := f"sqlite:///{directory / 'optuna_study.db'}")
    trials = optuna.load_study(study_name=name, storage=storage).trials
    curves = sorted(tuple(row.values()) for path in directory.rglob("curves.csv") for row in read_csv(path))
    ends = [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in trials]
    return [*ends, *curves]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pruned study of 12 trials and another of 6, confirmed."""
    path = tmp_path_factory.mktemp("own")
    run(f"{SEARCH} --n-trials 12 --pruner asha --pruner-min-segments 1 --output-root {path / 'pruned'}")
    run(f"{SEARCH} --n-trials 6 --num-seeds 2 --confirm-top 1 --confirm-seeds 3 --output-root {path / 'whole'}")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECIPE, "own_code.py")
    return tmp_path


def test_the_best_is_the_lowest_of_a_measure_that_is_minimized(desk):
    study = hyperlax.open_study(desk / "whole" / "own_code")
    assert study.state == "finished" and len(study.trials) == 6
    assert study.best.values["loss"] == min(study.trials["loss"]) == min(study.trials["objective.loss"])
    assert all(one.metrics["peak_performance"] <= one.metrics["final_performance"] for one in study.top(6))
    assert study.best.config.keys() == {"x", "n", "mode", "layers"}
    curve = study.curve(study.best.number)
    assert curve.steps.tolist() == [1, 2, 3, 4] and curve.returns.shape == (4, 2) and not curve.has_start


def test_trial_0_is_the_recipes_own_configuration(desk):
    study = hyperlax.open_study(desk / "whole" / "own_code")
    own = dotted(load(str(RECIPE)).config.algorithm)
    assert study.record.trials[0].config == own == {"x": 0.9, "n": 4, "mode": "slow", "layers": [8, 8]}


def test_files_name_the_measures(desk):
    batch = desk / "whole" / "own_code" / "optuna_exec_batch_0000" / "samples" / "batch_00000"
    assert list(read_csv(batch / "curves.csv")[0]) == ["trial", "seed", "step", "loss", "size"]
    summary = read_csv(batch / "summary.csv")[0]
    assert list(summary)[:6] == ["trial", "state", "reason", "loss", "size", "peak_performance"]
    assert (
        float(summary["size"]) == float(read_csv(batch / "hyperparams.csv")[0]["n"]) and "num_parameters" not in summary
    )
    stored = json.loads((desk / "whole" / "own_code" / "study.json").read_text())
    assert stored["task"]["budget"] == 4 and stored["task"]["measures"][0]["name"] == "loss"
    assert "reference" not in stored and stored["arguments"]["env_config"] == ""


def test_pruned_trials_make_room_for_the_next(desk):
    study = hyperlax.open_study(desk / "pruned" / "own_code")
    assert set(study.trials["state"]) == {"COMPLETE", "PRUNED"} and len(study.trials) == 12


@pytest.mark.parametrize("slots", [1, 3])
def test_a_resumed_study_equals_an_uninterrupted_one(desk, folder, monkeypatch, slots):
    """With other slots as well: it keeps the number that it began with."""
    words = f"{SEARCH} --n-trials 12 --pruner asha --pruner-min-segments 1 --output-root {folder}"
    count = Limits.count

    def stop_after_3(limits: Limits, *end: Any) -> None:
        count(limits, *end)
        if limits._finished == 3:
            limits.stop.set()

    monkeypatch.setattr(Limits, "count", stop_after_3)
    assert cli.main(shlex.split(words)) == 130
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    directory = folder / "own_code"
    assert 0 < sum(end[1] in ("COMPLETE", "PRUNED") for end in results(directory) if isinstance(end[0], int)) < 12
    run(f"optuna-hp-search --resume-from {directory} --slots {slots}")
    assert results(directory) == results(desk / "pruned" / "own_code")


def test_nothing_speaks_of_reinforcement_learning(desk, capsys):
    for name in ("whole", "pruned"):
        directory = desk / name / "own_code"
        page = (directory / "report.html").read_text()
        page = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
        assert sorted({found[0] for found in OF_RL.finditer(page)}) == []
        for plot in (directory / "analysis_plots").glob("*.html"):
            text = re.sub(r"<script[ >](?!type).*?</script>|<style>.*?</style>", "", plot.read_text(), flags=re.DOTALL)
            assert sorted({found[0] for found in OF_RL.finditer(text)}) == [], plot
        run(f"show {directory}")
        run(f"show {directory} 0")
        run(f"list {desk}")
        assert sorted({found[0] for found in OF_RL.finditer(capsys.readouterr().out)}) == []


def test_the_progress_and_the_last_words_speak_of_slots(folder, capsys):
    run(f"{SEARCH} --n-trials 4")
    said = capsys.readouterr()
    text = f"{said.out}\n{said.err}".replace(str(RECIPE), "")
    assert sorted({found[0] for found in OF_RL.finditer(text)}) == []
    assert "Best: trial " in said.out and ", loss " in said.out
    assert "hyperlax train --from my_optuna_studies/own_code --trial " in said.out


def test_the_best_is_confirmed_on_new_seeds(desk):
    study = hyperlax.open_study(desk / "whole" / "own_code")
    rows = read_csv(study.directory / "confirmation.csv")
    assert len(rows) == 6 and set(rows[0]) == {"trial", "seed", "final", "peak", "loss", "size"}
    sizes = {row["trial"]: float(row["size"]) for row in rows}
    assert sizes == {"default": 4.0, str(study.best.number): study.best.params["n"]}
    page = (study.directory / "report.html").read_text()
    assert "mean size" in page.partition("<h2>Confirmation on new seeds</h2>")[2].partition("</section>")[0]


def test_a_measure_that_does_not_lead_is_compared_by_its_own_seeds(folder):
    run(f"{SEARCH} --n-trials 3 --objective-names size --confirm-top 1 --confirm-seeds 3")
    rows = read_csv(Path("my_optuna_studies/own_code/confirmation.csv"))
    assert list(rows[0]) == ["trial", "seed", "final", "peak", "size", "loss"]
    assert "compared instead" not in Path("my_optuna_studies/own_code/report.html").read_text()


def test_a_trial_is_trained_again_and_a_configuration_by_itself(desk, folder, capsys):
    run(f"train --from {desk / 'whole' / 'own_code'} --num-seeds 3")
    run("run-single-hp --algo-and-network-config own_code.py --set n=1 x=0.3")
    capsys.readouterr()
    first, second = (read_csv(folder / "my_single_runs" / "own_code" / f"single_000{n}" / "curves.csv") for n in (0, 1))
    assert len(first) == 12 and len(second) == 4 and float(second[0]["loss"]) == 1.0


def test_a_sweep_trains_given_configurations(folder):
    Path("rows.csv").write_text('x,n,layers\n0.1,1,"[4]"\n0.2,2,"[8, 8]"\n')
    run("sweep-hp-samples --algo-and-network-config own_code.py --load-hyperparams rows.csv --slots 2")
    study = hyperlax.open_study("my_sweeps/own_code")
    assert study.trials[["x", "n"]].to_numpy().tolist() == [[0.1, 1], [0.2, 2]]
    assert study.trials["layers"].tolist() == [[4], [8, 8]]


def test_a_study_file_written_in_full_runs(folder, capsys):
    run(f"{SEARCH} --n-trials 3 --output-root first")
    text = Path("first/own_code/study.yaml").read_text()
    assert "env_config" not in text and "total_timesteps" not in text and "packing" not in text
    run("run-study first/own_code/study.yaml --output-root second")
    assert results(Path("first/own_code")) == results(Path("second/own_code"))


def test_another_study_goes_beside_the_first(folder):
    for name in ("one", "two"):
        run(f"{SEARCH} --n-trials 1 --study-name {name}")
    assert sorted(path.name for path in Path("my_optuna_studies").iterdir()) == ["own_code", "own_code@two"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("evaluations=4", "evaluations=3", "has the task's evaluations = 4, now it is 3"),
        (
            "low=0,",
            "low=0.5,",
            "measure loss = minimized from 0.0 to 4.0, now it is minimized from 0.5 to 4.0",
        ),
        ('"mode": "slow"', '"mode": "fast"', "has the base value mode = slow, now it is fast"),
    ],
)
def test_a_changed_task_does_not_resume(folder, capsys, old, new, said):
    run("optuna-hp-search --algo-and-network-config own_code.py --n-trials 1")
    Path("own_code.py").write_text(RECIPE.read_text().replace(old, new))
    capsys.readouterr()
    assert cli.main(shlex.split("optuna-hp-search --resume-from my_optuna_studies/own_code --n-trials 2")) == 2
    assert said in capsys.readouterr().err


def test_neither_the_study_nor_its_processes_import_jax(folder):
    code = "import sys; from hyperlax.cli import main; status = main(sys.argv[1:]); sys.exit(status or 'jax' in sys.modules)"
    Path("own_code.py").write_text(
        RECIPE.read_text().replace(
            "    for step in", "    import sys\n    assert 'jax' not in sys.modules\n    for step in"
        )
    )
    words = shlex.split("optuna-hp-search --algo-and-network-config own_code.py --n-trials 1 --pruner asha --quiet")
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    assert hyperlax.open_study("my_optuna_studies/own_code").best.number == 0


def test_an_agent_of_a_function_does_not_exist(desk, capsys):
    assert cli.main(["play", str(desk / "whole" / "own_code")]) == 2
    assert capsys.readouterr().err.endswith("is a study of a task, whose trials leave no agents.\n")


@pytest.mark.parametrize(("old", "new", "said"), table("own_code_edits"), ids=lambda value: value[:60])
def test_an_edit_of_the_recipe_is_refused(folder, capsys, old, new, said):
    text = RECIPE.read_text()
    assert old in text
    Path("own_code.py").write_text(text.replace(old, new.replace("\\n", "\n"), 1))
    told = refused(["optuna-hp-search", "--algo-and-network-config", "own_code.py"], capsys)
    assert re.sub(r"^own_code\.py:\d+:", "own_code.py:LINE:", told) == said


@pytest.mark.parametrize(("typed", "said"), table("own_code_commands"), ids=lambda value: value[:60])
def test_a_command_is_refused(folder, capsys, typed, said):
    words = typed.replace("OWN", "optuna-hp-search --algo-and-network-config own_code.py")
    assert refused(shlex.split(words), capsys) == said


def test_more_evaluations_are_asked_of_the_task(folder, capsys):
    Path("own_code.py").write_text(RECIPE.read_text().replace("evaluations=4", "evaluations=1"))
    words = "optuna-hp-search --algo-and-network-config own_code.py --objective-names normalized_auc"
    assert "Raise the task's evaluations to at least 2, or choose" in refused(shlex.split(words), capsys)


def curve(values: list[list[float]], **others: list[list[float]]) -> Curve:
    mean = np.array(values)
    steps = np.arange(1, len(mean) + 1) * 10
    more = {name: np.array(column) for name, column in others.items()}
    return Curve(steps, mean, mean * 0, mean, mean, mean * np.nan, 1, int(steps[-1]), has_start=False, others=more)


def outcome(curve: Curve) -> Outcome:
    return Outcome(Trial(0, PPO()), "COMPLETE", "", curve, 0, 2.0)


RISING = [[0.0, 0.0], [0.4, 0.8], [1.0, 0.6]]


def test_metrics_of_a_minimized_measure_are_those_of_its_mirror_image():
    up = Measures((Measure("score", "maximize", low=-1.0, high=1.0),), 30, 3)
    down = Measures((Measure("loss", "minimize", low=-1.0, high=1.0),), 30, 3)
    for aggregate in ("mean", "worst"):
        ours = compute(outcome(curve(RISING)), up, aggregate)
        mirrored = compute(outcome(curve([[-a, -b] for a, b in RISING])), down, aggregate)
        for name in ("normalized_auc", "stability_score", "seed_spread", "steps_to_threshold"):
            assert mirrored[name] == ours[name]
        assert mirrored["peak_performance"] == -ours["peak_performance"] == (-0.8 if aggregate == "mean" else -0.6)
        assert mirrored["final_performance"] == -ours["final_performance"]
        assert mirrored["loss"] == -ours["score"] == mirrored["final_performance"]
    one = of_curve(np.array([10.0, 20.0, 30.0]), np.array([-0.2, -0.9, -0.5]), 30, down)
    assert (one["peak_performance"], one["loss"]) == (-0.9, -0.5)


def test_metrics_without_a_scale_and_of_a_policy_are_refused_by_name():
    scale = Measures((Measure("loss", "minimize"),), 30, 3)
    assert list(scale.table.rows) == ["loss", "peak_performance", "final_performance", "seed_spread", "train_seconds"]
    assert scale.table.refused["normalized_auc"] == 'normalized_auc needs low and high of Measure("loss")'
    assert scale.table.refused.keys() == {"normalized_auc", "stability_score", "steps_to_threshold", "num_parameters"}


def test_a_further_measure_counts_where_it_was_last_reported():
    scale = Measures((Measure("loss", "minimize"), Measure("size", "maximize")), 30, 3)
    nan = np.nan
    found = compute(outcome(curve(RISING, size=[[1.0, 2.0], [3.0, 5.0], [nan, nan]])), scale)
    assert found["size"] == 4.0
    assert "size" not in compute(outcome(curve(RISING, size=[[nan, nan]] * 3)), scale)


def test_the_page_about_own_code_runs(folder):
    blocks = python_of(ROOT / "docs" / "own-code.md")
    recipe, search = blocks[0], blocks[-1]
    (tuned,) = (block for block in blocks if "hyperlax.tune(" in block)
    Path("recipes").mkdir()
    Path("recipes/tank.py").write_text(recipe)
    names: dict[str, Any] = {"hyperlax": hyperlax}
    exec(search, names)  # noqa: S102
    assert len(names["study"].trials) == 30 and names["study"].best.values["error"] < 0.1
    Path("level.py").write_text(tuned)
    done = subprocess.run([sys.executable, "level.py"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("{'error': 0.0"), done.stderr


def test_a_recipe_of_an_algorithm_has_no_task():
    assert load("ppo_mlp").task is None
