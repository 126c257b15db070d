"""Studies of a user's own Python function and of a user's own JAX program: kept, resumed, shown and trained again as any other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import hyperlax
from hyperlax import cli
from hyperlax.errors import INTERRUPTED
from hyperlax.fields import dotted
from hyperlax.files import read_csv
from hyperlax.recipe import load
from hyperlax.study.stopping import Limits
from tests.desk import optuna_trials, results, run
from tests.test_bad_input import TABLES

RECIPES = {name: TABLES / f"{name}.py" for name in ("own_code", "own_lanes")}
TRAINS = {name: f"--algo-and-network-config {recipe} --seed 3" for name, recipe in RECIPES.items()}
SEARCH = {
    "own_code": f"optuna-hp-search {TRAINS['own_code']} --slots 2",
    "own_lanes": f"optuna-hp-search {TRAINS['own_lanes']}",
}
PRUNED = "--n-trials 12 --pruner asha --pruner-min-segments 1"
PBT = f"pbt {TRAINS['own_lanes']} --population-size 4"
OF_RL = r"environment|\breturns?\b|polic|agent(?!s none|s</td>|_<wbr>resources)|episode|random|rollout"
"""Words of reinforcement learning. The options `agents` and `agent_resources` are about processes."""
FOREIGN = {
    "own_code": re.compile(rf"{OF_RL}|steps/s|steps per|\blanes?\b|program|compil", re.IGNORECASE),
    "own_lanes": re.compile(OF_RL, re.IGNORECASE),
}
"""Recipe -> what nothing says of its studies."""
both = pytest.mark.parametrize("name", RECIPES)


def foreign_words(text: str, name: str) -> list[str]:
    text = re.sub(r"<script[ >](?!type).*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)
    return sorted({found[0] for found in FOREIGN[name].finditer(text)})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pruned study of each recipe, one that is confirmed, and a population."""
    path = tmp_path_factory.mktemp("own")
    for name, trials in (("own_code", 6), ("own_lanes", 4)):
        run(f"{SEARCH[name]} {PRUNED} --output-root {path / 'pruned'}")
        confirmed = f"--n-trials {trials} --num-seeds 2 --confirm-top 1 --confirm-seeds 3"
        run(f"{SEARCH[name]} {confirmed} --output-root {path / 'whole'}")
    run(f"{PBT} --output-root {path / 'population'}")
    return path


@pytest.fixture
def folder(elsewhere: Path) -> Path:
    """A working directory with the recipes."""
    for recipe in RECIPES.values():
        shutil.copy(recipe, elsewhere)
    return elsewhere


def test_a_function_begins_with_its_recipes_configuration_and_the_lowest_loss_is_the_best(desk):
    study = hyperlax.open_study(desk / "whole" / "own_code")
    own = dotted(load(str(RECIPES["own_code"])).config.algorithm)
    assert study.record.trials[0].config == own == {"x": 0.9, "n": 4, "mode": "slow", "layers": [8, 8]}
    assert study.state == "finished" and len(study.trials) == 6
    assert study.best.values["loss"] == min(study.trials["loss"]) == min(study.trials["objective.loss"])
    assert all(one.metrics["peak_performance"] <= one.metrics["final_performance"] for one in study.top(6))
    assert study.best.config.keys() == own.keys()
    curve = study.curve(study.best.number)
    assert curve.steps.tolist() == [1, 2, 3, 4] and curve.returns.shape == (4, 2) and not curve.has_start


def test_the_files_of_a_function_name_its_measures(desk):
    batch = desk / "whole" / "own_code" / "optuna_exec_batch_0000" / "samples" / "batch_00000"
    assert list(read_csv(batch / "curves.csv")[0]) == ["trial", "seed", "step", "loss", "size"]
    summary = read_csv(batch / "summary.csv")[0]
    assert list(summary)[:6] == ["trial", "state", "reason", "loss", "size", "peak_performance"]
    assert float(summary["size"]) == float(read_csv(batch / "hyperparams.csv")[0]["n"])
    assert "num_parameters" not in summary
    stored = json.loads((desk / "whole" / "own_code" / "study.json").read_text())
    assert stored["task"]["budget"] == 4 and stored["task"]["measures"][0]["name"] == "loss"
    assert "reference" not in stored and stored["arguments"]["env_config"] == ""


def test_the_files_of_lanes_name_their_measures_and_the_lowest_loss_is_the_best(desk):
    study = hyperlax.open_study(desk / "whole" / "own_lanes")
    assert study.best.values["loss"] == min(study.trials["loss"])
    assert study.best.config.keys() == {"lr", "depth", "width", "power"}
    batch = study.record.trials[0].batch_directory
    assert batch is not None
    curves = read_csv(batch / "curves.csv")
    assert list(curves[0]) == ["trial", "seed", "step", "loss"]
    assert [int(row["step"]) for row in curves][:4] == [5, 10, 15, 20]
    rows = read_csv(study.directory / "confirmation.csv")
    assert str(study.best.number) in {row["trial"] for row in rows} and {row["seed"] for row in rows} == {"0", "1", "2"}


