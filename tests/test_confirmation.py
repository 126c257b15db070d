"""The best of a search on new seeds: what is trained, once; what is on disk and on the pages; what is said of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.analysis.pages import write_study_pages
from hyperlax.analysis.tables import write_best, write_confirmation
from hyperlax.backends.base import EngineConfig
from hyperlax.envs.catalog import CATALOG
from hyperlax.errors import NOT_A_TRIAL, format_number
from hyperlax.fields import apply
from hyperlax.files import read_csv
from hyperlax.hyperparams import PPO
from hyperlax.metrics import compute
from hyperlax.study.record import Confirmation, Confirmed
from hyperlax.study.statistics import difference_interval, in_full, in_short, instead_of_winner, mean_interval
from hyperlax.trial import MEASURED, Curve, Outcome, SegmentResult, Trial
from tests.fake_backend import FakeBackend, Lane
from tests.study_cases import FINITE, Case, recipe_of

SEEDS = 4
PENDULUM = CATALOG["gymnax.pendulum"].reference


class OnNewSeeds(FakeBackend):
    """Every seed learns a little less than the fake search said, each by another amount."""

    def _trial_result(self, lane: Lane) -> SegmentResult:
        result = super()._trial_result(lane)
        lost = np.random.default_rng(lane.number).uniform(5, 60, self.config.num_seeds)
        return replace(result, curve=replace(result.curve, mean=result.curve.mean - lost))


@dataclass
class Confirmer:
    """Makes the backend of a confirmation, and keeps what it was made for and what it trained."""

    faults: dict[str, Any] = field(default_factory=dict)
    made_for: list[list[int]] = field(default_factory=list)
    backends: list[OnNewSeeds] = field(default_factory=list)

    def __call__(self, config: EngineConfig, checkpoints: Any) -> OnNewSeeds:
        self.made_for.append([trial.number for trial in config.trials])
        backend = OnNewSeeds(lanes=2, **self.faults)
        self.backends.append(backend)
        backend.bind(config, checkpoints)
        return backend

    @property
    def trained(self) -> list[int]:
        return [number for backend in self.backends for number in backend.trained]


def case_of(path: Path, **arguments: Any) -> tuple[Case, Confirmer]:
    confirmer = Confirmer()
    given = {"n_trials": 6, "confirm_top": 3, "confirm_seeds": SEEDS, **arguments}
    return Case(path, confirmer=confirmer, **given), confirmer


def best_of(case: Case, count: int) -> list[int]:
    complete = [trial for trial in case.study().trials if trial.values]
    return [trial.number for trial in sorted(complete, key=lambda trial: -trial.values[0])[:count]]


def confirmation(case: Case) -> Confirmation:
    """As the last pages got it."""
    found = case.pages[-1][0].confirmation
    assert found is not None
    return found


def test_the_best_and_the_recipes_own_configuration_are_trained_once_more(tmp_path, capsys, caplog):
    caplog.set_level("INFO", "hyperlax")
    case, confirmer = case_of(tmp_path)
    assert case.start() == 0
    best = best_of(case, 3)
    assert sorted(confirmer.trained) == sorted([*best, NOT_A_TRIAL])
    assert f"Confirming trials {', '.join(map(str, best))} and the default configuration on 4 new seeds." in caplog.text
    assert [ours.trial for ours in confirmation(case).configurations] == [*best, None]
    assert "\n".join(in_short(confirmation(case))) in capsys.readouterr().out
    for path in (case.directory / "confirmation").iterdir():
        assert {file.name for file in path.iterdir()} == {
            "hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "timeline.csv", "success.txt",
        }  # fmt: skip


def test_what_is_confirmed_is_not_trained_again_and_a_larger_k_trains_the_rest(tmp_path, capsys):
    case, confirmer = case_of(tmp_path)
    assert case.start(confirm_top=0) == 0
    assert confirmer.made_for == [] and not (case.directory / "confirmation").exists()
    assert case.resume() == 0
    trained, said = list(confirmer.trained), capsys.readouterr().out.splitlines()[-2:]
    before = confirmation(case)
    assert case.resume() == 0
    assert confirmer.trained == trained and confirmation(case) == before
    assert capsys.readouterr().out.splitlines()[-2:] == said
    assert case.resume(confirm_top=5) == 0
    assert sorted(confirmer.trained[len(trained) :]) == sorted(best_of(case, 5)[3:])
    assert case.resume(confirm_top=2) == 0 and len(confirmer.made_for) == 2
    assert [ours.trial for ours in confirmation(case).configurations] == [*best_of(case, 2), None]


def test_other_seeds_are_another_confirmation_and_the_first_is_kept(tmp_path):
    case, confirmer = case_of(tmp_path)
    case.start()
    before = confirmation(case)
    assert case.resume(confirm_seeds=6) == 0
    assert len(confirmer.trained) == 8 and confirmation(case).seeds == 6
    assert case.resume() == 0 and len(confirmer.trained) == 8
    assert confirmation(case) == before


def test_a_study_that_goes_on_confirms_its_new_best(tmp_path):
    case, confirmer = case_of(tmp_path)
    case.start()
    assert case.resume(n_trials=14) == 0
    assert [ours.trial for ours in confirmation(case).configurations] == [*best_of(case, 3), None]
    assert {ours.state for ours in confirmation(case).configurations} == {"COMPLETE"}
    assert len(confirmer.trained) == len(set(confirmer.trained))


def test_the_recipes_own_configuration_among_the_best_is_not_trained_twice(tmp_path):
    own = {"algorithm.hyperparam.epochs": 3, "algorithm.hyperparam.target_entropy_scale": 0.1}
    plain = recipe_of(FINITE)
    config = replace(plain.config, algorithm=apply(plain.config.algorithm, own, "test"))
    case, confirmer = case_of(tmp_path, recipe=replace(plain, config=config))
    assert case.start(n_trials=40, confirm_top=15) == 0  # all that the space holds
    assert len(confirmer.trained) == 15
    assert sum(ours.is_default for ours in confirmation(case).configurations) == 1
    assert case.resume(n_trials=40, confirm_top=1) == 0
    first, second = confirmation(case).configurations
    assert second.is_default and second.label == "default" and second.claimed is not None and not first.is_default
    assert len(confirmer.trained) == 15, "it was trained under its trial's number before"


def test_of_several_objectives_the_first_of_the_front_are_confirmed_by_the_first_objective(tmp_path):
    names = ("num_parameters", "peak_performance")
    case, confirmer = case_of(
        tmp_path, objective_names=names, objective_directions=("minimize", "maximize"), confirm_top=2
    )
    assert case.start() == 0
    write_best(case.pages[-1][0], tmp_path)
    front = [entry["trial"] for entry in json.loads((tmp_path / "pareto_front_params.json").read_text())]
    assert sorted(confirmer.trained) == sorted([*front[:2], NOT_A_TRIAL])
    words = "A single seed has no num_parameters; final_performance is compared instead."
    assert in_full(confirmation(case))[0].endswith(words)


def test_an_interrupted_confirmation_exits_130_and_goes_on_with_what_is_left(tmp_path, capsys):
    case, confirmer = case_of(tmp_path)
    undisturbed, _ = case_of(tmp_path / "undisturbed")
    undisturbed.start()

    def stop_after_one(*arguments: Any) -> OnNewSeeds:
        backend = confirmer(*arguments)
        last = max(number for number in confirmer.made_for[-1] if number != NOT_A_TRIAL)
        backend.raises, backend.lanes = {last: KeyboardInterrupt()}, 1
        return backend

    case.confirmer = stop_after_one
    assert case.start() == 130
    assert (
        f"The confirmation is interrupted. To resume:\n  hyperlax optuna-hp-search --resume-from {case.directory}"
        in (capsys.readouterr().out)
    )
    done = list(confirmer.trained)
    case.confirmer = confirmer
    assert case.resume() == 0
    assert len(done) < 4 and sorted(confirmer.trained) == sorted([*best_of(case, 3), NOT_A_TRIAL])
    assert confirmation(case) == confirmation(undisturbed)


def test_a_batch_that_was_being_written_when_the_process_died_is_trained_again(tmp_path):
    case, confirmer = case_of(tmp_path)
    case.start()
    before, trained = confirmation(case), len(confirmer.trained)
    (case.directory / "confirmation" / "batch_00000" / "success.txt").unlink()
    assert case.resume() == 0
    assert len(confirmer.trained) == trained + 2 and confirmation(case) == before


def test_a_configuration_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    case, confirmer = case_of(tmp_path)
    case.start(confirm_top=0)
    first, second, third = best_of(case, 3)
    confirmer.faults = {"fail": {first: "loss is nan"}, "raises": {second: RuntimeError("no luck")}}
    assert case.resume() == 0
    assert sorted(confirmer.trained) == sorted([first, third, NOT_A_TRIAL])
    said = capsys.readouterr().out
    assert f"Trial {first} failed on the new seeds: loss is nan (lane" in said
    assert f"Trial {second} failed on the new seeds: RuntimeError: no luck (lane" in said
    assert f"On 4 new seeds, trial {third} has a mean peak_performance" in said
    confirmer.faults = {}
    assert case.resume() == 0 and len(confirmer.made_for) == 1
    assert case.resume(retry_failed=True) == 0
    assert sorted(confirmer.trained[3:]) == sorted([first, second])
    assert {ours.state for ours in confirmation(case).configurations} == {"COMPLETE"}


def test_a_confirmation_of_which_everything_failed_exits_1(tmp_path):
    case, confirmer = case_of(tmp_path)
    confirmer.faults = {"fail": dict.fromkeys([*range(12), NOT_A_TRIAL], "diverged")}
    assert case.start() == 1


def test_out_of_time_before_the_confirmation_exits_0_with_the_command_that_goes_on(tmp_path, capsys):
    case, confirmer = case_of(tmp_path)
    case.start(confirm_top=0)
    assert case.resume(timeout=1e-9) == 0
    assert "The confirmation is out of time. To resume:" in capsys.readouterr().out and confirmer.made_for == []


def test_an_invalidated_winner_is_confirmed_no_more_and_its_successor_not_yet(tmp_path):
    case, _ = case_of(tmp_path)
    case.start()
    *_, successor = best_of(case, 4)
    case.invalidate(best_of(case, 1)[0])
    assert [ours.state for ours in confirmation(case).configurations] == ["COMPLETE", "COMPLETE", "WAITING", "COMPLETE"]
    assert f"Trial {successor} is not confirmed yet." in in_full(confirmation(case))


@pytest.mark.parametrize("objective", ["peak_performance", "normalized_auc"])
def test_every_number_of_confirmation_csv_follows_from_the_curves(tmp_path, objective):
    case, _ = case_of(tmp_path, objective_names=(objective,), objective_directions=("maximize",))
    assert case.start() == 0
    write_confirmation(confirmation(case), PENDULUM, tmp_path / "confirmation.csv")
    rows = read_csv(tmp_path / "confirmation.csv")
    assert list(rows[0])[:4] == ["trial", "seed", "final", "peak"]
    assert len(rows) == 4 * SEEDS and rows[-1]["trial"] == "default"
    curves = [row for path in case.directory.glob("confirmation/batch_*/curves.csv") for row in read_csv(path)]
    for row in rows:
        number = NOT_A_TRIAL if row["trial"] == "default" else int(row["trial"])
        own = [found for found in curves if found["trial"] == str(number) and found["seed"] == row["seed"]]
        metrics = compute(outcome_of(own), PENDULUM)
        assert (float(row["final"]), float(row["peak"])) == (metrics["final_performance"], metrics["peak_performance"])
        assert objective == "peak_performance" or float(row[objective]) == metrics[objective]


def outcome_of(rows: list[dict[str, str]]) -> Outcome:
    """Of one seed's rows of curves.csv."""
    columns: Any = {name: np.array([[float(row[name])] for row in rows]) for name in MEASURED}
    steps = np.array([int(row["step"]) for row in rows])
    return Outcome(Trial(0, PPO()), "COMPLETE", "", Curve(steps=steps, episodes=4, budget=500, **columns), 1, 1.0)


