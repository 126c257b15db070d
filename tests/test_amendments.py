"""Failed trials that are run again, and trials that are taken out of the ranking: what changes, and what does not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.errors import UsageError
from hyperlax.files import read_csv
from hyperlax.study.database import StudyDatabase
from hyperlax.study.view import load_study
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Finished

FAILING = {3: "boom", 12: "boom"}


@pytest.fixture
def failed(finished: Finished, tmp_path: Path) -> Callable[..., Case]:
    """Makes a finished study of which two trials failed."""
    return lambda name="failed", **more: finished(tmp_path / name, {"fail": FAILING}, **{"n_trials": 16, **more})


@pytest.fixture
def whole(finished: Finished, tmp_path: Path) -> Callable[..., Case]:
    """Makes one of which none did."""
    return lambda name="whole", **more: finished(tmp_path / name, **{"n_trials": 16, **more})


def changes(case: Case) -> list[dict[str, Any]]:
    """What the journal says of changes by the user."""
    return [event for event in case.events() if event["event"] != "asked"]


def digests(case: Case) -> dict[Path, str]:
    """Of every file of a batch."""
    paths = case.directory.glob("optuna_exec_batch_*/samples/*/*")
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_failed_trials_are_run_again_under_their_numbers_and_parameters_and_no_others(failed, whole):
    case, runner = failed(), FakeBackend()
    before = digests(case)
    assert case.resume(runner, retry_failed=True) == 0
    assert runner.trained == [3, 12]
    assert case.told() == whole().told()
    assert before.items() <= digests(case).items()


def test_a_trial_that_fails_again_stays_fail_and_may_be_run_again(failed):
    case = failed()
    assert case.resume(FakeBackend(fail={3: "again"}), retry_failed=True) == 0
    assert [t.number for t in case.study().trials if t.state.name == "FAIL"] == [3]
    assert "again" in case.study().trials[3].user_attrs["reason"]
    runner = FakeBackend()
    assert case.resume(runner) == 0 and runner.trained == []
    assert case.resume(runner, retry_failed=True) == 0 and runner.trained == [3]
    assert set(case.states()) == {"COMPLETE"}


def test_a_study_without_failures_has_nothing_to_run_again(whole, caplog):
    case, runner = whole(), FakeBackend()
    caplog.set_level("INFO")
    assert case.resume(runner, retry_failed=True) == 0
    assert (
        runner.trained == [] and "No trial to retry: none has failed, except by hyperlax invalidate." in caplog.messages
    )
    assert not changes(case)


@pytest.mark.parametrize("moment", ["before the database", "in training", "before it is told"])
def test_a_retry_that_is_cut_off_goes_on_with_the_next_resume(failed, whole, moment, monkeypatch):
    case = failed()
    runner = FakeBackend()

    def die(database: StudyDatabase, of: Any, *more: Any) -> None:
        if of:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        if moment == "in training":
            assert case.resume(FakeBackend(raises={3: KeyboardInterrupt()}), retry_failed=True) == 130
        else:
            patch.setattr(StudyDatabase, "requeue_ended" if moment == "before the database" else "finish", die)
            with pytest.raises(RuntimeError, match="killed"):
                case.resume(FakeBackend(), retry_failed=True)
    assert case.resume(runner) == 0
    assert runner.trained == ([12] if moment == "before it is told" else [3, 12])
    assert case.told() == whole().told()


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_what_was_suggested_from_a_failure_stays_and_its_super_batch_is_continued_from_the_same(failed, sampler):
    undisturbed = failed("undisturbed", n_trials=24, sampler=sampler)
    case = failed(n_trials=20, sampler=sampler)
    assert case.resume(FakeBackend(), retry_failed=True) == 0
    assert case.resume(FakeBackend(), n_trials=24) == 0
    assert [t.params for t in case.study().trials] == [t.params for t in undisturbed.study().trials]
    assert set(case.states()) == {"COMPLETE"}


def test_the_next_super_batch_knows_what_the_retry_gave(failed):
    cases = [failed(name, n_trials=24, sampler="tpe") for name in ("failed", "retried")]
    assert cases[1].resume(FakeBackend(), retry_failed=True) == 0
    for case in cases:
        assert case.resume(FakeBackend(), n_trials=32) == 0
    one, other = ([t.params for t in case.study().trials] for case in cases)
    assert one[:24] == other[:24] and one[24:] != other[24:]


@pytest.mark.parametrize("lost", ["database", "database and backup"])
def test_a_repair_keeps_retries_and_invalidations(failed, lost):
    case = failed(sampler="tpe")
    assert case.resume(FakeBackend(), retry_failed=True) == 0
    assert case.invalidate(5, reason="the seed was chosen") == 0
    assert case.resume(FakeBackend(), n_trials=24) == 0
    before = case.told()
    (case.directory / "optuna_study.db").unlink()
    if lost != "database":
        (case.directory / "optuna_study.db.backup").unlink()
    assert case.repair() == 0
    assert case.told() == before


def best(case: Case) -> int:
    return case.study().best_trial.number


def test_an_invalidated_trial_is_out_of_the_ranking_and_its_record_is_kept(whole, capsys):
    case = whole()
    winner, files = best(case), digests(case)
    metrics = case.study().trials[winner].user_attrs
    before = load_study(case.directory, "a test").record.trials[winner].metrics
    capsys.readouterr()
    assert case.invalidate(winner, reason="cheated\nsomehow") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"Trial {winner} (peak_performance ")
    assert said[0].endswith(") is out of the ranking; its results are kept.")
    assert said[1].startswith(f"Best: trial {best(case)}, peak_performance ") and best(case) != winner
    trial = case.study().trials[winner]
    assert (trial.state.name, trial.values) == ("FAIL", None)
    assert trial.user_attrs == {**metrics, "reason": "invalidated: cheated somehow"}
    assert digests(case) == files
    record, directory = case.pages[-1]
    trial = record.trials[winner]
    assert (trial.state, trial.metrics, trial.values) == ("FAIL", before, {})
    assert directory.parent.name == "optuna_exec_batch_0001"


def test_the_second_best_is_the_best_on_every_page(whole):
    case = whole(n_trials=8, write_pages=write_pages)
    winner = best(case)
    assert case.invalidate(winner, reason="a lucky seed") == 0
    found = json.loads((case.directory / "best_optuna_params.json").read_text())
    assert found["trial"] == best(case) != winner
    row = read_csv(case.directory / "trials.csv")[winner]
    assert (row["state"], row["reason"]) == ("FAIL", "invalidated: a lucky seed")
    assert f"trial {best(case)}" in (case.directory / "report.html").read_text()


def test_invalidating_a_trial_twice_is_no_fault(whole, capsys):
    case = whole()
    assert case.invalidate(3, reason="first") == 0
    told = case.told()
    capsys.readouterr()
    assert case.invalidate(3, reason="second") == 0
    assert capsys.readouterr().out.startswith("Trial 3 was already out of the ranking.\nBest: ")
    assert case.told() == told


def test_an_invalidated_trial_stays_out_and_is_no_failure(whole):
    case = whole(max_failure_rate=0.0)
    assert case.invalidate(0, 5, 5) == 0
    runner = FakeBackend()
    assert case.resume(runner, retry_failed=True, n_trials=18) == 0
    assert runner.trained == [16, 17]
    assert [t.number for t in case.study().trials if t.state.name == "FAIL"] == [0, 5]


def test_an_invalidated_trial_is_out_of_a_database_that_knew_it_only_as_waiting(whole):
    case = whole()
    assert case.invalidate(12) == 0
    told = case.told()
    shutil.copy(case.directory / "optuna_study.db.backup", case.directory / "optuna_study.db")
    assert case.states()[8:] == ["WAITING"] * 8
    assert case.resume() == 0
    assert case.told() == told and case.states()[12] == "FAIL"


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_a_super_batch_that_was_begun_before_an_invalidation_is_continued_as_it_was(whole, sampler):
    undisturbed = whole(n_trials=24, sampler=sampler)
    case = whole("part", n_trials=20, sampler=sampler)
    by_value = sorted(case.study().trials[:16], key=lambda trial: trial.values[0])
    assert case.invalidate(*(trial.number for trial in by_value[-4:])) == 0
    assert case.resume(FakeBackend(), n_trials=24) == 0
    assert [t.params for t in case.study().trials] == [t.params for t in undisturbed.study().trials]
    for other in (undisturbed, case):
        assert other.resume(FakeBackend(), n_trials=32) == 0
    assert [t.params for t in case.study().trials[24:]] != [t.params for t in undisturbed.study().trials[24:]]


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ((), "invalidate needs the numbers of trials: hyperlax invalidate DIR TRIAL [TRIAL ...]."),
        ((16,), "trial 16 does not exist. The study has trials 0 to 15."),
        ((-1,), "trial -1 does not exist. The study has trials 0 to 15."),
        ((0, 3), "trial 3: is FAIL, only COMPLETE trials are ranked."),
    ],
)
def test_what_cannot_be_invalidated_is_refused_and_nothing_is_changed(failed, trials, said):
    case = failed()
    before = case.told()
    with pytest.raises(UsageError) as refused:
        case.invalidate(*trials)
    assert str(refused.value) == said
    assert case.told() == before and not changes(case)


def test_the_journal_says_what_was_amended(failed):
    case = failed()
    batches = {trial.number: trial.user_attrs["batch"] for trial in case.study().trials}
    assert case.resume(FakeBackend(), retry_failed=True) == 0
    assert case.invalidate(7) == 0
    assert changes(case) == [
        {"event": "retried", "trials": [[3, batches[3]], [12, batches[12]]]},
        {"event": "invalidated", "trials": [7], "reason": "invalidated"},
    ]