def test_the_best_function_is_confirmed_on_new_seeds(desk):
    study = hyperlax.open_study(desk / "whole" / "own_code")
    rows = read_csv(study.directory / "confirmation.csv")
    assert len(rows) == 6 and set(rows[0]) == {"trial", "seed", "final", "peak", "loss", "size"}
    sizes = {row["trial"]: float(row["size"]) for row in rows}
    assert sizes == {"default": 4.0, str(study.best.number): study.best.params["n"]}
    page = (study.directory / "report.html").read_text()
    assert "mean size" in page.partition("<h2>Confirmation on new seeds</h2>")[2].partition("</section>")[0]


@pytest.mark.parametrize(
    ("name", "begun", "kind", "more"),
    [
        ("own_code", f"{SEARCH['own_code']} {PRUNED}", "pruned", "--slots 1"),
        ("own_code", f"{SEARCH['own_code']} {PRUNED}", "pruned", "--slots 3"),
        ("own_lanes", f"{SEARCH['own_lanes']} {PRUNED}", "pruned", ""),
        ("own_lanes", PBT, "population", ""),
    ],
    ids=["a function on one slot", "a function on three slots", "lanes", "a population"],
)
def test_a_resumed_study_equals_an_uninterrupted_one(desk, elsewhere, monkeypatch, name, begun, kind, more):
    """With other slots as well: it keeps the number that it began with. Some of its trials are pruned."""
    whole, directory, count = desk / kind / name, elsewhere / name, Limits.count
    states = list(hyperlax.open_study(whole).trials["state"])
    assert set(states) == ({"COMPLETE", "PRUNED"} if kind == "pruned" else {"COMPLETE"})

    def stop_after_5(limits: Limits, *end: Any) -> None:
        count(limits, *end)
        if limits._finished == 5:
            limits.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Limits, "count", stop_after_5)
        assert cli.main(shlex.split(f"{begun} --output-root {elsewhere}")) == INTERRUPTED
    ended = [trial for trial in optuna_trials(directory) if trial.state.is_finished()]
    assert 0 < len(ended) < len(states)
    run(f"{begun.split()[0]} --resume-from {directory} {more}")
    assert results(directory) == results(whole)


def test_a_population_copies_the_lowest_and_its_schedule_is_replayed(desk, folder, capsys):
    directory = desk / "population" / "own_lanes"
    record = hyperlax.open_study(directory).record
    assert record.lineage is not None
    assert record.lineage.final == min(record.trials[-4:], key=lambda one: one.values["final_performance"]).number
    scores = {one.number: one.values["final_performance"] for one in record.trials}
    copied = [(parent, child) for child, parent in record.lineage.parents.items() if parent % 4 != child % 4]
    assert copied and all(scores[parent] < scores[child - 4] for parent, child in copied)
    run(f"pbt-replay {directory / 'pbt_schedule.json'} --num-seeds 2")
    replayed = read_csv(Path("my_pbt_replays/own_lanes/replay_0000/curves.csv"))
    assert [row["step"] for row in replayed[:4]] == ["5", "10", "15", "20"]


@both
def test_nothing_speaks_of_reinforcement_learning(desk, capsys, name):
    for directory in desk.glob(f"*/{name}"):
        for page in (directory / "report.html", *(directory / "analysis_plots").glob("*.html")):
            assert foreign_words(page.read_text(), name) == [], page
        run(f"show {directory}")
        run(f"show {directory} 0")
        run(f"list {directory}")
        assert foreign_words(capsys.readouterr().out, name) == []


def test_the_progress_and_the_last_words_of_a_function_speak_of_slots(folder, capsys):
    run(f"{SEARCH['own_code']} --n-trials 4")
    said = capsys.readouterr()
    assert foreign_words(f"{said.out}\n{said.err}".replace(str(RECIPES["own_code"]), ""), "own_code") == []
    assert "Best: trial " in said.out and ", loss " in said.out
    assert "hyperlax train --from my_optuna_studies/own_code --trial " in said.out


@both
def test_a_trial_is_trained_again_and_a_configuration_by_itself(desk, folder, capsys, name):
    run(f"train --from {desk / 'whole' / name} --num-seeds 3")
    values = {"own_code": "n=1 x=0.3", "own_lanes": "width=3 lr=0.2"}[name]
    run(f"run-single-hp --algo-and-network-config {name}.py --set {values}")
    single = Path("my_single_runs") / name
    first, second = (read_csv(single / f"single_000{number}" / "curves.csv") for number in (0, 1))
    assert len(first) == 12 and len(second) == 4 and (name == "own_lanes" or float(second[0]["loss"]) == 1.0)
    assert not list(single.rglob("agent*"))
    assert name == "own_code" or foreign_words(capsys.readouterr().out, name) == []


def test_an_agent_of_a_function_does_not_exist(desk, capsys):
    assert cli.main(["play", str(desk / "whole" / "own_code")]) == 2
    assert capsys.readouterr().err.endswith("is a study of a task, whose trials leave no agents.\n")