def test_the_pages_show_claim_mean_and_interval_and_go_when_they_no_longer_hold(tmp_path):
    case, _ = case_of(tmp_path)
    case.start()
    record = case.pages[-1][0]
    write_study_pages(record)
    page, report = case.directory / "analysis_plots" / "confirmation.html", case.directory / "report.html"
    figure = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page.read_text())[0])
    seeds, means, claims = figure["data"]
    rows = read_csv(case.directory / "confirmation.csv")
    assert sorted(seeds["x"]) == sorted(float(row["peak"]) for row in rows)
    best = best_of(case, 3)
    assert means["y"] == [*(f"trial {number}" for number in best), "default"]
    peaks = [float(row["peak"]) for row in rows if row["trial"] == str(best[0])]
    interval = mean_interval(peaks)
    assert means["x"][0] == interval.estimate == pytest.approx(np.mean(peaks))
    assert means["error_x"]["array"][0] == interval.high - interval.estimate
    assert claims["x"] == [case.study().trials[number].values[0] for number in best]
    assert (
        "Confirmation on new seeds" in report.read_text() and "the interval of the difference is" in report.read_text()
    )
    assert "http" not in " ".join(re.findall(r"<(?:script|link)[^>]*(?:src|href)=[^>]*>", page.read_text()))
    default = [float(row["peak"]) for row in rows if row["trial"] == "default"]
    top = max(best, key=lambda number: np.mean([float(row["peak"]) for row in rows if row["trial"] == str(number)]))
    ahead = difference_interval([float(row["peak"]) for row in rows if row["trial"] == str(top)], default)
    tiles = report.read_text().partition('<div class="tiles">')[2].partition("<section>")[0]
    assert f"{format_number(ahead.estimate)}</b>" in tiles and f"on new seeds, 95 %: {ahead}" in tiles
    write_study_pages(replace(record, confirmation=None))
    assert not page.exists() and not (case.directory / "confirmation.csv").exists()
    assert "Confirmation on new seeds" not in report.read_text()


def made_up(direction: str = "maximize", **values: list[float]) -> Confirmation:
    found = [
        Confirmed(
            None if name == "default" else int(name[1:]),
            name == "default",
            500.0,
            "COMPLETE",
            "",
            {"final_performance": v},
        )
        for name, v in values.items()
    ]
    return Confirmation("final_performance", direction, "final_performance", 3, found)


def test_the_verdict_says_which_of_two_is_ahead_and_whether_that_can_be_told():
    far = made_up(
        t17=[480.0, 490.0, 485.0], t3=[100.0, 500.0, 300.0], t8=[10.0, 11.0, 12.0], default=[300.0, 310.0, 290.0]
    )
    named, ahead, unknown, behind = in_full(far)
    assert named.startswith(
        "On 3 new seeds, trial 17 is the best of 3 with a mean final_performance of 485 [480, 490]. The search had"
    )
    interval = difference_interval([480.0, 490.0, 485.0], [300.0, 310.0, 290.0])
    assert 170 <= interval.low < 185 < interval.high <= 200
    assert ahead == (
        f"Trial 17 stays ahead of the default configuration: the interval of the difference is {interval}, which excludes 0."
    )
    assert (
        unknown.startswith("Trial 3 is not distinguishable from the default configuration:")
        and "which contains 0." in unknown
    )
    assert behind.startswith("Trial 8 falls behind the default configuration:")
    assert in_short(far) == [named, ahead]


@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize(
    ("direction", "seeds", "words"),
    [
        ("maximize", [280.0, 283.0, 286.0], "had claimed 500, which did not hold: the whole interval is below it."),
        ("minimize", [280.0, 283.0, 286.0], "had claimed 500, which was exceeded."),
        ("minimize", [510.0, 520.0, 530.0], "had claimed 500, which did not hold: the whole interval is above it."),
        ("maximize", [490.0, 500.0, 505.0], "had claimed 500, which is within the interval."),
    ],
)
def test_whether_a_claim_held_follows_from_the_interval_and_not_from_the_number_of_candidates(
    candidates, direction, seeds, words
):
    worst = [0.0] * 3 if direction == "maximize" else [9e3] * 3
    found = made_up(direction, **{"t0": seeds, "t5": worst} if candidates == 2 else {"t0": seeds})
    assert in_short(found)[0].endswith(words)


HIGH, LOW, WIDE = [490.0, 491.0, 492.0], [100.0, 101.0, 102.0], [100.0, 300.0, 490.0]


@pytest.mark.parametrize(
    ("values", "advice", "instead"),
    [
        ({"t3": HIGH, "t4": LOW, "default": LOW}, "Take trial 3.", None),
        ({"t3": LOW, "t4": HIGH, "default": LOW}, "Take trial 4. It stays ahead of the search's winner, trial 3", 4),
        ({"t3": LOW, "t4": LOW, "default": HIGH}, "Take the default configuration.", None),
        ({"t3": LOW, "t4": WIDE, "default": WIDE}, "Neither trial 4 nor the default configuration is shown", None),
        (
            {"t3": WIDE, "t4": [*WIDE[:2], 495.0]},
            "Take trial 4. It is not distinguishable from the search's winner, trial 3",
            4,
        ),
    ],
)
def test_which_configuration_to_take_follows_from_the_intervals(values, advice, instead):
    found = replace(made_up(**values), winner=3)
    assert in_short(found)[-1].startswith(advice) and in_full(found)[-1] == in_short(found)[-1]
    assert instead_of_winner(found) == instead
    told = "On 3 new seeds, trial 3 has" in in_short(found)[0]
    assert told == ("t4" in values and sum(values["t4"]) > sum(values["t3"])), (
        "the winner is told first where another is best"
    )


def test_of_a_minimized_metric_the_lower_is_ahead():
    few = made_up("minimize", t1=[10.0, 11.0, 12.0], t2=[20.0, 21.0, 22.0], default=[15.0, 15.5, 16.0])
    named, first, second = in_full(few)
    assert "trial 1 is the best of 2" in named
    assert "stays ahead" in first and "falls behind" in second


def test_trials_that_are_level_are_named_together():
    level = made_up(t4=[500.0] * 3, t1=[400.0] * 3, t9=[500.0] * 3)
    assert "trial 4, level with trial 9, is the best of 3 with a mean" in in_short(level)[0]


def test_the_interval_of_equal_seeds_has_no_width_and_two_of_them_cannot_be_told_apart():
    assert str(mean_interval([500.0] * 10)) == "[500, 500]"
    assert "is not distinguishable from" in in_full(made_up(t1=[500.0] * 3, default=[500.0] * 3))[1]


def test_the_bootstrap_interval_of_a_mean_covers_it_about_as_often_as_it_says():
    """Percentile intervals of ten normal values are known to cover a little less than 95 %: about 90."""
    draw = np.random.default_rng(1)
    intervals = [mean_interval(draw.normal(size=10).tolist()) for _ in range(200)]
    assert 0.85 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.97
